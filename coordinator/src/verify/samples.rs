//! Which samples the committed steps used: every position of the job's own order, by the slices of the generation that
//! committed its step, against one bit for each sample of an epoch.

use dataset::SampleOrder;

use super::lineage::Lineage;

/// What the committed steps make of the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Epochs {
    /// In which each sample was used exactly once.
    pub whole: u64,
    /// Samples used of the epoch after them, each once.
    pub begun: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleFlaw {
    #[error(
        "sample {sample} is used twice in epoch {epoch}: the second time in step {step}, by {worker}"
    )]
    Twice { sample: u64, epoch: u64, step: u64, worker: String },
    #[error("epoch {epoch} ends before step {step} with {used} of {len} samples used")]
    Short { epoch: u64, step: u64, used: u64, len: u64 },
}

/// Walks all committed steps. Takes about a second for ten million samples, and a bit for each sample of the dataset.
pub(super) fn walk(lineage: &Lineage) -> Result<Epochs, SampleFlaw> {
    let (len, train) = (lineage.train_len, &lineage.job.train);
    let order = SampleOrder::new(lineage.job.seed, len);
    let (batch, slice_len) = (train.batch as u64, (train.batch / train.slices) as u64);
    let mut seen = Seen { epoch: 0, used: 0, bits: vec![0; len.div_ceil(64) as usize] };
    for run in &lineage.runs {
        for step in run.steps.clone() {
            for (slices, worker) in run.held.iter() {
                let start = (step - 1) * batch;
                let first = start + u64::from(slices.start) * slice_len;
                for position in first..start + u64::from(slices.end) * slice_len {
                    seen.turn_to(order.epoch(position), step, len)?;
                    let sample = order.sample(position);
                    if !seen.mark(sample) {
                        let (epoch, worker) = (seen.epoch + 1, worker.clone());
                        return Err(SampleFlaw::Twice { sample, epoch, step, worker });
                    }
                }
            }
        }
    }
    let end = lineage.committed() + 1;
    if seen.used == len {
        seen.turn_to(seen.epoch + 1, end, len)?;
    }
    Ok(Epochs { whole: seen.epoch, begun: seen.used })
}

/// The samples of one epoch that were used.
struct Seen {
    epoch: u64,
    used: u64,
    bits: Vec<u64>,
}

impl Seen {
    /// Every epoch before this one must be whole.
    fn turn_to(&mut self, epoch: u64, step: u64, len: u64) -> Result<(), SampleFlaw> {
        if epoch == self.epoch {
            return Ok(());
        }
        if self.used != len || epoch != self.epoch + 1 {
            return Err(SampleFlaw::Short { epoch: self.epoch + 1, step, used: self.used, len });
        }
        (self.epoch, self.used) = (epoch, 0);
        self.bits.fill(0);
        Ok(())
    }

    /// False when it was used before.
    fn mark(&mut self, sample: u64) -> bool {
        let (word, bit) = ((sample / 64) as usize, 1 << (sample % 64));
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.used += u64::from(new);
        new
    }
}
