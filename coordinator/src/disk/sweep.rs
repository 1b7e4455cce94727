//! Crashes behind every operation of a recording, real recovery on each state that may be left, and crashes in recovery.
//! Knows neither journal nor checkpoints: what must hold is the caller's function.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::crash::{Recording, Step, Tree};
use super::recorder::{Fault, FaultKind, Recorder};

/// Recovers in the recorder's folder as a process that starts there does, and goes on working. Gets what was promised before;
/// promises more by the recorder. The error says what does not hold.
pub(crate) type Recover<'a> = &'a dyn Fn(&Recorder, &[u64]) -> Result<(), String>;

/// How many states were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) states: usize,
    pub(crate) second_crashes: usize,
}

/// Loss of power behind each step, and a second one behind each step of recovery: there from every `every`-th state. Then the
/// end of the process alone behind each step (each of them unless `every` is large), and a loss of power in its recovery.
pub(crate) fn sweep(
    recording: &Recording,
    every: usize,
    recover: Recover<'_>,
) -> Result<Swept, String> {
    let mut swept = Swept::default();
    recording.crashes(0, &mut |crash| {
        let recovered = recovered(&crash.tree, &crash.promises, recover)?;
        if swept.states % every == 0 {
            let promised = crash.promises.iter().map(|&what| Step::Promise(what));
            let steps: Vec<Step> = promised.chain(recovered.steps).collect();
            let again = Recording { base: crash.tree, steps };
            swept.second_crashes += survived(&again, crash.promises.len(), recover)?;
        }
        swept.states += 1;
        Ok(())
    })?;
    let stride = 1 + every / 8;
    for count in (0..=recording.steps.len()).step_by(stride) {
        let restarted = restarted(recording, count, recover)?;
        swept.second_crashes += survived(&restarted, count, recover)?;
    }
    Ok(swept)
}

/// The process ends behind `count` steps, the machine stays up, and a new process recovers: all that happened so far.
pub(crate) fn restarted(
    recording: &Recording,
    count: usize,
    recover: Recover<'_>,
) -> Result<Recording, String> {
    let mut steps = recording.steps[..count].to_vec();
    let promises = promises(&steps);
    let recovered = recovered(&recording.seen_after(count), &promises, recover)?;
    steps.extend(recovered.steps);
    Ok(Recording { base: recording.base.clone(), steps })
}

/// Work that gets its fault when it has come to where the disk begins to fail.
pub(crate) type Work<'a> = &'a dyn Fn(&Recorder, Option<Fault>) -> Result<(), String>;

/// Makes each operation fail in turn. Behind each failure the process starts again, with the disk whole, and recovers; also
/// after a loss of power at that moment and, behind every `every`-th, during recovery. Returns the number of failures.
pub(crate) fn survives_faults(
    work: Work<'_>,
    kind: FaultKind,
    every: usize,
    recover: Recover<'_>,
) -> usize {
    for at in 0.. {
        let folder = folder();
        let recorder = Recorder::watch(folder.path());
        let worked = work(&recorder, Some(Fault { at, kind, file: "" }));
        if !recorder.heal() {
            worked.unwrap();
            return at;
        }
        let failed = recorder.recording();
        let count = failed.steps.len();
        let survived = survived(&failed, count, recover).and_then(|_| {
            let restarted = restarted(&failed, count, recover)?;
            if at % every == 0 { self::survived(&restarted, count, recover) } else { Ok(0) }
        });
        survived.unwrap_or_else(|problem| panic!("operation {at} failed ({worked:?}): {problem}"));
    }
    unreachable!("work ends")
}

/// The syncs from step `from` on that could be left out, or put behind the renaming that follows them, without any crash
/// showing it.
pub(crate) fn needless_syncs(
    recording: &Recording,
    from: usize,
    recover: Recover<'_>,
) -> Vec<String> {
    let steps = &recording.steps;
    let mut needless = Vec::new();
    let mut look = |mutant: Vec<Step>, what: String| {
        let mutant = Recording { base: recording.base.clone(), steps: mutant };
        if survived(&mutant, from, recover).is_ok() {
            needless.push(what);
        }
    };
    for at in from..steps.len() {
        let Step::Sync(path) = &steps[at] else { continue };
        let mut without = steps.clone();
        without.remove(at);
        look(without, format!("{}", path.display()));
        let next = steps[at + 1..].iter().position(|step| !matches!(step, Step::Sync(_)));
        if let Some(next) = next.map(|next| at + 1 + next)
            && let Step::Rename { from, to } = &steps[next]
            && path.starts_with(from)
        {
            let mut late = steps.clone();
            late.remove(at);
            let renamed = to.join(path.strip_prefix(from).unwrap());
            let renamed = if path == from { to.clone() } else { renamed };
            late.insert(next, Step::Sync(renamed));
            look(late, format!("{} before its renaming", path.display()));
        }
    }
    needless
}

/// What a process has to sync because the one before it may have been killed before it did. Looks at the first `first` steps
/// of the recovery.
pub(crate) fn needed_after_restart(
    recording: &Recording,
    first: usize,
    recover: Recover<'_>,
) -> Result<BTreeSet<PathBuf>, String> {
    let mut needed = BTreeSet::new();
    for count in 0..=recording.steps.len() {
        let restarted = restarted(recording, count, recover)?;
        for at in count..restarted.steps.len().min(count.saturating_add(first)) {
            let Step::Sync(path) = &restarted.steps[at] else { continue };
            let mut steps = restarted.steps.clone();
            steps.remove(at);
            let mutant = Recording { base: restarted.base.clone(), steps };
            if !needed.contains(path) && survived(&mutant, count, recover).is_err() {
                needed.insert(path.clone());
            }
        }
    }
    Ok(needed)
}

/// The number of states that crashes behind step `from` or a later one may leave; an error when recovery from one of them
/// fails.
pub(crate) fn survived(
    recording: &Recording,
    from: usize,
    recover: Recover<'_>,
) -> Result<usize, String> {
    let mut states = 0;
    recording.crashes(from, &mut |crash| {
        states += 1;
        recovered(&crash.tree, &crash.promises, recover).map(drop)
    })?;
    Ok(states)
}

fn recovered(tree: &Tree, promises: &[u64], recover: Recover<'_>) -> Result<Recording, String> {
    let folder = folder();
    tree.write(folder.path());
    let recorder = Recorder::watch(folder.path());
    let shown = || {
        let content = |content: &Option<Vec<u8>>| content.as_ref().map(Vec::len);
        let files: Vec<_> = tree.0.iter().map(|(path, bytes)| (path, content(bytes))).collect();
        format!("promised {promises:?}, left on disk {files:?}")
    };
    recover(&recorder, promises).map_err(|problem| format!("{problem}: {}", shown()))?;
    Ok(recorder.recording())
}

fn promises(steps: &[Step]) -> Vec<u64> {
    let promise = |step: &Step| match step {
        Step::Promise(what) => Some(*what),
        _ => None,
    };
    steps.iter().filter_map(promise).collect()
}

/// A folder in memory, where there is one: nothing here depends on a disk.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}
