//! What must hold, whatever happens. Knows the protocol's promises and none of its code: it sees what is written to disk,
//! what is told to whom, which states workers hold, and what they contribute.
//!
//! `Checker` follows one job through its records. `checker/crew` judges who takes part, `checker/shelf` the checkpoints,
//! `checker/conduct` what workers and coordinator do besides writing records.

mod conduct;
mod crew;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};

use coordinator::core::{Digest, Record, Submission};
use proto::Timeline;
use proto::identity::Incarnation;

use crew::Crew;
use shelf::Shelf;

/// A promise, by its number in the protocol's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// One lineage: each committed step has one generation and one digest.
    I1,
    /// A new generation's base contains every committed step; none is lost while a worker holds it.
    I2,
    /// Members of a generation compute a step from equal states.
    I3,
    /// What is published names a committed step.
    I4,
    /// Over the final lineage each sample is used once, and each image evaluated once.
    I5,
    /// Numbers of generations never repeat, and no generation is told of before it is on record.
    I6,
    /// A sealed or stale process changes nothing.
    I7,
    /// After the first checkpoint there always is one, and what was lost is made up for.
    I8,
    /// Everything stays bounded: members, uploads, retries, what waits to be sent.
    I9,
    /// As long as enough workers are connected the job goes on, and it ends well.
    I10,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    /// Simulated time, milliseconds.
    pub at: u64,
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

pub(crate) type Check = Result<(), Violation>;

/// The digest of the state after `step` steps: each is made of the one before, so a step that is left out, done twice or
/// done by halves shows.
pub(crate) fn digest_after(step: u64) -> Digest {
    (1..=step).fold(first_digest(), next_digest)
}

pub(crate) fn first_digest() -> Digest {
    Digest(xxhash_rust::xxh3::xxh3_128(b"first").to_le_bytes())
}

pub(crate) fn next_digest(before: Digest, step: u64) -> Digest {
    let mut bytes = before.0.to_vec();
    bytes.extend(step.to_le_bytes());
    Digest(xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes())
}

/// What has been seen so far.
#[derive(Debug)]
pub(crate) struct Checker {
    submission: Submission,
    timeline: Timeline,
    /// Newest committed step of the current lineage.
    watermark: u64,
    /// Newest generation that was formed, and what it started from.
    generation: u64,
    base_step: u64,
    /// Newest generation whose members were told to run.
    running: u64,
    /// Steps of the current lineage with an evaluation on record.
    evaluated: BTreeSet<u64>,
    crew: Crew,
    shelf: Shelf,
    /// By process: the newest generation in which it said that it holds the base.
    ready: BTreeMap<Incarnation, u64>,
    /// Processes that promised to contribute no more, by generation.
    promised: BTreeSet<(u64, Incarnation)>,
    /// How often a process said that it can't take part, since the coordinator started or went back.
    refusals: BTreeMap<Incarnation, u32>,
    /// True digests, as far as they were needed.
    digests: Vec<Digest>,
    pub(crate) rewinds: u64,
    pub(crate) formed: u64,
}

impl Checker {
    pub(crate) fn new(submission: &Submission) -> Checker {
        let spec = &submission.spec;
        Checker {
            submission: submission.clone(),
            timeline: Timeline::new(&spec.job, spec.dataset.train_len),
            watermark: 0,
            generation: 0,
            base_step: 0,
            running: 0,
            evaluated: BTreeSet::new(),
            crew: Crew::default(),
            shelf: Shelf::default(),
            ready: BTreeMap::new(),
            promised: BTreeSet::new(),
            refusals: BTreeMap::new(),
            digests: Vec::new(),
            rewinds: 0,
            formed: 0,
        }
    }

    pub(crate) fn newest_generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Records became durable, at once.
    pub(crate) fn journaled(&mut self, records: &[Record]) -> Check {
        self.crew.goes_on();
        let forms = records.iter().any(|record| matches!(record, Record::Formed { .. }));
        for record in records {
            self.take(record)?;
        }
        // What a member that was lost had evaluated may be lost with it; otherwise its share came before its next step.
        if forms || !records.iter().any(|record| matches!(record, Record::Committed { .. })) {
            return Ok(());
        }
        let due = |step: &u64| self.timeline.evaluates_after(*step);
        let missing = (self.base_step..self.watermark)
            .filter(due)
            .find(|step| !self.evaluated.contains(step));
        ensure(Invariant::I5, missing.is_none(), || {
            let watermark = self.watermark;
            format!("step {watermark} was committed without the evaluation of step {missing:?}")
        })
    }

    fn take(&mut self, record: &Record) -> Check {
        match record {
            Record::Formed { generation, base_step, base_digest, carried, members, .. } => {
                ensure(Invariant::I6, *generation > self.generation, || {
                    format!("generation {generation} was formed after {}", self.generation)
                })?;
                (self.generation, self.base_step) = (*generation, *base_step);
                self.formed += 1;
                ensure(Invariant::I2, *base_step >= self.watermark, || {
                    let watermark = self.watermark;
                    format!(
                        "generation {generation} starts from step {base_step}, {watermark} was committed"
                    )
                })?;
                self.crew.formed(&self.submission, *generation, *carried, members)?;
                match base_digest {
                    Some(digest) => self.is_true(*base_step, digest, "the base of a generation"),
                    None => Ok(()),
                }
            }
            Record::Committed { step, digest, generation, .. } => {
                ensure(Invariant::I1, *step == self.watermark + 1, || {
                    format!("step {step} was committed after step {}", self.watermark)
                })?;
                ensure(Invariant::I7, *generation == self.generation, || {
                    let newest = self.generation;
                    format!("step {step} was committed by generation {generation}, not {newest}")
                })?;
                self.watermark = *step;
                self.is_true(*step, digest, "a committed step")
            }
            Record::Resumed { checkpoints, .. } => {
                self.rewinds += 1;
                self.watermark = self.shelf.resumed(checkpoints)?;
                self.evaluated = self.evaluated.range(..=self.watermark).copied().collect();
                self.refusals.clear();
                Ok(())
            }
            Record::Sealed { entry, .. } => {
                ensure(Invariant::I4, entry.step <= self.watermark, || {
                    format!("a checkpoint names step {}, which is not committed", entry.step)
                })?;
                self.shelf.recorded(entry);
                Ok(())
            }
            Record::Evaluated { step, evaluation, .. } => {
                ensure(Invariant::I4, *step <= self.watermark, || {
                    format!("an evaluation names step {step}, which is not committed")
                })?;
                let (seen, expected) = (evaluation.samples, self.submission.spec.dataset.test_len);
                ensure(Invariant::I5, seen == expected, || {
                    format!("the evaluation of step {step} counts {seen} images of {expected}")
                })?;
                ensure(Invariant::I5, self.evaluated.insert(*step), || {
                    format!("step {step} was evaluated twice")
                })
            }
            Record::Booted { .. } => {
                self.shelf.booted();
                self.crew.booted();
                self.refusals.clear();
                Ok(())
            }
            Record::Submitted { .. }
            | Record::Parted { .. }
            | Record::Quarantined { .. }
            | Record::Ended { .. } => Ok(()),
        }
    }

    /// A metric of this step is published.
    pub(crate) fn published(&self, step: u64) -> Check {
        ensure(Invariant::I4, step <= self.watermark, || {
            format!("a metric names step {step}, which is not committed")
        })
    }

    /// The job has finished: every step once, nothing left out.
    pub(crate) fn finished(&self, metrics: &[u64]) -> Check {
        let total = self.timeline.total_steps();
        ensure(Invariant::I5, self.watermark == total, || {
            format!("the job finished at step {} of {total}", self.watermark)
        })?;
        let all: Vec<u64> = (1..=total).collect();
        ensure(Invariant::I5, metrics == all, || {
            let mut times = vec![0; total as usize + 1];
            metrics.iter().for_each(|&step| times[step as usize] += 1);
            let first = (1..=total).find(|&step| times[step as usize] != 1);
            format!("the metrics do not name every step once and in order, first is {first:?}")
        })?;
        ensure(Invariant::I8, self.shelf.newest_on_disk() == total, || {
            "the job finished without its last checkpoint".to_owned()
        })
    }

    pub(crate) fn is_true(&mut self, step: u64, digest: &str, what: &str) -> Check {
        while self.digests.len() <= step as usize {
            let next = match self.digests.last() {
                None => first_digest(),
                Some(before) => next_digest(*before, self.digests.len() as u64),
            };
            self.digests.push(next);
        }
        let expected = self.digests[step as usize].to_string();
        ensure(Invariant::I1, digest == expected, || {
            format!("{what} at step {step} has digest {digest}, not {expected}")
        })
    }
}

pub(crate) fn ensure(
    invariant: Invariant,
    holds: bool,
    otherwise: impl FnOnce() -> String,
) -> Check {
    if holds { Ok(()) } else { Err(Violation { invariant, at: 0, what: otherwise() }) }
}
