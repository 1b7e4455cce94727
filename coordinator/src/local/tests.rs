//! Worker processes that are no workers: what is said when they end.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::core::{Cause, Outcome, Policy};
use crate::intake;

const JOB: &str = "name = \"digits\"\n[data]\nformat = \"idx\"\npath = \".\"\n[model]\narch = \"resnet18\"\n\
                   [train]\nepochs = 1\nbatch = 64\n[optimizer]\nlearning_rate = 0.1\n";

/// Runs a job whose workers are this shell script.
async fn run(script: &str) -> (Ended, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("worker");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let spec = intake::read_job(JOB, &digits.canonicalize().unwrap()).unwrap();
    let mut local = Local::start(&folder.path().join("state")).await.unwrap();
    let job = local.submit(spec, 2, Policy::default(), false).await.unwrap().job;
    let plan =
        CrewPlan { program, workers: 2, means: Means { threads: 1, devices: "cpu".to_owned() } };
    let end = local.run(&job, &plan, &Terminal::quiet()).await.unwrap();
    local.shut_down().await.unwrap();
    match end {
        LocalEnd::Job(ended) => (*ended, folder),
        LocalEnd::Killed => panic!("nobody interrupted"),
    }
}

#[tokio::test]
async fn a_worker_that_can_not_start_is_named_with_its_last_words() {
    let (ended, _folder) = run("echo first >&2; echo 'the data is gone' >&2; exit 3").await;
    let Outcome::Failed { cause: Cause::Worker, reason } = ended.outcome else {
        panic!("{ended:?}")
    };
    assert!(reason.starts_with("worker w"), "{reason}");
    assert!(
        reason.ends_with("never joined: exit status: 3; it said: the data is gone"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_worker_is_told_where_to_join_and_under_which_name() {
    let (_, folder) = run("echo \"$@\" >&2; exit 1").await;
    let log = std::fs::read_to_string(folder.path().join("state/worker-2.log")).unwrap();
    let words: Vec<&str> = log.split_whitespace().collect();
    assert_eq!(words[0], "join");
    assert!(words[1].starts_with("127.0.0.1:"));
    assert_eq!(words[2], "--token-file");
    assert!(Path::new(words[3]).is_file());
    let own = std::process::id().to_string();
    let means = ["--threads", "1", "--devices", "cpu", "--share", "1"];
    let rest = ["--wait", "0", "--die-with-parent", &own];
    assert_eq!(words[4..], [&["--name", "w2"][..], &means, &rest].concat());
}

#[tokio::test]
async fn processes_that_ignore_everything_do_not_outlive_the_run() {
    // One fails the run; the other would sleep for an hour.
    let script =
        "echo $$ >&2; if [ \"$6\" = w1 ]; then exit 1; fi; trap '' TERM INT; exec sleep 3600";
    let (_, folder) = run(script).await;
    let log = std::fs::read_to_string(folder.path().join("state/worker-2.log")).unwrap();
    let process = Path::new("/proc").join(log.trim());
    let gone = match std::fs::read_to_string(process.join("stat")) {
        Err(_) => true,
        Ok(stat) => stat.contains(") Z "),
    };
    assert!(gone, "{log}");
}
