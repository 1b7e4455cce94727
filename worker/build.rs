//! Tells a release build the commit it is made from, for the reports of `worker bench`. Other builds would be made anew for
//! each commit.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    // Without git, or outside of a clone, the commit remains unknown.
    let (Some(mut commit), Some(log)) =
        (git(&["rev-parse", "--short=12", "HEAD"]), git(&["rev-parse", "--git-path", "logs/HEAD"]))
    else {
        return;
    };
    // Files that git does not know need a line in one that it knows to be part of the program.
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    if git(&[&status[..], &MADE_OF].concat()).is_none_or(|changes| !changes.is_empty()) {
        commit.push_str("-changed");
    }
    for path in MADE_OF.into_iter().chain([log.as_str()]) {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rustc-env=WORKER_COMMIT={commit}");
}

/// What the command prints; `None` when it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whatever the program depends on, from this folder. What is watched is what is asked about, so that the answer never
/// is an old one.
const MADE_OF: [&str; 7] = [
    ".",
    "../kernels",
    "../dataset",
    "../proto",
    "../Cargo.toml",
    "../Cargo.lock",
    "../rust-toolchain.toml",
];
