//! A worker that dies is named, and the others carry on with the same state.

use std::time::{Duration, Instant};

use cluster_tests::{JobFile, Signal, Train, send, verified};

use crate::bits::{model_sha256, steps_in_metrics};

#[test]
fn killed_workers_are_named_and_the_others_end_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 12").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);

    let train = Train { workers: 4, ..Train::new(&job, &folder.path().join("killed")) };
    let mut running = train.spawn();
    for (epoch, victim, left) in [(2, 1, 3), (5, 0, 2), (8, 3, 1)] {
        running.wait_for(&[&format!("epoch {epoch} of")], LIMIT);
        let victims = running.children();
        let killed = Instant::now();
        send(victims[victim.min(victims.len() - 1)], Signal::KILL);
        let next = format!("continuing with {left} worker");
        let (line, at) = running.wait_for(&[" lost ", &next], LIMIT);
        assert!(at - killed < Duration::from_secs(2), "{:?}: {line}", at - killed);
    }
    let ended = running.finish(LIMIT);
    assert_eq!(model_sha256(&ended), model_sha256(&undisturbed));
    // The others' broken connections are consequences.
    let names = |line: &&str| line.contains(" lost ") && !line.contains(" said: ");
    let named: Vec<&str> = ended.stderr.lines().filter(names).collect();
    assert_eq!(named.len(), 3, "{named:?}");
    assert_eq!(steps_in_metrics(&folder.path().join("killed")), (1..=270).collect::<Vec<u64>>());
    let proof = verified(&folder.path().join("killed"), "digits-1");
    let end =
        format!("each once; 3 losses, 0 joins; final weights sha256 {}\n", model_sha256(&ended));
    assert!(proof.ends_with(&end), "{proof}");
    for line in named {
        let words = line.split("worker ").nth(1).and_then(|rest| rest.split("; ").next()).unwrap();
        assert!(proof.contains(words), "{words:?} is not in:\n{proof}");
    }
}

#[test]
fn a_worker_that_hangs_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let train = Train { workers: 3, ..Train::new(&job, &folder.path().join("hung")) };
    let mut running = train.spawn();
    running.wait_for(&["epoch 2"], LIMIT);
    let victim = running.children()[1];
    send(victim, Signal::STOP);
    let (line, _) = running.wait_for(&["worker", "lost", "silent for"], LIMIT);
    assert!(line.contains("continuing with 2 workers"), "{line}");
    let ended = running.finish(LIMIT);
    assert_eq!(model_sha256(&ended), model_sha256(&undisturbed));
}

#[test]
fn a_cluster_that_is_paused_as_a_whole_goes_on_without_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let train = Train { workers: 3, ..Train::new(&job, &folder.path().join("paused")) };
    let mut running = train.spawn();
    running.wait_for(&["epoch 2"], LIMIT);
    let everybody = [&[running.id()], &running.children()[..]].concat();
    // Longer than any worker may be silent, as when a laptop's lid is shut. Who is woken first waits for the others.
    for round in [&everybody, &everybody.iter().rev().copied().collect::<Vec<_>>()] {
        everybody.iter().for_each(|&process| send(process, Signal::STOP));
        std::thread::sleep(Duration::from_millis(3500));
        round.iter().for_each(|&process| send(process, Signal::CONT));
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = running.finish(LIMIT);
    assert_eq!(model_sha256(&ended), model_sha256(&undisturbed));
    assert!(!ended.stderr.contains(" lost "), "{}", ended.stderr);
}

#[test]
fn the_last_workers_death_stops_the_run_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 6").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let train = Train { workers: 1, ..Train::new(&job, &folder.path().join("killed")) };
    let mut running = train.spawn();
    running.wait_for(&["epoch 2"], LIMIT);
    send(running.children()[0], Signal::KILL);
    running.wait_for(&["worker", " lost ", "stopping"], LIMIT);
    let ended = running.finish(LIMIT);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    let resumed = train.spawn().finish(LIMIT);
    assert_eq!(model_sha256(&resumed), model_sha256(&undisturbed));
    assert!(verified(&train.state, "digits-1").contains("1 loss, 0 joins; final"));
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
    assert!(verified(&train.state, "digits-1").contains("not finished, at step"));
    let resumed = train.spawn().finish(LIMIT);
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    assert_eq!(model_sha256(&resumed), model_sha256(&undisturbed));
    verified(&train.state, "digits-1");
}

const LIMIT: Duration = Duration::from_secs(120);
