//! Joining, queueing, forming, stopping.

use super::*;
use crate::fixtures::{JOB, spec_of};
use proto::wire::v1::JobState;

#[test]
fn a_job_waits_for_its_workers_and_says_so() {
    let mut script = Script::new();
    script.submit(2);
    script.join("w1");
    let expected = "waiting for 2 workers, 1 has joined";
    assert_eq!(script.state("digits-1"), (JobState::Waiting, expected.to_owned()));
}

#[test]
fn a_generation_is_journaled_before_any_member_hears_of_it() {
    let mut script = Script::new();
    script.submit(2);
    script.join("w1");
    let (_, actions) = script.join_as("w2", "cpu");
    let journal = actions.iter().position(|action| {
        matches!(action, Action::Journal(Record::Formed { members, .. }) if members.len() == 2)
    });
    let form = actions.iter().position(|action| matches!(action, Action::Form(_)));
    assert!(journal.unwrap() < form.unwrap(), "{actions:?}");
    let expected = "preparing: w1, w2 not ready yet";
    assert_eq!(script.state("digits-1"), (JobState::Forming, expected.to_owned()));
}

#[test]
fn slices_are_contiguous_and_as_even_as_possible() {
    assert_eq!(share_slices(8, &[None; 3]), [0..3, 3..6, 6..8]);
    for slices in [1, 2, 8, 64] {
        for members in 1..=slices {
            let shares = share_slices(slices, &vec![None; members as usize]);
            let lens: Vec<usize> = shares.iter().map(ExactSizeIterator::len).collect();
            let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
            assert!(*least >= 1 && most - least <= 1, "{slices} {members} {lens:?}");
            assert_eq!((shares[0].start, shares.last().unwrap().end), (0, slices));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}

#[test]
fn slices_follow_the_measured_speed() {
    // Half as fast: half as many. Unknown: as the mean of the others.
    assert_eq!(share_slices(9, &[Some(10), Some(20), None]), [0..4, 4..6, 6..9]);
    // However slow, everybody has one.
    assert_eq!(share_slices(8, &[Some(1), Some(1_000_000)]), [0..7, 7..8]);
}

#[test]
fn all_idle_workers_take_part_up_to_one_a_slice() {
    let mut script = Script::new();
    for number in 0..10 {
        script.join(&format!("w{number}"));
    }
    let actions = script.submit(2);
    let members = &formation(&actions).unwrap().members;
    assert_eq!(members.len(), 8);
    assert!(members.iter().all(|member| member.slices.len() == 1));
}

#[test]
fn workers_of_another_kind_of_device_do_not_take_part() {
    let mut script = Script::new();
    script.submit(2);
    script.join_as("a", "cpu");
    let (_, actions) = script.join_as("b", "cuda sm_90");
    assert_eq!(formation(&actions), None);
    let (_, actions) = script.join_as("c", "cpu");
    let members = &formation(&actions).unwrap().members;
    assert_eq!(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_second_worker_of_a_name_is_refused_with_the_holders_address() {
    let mut script = Script::new();
    script.join("w1");
    let (_, actions) = script.join_as("w1", "cpu");
    let refused = actions.iter().find_map(|action| match action {
        Action::Refuse { refusal, .. } => Some(refusal.to_string()),
        _ => None,
    });
    assert!(refused.unwrap().contains("10.0.0.1:9"));
    assert!(!actions.iter().any(|action| matches!(action, Action::Admit { .. })));
}

#[test]
fn a_name_is_free_again_when_its_worker_is_gone() {
    let mut script = Script::new();
    let first = script.join("w1");
    script.end_stream(first);
    let (second, actions) = script.join_as("w1", "cpu");
    assert!(actions.contains(&Action::Admit { session: second, generation: Generation(0) }));
    assert_eq!(script.end_stream(first), [], "the old stream's end hits nobody");
    assert_eq!(script.core.worker_statuses().len(), 1);
}

#[test]
fn jobs_run_one_at_a_time_oldest_first() {
    let (mut script, members) = Script::running(0);
    let spec = spec_of(&JOB.replace("\"digits\"", "\"other\""));
    let actions = script.submit_with(Submission { spec, ..waiting(2) });
    assert_eq!(formation(&actions), None);
    assert_eq!(script.state("other-1").1, "waiting for job digits-1 to end");
    script.end_stream(members[0]);
    assert_eq!(script.state("other-1").1, "waiting for job digits-1 to end");
    script.report(members[1], trouble(TroubleKind::TroubleCheckpoint, 1, None));
    assert_eq!(script.state("other-1").1, "waiting for 2 workers, 1 has joined");
    let (_, actions) = script.join_as("w3", "cpu");
    assert_eq!(formation(&actions).unwrap().job, name("other-1"));
}

#[test]
fn more_workers_than_slices_are_refused() {
    let mut script = Script::new();
    let actions = script.submit(9);
    let expected = SubmitRefusal::TooManyWorkers { workers: 9, slices: 8 };
    assert_eq!(answer(&actions), Some(&Answer::SubmitRefused(expected)));
}

#[test]
fn the_same_job_twice_is_refused_while_it_runs_and_allowed_when_fresh() {
    let (mut script, _) = Script::running(0);
    let actions = script.submit(2);
    let expected = SubmitRefusal::Busy { job: name("digits-1") };
    assert_eq!(answer(&actions), Some(&Answer::SubmitRefused(expected)));
    let actions = script.submit_with(Submission { fresh: true, ..waiting(2) });
    let Some(Answer::Submitted { job, .. }) = answer(&actions) else { panic!("{actions:?}") };
    assert_eq!(job.as_str(), "digits-2");
}

#[test]
fn another_job_of_the_same_name_is_refused_with_the_differing_keys() {
    let mut script = Script::new();
    script.submit(1);
    let spec = spec_of(&JOB.replace("batch = 16", "batch = 32"));
    let actions = script.submit_with(Submission { spec, ..waiting(1) });
    let Some(Answer::SubmitRefused(refusal)) = answer(&actions) else { panic!("{actions:?}") };
    let text = refusal.to_string();
    assert!(text.contains("train.batch (16, now 32)") && text.contains("--fresh"), "{text}");
}

#[test]
fn a_changed_dataset_under_the_same_job_is_refused() {
    let mut script = Script::new();
    script.submit(1);
    let mut changed = waiting(1);
    changed.spec.dataset.fingerprint = "cd".repeat(32);
    let actions = script.submit_with(changed);
    let Some(Answer::SubmitRefused(refusal)) = answer(&actions) else { panic!("{actions:?}") };
    assert!(refusal.to_string().contains("the files in /data/digits have changed"), "{refusal}");
}

#[test]
fn a_waiting_job_stops_at_once() {
    let mut script = Script::new();
    script.submit(1);
    let actions = script.stop("digits-1");
    assert_eq!(outcome(&actions), Some(&Outcome::Stopped));
    assert_eq!(answer(&actions), Some(&Answer::Stopping));
    let refused = StopRefusal::Ended { job: name("digits-1") };
    assert_eq!(answer(&script.stop("digits-1")), Some(&Answer::StopRefused(refused)));
    let refused = StopRefusal::Unknown { job: name("nope-1") };
    assert_eq!(answer(&script.stop("nope-1")), Some(&Answer::StopRefused(refused)));
}

#[test]
fn a_forming_job_is_abandoned_when_stopped() {
    let mut script = Script::new();
    script.submit(2);
    let members = [script.join("w1"), script.join("w2")];
    let actions = script.stop("digits-1");
    assert_eq!(abandoned(&actions), members);
    assert_eq!(outcome(&actions), Some(&Outcome::Stopped));
}

#[test]
fn dismissed_workers_end_without_being_called_lost() {
    let mut script = Script::new();
    let session = script.join("w1");
    let actions = script.tell(Event::Dismissed { reason: "over".to_owned() });
    assert_eq!(plans(&actions, &Plan::Goodbye { reason: String::new() }), [session]);
    let actions = script.end_stream(session);
    assert_eq!(lines(&actions, Level::Warn), [""; 0]);
}
