//! The programs of this project, built for speed, which the commands that measure start. Knows cargo and its folders.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where cargo puts what it builds, and commands put what they make.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// Builds a test program; where it lies.
pub(crate) fn build_test(root: &Path, package: &str, test: &str) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(cargo)
        .args(["test", "--release", "--locked", "--no-run", "--message-format", "json"])
        .args(["--package", package, "--test", test])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("build the tests")?;
    ensure!(built.status.success(), "build the tests of {package}: {}", built.status);
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_it =
        |message: &Value| message["target"]["name"] == test && message["executable"].is_string();
    let found = messages.into_iter().find(is_it).context("cargo names what it built")?;
    Ok(PathBuf::from(found["executable"].as_str().unwrap_or_default()))
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
