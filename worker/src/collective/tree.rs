//! The fixed binary tree over slice numbers in which gradients are added, and the two ways to walk it: one slice after
//! another on one worker (`SlicePlan`), and subtree by subtree from all workers (`TreeSum`). Both do the same
//! additions, so the bits of the root depend on the slices alone. Knows no bucket, rank, step or socket.

use std::ops::Range;

/// A node of the tree: covers the slices `[index << level, (index + 1) << level)`. Level 0 is the slices themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId {
    pub level: u32,
    pub index: u32,
}

impl NodeId {
    fn leaf(slice: u32) -> NodeId {
        NodeId { level: 0, index: slice }
    }

    fn root(slices: u32) -> NodeId {
        assert!(slices.is_power_of_two(), "a tree over {slices} slices");
        NodeId { level: slices.ilog2(), index: 0 }
    }

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
        // A node at `start` can be as large as the alignment of `start` and what is left of the run allow.
        let level = start.trailing_zeros().min((run.end - start).ilog2());
        nodes.push(NodeId { level, index: start >> level });
        start += 1 << level;
    }
    nodes
}

/// The schedule by which one worker computes its slices in order and adds them up as soon as the tree allows, which
/// takes the fewest gradient slots: at most one per level of the tree on each side of the run.
#[derive(Clone, Debug)]
pub struct SlicePlan {
    steps: Vec<SliceStep>,
    partials: Vec<(NodeId, usize)>,
    slots: usize,
}

/// One slice: overwrite `slot` with its gradient, then carry out `merges` in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceStep {
    pub slice: u32,
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
    pub fn new(run: Range<u32>) -> SlicePlan {
        let mut steps = Vec::new();
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        let mut slots = 0;
        for slice in run {
            // What lies on the stack occupies slots 0, 1, ... in order: a merge always frees the last one.
            let slot = stack.len();
            slots = slots.max(slot + 1);
            stack.push((NodeId::leaf(slice), slot));
            let mut merges = Vec::new();
            while let [.., (left, into), (right, from)] = stack[..]
                && left.is_left()
                && left.sibling() == right
            {
                merges.push(Merge { into, from });
                stack.truncate(stack.len() - 2);
                stack.push((left.parent(), into));
            }
            steps.push(SliceStep { slice, slot, merges });
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

/// Adds the subtrees of one stretch of gradient, in whatever order they arrive, by the order of the tree.
#[derive(Debug)]
pub(super) struct TreeSum<V> {
    root: NodeId,
    waiting: Vec<(NodeId, V)>,
}

impl<V> TreeSum<V> {
    pub(super) fn new(slices: u32) -> TreeSum<V> {
        TreeSum { root: NodeId::root(slices), waiting: Vec::new() }
    }

    /// Takes one node's value and gives the root's once every slice is in it. No slice may come twice. `join` adds the right
    /// value to the left one.
    pub(super) fn add(
        &mut self,
        mut node: NodeId,
        mut values: V,
        join: impl Fn(V, V) -> V,
    ) -> Option<V> {
        while node != self.root {
            let sibling = node.sibling();
            let Some(at) = self.waiting.iter().position(|(other, _)| *other == sibling) else {
                self.waiting.push((node, values));
                return None;
            };
            let (_, other) = self.waiting.swap_remove(at);
            let (left, right) = if node.is_left() { (values, other) } else { (other, values) };
            (node, values) = (node.parent(), join(left, right));
        }
        Some(values)
    }
}

/// `left += right`, element by element: the only addition of the exchange.
pub fn accumulate(left: &mut [f32], right: &[f32]) {
    assert_eq!(left.len(), right.len(), "sums are over stretches of one length");
    for (left, right) in left.iter_mut().zip(right) {
        *left += *right;
    }
}
