//! The programs of this project, built for speed, which the commands that measure start. Knows cargo and its folders.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo puts what it builds, and commands put what they make.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// Builds the programs of these packages; the folder they lie in.
pub(crate) fn build(root: &Path, packages: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked"])
        .args(packages)
        .current_dir(root)
        .status()
        .context("build the programs")?;
    ensure!(built.success(), "build the programs: {built}");
    Ok(target(root).join("release"))
}
