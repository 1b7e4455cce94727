//! The two programs under test, built once with the profile of the test itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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
        // `cargo test -p cluster-tests` alone does not build other packages' programs.
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--bins",
            "--package",
            "coordinator",
            "--package",
            "worker",
        ]);
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        if let Some(target) = folder.parent() {
            build.arg("--target-dir").arg(target);
        }
        let status = build.status().expect("cargo can be run");
        assert!(status.success(), "building the programs failed");
        folder.to_owned()
    })
}
