//! Losses, and what is said about them.

use super::*;
use crate::fixtures::entry;
use proto::wire::v1::JobState;

const SEAL: Plan = Plan::Seal { attempt: Generation(0) };

/// The state after this step, in the generation at hand.
fn held(script: &Script, step: u64) -> Held {
    Held { generation: script.generation(), step, digest: digest(step) }
}

/// All lines of warning or error that name a worker as lost.
fn losses(script: &Script) -> Vec<&str> {
    lines(&script.done, Level::Warn).into_iter().filter(|line| line.contains(" lost ")).collect()
}

pub(super) fn failed(actions: &[Action]) -> (Cause, &str) {
    match outcome(actions) {
        Some(Outcome::Failed { cause, reason }) => (*cause, reason),
        other => panic!("{other:?} in {actions:?}"),
    }
}

fn three_running() -> (Script, [SessionId; 3]) {
    let mut script = Script::new();
    script.submit(3);
    let members = [script.join("w1"), script.join("w2"), script.join("w3")];
    script.ready(&members, 0);
    (script, members)
}

#[test]
fn a_lost_worker_is_named_at_once_with_step_phase_cause_and_what_happens_next() {
    let (mut script, members) = Script::running(6);
    script.beat(members[1], 6, Phase::Exchange);
    let actions = script.end_stream(members[1]);
    let expected =
        "worker w2 lost in step 7 during exchange: connection closed; continuing with 1 worker";
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    assert_eq!(plans(&actions, &SEAL), members[..1]);
    assert_eq!(script.state("digits-1").0, JobState::Forming);
}

#[test]
fn the_last_workers_loss_ends_a_local_run_and_names_the_newest_checkpoint() {
    let mut script = Script::new();
    script.submit_with(local(1));
    let session = script.join("w1");
    script.ready(&[session], 0);
    script.step(&[session], 1);
    let entry = entry(1, Some(9));
    script.tell(Event::CheckpointSealed { job: name("digits-1"), entry });
    let actions = script.end_stream(session);
    let reason = "worker w1 lost in step 2 during computation: connection closed";
    let expected = format!("{reason}; stopping; the newest checkpoint is step 1");
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    assert_eq!(failed(&actions), (Cause::Worker, reason));
    assert_eq!(script.state("digits-1").0, JobState::Failed);
}

#[test]
fn a_silent_worker_is_lost_after_two_seconds_and_not_before() {
    let (mut script, members) = Script::running(1);
    script.beating.remove(&members[1]);
    script.pass(1900);
    assert_eq!(losses(&script), [""; 0]);
    script.pass(200);
    assert_eq!(losses(&script).len(), 1);
    assert!(losses(&script)[0].starts_with("worker w2 lost "), "{:?}", losses(&script));
    assert!(losses(&script)[0].contains("silent for 2000 ms"));
    let gone = Action::Disconnect { session: members[1], reason: "silent for 2000 ms".to_owned() };
    assert!(script.done.contains(&gone));
}

#[test]
fn a_coordinator_that_was_late_itself_accuses_nobody() {
    let (mut script, _) = Script::running(1);
    script.now += Duration::from_secs(30);
    script.tell(Event::Tick);
    script.pass(1000);
    assert_eq!(losses(&script), [""; 0]);
}

#[test]
fn the_survivors_complaint_is_not_reported_as_a_cause() {
    let (mut script, members) = Script::running(6);
    let actions = script.complain(members[0], "w2", 7);
    assert_eq!(lines(&actions, Level::Warn), [""; 0]);
    assert_eq!(plans(&actions, &SEAL), members, "the exchange is broken, whoever is to blame");
    script.pass(300);
    script.end_stream(members[1]);
    script.seal(&members[..1], 6);
    script.pass(1000);
    // The peer's view of where it happened is better than the last heartbeat's.
    assert_eq!(losses(&script).len(), 1);
    assert!(losses(&script)[0].starts_with("worker w2 lost in step 7 during exchange"));
    assert_eq!(lines(&script.done, Level::Warn).len(), 1);
}

#[test]
fn of_a_chain_of_complaints_the_dead_worker_is_named() {
    let (mut script, members) = three_running();
    script.complain(members[0], "w3", 1);
    script.complain(members[2], "w2", 1);
    script.end_stream(members[1]);
    script.seal_with(&[members[0], members[2]], Some(held(&script, 0)));
    assert_eq!(losses(&script).len(), 1);
    assert!(losses(&script)[0].starts_with("worker w2 lost in step 1 during exchange"));
    assert_eq!(lines(&script.done, Level::Warn).len(), 1);
}

#[test]
fn an_edge_between_two_live_workers_is_named_and_tried_again() {
    let (mut script, members) = Script::running(6);
    script.complain(members[0], "w2", 7);
    let actions = script.seal(&members, 6);
    let expected = "worker w1 could not exchange with w2 in step 7 during exchange: connection reset; \
                    trying again";
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    let formed = formation(&actions).unwrap();
    assert_eq!((formed.base.step, formed.members.len(), &formed.holders[..]), (6, 2, &[0, 1][..]));
}

#[test]
fn a_worker_whose_edges_keep_breaking_is_left_out() {
    let (mut script, members) = Script::running(6);
    for _ in 0..EDGE_RETRIES {
        script.complain(members[0], "w2", 7);
        let actions = script.seal(&members, 6);
        assert_eq!(formation(&actions).unwrap().members.len(), 2);
        script.ready(&members, 6);
    }
    script.complain(members[0], "w2", 7);
    let actions = script.seal(&members, 6);
    let formed = formation(&actions).unwrap();
    assert_eq!(formed.members.len(), 1);
    assert!(lines(&actions, Level::Warn)[0].contains("w2 lost"), "{actions:?}");
    assert!(lines(&actions, Level::Warn)[0].contains("keep breaking"), "{actions:?}");
}

#[test]
fn the_end_of_the_chain_is_named_when_nobody_died() {
    let (mut script, members) = three_running();
    script.complain(members[0], "w3", 1);
    script.complain(members[2], "w2", 1);
    script.seal(&members, 0);
    let warnings = lines(&script.done, Level::Warn);
    assert!(
        warnings[0].starts_with("worker w3 could not exchange with w2 in step 1"),
        "{warnings:?}"
    );
}

#[test]
fn a_hanging_worker_is_named_instead_of_the_edge_to_it() {
    let (mut script, members) = Script::running(6);
    script.beating.remove(&members[1]);
    script.pass(400);
    script.complain(members[0], "w2", 7);
    script.seal(&members[..1], 6);
    assert_eq!(script.core.job_statuses()[0].workers, 2, "w2 may still answer");
    script.pass(3000);
    let warnings = lines(&script.done, Level::Warn);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("worker w2 lost in step 7 during exchange: silent"),
        "{warnings:?}"
    );
    assert_eq!(script.core.job_statuses()[0].workers, 1);
}

#[test]
fn a_worker_that_leaves_is_let_go_when_the_others_can_go_on_without_it() {
    let (mut script, members) = Script::running(1);
    let reason = "asked to terminate".to_owned();
    let actions = script.report(members[1], Report::Leaving { reason });
    let expected = "worker w2 leaves in step 2 during computation: asked to terminate; continuing with 1 worker";
    assert_eq!(lines(&actions, Level::Info), [expected]);
    assert_eq!(lines(&actions, Level::Warn), [""; 0]);
    assert_eq!((plans(&actions, &Plan::Pause), plans(&actions, &SEAL)), (members.to_vec(), vec![]));
    assert_eq!(plans(&script.pause(&members, 2), &SEAL), members);
    let actions = script.seal(&members, 2);
    assert_eq!(plans(&actions, &Plan::Goodbye { reason: String::new() }), members[1..]);
    assert_eq!(formation(&actions).unwrap().members.len(), 1);
    assert_eq!(script.end_stream(members[1]), []);
}

#[test]
fn a_worker_that_leaves_does_not_wait_for_a_long_step() {
    let (mut script, members) = Script::running(1);
    script.report(members[1], Report::Leaving { reason: "asked to terminate".to_owned() });
    let wait = PAUSE_TO_LEAVE.as_millis() as u64;
    assert_eq!(plans(&script.pass(wait), &SEAL), []);
    assert_eq!(plans(&script.pass(100), &SEAL), members);
}

#[test]
fn an_idle_worker_that_is_lost_harms_no_job() {
    let mut script = Script::new();
    let session = script.join("w1");
    script.end_stream(session);
    assert_eq!(losses(&script), ["worker w1 lost while idle: connection closed"]);
}

#[test]
fn a_worker_lost_while_forming_is_left_out_when_nobody_else_will_come() {
    let mut script = Script::new();
    script.submit_with(local(2));
    let members = [script.join("w1"), script.join("w2")];
    let before = script.core.generation();
    let actions = script.end_stream(members[1]);
    assert_eq!(plans(&actions, &SEAL), members[..1]);
    let actions = script.seal_with(&members[..1], None);
    let formed = formation(&actions).unwrap();
    assert!(formed.generation > before);
    assert_eq!((formed.base.step, formed.members.len(), formed.holders.len()), (0, 1, 0));
}

#[test]
fn a_job_that_has_not_begun_waits_for_its_crew() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    let before = script.core.generation();
    script.end_stream(members[1]);
    script.pass(2200);
    let warnings = lines(&script.done, Level::Warn);
    assert!(warnings[0].ends_with("waiting for 1 more worker"), "{warnings:?}");
    script.seal_with(&members[..1], None);
    assert_eq!(script.state("digits-1").0, JobState::Waiting);
    let (_, actions) = script.join_as("w2", "cpu");
    assert!(formation(&actions).unwrap().generation > before);
}

#[test]
fn a_child_that_never_joins_fails_the_job_with_its_last_words() {
    let mut script = Script::new();
    script.submit_with(local(2));
    script.join("w1");
    let cause = "exit status: 3; it said: no such file".to_owned();
    assert_eq!(script.tell(Event::NeverJoined { worker: name("w1"), cause: cause.clone() }), []);
    let actions = script.tell(Event::NeverJoined { worker: name("w2"), cause });
    let errors = lines(&actions, Level::Error);
    assert_eq!(errors, ["worker w2 never joined: exit status: 3; it said: no such file"]);
    assert_eq!(failed(&actions).0, Cause::Worker);
}

#[test]
fn a_worker_with_another_dataset_is_excluded_and_the_job_goes_on_with_others() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    let differs = trouble(TroubleKind::TroubleDatasetDiffers, 0, None);
    let actions = script.report(members[0], differs);
    let warnings = lines(&actions, Level::Warn);
    assert!(warnings[0].starts_with("worker w1 refused: "), "{warnings:?}");
    script.seal_with(&members[1..], None);
    let (_, actions) = script.join_as("w3", "cpu");
    let members = &formation(&actions).unwrap().members;
    assert_eq!(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["w2", "w3"]);
}

#[test]
fn an_unreadable_dataset_fails_a_local_run() {
    let mut script = Script::new();
    script.submit_with(local(1));
    let session = script.join("w1");
    let actions = script.report(session, trouble(TroubleKind::TroubleDatasetUnreadable, 0, None));
    assert_eq!(failed(&actions).0, Cause::Data);
}

#[test]
fn a_checkpoint_that_a_worker_refuses_fails_the_job_with_the_workers_own_words() {
    let (mut script, members) = Script::running(2);
    let actions = script.report(members[0], trouble(TroubleKind::TroubleCheckpoint, 3, None));
    let reason = "worker w1 refused the checkpoint: connection reset";
    assert_eq!(failed(&actions), (Cause::Checkpoint, reason));
}

#[test]
fn a_worker_that_fails_by_itself_is_left_out() {
    let (mut script, members) = Script::running_as(waiting(2), 2);
    let actions = script.report(members[0], trouble(TroubleKind::TroubleInternal, 3, None));
    let expected =
        "worker w1 failed in step 3 during exchange: connection reset; continuing with 1 worker";
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    let actions = script.seal(&members[1..], 2);
    assert_eq!(formation(&actions).unwrap().members[0].name, name("w2"));
    script.ready(&members[1..], 2);
    let actions = script.report(members[1], trouble(TroubleKind::TroubleInternal, 3, None));
    assert!(lines(&actions, Level::Warn)[0].contains("no worker holds the state"), "{actions:?}");
}

#[test]
fn members_that_do_not_get_ready_are_named_and_left_out() {
    let mut script = Script::new();
    script.submit_with(local(2));
    let members = [script.join("w1"), script.join("w2")];
    script.ready(&members[..1], 0);
    script.pass(59_000);
    assert_eq!(lines(&script.done, Level::Warn), [""; 0]);
    script.pass(1_500);
    let warnings = lines(&script.done, Level::Warn);
    assert!(
        warnings[0].contains(": it was not ready within 60 s; continuing with 1"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_failed_job_frees_its_workers_for_the_next_one() {
    let (mut script, members) = Script::running(1);
    script.submit_with(Submission { fresh: true, ..waiting(1) });
    let actions = script.report(members[1], trouble(TroubleKind::TroubleCheckpoint, 2, None));
    let formed = formation(&actions).unwrap();
    assert_eq!((formed.job.as_str(), formed.members.len()), ("digits-2", 2));
}

#[test]
fn a_checkpoint_in_flight_is_settled_before_a_failed_job_is_over() {
    let (mut script, members) = Script::running(4);
    script.assembled("digits-1", 4);
    script.evaluate(&members, 4, 0);
    let actions = script.report(members[1], trouble(TroubleKind::TroubleCheckpoint, 5, None));
    assert!(lines(&actions, Level::Error)[0].ends_with("that of step 4 is being written"));
    assert_eq!(outcome(&actions), None);
    let sealed = Event::CheckpointSealed { job: name("digits-1"), entry: entry(4, Some(40)) };
    assert_eq!(failed(&script.tell(sealed)).0, Cause::Checkpoint);
}

#[test]
fn a_worker_that_never_finishes_is_named() {
    let (mut script, members) = Script::running(crate::fixtures::TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    script.finish(&members[..1], 20);
    script.pass(19 * 60_000);
    assert_eq!(lines(&script.done, Level::Error), [""; 0]);
    script.pass(2 * 60_000);
    let errors = lines(&script.done, Level::Error);
    assert!(errors[0].contains("not finished within 20 min: w2"), "{errors:?}");
}

#[test]
fn a_worker_that_beats_but_never_steps_is_named() {
    for stopping in [false, true] {
        let (mut script, members) = Script::running(2);
        if stopping {
            script.stop("digits-1");
        }
        script.step(&members[..1], 3);
        script.pass(19 * 60_000);
        assert_eq!(lines(&script.done, Level::Error), [""; 0]);
        script.pass(2 * 60_000);
        let errors = lines(&script.done, Level::Error);
        assert!(errors[0].starts_with("no progress after step 2 within 20 min: w2"), "{errors:?}");
    }
}

#[test]
fn the_last_holder_has_its_time_to_come_back_however_long_it_has_waited() {
    let mut submission = waiting(2);
    submission.policy.on_loss = OnLoss::Wait;
    let (mut script, members) = Script::running_as(submission, 3);
    script.end_stream(members[1]);
    script.pass(2500);
    script.seal(&members[..1], 3);
    script.pass(60_000);
    let searches =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::FindBase { .. }));
    assert!(!searches(&script.end_stream(members[0])) && !searches(&script.pass(14_000)));
    let actions = script.pass(2000);
    assert!(searches(&actions), "{:?}", lines(&script.done, Level::Warn));
}
