//! Steps, evaluations, checkpoints, the agreed end.

use super::*;
use crate::fixtures::{TOTAL_STEPS, entry};
use proto::wire::v1::JobState;

fn sealed(step: u64, correct: Option<u64>) -> Event {
    Event::CheckpointSealed { job: name("digits-1"), entry: entry(step, correct) }
}

#[test]
fn all_members_ready_means_run() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    assert_eq!(plans(&script.ready(&members[..1], 0), &Plan::Run), []);
    assert_eq!(plans(&script.ready(&members[1..], 0), &Plan::Run), members);
    assert_eq!(script.state("digits-1"), (JobState::Running, "training with 2 workers".to_owned()));
}

#[test]
fn a_step_is_committed_when_all_members_agree_and_published_after_the_journal() {
    let (mut script, members) = Script::running(0);
    assert_eq!(script.report(members[0], done(1)), []);
    let actions = script.report(members[1], done(1));
    let journal = actions
        .iter()
        .position(|action| matches!(action, Action::Journal(Record::Committed { step: 1, .. })));
    let publish = actions.iter().position(|action| matches!(action, Action::Publish { .. }));
    assert!(journal.unwrap() < publish.unwrap(), "{actions:?}");
}

#[test]
fn a_fast_member_may_be_steps_ahead() {
    let (mut script, members) = Script::running(0);
    for step in 1..=3 {
        assert_eq!(script.report(members[1], done(step)), []);
    }
    for step in 1..=3 {
        let actions = script.report(members[0], done(step));
        assert!(matches!(records(&actions)[..], [Record::Committed { step: s, .. }] if *s == step));
    }
}

#[test]
fn a_step_that_was_left_out_fails_the_job_and_a_repeated_one_is_passed_over() {
    let (mut script, members) = Script::running(2);
    let actions = script.report(members[0], done(4));
    assert!(lines(&actions, Level::Error)[0].starts_with("worker w1 reported step 4 after step 2"));
    let (mut script, members) = Script::running(2);
    assert_eq!(script.report(members[0], done(2)), [], "repeated after a break of its stream");
}

#[test]
fn reports_of_an_older_generation_are_dropped() {
    let (mut script, members) = Script::running(2);
    let generation = Generation(script.core.generation().0 - 1);
    let session = members[0];
    assert_eq!(script.tell(Event::Reported { session, generation, report: done(3) }), []);
    let late = Event::CheckpointAssembled { job: name("digits-1"), generation, step: 2 };
    assert_eq!(script.tell(late), []);
}

#[test]
fn an_evaluation_is_the_sum_over_the_members() {
    let (mut script, members) = Script::running(4);
    let actions = script.evaluate(&members, 4, 3);
    let published = actions.iter().find_map(|action| match action {
        Action::Publish { metric: Metric::Evaluation { step: 4, evaluation }, .. } => {
            Some(*evaluation)
        }
        _ => None,
    });
    let found = published.unwrap();
    assert_eq!((found.samples, found.correct, found.correct_top5), (40, 37, 40));
    assert_eq!(found.loss, 2.0 / 40.0);
}

#[test]
fn an_evaluation_that_missed_images_fails_the_job() {
    let (mut script, members) = Script::running(4);
    script.evaluate(&members[..1], 4, 0);
    let tally = Tally { samples: 2, correct: 2, correct_top5: 2, loss_fixed: 0 };
    let actions = script.report(members[1], Report::Evaluated { step: 4, tally });
    assert!(lines(&actions, Level::Error)[0].contains("looked at 42 images instead of 40"));
}

#[test]
fn a_checkpoint_is_sealed_only_when_its_step_is_committed_and_evaluated() {
    let (mut script, members) = Script::running(3);
    assert_eq!(seals(&script.assembled("digits-1", 4)), [0; 0]);
    assert_eq!(seals(&script.step(&members, 4)), [0; 0]);
    assert_eq!(seals(&script.evaluate(&members, 4, 0)), [4]);
}

#[test]
fn a_checkpoint_that_arrives_late_still_gets_the_digest_of_its_step() {
    let (mut script, members) = Script::running(4);
    script.evaluate(&members, 4, 0);
    script.step(&members, 5);
    script.step(&members, 6);
    let actions = script.assembled("digits-1", 4);
    let order = actions.iter().find_map(|action| match action {
        Action::Seal(order) => Some((order.step, order.digest)),
        _ => None,
    });
    assert_eq!(order, Some((4, digest(4))));
}

#[test]
fn the_newest_and_the_best_checkpoints_are_kept() {
    let (mut script, _) = Script::running(0);
    let mut removed = Vec::new();
    for (step, correct) in [(4, 39), (8, 30), (12, 39), (16, 35), (20, 36)] {
        for action in script.tell(sealed(step, Some(correct))) {
            if let Action::Journal(Record::Sealed { removed: gone, .. }) = action {
                removed.extend(gone);
            }
        }
    }
    // 12 is as good as 4 and newer; 16 and 20 are the newest two.
    assert_eq!(removed, [4, 8]);
    let view = script.core.view(&name("digits-1")).unwrap();
    assert_eq!(view.checkpoints.iter().map(|entry| entry.step).collect::<Vec<_>>(), [12, 16, 20]);
    assert_eq!(view.best_checkpoint, Some(12));
}

#[test]
fn a_job_is_finished_when_its_last_checkpoint_is_on_disk() {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    assert_eq!(seals(&script.assembled("digits-1", 20)), [20]);
    let actions = script.finish(&members, 20);
    assert_eq!(plans(&actions, &Plan::Release), [], "until it is sealed they hold the state");
    assert_eq!(outcome(&actions), None);
    assert_eq!(script.state("digits-1").1, "writing its last checkpoint");
    let actions = script.tell(sealed(20, Some(40)));
    assert_eq!(plans(&actions, &Plan::Release), members);
    let model_sha256 = format!("{:064x}", 20);
    assert_eq!(outcome(&actions), Some(&Outcome::Finished { model_sha256 }));
}

#[test]
fn an_older_checkpoint_that_is_given_up_after_the_last_one_holds_nobody_up() {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    let (job, generation) = (name("digits-1"), script.core.generation());
    let failed = |step| {
        let (job, problem) = (job.clone(), "full".to_owned());
        Event::CheckpointFailed { job, generation, step, problem }
    };
    script.evaluate(&members, 20, 0);
    script.finish(&members, 20);
    let mut actions = script.tell(failed(20));
    actions.extend(script.tell(failed(16)));
    assert!(matches!(outcome(&actions), Some(Outcome::Failed { .. })), "{actions:?}");
    // The other order.
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    script.tell(failed(20));
    script.tell(failed(16));
    let actions = script.finish(&members, 20);
    assert!(matches!(outcome(&actions), Some(Outcome::Failed { .. })), "{actions:?}");
}

#[test]
fn a_finished_job_without_its_last_checkpoint_has_failed() {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    let problem = "writing /x (the checkpoint needs 9 bytes): no space left".to_owned();
    let job = name("digits-1");
    let generation = script.core.generation();
    let failed = Event::CheckpointFailed { job, generation, step: 20, problem };
    let actions = script.tell(failed);
    assert!(lines(&actions, Level::Warn)[0].contains("training goes on"));
    let actions = script.finish(&members, 20);
    let Some(Outcome::Failed { cause: Cause::Checkpoint, reason }) = outcome(&actions) else {
        panic!("{actions:?}")
    };
    assert!(reason.contains("needs 9 bytes") && reason.contains("step 20 was reached"), "{reason}");
}

#[test]
fn a_failed_checkpoint_in_between_only_warns() {
    let (mut script, members) = Script::running(4);
    let job = name("digits-1");
    let problem = "full".to_owned();
    let generation = script.core.generation();
    let failed = Event::CheckpointFailed { job, generation, step: 4, problem };
    let actions = script.tell(failed);
    assert_eq!((lines(&actions, Level::Warn).len(), lines(&actions, Level::Error).len()), (1, 0));
    let actions = script.step(&members, 5);
    assert!(matches!(records(&actions)[..], [Record::Committed { step: 5, .. }]));
}

#[test]
fn a_model_that_differs_from_its_checkpoint_fails_the_job() {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    script.assembled("digits-1", 20);
    let mut wrong = entry(20, None);
    wrong.model_sha256 = "ff".repeat(32);
    script.tell(Event::CheckpointSealed { job: name("digits-1"), entry: wrong });
    let actions = script.finish(&members, 20);
    assert!(matches!(outcome(&actions), Some(Outcome::Failed { cause: Cause::Checkpoint, .. })));
}

#[test]
fn members_that_finish_differently_fail_the_job() {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.finish(&members[..1], 20);
    let report = Report::Finished { step: 20, model_sha256: "00".repeat(32) };
    let actions = script.report(members[1], report);
    let errors = lines(&actions, Level::Error);
    assert!(errors[0].starts_with("workers finished differently: w1: step 20"), "{errors:?}");
}

#[test]
fn a_stop_ends_the_job_in_the_step_the_members_agreed_on() {
    let (mut script, members) = Script::running(2);
    assert_eq!(plans(&script.stop("digits-1"), &Plan::Stop), members);
    assert_eq!(plans(&script.stop("digits-1"), &Plan::Stop), [], "they are asked once");
    script.step(&members, 3);
    let actions = script.assembled("digits-1", 3);
    assert_eq!(seals(&actions), [3], "not an epoch's end: no evaluation is due");
    script.finish(&members, 3);
    assert_eq!(outcome(&script.tell(sealed(3, None))), Some(&Outcome::Stopped));
    let expected = "stopped after step 3; the newest checkpoint is step 3".to_owned();
    assert_eq!(script.state("digits-1"), (JobState::Stopped, expected));
}

#[test]
fn finishing_early_unasked_fails_the_job() {
    let (mut script, members) = Script::running(2);
    let actions = script.finish(&members, 2);
    assert!(lines(&actions, Level::Error)[0].contains("finished with step 2 of 20, unasked"));
}

#[test]
fn a_checkpoint_that_failed_too_late_to_matter_is_not_mentioned() {
    let (mut script, members) = Script::running(4);
    let (job, current) = (name("digits-1"), script.core.generation());
    let failed = |generation: Generation| {
        let (job, problem) = (job.clone(), "full".to_owned());
        Event::CheckpointFailed { job, generation, step: 4, problem }
    };
    assert_eq!(script.tell(failed(Generation(current.0 - 1))), [], "of another generation");
    script.report(members[0], trouble(TroubleKind::TroubleCheckpoint, 5, None));
    assert!(script.core.is_over(&job));
    assert_eq!(script.tell(failed(current)), [], "of a job that has ended");
}
