//! The journal against loss of power, ends of the process, and disks that fail, at every operation.

use crate::disk::crash::{Recording, Step};
use crate::disk::recorder::{Fault, FaultKind, Recorder};
use crate::disk::sweep::{
    Swept, folder, needed_after_restart, needless_syncs, restarted, survived, survives_faults,
    sweep,
};
use crate::state::StateDir;

use super::*;

/// Appends frames of these steps, as a coordinator does that starts here. Each step is promised once its frame is.
fn append(recorder: &Recorder, frames: &[&[u64]]) -> Result<Vec<u64>, String> {
    let state = StateDir::open(&recorder.root().join("state")).map_err(|e| e.to_string())?;
    let opened = Journal::open(&state.journal_path()).map_err(|e| e.to_string())?;
    let Opened { mut journal, records, .. } = opened;
    for steps in frames {
        let records: Vec<Record> = steps.iter().copied().map(record).collect();
        journal.append(&records).map_err(|e| e.to_string())?;
        steps.iter().for_each(|&step| recorder.promise(step));
    }
    Ok(records.iter().map(step).collect())
}

/// Larger steps have longer records.
fn record(step: u64) -> Record {
    let long = if step == LONG { RESERVE_BYTES as usize / 2 } else { 2 };
    let digest = "a".repeat(long);
    let (job, chain) = ("digits-1".to_owned(), String::new());
    Record::Committed { job, generation: 3, step, digest, chain, skipped: None }
}

fn step(record: &Record) -> u64 {
    let Record::Committed { step, .. } = record else { panic!("{record:?}") };
    *step
}

/// Opens, checks what is there, and appends one more.
fn recover(recorder: &Recorder, promised: &[u64]) -> Result<(), String> {
    let found = append(recorder, &[&[AFTER]])?;
    let before: Vec<u64> = found.iter().copied().filter(|&step| step < AFTER).collect();
    let whole = FRAMES.concat();
    let ends: Vec<usize> = (0..=FRAMES.len()).map(|count| FRAMES[..count].concat().len()).collect();
    if !ends.contains(&before.len()) || before != whole[..before.len()] {
        return Err(format!("{found:?} is no row of whole frames"));
    }
    if found[before.len()..].iter().any(|&step| step != AFTER) {
        return Err(format!("{found:?} is not in order"));
    }
    match promised.iter().find(|step| !found.contains(step)) {
        Some(lost) => Err(format!("step {lost} was promised, and lost: {found:?}")),
        None => Ok(()),
    }
}

fn recorded(frames: &[&[u64]]) -> Recording {
    let folder = folder();
    let recorder = Recorder::watch(folder.path());
    append(&recorder, frames).unwrap();
    recorder.recording()
}

#[test]
fn after_every_crash_the_journal_is_a_row_of_whole_frames_with_all_that_was_promised() {
    let swept = sweep(&recorded(FRAMES), 3, &recover).unwrap();
    let Swept { states, second_crashes } = swept;
    eprintln!("journal: {states} states after a crash, {second_crashes} after a second one");
    assert!(swept.states > 50 && swept.second_crashes > 500, "{swept:?}");
}

#[test]
fn a_frame_that_needs_more_than_the_reserve_survives_crashes() {
    let recording = recorded(&[&[1], &[LONG]]);
    let recover = |recorder: &Recorder, promised: &[u64]| {
        let found = append(recorder, &[&[AFTER]])?;
        let known = [vec![], vec![1], vec![1, LONG]];
        if known.contains(&found) && promised.iter().all(|step| found.contains(step)) {
            return Ok(());
        }
        Err(format!("{found:?}"))
    };
    let states = survived(&recording, 0, &recover).unwrap();
    eprintln!("journal, long frame: {states} states after a crash");
    assert!(states > 20, "{states}");
}

#[test]
fn a_journal_without_any_one_of_its_syncs_is_caught() {
    // A first start syncs the directory when it makes it, and once more as every start does; the same for an empty journal.
    let twice = ["", "state", "state", "", "state/journal"];
    assert_eq!(needless_syncs(&recorded(FRAMES), 0, &recover), twice);
    let needed = needed_after_restart(&recorded(&[&[1]]), usize::MAX, &recover).unwrap();
    let paths = ["", "state", "state/journal", "state/journal.new"];
    assert_eq!(needed, paths.map(PathBuf::from).into());
}

#[test]
fn whatever_operation_fails_the_journal_ends_there_and_keeps_all_that_was_promised() {
    for kind in [FaultKind::Io, FaultKind::Full] {
        let work = |recorder: &Recorder, fault: Option<Fault>| {
            recorder.fail(fault.unwrap());
            let appended = append(recorder, FRAMES);
            let named = |text: &String| text.contains("/state") && text.contains("--state");
            assert!(appended.as_ref().err().is_none_or(named), "{appended:?}");
            appended.map(drop)
        };
        let faults = survives_faults(&work, kind, 1, &recover);
        eprintln!("journal: {faults} operations failed with {kind:?}");
        assert!(faults > 10, "{faults}");
    }
}

#[test]
fn a_frame_whose_fsync_failed_is_not_trusted_because_it_can_be_read() {
    let place = folder();
    let recorder = Recorder::watch(place.path());
    append(&recorder, &[&[1]]).unwrap();
    // The next start writes and syncs the last frame once more, then appends: a write, and the fsync.
    recorder.fail(Fault { at: 3, kind: FaultKind::Io, file: "journal" });
    append(&recorder, &[&[2, 3, 4]]).unwrap_err();
    assert!(recorder.heal());
    let failed = recorder.recording();
    let count = failed.steps.len();
    let restarted = restarted(&failed, count, &recover).unwrap();
    assert!(survived(&restarted, count, &recover).unwrap() > 3);
    let mut steps = restarted.steps;
    let rewritten = steps[count..].iter().position(|step| matches!(step, Step::Write { .. }));
    steps.remove(count + rewritten.unwrap());
    let careless = Recording { base: restarted.base, steps };
    let problem = survived(&careless, count, &recover).unwrap_err();
    assert!(problem.contains("is damaged at byte"), "{problem}");
}

#[test]
fn a_journal_that_failed_takes_no_more_even_when_the_disk_works_again() {
    // The write, and the fsync: that one is not tried a second time.
    for at in [0, 1] {
        let place = folder();
        let recorder = Recorder::watch(place.path());
        let path = recorder.root().join("journal");
        let mut journal = Journal::open(&path).unwrap().journal;
        journal.append(&[record(1)]).unwrap();
        recorder.fail(Fault { at, kind: FaultKind::Io, file: "journal" });
        let error = journal.append(&[record(2)]).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("os error 5"), "{error}");
        assert!(recorder.heal());
        let again = journal.append(&[record(3)]);
        assert!(matches!(again, Err(JournalError::Broken { .. })), "{again:?}");
    }
}

#[test]
fn a_full_disk_leaves_room_for_the_records_that_the_reserve_was_made_for() {
    let place = folder();
    let recorder = Recorder::watch(place.path());
    let path = recorder.root().join("journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    // Nothing beyond the file's end fits any more; what lies inside has its room already.
    let end = journal.reserved;
    recorder.fail(Fault { at: 0, kind: FaultKind::FullBehind(end), file: "journal" });
    let mut steps = 0;
    while journal.append(&[record(steps + 1)]).is_ok() {
        steps += 1;
    }
    assert!(steps > 1000, "{steps}");
    recorder.heal();
    assert_eq!(Journal::open(&path).unwrap().records.len() as u64, steps);
}

#[test]
fn damage_in_the_middle_names_file_and_place_and_is_left_alone() {
    let place = folder();
    let path = place.path().join("journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    let mut starts = Vec::new();
    for number in 1..=3 {
        starts.push(journal.end as usize);
        journal.append(&[record(number)]).unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    for (from, to) in [(0, 1), (1, 2), (0, 2)] {
        // Lost, as a block is that was never written, and overwritten.
        for byte in [0, 0xaa] {
            let mut damaged = whole.clone();
            damaged[starts[from]..starts[to]].fill(byte);
            std::fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            let place = format!("{} is damaged at byte {}", path.display(), starts[from]);
            assert!(error.contains(&place) && error.contains("restore it"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
    }
}

const FRAMES: &[&[u64]] = &[&[1], &[2, 3, 4], &[5]];
const LONG: u64 = 6;
/// What is appended after a crash.
const AFTER: u64 = 101;
