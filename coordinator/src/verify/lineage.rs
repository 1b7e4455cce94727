//! The history of one job, record by record: one lineage of committed steps, each by the generation of its time, each linked to
//! all before it. What a return to a checkpoint leaves behind is not part of it.
//!
//! Holds 16 bytes for each committed step, so that checkpoints of any step can be compared, and the runs of steps with who
//! held which slices.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use proto::identity::{hex, unhex};
use sha2::{Digest, Sha256};

use super::entry::{Dataset, End, Entry, Member, Sealed};
use crate::core::Parting;

/// What is wrong with a record, in view of those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("holds an unreadable {what}: {problem}")]
    Unreadable { what: &'static str, problem: String },
    #[error("submits job {job}, which was submitted before")]
    SubmittedTwice { job: String },
    #[error("speaks of job {job}, which no record before it submits")]
    NotSubmitted { job: String },
    #[error("uses generation {generation}, but {newest} was used before")]
    Reused { generation: u64, newest: u64 },
    #[error("gives slice {slice} of generation {generation} to {first} and to {second}")]
    SliceTwice { generation: u64, slice: u32, first: String, second: String },
    #[error("gives slice {slice} of generation {generation} to nobody")]
    SliceUnheld { generation: u64, slice: u32 },
    #[error("gives slice {slice} to {worker}, but the job has {slices} slices")]
    SliceUnknown { slice: u32, worker: String, slices: u32 },
    #[error("starts generation {generation} from step {base}, but step {committed} is the newest")]
    Base { generation: u64, base: u64, committed: u64 },
    #[error("commits step {step} after step {before}: a step was removed, repeated or moved")]
    Order { step: u64, before: u64 },
    #[error("commits step {step} by generation {generation}, but {current}")]
    Stale { step: u64, generation: u64, current: String },
    #[error("names digest {digest} for step {step}, but {committed} was committed")]
    Digest { step: u64, digest: String, committed: String },
    #[error("names step {step}, but only {committed} steps are committed")]
    Uncommitted { step: u64, committed: u64 },
    #[error(
        "has link {found} at step {step}, but what comes before it makes {expected}: a record was removed, altered or moved"
    )]
    Unlinked { step: u64, found: String, expected: String },
    #[error("says that the job has finished after step {step}, but it has {total}")]
    Unfinished { step: u64, total: u64 },
    #[error(
        "says that the job ended with model {model}, but the checkpoint of its last step {kept}"
    )]
    OtherModel { model: String, kept: String },
}

/// The lineage of a job, as far as it has been read.
#[derive(Debug)]
pub(super) struct Lineage {
    pub(super) job: proto::Job,
    pub(super) train_len: u64,
    pub(super) total_steps: u64,
    chain: String,
    /// Of committed steps, the first one first.
    digests: Vec<[u8; 16]>,
    /// Of the state before any step, once it is known.
    initial: Option<String>,
    /// In the order of their steps, without gaps.
    pub(super) runs: Vec<Run>,
    current: Option<Crew>,
    pub(super) generations: u64,
    pub(super) partings: Vec<Departure>,
    pub(super) joins: Vec<Arrival>,
    pub(super) returns: Vec<u64>,
    skipped: BTreeSet<u64>,
    /// Training images that can't be decoded, by number.
    pub(super) bad_images: BTreeSet<u64>,
    /// Checkpoints on record that have not been removed, by step.
    pub(super) kept: BTreeMap<u64, Sealed>,
    pub(super) end: Option<End>,
}

/// Steps that one generation committed.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) steps: RangeInclusive<u64>,
    /// By slice: a partition.
    pub(super) held: Arc<Vec<(Range<u32>, String)>>,
}

#[derive(Debug)]
struct Crew {
    generation: u64,
    incarnations: BTreeSet<String>,
    held: Arc<Vec<(Range<u32>, String)>>,
}

/// A worker that was lost, or left.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Departure {
    pub worker: String,
    pub generation: u64,
    pub parting: Parting,
    /// What the log said of it.
    pub line: String,
    #[serde(skip)]
    incarnation: String,
}

/// A worker that came while the job ran.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Arrival {
    pub worker: String,
    pub generation: u64,
    /// It took part from the step after this one on.
    pub step: u64,
}

impl Lineage {
    pub(super) fn begin(id: &str, toml: &str, dataset: &Dataset) -> Result<Lineage, Flaw> {
        let unreadable = |problem| Flaw::Unreadable { what: "job file", problem };
        let job = proto::Job::parse(toml).map_err(|error| unreadable(error.to_string()))?;
        let train_len = dataset.train_len;
        if train_len == 0 {
            return Err(unreadable("the training set is empty".to_owned()));
        }
        let samples = u64::from(job.train.epochs) * train_len;
        Ok(Lineage {
            total_steps: samples.div_ceil(job.train.batch as u64),
            job,
            train_len,
            chain: link(&format!("{id} {}\n{toml}", dataset.fingerprint)),
            digests: Vec::new(),
            initial: None,
            runs: Vec::new(),
            current: None,
            generations: 0,
            partings: Vec::new(),
            joins: Vec::new(),
            returns: Vec::new(),
            skipped: BTreeSet::new(),
            bad_images: BTreeSet::new(),
            kept: BTreeMap::new(),
            end: None,
        })
    }

    /// Newest committed step.
    pub(super) fn committed(&self) -> u64 {
        self.digests.len() as u64
    }

    /// Committed steps whose samples changed nothing.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.len() as u64
    }

    /// Takes in one record of the job, after its submission.
    pub(super) fn take(&mut self, entry: Entry) -> Result<(), Flaw> {
        match entry {
            Entry::Booted { .. } | Entry::Evaluated { .. } => {}
            Entry::Submitted { job, .. } => return Err(Flaw::SubmittedTwice { job }),
            Entry::Resumed { checkpoints, .. } => self.go_back(checkpoints)?,
            Entry::Formed { generation, base_step, base_digest, members, .. } => {
                self.form(generation, base_step, base_digest.as_deref(), &members)?;
            }
            Entry::Committed { generation, step, digest, chain, skipped, .. } => {
                self.commit(generation, step, &digest, skipped.as_deref(), &chain)?;
                if skipped.is_some() {
                    self.skipped.insert(step);
                }
            }
            Entry::Parted { generation, worker, incarnation, parting, line, .. } => {
                let departure = Departure { worker, generation, parting, line, incarnation };
                // One that was leaving may be lost before it is let go.
                let same = |other: &Departure| {
                    other.generation == generation && other.incarnation == departure.incarnation
                };
                if !self.partings.iter().any(same) {
                    self.partings.push(departure);
                }
            }
            Entry::Sealed { entry, removed, .. } => {
                self.has_digest(entry.step, &entry.digest)?;
                self.kept.retain(|step, _| !removed.contains(step));
                self.kept.insert(entry.step, entry);
            }
            Entry::Quarantined { train, .. } => self.bad_images.extend(train),
            Entry::Ended { end, .. } => self.finish(end)?,
        }
        Ok(())
    }

    /// The job starts again from the newest of these checkpoints, or from the beginning.
    fn go_back(&mut self, checkpoints: Vec<Sealed>) -> Result<(), Flaw> {
        for checkpoint in &checkpoints {
            self.has_digest(checkpoint.step, &checkpoint.digest)?;
        }
        let step = checkpoints.last().map_or(0, |newest| newest.step);
        if step < self.committed() {
            self.returns.push(step);
        }
        self.digests.truncate(step as usize);
        self.skipped.retain(|skipped| *skipped <= step);
        self.runs.retain(|run| *run.steps.start() <= step);
        if let Some(last) = self.runs.last_mut() {
            last.steps = *last.steps.start()..=step.min(*last.steps.end());
        }
        self.kept = checkpoints.into_iter().map(|entry| (entry.step, entry)).collect();
        (self.current, self.end) = (None, None);
        self.chain = link(&format!("{} resumed {step}", self.chain));
        Ok(())
    }

    fn form(
        &mut self,
        generation: u64,
        base: u64,
        digest: Option<&str>,
        members: &[Member],
    ) -> Result<(), Flaw> {
        let committed = self.committed();
        if base != committed {
            return Err(Flaw::Base { generation, base, committed });
        }
        if let Some(digest) = digest {
            self.has_digest(base, digest)?;
        }
        let held = Arc::new(self.partition(generation, members)?);
        let incarnations: BTreeSet<String> =
            members.iter().map(|member| member.incarnation.clone()).collect();
        if let Some(before) = &self.current {
            // Given up already, and back before anything was formed without it.
            self.partings.retain(|gone| {
                gone.generation != before.generation || !incarnations.contains(&gone.incarnation)
            });
            let came = members.iter().filter(|m| !before.incarnations.contains(&m.incarnation));
            self.joins.extend(came.map(|member| Arrival {
                worker: member.worker.clone(),
                generation,
                step: base,
            }));
        }
        self.current = Some(Crew { generation, incarnations, held });
        self.generations += 1;
        let member = |m: &Member| format!("{}={}+{}", m.worker, m.first_slice, m.slice_count);
        let members: Vec<String> = members.iter().map(member).collect();
        let members = members.join(" ");
        self.chain = link(&format!("{} formed {generation} {base} {members}", self.chain));
        Ok(())
    }

    /// Who holds which slices, in the order of the slices: each held by exactly one member.
    fn partition(
        &self,
        generation: u64,
        members: &[Member],
    ) -> Result<Vec<(Range<u32>, String)>, Flaw> {
        let slices = self.job.train.slices as u32;
        let mut holders: Vec<Option<&str>> = vec![None; slices as usize];
        let mut held = Vec::new();
        for Member { worker, first_slice, slice_count, .. } in members {
            let run = *first_slice..first_slice.saturating_add(*slice_count);
            for slice in run.clone() {
                let holder = holders.get_mut(slice as usize);
                let unknown = || Flaw::SliceUnknown { slice, worker: worker.clone(), slices };
                let before = holder.ok_or_else(unknown)?.replace(worker);
                if let Some(first) = before {
                    let (first, second) = (first.to_owned(), worker.clone());
                    return Err(Flaw::SliceTwice { generation, slice, first, second });
                }
            }
            held.push((run, worker.clone()));
        }
        if let Some(slice) = holders.iter().position(Option::is_none) {
            return Err(Flaw::SliceUnheld { generation, slice: slice as u32 });
        }
        held.sort_by_key(|(run, _)| run.start);
        Ok(held)
    }

    fn commit(
        &mut self,
        generation: u64,
        step: u64,
        digest: &str,
        skipped: Option<&str>,
        found: &str,
    ) -> Result<(), Flaw> {
        let before = self.committed();
        if step != before + 1 {
            return Err(Flaw::Order { step, before });
        }
        let Some(crew) = self.current.as_ref().filter(|crew| crew.generation == generation) else {
            let current = match &self.current {
                Some(crew) => format!("generation {} was formed last", crew.generation),
                None => "no generation was formed since the job's start or its return".to_owned(),
            };
            return Err(Flaw::Stale { step, generation, current });
        };
        let why = skipped.map_or_else(String::new, |why| format!(" skipped {why}"));
        let expected = link(&format!("{} committed {generation} {step} {digest}{why}", self.chain));
        if found != expected {
            return Err(Flaw::Unlinked { step, found: found.to_owned(), expected });
        }
        self.chain = expected;
        let bytes = unhex(digest).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let unreadable = || Flaw::Unreadable { what: "digest", problem: digest.to_owned() };
        self.digests.push(bytes.ok_or_else(unreadable)?);
        let held = crew.held.clone();
        match self.runs.last_mut() {
            Some(run) if Arc::ptr_eq(&run.held, &held) => run.steps = *run.steps.start()..=step,
            _ => self.runs.push(Run { steps: step..=step, held }),
        }
        // What nobody applied changed nothing.
        if skipped.is_some() { self.has_digest(before, digest) } else { Ok(()) }
    }

    /// The state after this committed step has this digest.
    pub(super) fn has_digest(&mut self, step: u64, digest: &str) -> Result<(), Flaw> {
        let committed = match step.checked_sub(1) {
            None => self.initial.get_or_insert_with(|| digest.to_owned()).clone(),
            Some(index) => match self.digests.get(index as usize) {
                Some(bytes) => hex(bytes),
                None => return Err(Flaw::Uncommitted { step, committed: self.committed() }),
            },
        };
        let digest = digest.to_owned();
        if digest == committed { Ok(()) } else { Err(Flaw::Digest { step, digest, committed }) }
    }

    fn finish(&mut self, end: End) -> Result<(), Flaw> {
        if let End::Finished { model_sha256: model } = &end {
            let (step, total) = (self.committed(), self.total_steps);
            if step != total {
                return Err(Flaw::Unfinished { step, total });
            }
            let kept = self.kept.get(&step).map(|kept| &kept.model_sha256);
            if kept != Some(model) {
                let kept = kept.map_or("is missing".to_owned(), |kept| format!("holds {kept}"));
                return Err(Flaw::OtherModel { model: model.clone(), kept });
            }
        }
        self.end = Some(end);
        Ok(())
    }
}

/// The next link of the chain that `core/ledger.rs` describes.
fn link(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..16])
}
