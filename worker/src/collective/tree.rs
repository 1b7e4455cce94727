//! The fixed binary tree over slice numbers in which gradients are added, and the two ways to walk it: one slice after
//! another on one worker (`SlicePlan`), and all workers' subtrees at once (`TreeSum`). Both do the same
//! additions, so the bits of the root depend on the slices alone. Knows no bucket, rank, step or socket.

use std::ops::Range;

/// A node of the tree: covers the slices `[index << level, (index + 1) << level)`. Level 0 is the slices themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId {
    pub level: u32,
    pub index: u32,
}

impl NodeId {
    fn parent(self) -> NodeId {
        NodeId { level: self.level + 1, index: self.index / 2 }
    }

    fn sibling(self) -> NodeId {
        NodeId { level: self.level, index: self.index ^ 1 }
    }

    fn is_left(self) -> bool {
        self.index.is_multiple_of(2)
    }
}

/// The fewest nodes that cover `run` exactly, in slice order.
pub fn subtrees(run: Range<u32>) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let mut start = run.start;
    while start < run.end {
        let node = largest(start, run.end - start);
        start += 1 << node.level;
        nodes.push(node);
    }
    nodes
}

/// The largest node at `start` that covers at most `most` slices, as the alignment of `start` allows.
fn largest(start: u32, most: u32) -> NodeId {
    let level = start.trailing_zeros().min(most.ilog2());
    NodeId { level, index: start >> level }
}

/// The schedule by which one worker computes its slices in order and adds them up as soon as the tree allows, which
/// takes the fewest gradient slots: at most one per level of the tree on each side of the run.
#[derive(Clone, Debug)]
pub struct SlicePlan {
    steps: Vec<SliceStep>,
    partials: Vec<(NodeId, usize)>,
    slots: usize,
}

/// Slices that are computed at once, most often one: overwrite `slot` with the sum of their gradients, then carry out
/// `merges` in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceStep {
    pub slices: Range<u32>,
    pub slot: usize,
    pub merges: Vec<Merge>,
}

/// `slot[into] += slot[from]`; the contents of `from` are done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    pub into: usize,
    pub from: usize,
}

impl SlicePlan {
    /// One slice at a time.
    pub fn new(run: Range<u32>) -> SlicePlan {
        SlicePlan::at_once(run, 1)
    }

    /// Whole subtrees of up to `most` slices at a time, on a device that adds them up itself. The partials are the same.
    pub fn at_once(run: Range<u32>, most: u32) -> SlicePlan {
        let mut steps = Vec::new();
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        let mut slots = 0;
        let mut start = run.start;
        while start < run.end {
            // What lies on the stack occupies slots 0, 1, ... in order: a merge always frees the last one.
            let slot = stack.len();
            slots = slots.max(slot + 1);
            let node = largest(start, most.min(run.end - start));
            let slices = start..start + (1 << node.level);
            start = slices.end;
            stack.push((node, slot));
            let mut merges = Vec::new();
            while let [.., (left, into), (right, from)] = stack[..]
                && left.is_left()
                && left.sibling() == right
            {
                merges.push(Merge { into, from });
                stack.truncate(stack.len() - 2);
                stack.push((left.parent(), into));
            }
            steps.push(SliceStep { slices, slot, merges });
        }
        SlicePlan { steps, partials: stack, slots }
    }

    pub fn steps(&self) -> &[SliceStep] {
        &self.steps
    }

    /// What the slots hold at the end: the `subtrees` of the run, in order.
    pub fn partials(&self) -> &[(NodeId, usize)] {
        &self.partials
    }

    /// Gradient slots needed.
    pub fn slots(&self) -> usize {
        self.slots
    }
}

/// The schedule by which subtrees that lie side by side are added up, all of them in one pass.
#[derive(Debug)]
pub(super) struct TreeSum {
    joins: Vec<Join>,
    /// By depth below the sum: room for a block of an intermediate one.
    scratch: Vec<Vec<f32>>,
}

/// The place at `depth` gets `left` and `right` added up.
#[derive(Debug)]
struct Join {
    depth: usize,
    left: Operand,
    right: Operand,
}

/// What is added.
#[derive(Clone, Copy, Debug)]
enum Operand {
    Part(usize),
    /// What lies at the depth of the operand: a left one's is that of the join, a right one's the next.
    Sum,
}

impl TreeSum {
    /// `nodes` cover all slices, in slice order.
    pub(super) fn new(nodes: &[NodeId]) -> TreeSum {
        let mut joins: Vec<Join> = Vec::new();
        let mut stack: Vec<(NodeId, Operand)> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            stack.push((*node, Operand::Part(index)));
            while let [.., (left, into), (right, from)] = stack[..]
                && left.is_left()
                && left.sibling() == right
            {
                stack.truncate(stack.len() - 2);
                joins.push(Join { depth: stack.len(), left: into, right: from });
                stack.push((left.parent(), Operand::Sum));
            }
        }
        assert_eq!(stack.len(), 1, "the parts cover all slices");
        let depth = joins.iter().map(|join| join.depth).max().unwrap_or(0);
        TreeSum { joins, scratch: vec![vec![0.0; BLOCK]; depth] }
    }

    /// Writes the sum of all parts, which have its length. Goes by blocks, so that intermediate sums stay in the cache.
    pub(super) fn add<'a>(&mut self, part: impl Fn(usize) -> &'a [f32], into: &mut [f32]) {
        if self.joins.is_empty() {
            return into.copy_from_slice(part(0));
        }
        let len = into.len();
        for start in (0..len).step_by(BLOCK) {
            let block = start..len.min(start + BLOCK);
            let sum = &mut into[block.clone()];
            for Join { depth, left, right } in &self.joins {
                let (above, below) = self.scratch.split_at_mut(*depth);
                let target = above.last_mut().map_or(&mut sum[..], |sum| &mut sum[..block.len()]);
                let right = match right {
                    Operand::Part(index) => &part(*index)[block.clone()],
                    Operand::Sum => &below[0][..block.len()],
                };
                match left {
                    Operand::Part(index) => add(&part(*index)[block.clone()], right, target),
                    Operand::Sum => accumulate(target, right),
                }
            }
        }
    }
}

/// `left += right`, element by element.
pub fn accumulate(left: &mut [f32], right: &[f32]) {
    assert_eq!(left.len(), right.len(), "sums are over stretches of one length");
    for (left, right) in left.iter_mut().zip(right) {
        *left += *right;
    }
}

/// `into = left + right`, element by element.
fn add(left: &[f32], right: &[f32], into: &mut [f32]) {
    assert!(left.len() == into.len() && right.len() == into.len(), "sums are of one length");
    for ((into, left), right) in into.iter_mut().zip(left).zip(right) {
        *into = left + right;
    }
}

/// Values of a block: 4 KiB, of which a few fit the innermost cache of any processor.
const BLOCK: usize = 1024;
