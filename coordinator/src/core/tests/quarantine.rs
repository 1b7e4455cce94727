//! Images that can't be decoded: said once, counted once, and too many of them end the run.

use super::*;
use crate::fixtures::{JOB, spec_of};
use proto::wire::v1::{JobState, Split};

/// Two workers train on 64 images in files, of which a tenth may be bad.
fn running() -> (Script, [SessionId; 2]) {
    let mut script = Script::new();
    script.submit_with(images());
    let members = [script.join("w1"), script.join("w2")];
    script.ready(&members, 0);
    (script, members)
}

fn images() -> Submission {
    let toml = JOB.replace("\"idx\"", "\"imagefolder\"\nmax_bad_fraction = 0.1");
    Submission { spec: spec_of(&toml), ..waiting(2) }
}

fn bad(split: Split, indices: &[u64]) -> Report {
    let image = |&index: &u64| BadImage {
        split,
        index,
        path: format!("/d/{index}.jpg"),
        cause: "is damaged".to_owned(),
    };
    Report::Quarantined(indices.iter().map(image).collect())
}

#[test]
fn an_image_is_said_and_counted_once_whoever_meets_it() {
    let (mut script, members) = running();
    let actions = script.report(members[0], bad(Split::Train, &[5]));
    let said = "image /d/5.jpg can't be decoded: it is damaged; another image of its slice takes its place (1 of 64)";
    assert_eq!(lines(&actions, Level::Warn), [said]);
    assert_eq!(script.report(members[1], bad(Split::Train, &[5])), []);
    let actions = script.report(members[1], bad(Split::Test, &[5, 6]));
    let said = "test image /d/6.jpg can't be decoded: it is damaged; it counts as answered wrong (2 of 40)";
    assert_eq!(lines(&actions, Level::Warn)[1], said);
    let words =
        "training with 2 workers; 1 of 64 training images and 2 of 40 test images can't be decoded";
    assert_eq!(script.state("digits-1"), (JobState::Running, words.to_owned()));
    // A late report of another generation says nothing.
    let late = Generation(script.core.generation().0 - 1);
    let report = bad(Split::Train, &[9]);
    assert_eq!(script.tell(Event::Reported { session: members[0], generation: late, report }), []);
}

#[test]
fn more_than_the_allowed_share_of_the_training_images_ends_the_run() {
    let (mut script, members) = running();
    let actions = script.report(members[0], bad(Split::Test, &[0, 1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(outcome(&actions), None, "test images are counted, but end nothing");
    script.report(members[0], bad(Split::Train, &[0, 1, 2, 3, 4, 5]));
    assert_eq!(script.state("digits-1").0, JobState::Running, "6 of 64 are less than a tenth");
    let actions = script.report(members[1], bad(Split::Train, &[6]));
    let Some(Outcome::Failed { cause: Cause::Data, reason }) = outcome(&actions) else {
        panic!("{actions:?}")
    };
    let words = "7 of 64 training images can't be decoded, more than data.max_bad_fraction = 0.1 allows; repair or remove";
    assert!(reason.contains(words), "{reason}");
    assert_eq!(abandoned(&actions), members);
}

#[test]
fn what_is_known_outlives_a_restart() {
    let (mut script, members) = running();
    script.report(members[0], bad(Split::Train, &[0, 1, 2, 3, 4, 5, 6]));
    let mut core = Cluster::default();
    for record in records(&script.done) {
        core.replay(record).unwrap();
    }
    let done = core.boot();
    let mut script =
        Script { core, now: Duration::ZERO, joined: 100, beating: BTreeSet::new(), done };
    script.submit_with(images());
    let search = BaseSearch::Nothing { set_aside: Vec::new() };
    script.tell(Event::BaseFound { job: name("digits-1"), search });
    let members = [script.join("w1"), script.join("w2")];
    script.ready(&members, 0);
    // Known, so not said again; still too many.
    let actions = script.report(members[0], bad(Split::Train, &[3]));
    assert!(lines(&actions, Level::Warn).iter().all(|line| !line.starts_with("image")));
    assert!(matches!(outcome(&actions), Some(Outcome::Failed { cause: Cause::Data, .. })));
}

#[test]
fn thousands_are_counted_without_a_line_for_each() {
    let toml = JOB.replace("\"idx\"", "\"imagefolder\"\nmax_bad_fraction = 1");
    let mut spec = spec_of(&toml);
    spec.dataset.train_len = 5000;
    let mut script = Script::new();
    script.submit_with(Submission { spec, ..waiting(1) });
    let member = script.join("w1");
    script.ready(&[member], 0);
    let all: Vec<u64> = (0..3000).collect();
    for indices in all.chunks(64) {
        script.report(member, bad(Split::Train, indices));
    }
    let warnings = lines(&script.done, Level::Warn);
    assert_eq!(warnings.len(), 1001);
    assert!(warnings[1000].contains("from here on they are only counted"));
    assert!(script.state("digits-1").1.contains("3000 of 5000 training images"));
}

#[test]
fn an_image_beyond_the_dataset_is_a_contradiction() {
    let (mut script, members) = running();
    let actions = script.report(members[0], bad(Split::Train, &[64]));
    let Some(Outcome::Failed { cause: Cause::Worker, reason }) = outcome(&actions) else {
        panic!("{actions:?}")
    };
    assert!(
        reason.contains("worker w1 could not decode image 64 of a part that has 64"),
        "{reason}"
    );
}
