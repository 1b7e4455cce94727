//! The two programs under test, built once with the profile of the test itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::Running;

/// `coordinator` with these arguments.
pub fn coordinator(args: &[&str]) -> Command {
    command("coordinator", args)
}

/// `worker` with these arguments.
pub fn worker(args: &[&str]) -> Command {
    command("worker", args)
}

/// One `coordinator train` of a test.
#[derive(Clone, Debug)]
pub struct Train {
    pub job: PathBuf,
    pub state: PathBuf,
    pub workers: usize,
    pub threads: usize,
    pub fresh: bool,
}

impl Train {
    pub fn new(job: &Path, state: &Path) -> Train {
        let (job, state) = (job.to_owned(), state.to_owned());
        Train { job, state, workers: 2, threads: 1, fresh: false }
    }

    pub fn spawn(&self) -> Running {
        let mut command = coordinator(&["train"]);
        command.arg(&self.job).arg("--state").arg(&self.state);
        command.args(["--workers", &self.workers.to_string()]);
        command.args(["--threads", &self.threads.to_string()]);
        if self.fresh {
            command.arg("--fresh");
        }
        Running::spawn(command)
    }
}

/// What `coordinator verify` says of a job; it must find nothing wrong.
pub fn verified(state: &Path, job: &str) -> String {
    let mut command = coordinator(&["verify", job, "--state"]);
    command.arg(state);
    let ended = Running::spawn(command).finish(VERIFY_LIMIT);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let whole = "1437/1437 samples per epoch, each once";
    assert!(ended.stdout.contains(whole), "{whole:?} is not in:\n{}", ended.stdout);
    assert!(!ended.stdout.contains(" are lost"), "{}", ended.stdout);
    ended.stdout
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(folder().join(program));
    command.args(args).env_remove("RUST_LOG").env_remove("CLUSTER_TOKEN");
    command
}

/// Where cargo puts the programs: the folder above that of this test's own binary.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let own = std::env::current_exe().expect("a test knows its own path");
        let folder =
            own.parent().and_then(Path::parent).expect("cargo runs tests in target/*/deps");
        // `cargo test --workspace` has built them; `cargo test -p cluster-tests` has not.
        if PROGRAMS.iter().any(|program| is_stale(&folder.join(program))) {
            build(folder);
        }
        folder.to_owned()
    })
}

fn build(folder: &Path) {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(root());
    if folder.ends_with("release") {
        build.arg("--release");
    }
    if let Some(target) = folder.parent() {
        build.arg("--target-dir").arg(target);
    }
    let status = build.status().expect("cargo can be run");
    assert!(status.success(), "building the programs failed");
}

/// Missing, or older than a source file.
fn is_stale(program: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified());
    let Ok(built) = changed(program) else { return true };
    let mut folders: Vec<PathBuf> = SOURCES.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("sources can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if changed(&path).is_ok_and(|changed| changed > built) {
                return true;
            }
        }
    }
    false
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// It takes moments; a machine under load gets far more.
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 2] = ["coordinator", "worker"];
const SOURCES: [&str; 6] =
    ["coordinator/src", "worker/src", "dataset/src", "kernels/src", "proto/src", "proto/cluster"];
