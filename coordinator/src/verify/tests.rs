//! A run that loses a worker, takes one in and is resumed, as the core records it; then each kind of damage, which is named.

mod run;

use proto::manifest::MODEL_FILE;

use super::*;
use crate::core::{MemberRecord, Record};
use run::{LAST, Run};

/// What is said of the run after its records were changed, in frames that are in order.
fn verdict(change: impl FnOnce(&mut Vec<Record>)) -> String {
    let mut run = Run::new();
    change(&mut run.records);
    run.write_journal();
    run.verify().unwrap_err().to_string()
}

fn commit_of(records: &[Record], wanted: u64) -> usize {
    let is_it = |r: &Record| matches!(r, Record::Committed { step, .. } if *step == wanted);
    records.iter().rposition(is_it).unwrap()
}

fn members_of(records: &mut [Record], generation: u64) -> &mut Vec<MemberRecord> {
    let formed = records.iter_mut().find_map(|record| match record {
        Record::Formed { generation: of, members, .. } if *of == generation => Some(members),
        _ => None,
    });
    formed.unwrap()
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_run_with_a_loss_a_join_and_a_return_is_proved() {
    let run = Run::new();
    let account = run.verify().unwrap();
    assert_eq!((account.steps, account.total_steps, account.metrics.newest), (LAST, LAST, LAST));
    assert_eq!(account.epochs, Epochs { whole: 5, begun: 0 });
    assert_eq!(account.returns, [8]);
    let [lost] = &account.departures[..] else { panic!("{:?}", account.departures) };
    assert_says(&lost.line, &["worker w2 lost in step 7 during computation: connection closed"]);
    let joined: Vec<_> = account.arrivals.iter().map(|a| (&*a.worker, a.step)).collect();
    assert_eq!(joined, [("w3", 10)]);
    let kept: Vec<u64> = account.checkpoints.iter().map(|kept| kept.step).collect();
    assert_eq!(kept, [8, LAST]);
    assert_eq!(account.model_sha256.as_ref(), Some(&account.checkpoints[1].model_sha256));
}

#[test]
fn the_core_links_its_records_as_this_module_reads_them_over_a_restart_too() {
    // `Run` restarts its core in the middle; without its last step each prefix is a run that has not finished.
    let run = Run::new();
    let ends: Vec<usize> = (9..=LAST).map(|step| commit_of(&run.records, step)).collect();
    for end in ends {
        let mut part = Run::new();
        part.records.truncate(end + 1);
        part.metrics.clear();
        part.write_metrics();
        part.remove_checkpoint(LAST);
        part.write_journal();
        assert!(part.verify().unwrap().model_sha256.is_none());
    }
}

#[test]
fn a_record_that_was_removed_repeated_or_moved_is_named() {
    let removed = verdict(|records| drop(records.remove(commit_of(records, 12))));
    assert_says(&removed, &["record ", "commits step 13 after step 11", "removed"]);
    let repeated = verdict(|records| {
        let at = commit_of(records, 12);
        records.insert(at, records[at].clone());
    });
    assert_says(&repeated, &["commits step 12 after step 12"]);
    let moved = verdict(|records| {
        let (one, other) = (commit_of(records, 12), commit_of(records, 13));
        records.swap(one, other);
    });
    assert_says(&moved, &["commits step 13 after step 11"]);
    let cut = verdict(|records| records.truncate(commit_of(records, 12)));
    assert_says(&cut, &["checkpoint", "names step 20, but only 11 steps are committed"]);
}

#[test]
fn a_record_that_was_altered_is_named_by_its_step() {
    let other_digest = verdict(|records| {
        let at = commit_of(records, 12);
        let Record::Committed { digest, .. } = &mut records[at] else { unreachable!() };
        *digest = "0123456789abcdef".repeat(2);
    });
    assert_says(&other_digest, &["has link", "at step 12", "altered"]);
    let other_holder = verdict(|records| {
        let newest = Run::newest_generation(records);
        let members = members_of(records, newest);
        let first = members[0].worker.clone();
        members[0].worker = std::mem::replace(&mut members[1].worker, first);
    });
    assert_says(&other_holder, &["has link", "at step 9"]);
    let other_job = verdict(|records| {
        for record in records {
            let Record::Submitted { toml, .. } = record else { continue };
            *toml = toml.replace("seed = 1", "seed = 2");
        }
    });
    assert_says(&other_job, &["has link", "at step 1,"]);
}

#[test]
fn slices_that_are_given_twice_or_to_nobody_are_named() {
    let twice = verdict(|records| {
        let newest = Run::newest_generation(records);
        members_of(records, newest)[0].slice_count += 1;
    });
    assert_says(&twice, &["gives slice 4 of generation", "to w1 and to w3"]);
    let nobody = verdict(|records| {
        let newest = Run::newest_generation(records);
        members_of(records, newest)[1].slice_count -= 1;
    });
    assert_says(&nobody, &["gives slice 7 of generation", "to nobody"]);
}

#[test]
fn generations_are_used_once_and_start_from_what_was_committed() {
    let reused = verdict(|records| {
        let newest = Run::newest_generation(records);
        for record in records {
            let Record::Formed { generation, .. } = record else { continue };
            if *generation == newest {
                *generation = 1;
            }
        }
    });
    assert_says(&reused, &["uses generation 1, but"]);
    let late = verdict(|records| {
        let at = commit_of(records, 12);
        let Record::Committed { generation, .. } = &mut records[at] else { unreachable!() };
        *generation -= 1;
    });
    assert_says(&late, &["commits step 12 by generation", "was formed last"]);
    let base = verdict(|records| {
        for record in records {
            let Record::Formed { base_step, .. } = record else { continue };
            *base_step = base_step.saturating_sub(1);
        }
    });
    assert_says(&base, &["starts generation", "from step 5, but step 6 is the newest"]);
}

#[test]
fn damaged_and_missing_frames_are_named_by_their_place() {
    let run = Run::new();
    let path = run.state.path().join("journal");
    let whole = std::fs::read(&path).unwrap();
    let mut frames = Frames::open(&path).unwrap();
    let starts: Vec<usize> = std::iter::from_fn(|| frames.next_frame().unwrap())
        .map(|frame| frame.at as usize)
        .collect();
    let (from, to) = (starts[5], starts[6]);
    let mut flipped = whole.clone();
    flipped[from + 30] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let text = run.verify().unwrap_err().to_string();
    assert_says(&text, &[&format!("the frame at byte {from} of the journal is damaged")]);
    let without = [&whole[..from], &whole[to..]].concat();
    std::fs::write(&path, &without).unwrap();
    let text = run.verify().unwrap_err().to_string();
    assert_says(&text, &[&format!("the frame at byte {from}"), "does not continue"]);
    // What a crash leaves is no violation: the last record, that of the end, is torn.
    let last = *starts.last().unwrap();
    std::fs::write(&path, &whole[..last + 30]).unwrap();
    let account = run.verify().unwrap();
    assert_eq!((account.torn_bytes, account.model_sha256), (30, None));
}

#[test]
fn a_checkpoint_that_is_not_the_state_of_its_step_is_named() {
    let run = Run::new();
    run.change_manifest(8, |manifest| manifest.state_digest = "ab".repeat(16));
    let text = run.verify().unwrap_err().to_string();
    assert_says(&text, &["step-00000008", "names digest abab", "for step 8"]);

    let run = Run::new();
    run.change_manifest(8, |manifest| manifest.step = 12);
    assert_says(&run.verify().unwrap_err().to_string(), &["step-00000008", "belongs to step 12"]);

    let run = Run::new();
    std::fs::write(run.checkpoint(LAST).join(MODEL_FILE), b"other").unwrap();
    let text = run.verify().unwrap_err().to_string();
    assert_says(&text, &["step-00000020", MODEL_FILE, "but its manifest says"]);

    let run = Run::new();
    run.remove_checkpoint(8);
    let text = run.verify().unwrap_err().to_string();
    assert_says(&text, &["step-00000008", "on record, but not on disk"]);
}

#[test]
fn metrics_with_a_repetition_or_a_step_too_many_are_named_and_lost_ones_counted() {
    let changed = |change: fn(&mut Vec<String>)| {
        let mut run = Run::new();
        change(&mut run.metrics);
        run.write_metrics();
        run.verify()
    };
    let said = |change| changed(change).unwrap_err().to_string();
    let repeated = said(|lines| lines.insert(5, lines[5].clone()));
    assert_says(&repeated, &["metrics.jsonl line 7 is step 6", "there before"]);
    let ahead = said(|lines| lines.push(lines[0].replace("\"step\":1,", "\"step\":21,")));
    assert_says(&ahead, &["names step 21, but only 20 are committed"]);
    let other = said(|lines| lines[3] = "{}".to_owned());
    assert_says(&other, &["line 4 is no metric"]);
    let metrics = |change| changed(change).unwrap().metrics;
    let gap = metrics(|lines| drop(lines.remove(5)));
    assert_eq!(gap, Metrics { newest: LAST, missing: 1 });
    let short = metrics(|lines| lines.truncate(17));
    assert_eq!(short, Metrics { newest: 17, missing: 3 });
}

#[test]
fn an_unknown_job_and_a_folder_without_a_journal_are_told_apart() {
    let run = Run::new();
    let state = run.state.path();
    let unknown = verify(state, &"other-1".parse().unwrap()).unwrap_err();
    assert_says(&unknown.to_string(), &["there is no job other-1", "coordinator jobs --state"]);
    let nothing = verify(&state.join("jobs"), &"other-1".parse().unwrap()).unwrap_err();
    assert!(matches!(nothing, VerifyError::Journal(_)), "{nothing}");
}
