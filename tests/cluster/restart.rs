//! The coordinator ends, by request or not, and starts again: jobs are remembered, workers end or come back as they were
//! told, and runs go on.

use std::net::TcpListener;
use std::time::Duration;

use cluster_tests::{ControlPlane, JobFile, Running, Signal, Train, Watched, join, verified};

use crate::bits::model_sha256;
use crate::operators::follow;
use crate::refusals::{LIMIT, NETWORK, only_error};

/// An address of loopback for a coordinator that starts again at the same place. Programs of other tests listen on
/// 127.0.0.1: the port stays free in between.
fn lasting_address() -> String {
    TcpListener::bind("127.0.0.78:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn the_workers_of_a_killed_coordinator_end_by_themselves_and_the_run_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 12").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let train = Train { workers: 3, ..Train::new(&job, &folder.path().join("state")) };
    let mut running = train.spawn();
    running.wait_for(&["checkpoint of step 23 is on disk"], LIMIT);
    let crew: Vec<Watched> = running.children().into_iter().map(Watched::new).collect();
    assert_eq!(crew.len(), 3);
    running.signal(Signal::KILL);
    assert_eq!(running.finish(LIMIT).code, None, "killed by a signal");
    for worker in &crew {
        assert!(worker.ends_within(ORPHANS_END_WITHIN), "a worker outlives its coordinator");
    }
    let resumed = train.spawn().finish(LIMIT);
    assert!(resumed.stderr.contains("goes on from its checkpoint"), "{}", resumed.stderr);
    assert_eq!(model_sha256(&resumed), model_sha256(&undisturbed));
    verified(&train.state, "digits-1");
}

#[test]
fn a_coordinator_that_starts_again_remembers_its_jobs_and_its_workers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let job = JobFile::digits().with("epochs = 3", "epochs = 1").write(folder.path());
    let mut plane = ControlPlane::start_at(&lasting_address(), &state);
    let address = plane.address.clone();
    let mut worker = plane.worker("w1");
    plane.submit(&job, 1);
    follow(&plane, "digits-1");
    for signal in [Signal::TERM, Signal::KILL] {
        let log = plane.says(&["logs", "digits-1"]);
        let ended = plane.end(signal);
        assert_eq!(ended.code, (signal == Signal::TERM).then_some(0), "{}", ended.stderr);
        plane = ControlPlane::start_at(&address, &state);
        plane.wait_for_worker("w1");
        let jobs = plane.says(&["jobs"]);
        let row = jobs.lines().find(|line| line.starts_with("digits-1")).unwrap();
        assert!(row.contains("finished") && row.contains("23/23"), "{jobs}");
        assert_eq!(plane.says(&["logs", "digits-1"]), log);
    }
    // It still works.
    let other = JobFile::digits().with("name = \"digits\"", "name = \"other\"");
    plane.submit(&other.write(folder.path()), 1);
    follow(&plane, "other-1");
    assert!(plane.says(&["checkpoints", "other-1"]).contains("step-00000068"));
    worker.wait_for(&["session ended", "joining again"], LIMIT);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish(LIMIT).code, Some(0));
}

#[test]
fn a_job_goes_on_when_its_coordinator_is_back_and_after_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let job = JobFile::digits().with("epochs = 3", "epochs = 60").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let mut plane = ControlPlane::start_at(&lasting_address(), &state);
    let address = plane.address.clone();
    let _crew = [plane.worker("w1"), plane.worker("w2")];
    plane.submit(&job, 2);
    let mut following = Running::spawn(plane.command(&["logs", "digits-1", "-f"]));
    following.wait_for(&["checkpoint of step 23 is on disk"], LIMIT);
    assert_eq!(plane.end(Signal::KILL).code, None);
    let cut_off = following.finish(LIMIT);
    only_error(&cut_off, NETWORK, &["reading the log of digits-1", "is it running?"]);

    let mut plane = ControlPlane::start_at(&address, &state);
    plane.running.wait_for(&["worker w1 is back"], LIMIT);
    plane.running.wait_for(&["worker w2 is back"], LIMIT);
    let (line, _) = plane.running.wait_for(&["epoch 4 of 60"], LIMIT);
    // A request to end writes a checkpoint first.
    let ended = plane.end(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("job digits-1 stopped after step"), "{line}: {}", ended.stderr);

    let mut plane = ControlPlane::start_at(&address, &state);
    plane.wait_for_worker("w1");
    plane.wait_for_worker("w2");
    assert!(plane.says(&["jobs"]).contains("stopped"));
    plane.submit(&job, 2);
    let finished = follow(&plane, "digits-1").stdout;
    assert!(finished.lines().last().unwrap().ends_with(&model_sha256(&undisturbed)), "{finished}");
    verified(&state, "digits-1");
}

#[test]
fn a_worker_that_starts_first_finds_its_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    // The token is there from an earlier start.
    assert_eq!(ControlPlane::start(&state).end(Signal::TERM).code, Some(0));
    let address = lasting_address();
    let mut worker = Running::spawn(join(&address, &state, "early"));
    worker.wait_for(&["not joined yet", &address, "trying for"], LIMIT);
    let mut plane = ControlPlane::start_at(&address, &state);
    plane.wait_for_worker("early");
}

#[test]
fn a_worker_that_looks_for_its_coordinator_ends_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let mut worker = plane.worker("w1");
    worker.wait_for(&["joined"], LIMIT);
    plane.end(Signal::KILL);
    worker.wait_for(&["session ended", "joining again"], LIMIT);
    worker.wait_for(&["not joined yet", "trying for"], LIMIT);
    worker.signal(Signal::TERM);
    // Far less than it would go on looking.
    assert_eq!(worker.finish(Duration::from_secs(20)).code, Some(0));
}

/// They notice at once; this is for a machine under load.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(10);
