//! What must hold, whatever happens. Knows the protocol's promises and none of its code: it sees what is written to disk,
//! which states workers hold, and what they contribute.

use std::collections::BTreeMap;

use coordinator::core::{CheckpointEntry, Digest, Record};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
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
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// Newest committed step of the current lineage.
    watermark: u64,
    /// Newest generation that was formed.
    generation: u64,
    /// Checkpoints that were ever sealed and not removed by the store.
    sealed: BTreeMap<u64, String>,
    /// True digests, as far as they were needed.
    digests: Vec<Digest>,
    pub(crate) rewinds: u64,
    pub(crate) formed: u64,
}

impl Checker {
    pub(crate) fn newest_generation(&self) -> u64 {
        self.generation
    }

    /// A record became durable.
    pub(crate) fn journaled(&mut self, record: &Record) -> Check {
        match record {
            Record::Formed { generation, base_step, base_digest, .. } => {
                ensure(*generation > self.generation, || {
                    format!("I6: generation {generation} was formed after {}", self.generation)
                })?;
                self.generation = *generation;
                self.formed += 1;
                ensure(*base_step >= self.watermark, || {
                    let watermark = self.watermark;
                    format!(
                        "I2: generation {generation} starts from step {base_step}, {watermark} was committed"
                    )
                })?;
                match base_digest {
                    Some(digest) => self.is_true(*base_step, digest, "the base of a generation"),
                    None => Ok(()),
                }
            }
            Record::Committed { step, digest, .. } => {
                ensure(*step == self.watermark + 1, || {
                    format!("I1: step {step} was committed after step {}", self.watermark)
                })?;
                self.watermark = *step;
                self.is_true(*step, digest, "a committed step")
            }
            Record::Resumed { checkpoints, .. } => {
                self.rewinds += 1;
                let newest = checkpoints.last().map_or(0, |entry| entry.step);
                let on_disk = self.sealed.keys().next_back().copied().unwrap_or(0);
                ensure(newest == on_disk, || {
                    format!(
                        "the job went back to step {newest}, but the checkpoint of step {on_disk} is on disk"
                    )
                })?;
                self.watermark = newest;
                Ok(())
            }
            Record::Sealed { entry, .. } => ensure(entry.step <= self.watermark, || {
                format!("I4: a checkpoint names step {}, which is not committed", entry.step)
            }),
            Record::Booted { .. }
            | Record::Submitted { .. }
            | Record::Evaluated { .. }
            | Record::Quarantined { .. }
            | Record::Ended { .. } => Ok(()),
        }
    }

    /// A checkpoint is whole on disk.
    pub(crate) fn sealed(&mut self, entry: &CheckpointEntry) -> Check {
        self.sealed.insert(entry.step, entry.digest.clone());
        self.is_true(entry.step, &entry.digest, "a checkpoint")
    }

    pub(crate) fn removed(&mut self, kept: &[u64]) -> Check {
        let had = !self.sealed.is_empty();
        let newest = kept.iter().max().copied().unwrap_or(0);
        self.sealed.retain(|step, _| *step > newest || kept.contains(step));
        ensure(!had || !self.sealed.is_empty(), || "I8: the last checkpoint was removed".to_owned())
    }

    /// All members of a generation contributed to a step; each from this state.
    pub(crate) fn reduced(&self, generation: u64, step: u64, from: &[Digest]) -> Check {
        ensure(from.windows(2).all(|pair| pair[0] == pair[1]), || {
            format!(
                "I3: members of generation {generation} computed step {step} from different states"
            )
        })
    }

    /// A metric of this step is published.
    pub(crate) fn published(&self, step: u64) -> Check {
        ensure(step <= self.watermark, || {
            format!("I4: a metric names step {step}, which is not committed")
        })
    }

    /// The job has finished: every step once, nothing left out.
    pub(crate) fn finished(&self, total: u64, metrics: &[u64]) -> Check {
        ensure(self.watermark == total, || {
            format!("I5: the job finished at step {} of {total}", self.watermark)
        })?;
        let all: Vec<u64> = (1..=total).collect();
        ensure(metrics == all, || {
            let gap = (1..=total).find(|step| metrics.iter().filter(|m| *m == step).count() != 1);
            format!("I5: the metrics do not name every step once, first is {gap:?}")
        })?;
        ensure(self.sealed.contains_key(&total), || {
            "the job finished without its last checkpoint".to_owned()
        })
    }

    fn is_true(&mut self, step: u64, digest: &str, what: &str) -> Check {
        while self.digests.len() <= step as usize {
            let next = match self.digests.last() {
                None => first_digest(),
                Some(before) => next_digest(*before, self.digests.len() as u64),
            };
            self.digests.push(next);
        }
        let expected = self.digests[step as usize].to_string();
        ensure(digest == expected, || {
            format!("I1: {what} at step {step} has digest {digest}, not {expected}")
        })
    }
}

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation(otherwise())) }
}
