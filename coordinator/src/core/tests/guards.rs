//! Steps that nobody could apply, members whose states differ, members that are slow.

use super::losses::failed;
use super::*;
use crate::fixtures::{JOB, entry, spec_of};

fn wrong(step: u64) -> Digest {
    Digest(u128::from(step + 1000).to_be_bytes())
}

/// Three members of a job that waits for workers, at step `steps`.
fn three(steps: u64) -> (Script, [SessionId; 3]) {
    let mut script = Script::new();
    script.submit(3);
    let members = [script.join("w1"), script.join("w2"), script.join("w3")];
    script.ready(&members, 0);
    for step in 1..=steps {
        script.step(&members, step);
    }
    (script, members)
}

impl Script {
    fn reports_digest(&mut self, session: SessionId, step: u64, digest: Digest) -> Vec<Action> {
        let Report::StepDone(done) = done(step) else { unreachable!() };
        self.report(session, Report::StepDone(StepDone { digest, ..done }))
    }

    fn seals_with(&mut self, session: SessionId, step: u64, digest: Digest) -> Vec<Action> {
        let held = Held { generation: self.generation(), step, digest };
        self.seal_with(&[session], Some(held))
    }

    /// A step that is skipped, since of the members `owner` had something to contribute that is not finite.
    fn skip(&mut self, members: &[SessionId], step: u64, owner: Option<usize>) -> Vec<Action> {
        let mut actions = Vec::new();
        for (rank, &session) in members.iter().enumerate() {
            let Report::StepDone(done) = done(step) else { unreachable!() };
            let own = (owner == Some(rank)).then(|| "the gradient of fc.weight".to_owned());
            let skipped = Some(NotFinite { sum: "the gradient of fc.bias".to_owned(), own });
            let done = StepDone { skipped, loss: f64::NAN, digest: digest(0), ..done };
            actions.extend(self.report(session, Report::StepDone(done)));
        }
        actions
    }
}

fn names(formation: &Formation) -> Vec<&str> {
    formation.members.iter().map(|member| member.name.as_str()).collect()
}

fn told_to_seal(actions: &[Action]) -> usize {
    let seals = |action: &&Action| matches!(action, Action::Send { plan: Plan::Seal { .. }, .. });
    actions.iter().filter(seals).count()
}

#[test]
fn a_member_whose_state_differs_is_evicted_and_a_step_that_it_had_a_share_in_is_computed_again() {
    let (mut script, members) = three(3);
    script.report(members[0], done(4));
    script.reports_digest(members[1], 4, wrong(4));
    let actions = script.report(members[2], done(4));
    assert_eq!(told_to_seal(&actions), 3);
    script.seal(&members[..1], 4);
    script.seals_with(members[1], 4, wrong(4));
    let actions = script.seal(&members[2..], 4);
    let warnings = lines(&actions, Level::Warn);
    let expected = format!(
        "worker w2 evicted: it holds state {} of step 4, but w1, w3 state {} of step 4; continuing with 2 workers",
        wrong(4),
        digest(4)
    );
    assert_eq!(warnings[0], expected);
    assert!(
        warnings[1].starts_with("step 4 may hold a share that was computed from wrong weights")
    );
    let is_commit = |action: &Action| matches!(action, Action::Journal(Record::Committed { .. }));
    assert!(!actions.iter().any(is_commit), "{actions:?}");
    let search = BaseSearch::Nothing { set_aside: Vec::new() };
    let actions = script.tell(Event::BaseFound { job: name("digits-1"), search });
    let formed = formation(&actions).unwrap();
    assert_eq!((names(formed), formed.base.step), (vec!["w1", "w3"], 0));
}

#[test]
fn a_run_that_brought_its_workers_goes_on_with_those_that_are_left() {
    let mut script = Script::new();
    script.submit_with(local(3));
    let members = [script.join("w1"), script.join("w2"), script.join("w3")];
    script.ready(&members, 0);
    script.report(members[0], done(1));
    script.report(members[1], done(1));
    script.reports_digest(members[2], 1, wrong(1));
    script.seal(&members[..2], 1);
    script.seals_with(members[2], 1, wrong(1));
    let search = BaseSearch::Nothing { set_aside: Vec::new() };
    let actions = script.tell(Event::BaseFound { job: name("digits-1"), search });
    assert_eq!(names(formation(&actions).unwrap()), ["w1", "w2"]);
}

#[test]
fn a_halt_outlives_the_generation_that_it_was_called_in() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    for step in 4..=6 {
        script.skip(&members, step, Some(0));
    }
    script.end_stream(members[1]);
    script.pass(2500);
    script.seal(&members[..1], 6);
    let actions = script.ready(&members[..1], 6);
    let stops = actions.iter().filter(|a| matches!(a, Action::Send { plan: Plan::Stop, .. }));
    assert_eq!(stops.count(), 1, "{actions:?}");
}

#[test]
fn a_member_that_says_so_first_only_ends_the_generation() {
    let (mut script, members) = three(3);
    let actions = script.report(members[2], trouble(TroubleKind::TroubleDiverged, 4, None));
    assert_eq!((told_to_seal(&actions), lines(&actions, Level::Warn).len()), (3, 0));
    script.seals_with(members[0], 3, wrong(3));
    let actions = script.seal(&members[1..], 3);
    assert!(lines(&actions, Level::Warn)[0].starts_with("worker w1 evicted"), "{actions:?}");
    assert_eq!(names(formation(&actions).unwrap()), ["w2", "w3"]);
}

#[test]
fn a_committed_state_outweighs_a_majority() {
    let (mut script, members) = three(3);
    script.report(members[0], trouble(TroubleKind::TroubleDiverged, 4, None));
    for &session in &members[..2] {
        script.seals_with(session, 3, wrong(3));
    }
    let actions = script.seal(&members[2..], 3);
    assert_eq!(names(formation(&actions).unwrap()), ["w3"]);
    assert_eq!(lines(&actions, Level::Warn).len(), 2);
}

#[test]
fn two_that_disagree_compute_again_and_the_one_that_was_wrong_is_evicted() {
    let (mut script, members) = Script::running_as(waiting(2), 3);
    script.report(members[0], done(4));
    script.reports_digest(members[1], 4, wrong(4));
    script.seal(&members[..1], 4);
    let actions = script.seals_with(members[1], 4, wrong(4));
    let warnings = lines(&actions, Level::Warn);
    assert!(warnings[0].starts_with("the members' states after step 4 differ: w1 state"));
    assert!(warnings[0].contains("computing again what followed the newest checkpoint"));
    let search = BaseSearch::Nothing { set_aside: Vec::new() };
    let actions = script.tell(Event::BaseFound { job: name("digits-1"), search });
    assert_eq!(formation(&actions).unwrap().base.step, 0);
    script.ready(&members, 0);
    for step in 1..=3 {
        assert_eq!(lines(&script.step(&members, step), Level::Warn), [""; 0]);
    }
    let actions = script.step(&members, 4);
    let expected = "worker w2 evicted: computed again, step 4 led to what w1 had held before; \
                    continuing with 1 worker";
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    let actions = script.seal(&members[..1], 4);
    assert_eq!(names(formation(&actions).unwrap()), ["w1"]);
}

#[test]
fn states_that_differ_again_and_again_fail_the_job() {
    let (mut script, members) = Script::running_as(waiting(2), 0);
    for round in 0..=DISPUTES_MAX {
        script.report(members[0], done(1));
        script.reports_digest(members[1], 1, wrong(u64::from(round)));
        script.seal(&members[..1], 1);
        let actions = script.seals_with(members[1], 1, wrong(u64::from(round)));
        if round == DISPUTES_MAX {
            assert_eq!(failed(&actions).0, Cause::Worker);
            return;
        }
        let search = BaseSearch::Nothing { set_aside: Vec::new() };
        script.tell(Event::BaseFound { job: name("digits-1"), search });
        script.ready(&members, 0);
    }
}

#[test]
fn members_that_make_different_first_states_are_named() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    script.ready(&members[..1], 0);
    script.report(members[1], Report::Ready { step: 0, digest: digest(7) });
    script.seal(&members[..1], 0);
    let actions = script.seals_with(members[1], 0, digest(7));
    let warnings = lines(&actions, Level::Warn);
    let expected = "the members' states after step 0 differ: w1 state 0000";
    assert!(warnings[0].starts_with(expected) && warnings[0].contains("w2 state 0000"));
}

#[test]
fn members_that_start_from_different_states_are_told_apart_by_the_committed_digest() {
    let (mut script, members) = three(3);
    script.complain(members[0], "w2", 4);
    script.seal(&members, 3);
    script.ready(&members[..2], 3);
    let report = Report::Ready { step: 3, digest: wrong(3) };
    let actions = script.report(members[2], report);
    assert_eq!(told_to_seal(&actions), 3);
    script.seal(&members[..2], 3);
    let actions = script.seals_with(members[2], 3, wrong(3));
    // What it holds is not the state that its generation began with.
    assert_eq!(names(formation(&actions).unwrap()), ["w1", "w2"], "{actions:?}");
}

#[test]
fn a_step_that_nobody_applied_names_the_worker_and_the_tensor_and_is_on_record() {
    let (mut script, members) = Script::running(3);
    let actions = script.skip(&members, 4, Some(1));
    let whose = "the gradient of fc.weight of worker w2";
    let expected =
        format!("step 4 skipped by all: {whose} is not finite; 1 in a row, 3 stop the job");
    assert_eq!(lines(&actions, Level::Warn), [expected]);
    let recorded = actions.iter().any(|action| {
        matches!(action, Action::Journal(Record::Committed { step: 4, skipped: Some(words), .. })
            if words == whose)
    });
    let published = actions.iter().any(|action| {
        matches!(action, Action::Publish { metric: Metric::Step { skipped: Some(words), .. }, .. }
            if words == whose)
    });
    assert!(recorded && published, "{actions:?}");
    // A good one in between starts the count again.
    script.step(&members, 5);
    let actions = script.skip(&members, 6, None);
    assert!(lines(&actions, Level::Warn)[0].contains("fc.bias summed over all workers"));
    assert!(lines(&actions, Level::Warn)[0].contains("1 in a row"));
}

#[test]
fn three_skipped_steps_in_a_row_stop_the_job_with_its_last_good_state() {
    let (mut script, members) = Script::running(3);
    script.skip(&members, 4, Some(0));
    script.skip(&members, 5, Some(0));
    let actions = script.skip(&members, 6, Some(0));
    let errors = lines(&actions, Level::Error);
    assert!(errors[0].contains("the last of 3 in a row; lower the learning rate"), "{errors:?}");
    let stops = actions.iter().filter(|a| matches!(a, Action::Send { plan: Plan::Stop, .. }));
    assert_eq!(stops.count(), 2);
    // The stop is agreed on in the next step.
    script.skip(&members, 7, Some(0));
    script.assembled("digits-1", 7);
    script.finish(&members, 7);
    let entry = entry(7, None);
    let actions = script.tell(Event::CheckpointSealed { job: name("digits-1"), entry });
    let (cause, reason) = failed(&actions);
    assert_eq!(cause, Cause::Worker);
    assert!(reason.contains("the gradient of fc.weight of worker w1"), "{reason}");
}

#[test]
fn a_slow_member_is_named_once_and_shows_in_the_status() {
    let mut script = Script::new();
    let toml = JOB.replace("epochs = 5", "epochs = 50");
    script.submit_with(Submission { spec: spec_of(&toml), ..waiting(3) });
    let members = [script.join("w1"), script.join("w2"), script.join("w3")];
    script.ready(&members, 0);
    let mut warnings = Vec::new();
    for step in 1..=40 {
        script.pass(1000);
        for (rank, &session) in members.iter().enumerate() {
            let Report::StepDone(done) = done(step) else { unreachable!() };
            let slices = if rank == 2 { 2 } else { 3 };
            let slow = if rank == 1 { 24 } else { 10 };
            let times = PhaseTimes { forward_ns: slices * slow * 1_000_000, ..done.times };
            let actions = script.report(session, Report::StepDone(StepDone { times, ..done }));
            warnings.extend(lines(&actions, Level::Warn).iter().map(|line| (*line).to_owned()));
        }
    }
    let line = "worker w2 takes 2.4 times as long for a slice as the median; \
                the next generation gives it fewer";
    assert_eq!(warnings, [line]);
    let statuses = script.core.worker_statuses();
    let times: Vec<f64> = statuses.iter().map(|status| status.times_median).collect();
    assert!((times[1] - 2.4).abs() < 0.01 && times[0] == 1.0 && times[2] == 1.0, "{times:?}");
    assert!((statuses[1].slice_ms - 24.0).abs() < 0.1, "{statuses:?}");
}
