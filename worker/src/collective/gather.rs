//! What has arrived of the current step and of the one after it, and the sums that follow. Enforces the order of frames
//! that `layout` prescribes. Knows no socket, no clock and no queue.
//!
//! Why two steps suffice: a peer begins step `s + 1` once it holds every sum of step `s`, and can't complete it without
//! this worker's partials of `s + 1`. So while this worker is in step `s`, a peer sends frames of `s` and `s + 1` alone.

use std::sync::Arc;

use super::buffer::SEGMENT_LEN;
use super::layout::Layout;
use super::stretch::Stretch;
use super::tree::{NodeId, TreeSum};

#[derive(Debug)]
pub(super) struct Gather {
    layout: Arc<Layout>,
    tree: TreeSum,
    /// The step this worker is in, or will begin with. Never a peer's word: of two that disagree it would be the first.
    current: u64,
    /// This worker has contributed to the current step.
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
    segments: Vec<Segment>,
}

/// One segment of the own chunk.
#[derive(Debug)]
struct Segment {
    /// By place in the order of all nodes: what has arrived of those.
    parts: Vec<Option<Stretch>>,
    missing: usize,
}

/// One segment of one subtree, arrived at the owner of its chunk.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) place: Place,
    pub(super) node: NodeId,
    pub(super) values: Stretch,
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
    pub(super) fn new(layout: Arc<Layout>, first_step: u64) -> Gather {
        let tree = TreeSum::new(&layout.all_nodes());
        let steps = [fresh(&layout), fresh(&layout)];
        Gather { layout, tree, current: first_step, entered: false, steps }
    }

    /// The step this worker is in; none before its first contribution.
    pub(super) fn current(&self) -> Option<u64> {
        self.entered.then_some(self.current)
    }

    /// This worker contributes to the current step, and it is this one.
    pub(super) fn is_in(&self, step: u64) -> bool {
        self.current() == Some(step)
    }

    /// This worker contributes to `step`: the first one, or the one after its last.
    pub(super) fn enter(&mut self, step: u64) {
        if self.entered && step != self.current {
            self.steps[slot(self.current)].iter_mut().for_each(Bucket::clear);
            self.current += 1;
        }
        assert_eq!(
            step, self.current,
            "the trainer takes one step after another from the first on"
        );
        self.entered = true;
    }

    /// Takes a partial of the own chunk, checked by `Layout::admit`. True when it was the last one of its segment, which
    /// can be added up now.
    pub(super) fn partial(&mut self, partial: Partial) -> Result<bool, String> {
        let Partial { place, node, values } = partial;
        let Place { from, bucket, offset, .. } = place;
        let layout = Arc::clone(&self.layout);
        let state = self.bucket_mut(place)?;
        let count = state.partials[from];
        if count == layout.partials(bucket, from, layout.rank) {
            return Err(format!("partial of {node:?} after the last of bucket {bucket}"));
        }
        let (segment, part) = layout.partial_at(from, count);
        let expected = layout.nodes(from)[part];
        let start = layout.segment(bucket, layout.rank, segment).start;
        if (node, offset) != (expected, start) {
            return Err(format!("partial of {node:?} at {offset} before {expected:?} at {start}"));
        }
        state.partials[from] += 1;
        let segment = &mut state.segments[segment];
        segment.parts[layout.nodes_before(from) + part] = Some(values);
        segment.missing -= 1;
        Ok(segment.missing == 0)
    }

    /// Adds up the segment at this place of the own chunk, of which everything has arrived, and lets go of its parts.
    pub(super) fn add_up(&mut self, place: Place, into: &mut [f32]) {
        let Place { step, bucket, offset, .. } = place;
        let first = self.layout.segment(bucket, self.layout.rank, 0).start;
        let segment = (offset - first) / SEGMENT_LEN;
        let Segment { parts, .. } = &mut self.steps[slot(step)][bucket].segments[segment];
        let part = |index: usize| parts[index].as_ref().expect("everything has arrived").values();
        self.tree.add(part, into);
        parts.fill_with(|| None);
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
        self.steps[slot(self.current)][bucket].partials[rank] < expected
    }

    /// Sums of the bucket have yet to come from `rank`, in the current step.
    pub(super) fn lacks_sum(&self, bucket: usize, rank: usize) -> bool {
        let expected = self.layout.segments(bucket, rank);
        self.steps[slot(self.current)][bucket].sums[rank] < expected
    }

    /// This worker is in a step in which `rank` still has something to send.
    pub(super) fn needs(&self, rank: usize) -> bool {
        let lacks = |bucket| self.lacks_partial(bucket, rank) || self.lacks_sum(bucket, rank);
        self.entered && (0..self.layout.buckets()).any(lacks)
    }

    fn bucket_mut(&mut self, place: Place) -> Result<&mut Bucket, String> {
        let Place { step, bucket, .. } = place;
        if step != self.current && self.current.checked_add(1) != Some(step) {
            return Err(format!("a frame of step {step} in step {}", self.current));
        }
        Ok(&mut self.steps[slot(step)][bucket])
    }
}

impl Bucket {
    /// As before the first frame.
    fn clear(&mut self) {
        self.partials.fill(0);
        self.sums.fill(0);
        for Segment { parts, missing } in &mut self.segments {
            parts.fill_with(|| None);
            *missing = parts.len();
        }
    }
}

fn fresh(layout: &Layout) -> Vec<Bucket> {
    let nodes = layout.all_nodes().len();
    let segment = |_| Segment { parts: (0..nodes).map(|_| None).collect(), missing: nodes };
    let bucket = |bucket| Bucket {
        partials: vec![0; layout.world()],
        sums: vec![0; layout.world()],
        segments: (0..layout.segments(bucket, layout.rank)).map(segment).collect(),
    };
    (0..layout.buckets()).map(bucket).collect()
}

fn slot(step: u64) -> usize {
    (step % 2) as usize
}
