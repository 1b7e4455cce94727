//! What has arrived of the current step and of the one after it, and the sums that follow. Enforces the order of frames
//! that `layout` prescribes. Knows no socket, no clock and no queue.
//!
//! Why two steps suffice: a peer begins step `s + 1` once it holds every sum of step `s`, and can't complete it without
//! this worker's partials of `s + 1`. So while this worker is in step `s`, a peer sends frames of `s` and `s + 1` alone.

use std::sync::Arc;

use super::buffer::Buffer;
use super::layout::Layout;
use super::tree::{NodeId, TreeSum};

#[derive(Debug)]
pub(super) struct Gather {
    layout: Arc<Layout>,
    current: Option<u64>,
    /// Rank whose frame or contribution first named a step.
    opener: usize,
    /// This worker has contributed to the current step: `current` is not just a peer's word.
    entered: bool,
    /// Steps `current` and `current + 1`, each at its number modulo 2.
    steps: [Vec<Bucket>; 2],
}

/// One bucket of one step.
#[derive(Debug)]
struct Bucket {
    /// By rank: partial frames received for the own chunk.
    partials: Vec<usize>,
    /// By rank: segments of the sum received from the owner of the chunk.
    sums: Vec<usize>,
    /// By segment of the own chunk.
    trees: Vec<TreeSum<Buffer>>,
}

/// One segment of one subtree, arrived at the owner of its chunk.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) place: Place,
    pub(super) node: NodeId,
    pub(super) values: Buffer,
}

/// Which segment of which bucket, and the rank that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) from: usize,
    pub(super) step: u64,
    pub(super) bucket: usize,
    /// Where in the bucket the values go.
    pub(super) offset: usize,
}

impl Gather {
    pub(super) fn new(layout: Arc<Layout>) -> Gather {
        let steps = [fresh(&layout), fresh(&layout)];
        Gather { layout, current: None, opener: 0, entered: false, steps }
    }

    /// The step this worker is in; before its first one, that of the first frame.
    pub(super) fn current(&self) -> Option<u64> {
        self.current
    }

    /// This worker contributes to the current step, and it is this one.
    pub(super) fn is_in(&self, step: u64) -> bool {
        self.entered && self.current == Some(step)
    }

    /// This worker contributes to `step`. Fails, naming the rank, when a frame came before the first step and is of
    /// another one.
    pub(super) fn enter(&mut self, step: u64) -> Result<(), (usize, String)> {
        match self.current {
            Some(current) if current == step => {}
            Some(current) if self.entered => {
                assert_eq!(current + 1, step, "the trainer takes one step after another");
                self.steps[slot(current)] = fresh(&self.layout);
                self.current = Some(step);
            }
            Some(current) => {
                let what = format!("a frame of step {current}, but step {step} comes first");
                return Err((self.opener, what));
            }
            None => self.current = Some(step),
        }
        self.entered = true;
        Ok(())
    }

    /// Takes a partial of the own chunk, checked by `Layout::admit`; gives the segment's sum when it was the last.
    pub(super) fn partial(&mut self, partial: Partial) -> Result<Option<Buffer>, String> {
        let Partial { place, node, values } = partial;
        let Place { from, bucket, offset, .. } = place;
        let layout = Arc::clone(&self.layout);
        let state = self.bucket_mut(place)?;
        let count = state.partials[from];
        if count == layout.partials(bucket, from, layout.rank) {
            return Err(format!("partial of {node:?} after the last of bucket {bucket}"));
        }
        let (segment, expected) = layout.partial_at(from, count);
        let start = layout.segment(bucket, layout.rank, segment).start;
        if (node, offset) != (expected, start) {
            return Err(format!("partial of {node:?} at {offset} before {expected:?} at {start}"));
        }
        state.partials[from] += 1;
        Ok(state.trees[segment].add(node, values))
    }

    /// Takes note of a segment of the sum from the owner of its chunk.
    pub(super) fn sum(&mut self, place: Place) -> Result<(), String> {
        let Place { from, step, bucket, offset } = place;
        let layout = Arc::clone(&self.layout);
        let ahead = !self.is_in(step);
        let state = self.bucket_mut(place)?;
        let count = state.sums[from];
        // Without this worker's partials there is no sum, so one of another step is made up.
        if ahead || count == layout.segments(bucket, from) {
            return Err(format!("sum at {offset} of bucket {bucket} in step {step} out of turn"));
        }
        let start = layout.segment(bucket, from, count).start;
        if offset != start {
            return Err(format!("sum at {offset} of bucket {bucket} before that at {start}"));
        }
        state.sums[from] += 1;
        Ok(())
    }

    /// Every segment of the bucket's sum is there, in the current step.
    pub(super) fn is_complete(&self, bucket: usize) -> bool {
        (0..self.layout.world()).all(|rank| !self.lacks_sum(bucket, rank))
    }

    /// First bucket of the current step that is not complete.
    pub(super) fn first_incomplete(&self) -> Option<usize> {
        (0..self.layout.buckets()).find(|bucket| !self.is_complete(*bucket))
    }

    /// Partials of the bucket have yet to come from `rank`, in the current step.
    pub(super) fn lacks_partial(&self, bucket: usize, rank: usize) -> bool {
        let expected = self.layout.partials(bucket, rank, self.layout.rank);
        self.current.is_none_or(|step| self.steps[slot(step)][bucket].partials[rank] < expected)
    }

    /// Sums of the bucket have yet to come from `rank`, in the current step.
    pub(super) fn lacks_sum(&self, bucket: usize, rank: usize) -> bool {
        let expected = self.layout.segments(bucket, rank);
        self.current.is_none_or(|step| self.steps[slot(step)][bucket].sums[rank] < expected)
    }

    /// This worker is in a step in which `rank` still has something to send.
    pub(super) fn needs(&self, rank: usize) -> bool {
        let lacks = |bucket| self.lacks_partial(bucket, rank) || self.lacks_sum(bucket, rank);
        self.entered && (0..self.layout.buckets()).any(lacks)
    }

    fn bucket_mut(&mut self, place: Place) -> Result<&mut Bucket, String> {
        let Place { from, step, bucket, .. } = place;
        let current = *self.current.get_or_insert_with(|| {
            self.opener = from;
            step
        });
        if step != current && current.checked_add(1) != Some(step) {
            return Err(format!("a frame of step {step} in step {current}"));
        }
        Ok(&mut self.steps[slot(step)][bucket])
    }
}

fn fresh(layout: &Layout) -> Vec<Bucket> {
    let bucket = |bucket| Bucket {
        partials: vec![0; layout.world()],
        sums: vec![0; layout.world()],
        trees: (0..layout.segments(bucket, layout.rank))
            .map(|_| TreeSum::new(layout.slices))
            .collect(),
    };
    (0..layout.buckets()).map(bucket).collect()
}

fn slot(step: u64) -> usize {
    (step % 2) as usize
}
