//! Checkpoints against loss of power, ends of the process, and disks that fail, at every operation.

use proto::identity::{Generation, hex};
use proto::manifest::{MODEL_FILE, OPTIMIZER_FILE};
use proto::wire::checkpoint_part;
use sha2::{Digest as _, Sha256};

use crate::core::{BaseSearch, CheckpointEntry, Shelf, WeightsFacts};
use crate::disk::crash::Recording;
use crate::disk::recorder::{Fault, FaultKind, Recorder};
use crate::disk::sweep::{
    Swept, folder, needed_after_restart, needless_syncs, survives_faults, sweep,
};
use crate::fixtures::spec;
use crate::state::StateDir;

use super::tests::{job, order};
use super::verify::list;
use super::*;

/// A coordinator of this moment.
struct Store<'a> {
    recorder: &'a Recorder,
    jobs: PathBuf,
    uploads: Uploads,
    entries: Vec<CheckpointEntry>,
    _state: StateDir,
}

impl Store<'_> {
    /// As a coordinator starts, up to the checkpoint that it would go on from.
    fn open(recorder: &Recorder) -> Result<Store<'_>, String> {
        let state = StateDir::open(&recorder.root().join("state")).map_err(|e| e.to_string())?;
        let jobs = state.jobs_folder();
        super::sweep(&jobs).map_err(|e| format!("{}: {e}", jobs.display()))?;
        let entries = match find_base(&folder_of(&jobs, &job()), &job(), &spec()) {
            BaseSearch::Nothing { set_aside } if set_aside.is_empty() => Vec::new(),
            BaseSearch::Found { entries, set_aside } if set_aside.is_empty() => entries,
            other => return Err(format!("{other:?}")),
        };
        let uploads = Uploads::default();
        uploads.open(job(), Generation(5), 2, folder_of(&jobs, &job()));
        Ok(Store { recorder, jobs, uploads, entries, _state: state })
    }

    /// Two members' parts, sealed; what is older is removed then.
    fn keep(&mut self, step: u64) -> Result<(), String> {
        self.receive(step).inspect_err(|_| {
            self.uploads.give_up(5, step);
        })?;
        let assembly = self.uploads.take(Generation(5), step).ok_or("incomplete")?;
        let entry = seal(&assembly, &order(step)).map_err(|e| e.to_string())?;
        self.recorder.promise(step);
        self.entries = vec![entry];
        let shelf = Shelf { entries: self.entries.clone(), best: None };
        // A failure is a warning, and made up for the next time.
        retain(&folder_of(&self.jobs, &job()), &job(), &shelf).ok();
        Ok(())
    }

    fn receive(&self, step: u64) -> Result<(), String> {
        let contents = [vec![step as u8; 40], vec![step as u8 ^ 0x55; 31]];
        let names = [MODEL_FILE, OPTIMIZER_FILE];
        let file = |(name, bytes): (&str, &Vec<u8>)| FileSpec {
            name: name.parse().unwrap(),
            len: bytes.len() as u64,
            sha256: hex(&Sha256::digest(bytes)),
        };
        let files: Vec<FileSpec> = names.into_iter().zip(&contents).map(file).collect();
        let text = |error: UploadError| error.to_string();
        for rank in [1, 0] {
            let part = self.uploads.begin("digits-1", 5, step, rank, files.clone());
            let mut part = part.map_err(text)?;
            for (index, bytes) in (0..).zip(&contents) {
                let range = checkpoint_part(bytes.len() as u64, rank, 2);
                let data = &bytes[range.start as usize..range.end as usize];
                part.store(index, range.start, data, crc32fast::hash(data)).map_err(text)?;
            }
            part.finish().map_err(text)?;
        }
        Ok(())
    }

    /// Whether all is there that must be, and nothing by halves.
    fn check(&self, promised: &[u64]) -> Result<(), String> {
        let folder = folder_of(&self.jobs, &job());
        let found = list(&folder).map_err(|e| e.to_string())?;
        for step in &found {
            let place = folder.join(proto::manifest::folder_name(*step));
            verify(&place).map_err(|damage| format!("step {step} is not whole: {damage}"))?;
        }
        let index = folder.join(INDEX_FILE);
        if let Ok(text) = std::fs::read_to_string(&index) {
            serde_json::from_str::<Index>(&text)
                .map_err(|e| format!("{}: {e}", index.display()))?;
        }
        // Older ones make room for the newest; that one never goes.
        match promised.iter().max().filter(|step| !found.contains(step)) {
            Some(lost) => Err(format!("step {lost} was sealed, and lost: {found:?}")),
            None => Ok(()),
        }
    }
}

/// Starts, checks what is there, keeps one more.
fn recover(recorder: &Recorder, promised: &[u64]) -> Result<(), String> {
    let mut store = Store::open(recorder)?;
    store.check(promised)?;
    let next = store.entries.last().map_or(0, |entry| entry.step) + 100;
    store.keep(next)?;
    store.check(&[promised, &[next]].concat())?;
    let folder = folder_of(&store.jobs, &job());
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(TMP)).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?} was left")) }
}

fn work(recorder: &Recorder, steps: &[u64]) -> Result<(), String> {
    let mut store = Store::open(recorder)?;
    steps.iter().try_for_each(|&step| store.keep(step))
}

fn recorded(steps: &[u64]) -> Recording {
    let folder = folder();
    let recorder = Recorder::watch(folder.path());
    work(&recorder, steps).unwrap();
    recorder.recording()
}

#[test]
fn after_every_crash_a_checkpoint_is_whole_or_not_there_and_no_sealed_one_is_lost() {
    let Swept { states, second_crashes } = sweep(&recorded(&[4, 8]), 80, &recover).unwrap();
    eprintln!("checkpoints: {states} states after a crash, {second_crashes} after a second one");
    assert!(states > 200 && second_crashes > 1000, "{states} {second_crashes}");
}

#[test]
fn a_checkpoint_without_any_one_of_its_syncs_is_caught() {
    let needless = needless_syncs(&recorded(&[4, 8]), 0, &recover);
    // A member's part syncs its files; that of the last member covers all. The index may be an older one.
    let of_one = |step: u64| {
        let part = format!("tmp-{step:08}-5");
        let model = format!("{part}/{MODEL_FILE}");
        [model, format!("{part}/{OPTIMIZER_FILE}"), String::new()]
    };
    let inside = |name: &String| format!("state/jobs/digits-1/checkpoints/{name}");
    let expected = [of_one(4), of_one(8)].concat();
    let expected = expected.iter().map(|name| inside(name).trim_end_matches('/').to_owned());
    let expected: Vec<String> = TWICE.map(str::to_owned).into_iter().chain(expected).collect();
    assert_eq!(needless, expected);
    let needed = needed_after_restart(&recorded(&[4]), 5, &recover).unwrap();
    for folder in ["", "state", "state/jobs", "state/jobs/digits-1"] {
        assert!(needed.contains(Path::new(folder)), "{folder:?} is not in {needed:?}");
    }
}

#[test]
fn a_checkpoint_that_meets_a_failing_disk_is_given_up_and_costs_no_other() {
    for kind in [FaultKind::Io, FaultKind::Full] {
        let faults = survives_faults(
            &|recorder: &Recorder, fault: Option<Fault>| {
                work(recorder, &[4])?;
                if let Some(fault) = fault {
                    recorder.fail(fault);
                }
                let failed = Store::open(recorder).and_then(|mut store| {
                    store.keep(8)?;
                    store.keep(12)
                });
                let Err(problem) = failed else { return Ok(()) };
                let named = problem.contains("/state");
                assert!(named, "{problem}");
                Err(problem)
            },
            kind,
            7,
            &recover,
        );
        eprintln!("checkpoints: {faults} operations failed with {kind:?}");
        assert!(faults > 10, "{faults}");
    }
}

#[test]
fn the_copy_of_the_first_weights_survives_crashes() {
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("weights.safetensors");
    std::fs::write(&source, "abcdef").unwrap();
    let facts =
        WeightsFacts { sha256: hex(&Sha256::digest("abcdef")), len: 6, other_classes: None };
    let recover = |recorder: &Recorder, promised: &[u64]| {
        let state = StateDir::open(&recorder.root().join("state")).map_err(|e| e.to_string())?;
        let jobs = state.jobs_folder();
        super::sweep(&jobs).map_err(|e| e.to_string())?;
        let copy = copy_of(&jobs, &job());
        if copy.exists() || !promised.is_empty() {
            verify_copy(&copy, &facts).map_err(|e| e.to_string())?;
        }
        keep_copy(&jobs, &job(), &source, &facts).map_err(|e| e.to_string())?;
        recorder.promise(1);
        verify_copy(&copy, &facts).map_err(|e| e.to_string())
    };
    let folder = folder();
    let recorder = Recorder::watch(folder.path());
    recover(&recorder, &[]).unwrap();
    let recording = recorder.recording();
    let swept = sweep(&recording, 1, &recover).unwrap();
    assert!(swept.states > 10, "{swept:?}");
    assert_eq!(needless_syncs(&recording, 0, &recover), TWICE);
}

/// A first start syncs the directory when it makes it, and once more as every start does.
const TWICE: [&str; 5] = ["", "state", "state", "", "state/jobs"];
