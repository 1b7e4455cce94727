//! A worker that dies is named, the run stops, and the same command goes on.

use std::time::{Duration, Instant};

use cluster_tests::{JobFile, Signal, Train, send};

use crate::bits::model_sha256;

#[test]
fn a_killed_worker_is_named_within_two_seconds_and_the_run_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);

    let train = Train { workers: 3, ..Train::new(&job, &folder.path().join("killed")) };
    let mut running = train.spawn();
    running.wait_for(&["epoch 2"], LIMIT);
    let victim = running.children()[1];
    let killed = Instant::now();
    send(victim, Signal::KILL);
    let (line, at) = running.wait_for(&["worker", "lost in step"], LIMIT);
    assert!(at - killed < Duration::from_secs(2), "{:?}: {line}", at - killed);
    assert!(line.contains("w2"), "{line}");
    let ended = running.finish(LIMIT);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    // The others' broken connections are consequences.
    let named: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("lost")).collect();
    assert!(
        named.iter().all(|line| !line.contains("w1 lost") && !line.contains("w3 lost")),
        "{named:?}"
    );

    let resumed = train.spawn().finish(LIMIT);
    assert_eq!(model_sha256(&resumed), model_sha256(&undisturbed));
}

#[test]
fn an_interrupt_stops_all_workers_after_the_same_step_and_the_run_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let train = Train::new(&job, &folder.path().join("state"));
    let mut running = train.spawn();
    running.wait_for(&["epoch 1"], LIMIT);
    running.signal(Signal::INT);
    let ended = running.finish(LIMIT);
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.stdout, ended.stderr);
    let resumed = train.spawn().finish(LIMIT);
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    assert_eq!(model_sha256(&resumed), model_sha256(&undisturbed));
}

const LIMIT: Duration = Duration::from_secs(120);
