//! What outlives a process: replay, going on from a checkpoint.

use super::*;
use crate::fixtures::{JOB, TOTAL_STEPS, entry, spec_of};
use proto::exit::ExitCode;
use proto::wire::v1::JobState;

/// A new process that reads back what the old one journaled.
fn restart(script: &Script) -> Script {
    let mut core = Cluster::default();
    let old: Vec<Action> =
        script.done.iter().filter(|action| matches!(action, Action::Journal(_))).cloned().collect();
    for record in records(&old) {
        core.replay(record).unwrap();
    }
    let mut done = old;
    done.extend(core.boot());
    Script { core, now: Duration::ZERO, joined: 100, beating: BTreeSet::new(), done }
}

fn found(script: &mut Script, entries: Vec<CheckpointEntry>) -> Vec<Action> {
    let search = BaseSearch::Found { entries, set_aside: Vec::new() };
    script.tell(Event::BaseFound { job: name("digits-1"), search })
}

fn nothing(script: &mut Script, set_aside: &[&str]) -> Vec<Action> {
    let set_aside = set_aside.iter().map(|line| (*line).to_owned()).collect();
    let search = BaseSearch::Nothing { set_aside };
    script.tell(Event::BaseFound { job: name("digits-1"), search })
}

/// A job that was cut off at step 10, with checkpoints of steps 4 and 8.
fn cut_off() -> Script {
    let (mut script, members) = Script::running(4);
    script.evaluate(&members, 4, 2);
    for step in 5..=8 {
        script.step(&members, step);
    }
    script.evaluate(&members, 8, 1);
    for (step, correct) in [(4, 38), (8, 39)] {
        let entry = entry(step, Some(correct));
        script.tell(Event::CheckpointSealed { job: name("digits-1"), entry });
    }
    script.step(&members, 9);
    script.step(&members, 10);
    restart(&script)
}

/// All steps done, the last checkpoint sealed.
fn complete(finished: bool) -> Script {
    let (mut script, members) = Script::running(TOTAL_STEPS);
    script.evaluate(&members, 20, 0);
    script.assembled("digits-1", 20);
    if finished {
        script.finish(&members, 20);
    }
    script.tell(Event::CheckpointSealed { job: name("digits-1"), entry: entry(20, Some(40)) });
    restart(&script)
}

#[test]
fn generations_never_repeat_across_restarts() {
    let (script, _) = Script::running(1);
    let before = script.core.generation();
    let mut script = restart(&script);
    assert!(
        script.core.generation() > before,
        "one is burned for a record that may have been torn"
    );
    script.submit(1);
    nothing(&mut script, &[]);
    let (_, actions) = script.join_as("w1", "cpu");
    assert!(formation(&actions).unwrap().generation.0 > before.0 + 1);
}

#[test]
fn a_job_that_was_cut_off_is_shown_as_failed_and_can_go_on() {
    let mut script = cut_off();
    let (state, reason) = script.state("digits-1");
    assert_eq!(state, JobState::Failed);
    assert!(reason.contains("stood at step 10"), "{reason}");
    assert!(reason.contains("newest checkpoint is step 8"), "{reason}");

    let actions = script.submit(2);
    assert!(actions.iter().any(|action| matches!(action, Action::FindBase { .. })));
    assert_eq!(answer(&actions), None, "the answer waits for the disk");

    let actions = found(&mut script, vec![entry(4, Some(38)), entry(8, Some(39))]);
    let expected =
        Answer::Submitted { job: name("digits-1"), resumed_from_step: 8, already_finished: false };
    assert_eq!(answer(&actions), Some(&expected));
    assert!(actions.contains(&Action::CutHistory { job: name("digits-1"), step: 8 }));

    script.join("w1");
    let (_, actions) = script.join_as("w2", "cpu");
    assert_eq!(formation(&actions).unwrap().base.step, 8);
}

#[test]
fn a_resumed_job_must_start_from_the_digest_of_its_checkpoint() {
    let mut script = cut_off();
    script.submit(1);
    found(&mut script, vec![entry(8, None)]);
    let session = script.join("w1");
    let actions = script.report(session, Report::Ready { step: 8, digest: digest(77) });
    assert!(lines(&actions, Level::Error)[0].contains("was committed"));
}

#[test]
fn steps_after_the_checkpoint_are_committed_again() {
    let mut script = cut_off();
    script.submit(1);
    found(&mut script, vec![entry(8, Some(39))]);
    let members = [script.join("w1")];
    script.ready(&members, 8);
    let actions = script.step(&members, 9);
    assert!(matches!(records(&actions)[..], [Record::Committed { step: 9, .. }]));
    let again = restart(&script);
    assert_eq!(again.core.view(&name("digits-1")).unwrap().step, 9);
}

#[test]
fn a_run_that_had_checkpoints_never_starts_over_silently() {
    let mut script = cut_off();
    script.submit(1);
    let actions = nothing(&mut script, &["step 8 is damaged"]);
    let Some(Answer::SubmitRefused(refusal)) = answer(&actions) else { panic!("{actions:?}") };
    assert!(refusal.to_string().contains("--fresh"), "{refusal}");
    assert!(lines(&actions, Level::Warn).contains(&"step 8 is damaged"));
    let actions = script.submit_with(Submission { fresh: true, ..waiting(1) });
    let Some(Answer::Submitted { job, .. }) = answer(&actions) else { panic!("{actions:?}") };
    assert_eq!(job.as_str(), "digits-2");
}

#[test]
fn a_run_without_any_checkpoint_starts_from_the_beginning_and_says_so() {
    let (script, _) = Script::running(2);
    let mut script = restart(&script);
    script.submit(1);
    let actions = nothing(&mut script, &[]);
    let said = |line: &&str| line.contains("starts from the beginning");
    assert!(lines(&actions, Level::Info).iter().any(said));
    let (_, actions) = script.join_as("w1", "cpu");
    assert_eq!(formation(&actions).unwrap().base.step, 0);
}

#[test]
fn a_finished_job_is_not_run_again() {
    let mut script = complete(true);
    let actions = script.submit(2);
    let expected =
        Answer::Submitted { job: name("digits-1"), resumed_from_step: 20, already_finished: true };
    assert_eq!(answer(&actions), Some(&expected));
    assert_eq!(script.core.job_statuses()[0].model_sha256, format!("{:064x}", 20));
}

#[test]
fn a_job_that_had_sealed_its_last_checkpoint_needs_no_worker_to_finish() {
    let mut script = complete(false);
    assert_eq!(script.state("digits-1").0, JobState::Failed);
    script.submit(2);
    let actions = found(&mut script, vec![entry(20, Some(40))]);
    assert!(matches!(answer(&actions), Some(Answer::Submitted { already_finished: true, .. })));
    assert!(matches!(outcome(&actions), Some(Outcome::Finished { .. })));
}

#[test]
fn a_stopped_job_goes_on_in_the_same_process() {
    let (mut script, members) = Script::running(2);
    script.stop("digits-1");
    script.step(&members, 3);
    script.assembled("digits-1", 3);
    script.finish(&members, 3);
    script.tell(Event::CheckpointSealed { job: name("digits-1"), entry: entry(3, None) });
    script.submit(2);
    let actions = found(&mut script, vec![entry(3, None)]);
    assert_eq!(formation(&actions).unwrap().base.step, 3);
}

#[test]
fn replay_gives_the_state_that_was_journaled() {
    let (mut script, members) = Script::running(6);
    script.tell(Event::CheckpointSealed { job: name("digits-1"), entry: entry(4, Some(9)) });
    script.report(members[0], trouble(TroubleKind::TroubleCheckpoint, 7, None));
    let again = restart(&script);
    let id = name("digits-1");
    let (old, new) = (script.core.view(&id).unwrap(), again.core.view(&id).unwrap());
    assert_eq!((old.step, old.outcome, old.checkpoints), (new.step, new.outcome, new.checkpoints));
    assert_eq!(script.state("digits-1"), again.state("digits-1"));
}

/// The job of the tests, started from a file of weights whose hash begins with these digits; "" when it is gone.
fn from_weights(sha256: &str, fresh: bool) -> Submission {
    let toml = JOB.replace("[train]", "init = \"/w/resnet18.safetensors\"\n[train]");
    let facts = || WeightsFacts { sha256: sha256.to_owned(), len: 9, other_classes: Some(1000) };
    let weights = (!sha256.is_empty()).then(facts);
    Submission { spec: JobSpec { weights, ..spec_of(&toml) }, fresh, ..local(1) }
}

fn refusal(actions: &[Action]) -> (String, ExitCode) {
    match answer(actions) {
        Some(Answer::SubmitRefused(refusal)) => (refusal.to_string(), refusal.exit_code()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_that_starts_from_weights_waits_for_its_own_copy_and_says_what_they_are() {
    let mut script = Script::new();
    script.join("w1");
    let actions = script.submit_with(from_weights("ab12", false));
    let said = "job digits-1 starts from the weights /w/resnet18.safetensors (SHA-256 ab12); its last layer has 1000 classes, not 2: \
                the seed makes another one";
    assert!(lines(&actions, Level::Info).contains(&said), "{actions:?}");
    let wanted = |action: &Action| matches!(action, Action::FindBase { .. });
    assert!(
        actions.iter().any(wanted) && formation(&actions).is_none() && answer(&actions).is_none()
    );
    let actions = nothing(&mut script, &[]);
    assert!(matches!(answer(&actions), Some(Answer::Submitted { resumed_from_step: 0, .. })));
    assert_eq!(lines(&actions, Level::Info).len(), 1, "the generation's line: {actions:?}");
    assert_eq!(formation(&actions).unwrap().spec.weights.as_ref().unwrap().sha256, "ab12");
}

#[test]
fn a_job_that_went_back_by_itself_waits_for_no_full_crew_after_a_restart_either() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    for session in members {
        script.end_stream(session);
    }
    script.pass(RETURN_WITHIN.as_millis() as u64 + 3000);
    nothing(&mut script, &[]);
    let mut script = restart(&script);
    let (_, actions) = script.join_as("w1", "cpu");
    assert_eq!(formation(&actions).unwrap().members.len(), 1);
}

#[test]
fn a_copy_that_fails_ends_the_job() {
    let mut script = Script::new();
    script.submit_with(from_weights("ab12", false));
    let search = BaseSearch::NoWeights { problem: "no space".to_owned(), set_aside: Vec::new() };
    let actions = script.tell(Event::BaseFound { job: name("digits-1"), search });
    assert_eq!(refusal(&actions), ("no space".to_owned(), ExitCode::State));
    assert_eq!(script.state("digits-1").0, JobState::Failed);
}

#[test]
fn the_same_weights_or_none_go_on_and_others_are_another_job() {
    let mut script = Script::new();
    script.submit_with(from_weights("ab12", false));
    nothing(&mut script, &[]);
    let mut script = restart(&script);
    let (words, code) = refusal(&script.submit_with(from_weights("cd34", false)));
    assert!(words.contains("digits-1 started from other weights: /w/resnet18.safet"), "{words}");
    assert_eq!(code, ExitCode::Usage);
    let (words, code) = refusal(&script.submit_with(from_weights("", true)));
    assert!(words.contains("/w/resnet18.safetensors: there is no such file"), "{words}");
    assert_eq!(code, ExitCode::Usage);
    for sha256 in ["ab12", ""] {
        let mut script = restart(&script);
        let actions = script.submit_with(from_weights(sha256, false));
        let spec = actions.iter().find_map(|action| match action {
            Action::FindBase { spec, .. } => Some(spec),
            _ => None,
        });
        // What was submitted first counts: the copy is known by its hash.
        assert_eq!(spec.unwrap().weights.as_ref().unwrap().sha256, "ab12");
        let actions = nothing(&mut script, &[]);
        assert!(matches!(answer(&actions), Some(Answer::Submitted { .. })), "{actions:?}");
    }
}
