//! The tree by itself: every run of every small batch.

use super::super::tree::TreeSum;
use super::*;

const BATCHES: [u32; 5] = [1, 2, 4, 8, 16];

fn runs() -> impl Iterator<Item = (u32, Range<u32>)> {
    BATCHES.into_iter().flat_map(|slices| {
        (0..slices).flat_map(move |start| (start + 1..=slices).map(move |end| (slices, start..end)))
    })
}

fn slices_of(node: NodeId) -> Range<u32> {
    node.index << node.level..(node.index + 1) << node.level
}

#[test]
fn subtrees_cover_a_run_exactly_and_in_order_and_no_two_are_siblings() {
    for (_, run) in runs() {
        let nodes = subtrees(run.clone());
        let covered: Vec<u32> = nodes.iter().flat_map(|node| slices_of(*node)).collect();
        assert_eq!(covered, run.clone().collect::<Vec<_>>());
        for (i, left) in nodes.iter().enumerate() {
            let joins = |right: &NodeId| left.level == right.level && left.index ^ 1 == right.index;
            assert!(!nodes[i..].iter().any(joins), "{run:?}: {nodes:?}");
        }
    }
    assert_eq!(subtrees(3..3), []);
    assert_eq!(subtrees(0..8), [NodeId { level: 3, index: 0 }]);
}

#[test]
fn a_plan_computes_each_slice_once_and_ends_with_the_subtrees_of_its_run() {
    let plans = |(slices, run): (u32, Range<u32>)| {
        let plan = |most| (slices, run.clone(), most, SlicePlan::at_once(run.clone(), most));
        [1, 2, 3, 8].map(plan)
    };
    for (slices, run, most, plan) in runs().flat_map(plans) {
        assert!(plan.steps().iter().flat_map(|step| step.slices.clone()).eq(run.clone()));
        assert!(plan.steps().iter().all(|step| step.slices.len() <= most as usize));
        assert!(plan.partials().iter().map(|(node, _)| *node).eq(subtrees(run.clone())));
        assert!(plan.slots() <= 2 * slices.ilog2() as usize + 1, "{run:?}: {}", plan.slots());

        // Strings for values show which additions were done, brackets and all.
        let mut slots = vec![String::new(); plan.slots()];
        for step in plan.steps() {
            slots[step.slot] = brackets(step.slices.clone());
            for Merge { into, from } in &step.merges {
                slots[*into] = format!("({}+{})", slots[*into], slots[*from]);
                slots[*from] = "used".to_owned();
            }
        }
        for (node, slot) in plan.partials() {
            assert_eq!(slots[*slot], brackets(slices_of(*node)));
        }
    }
}

fn brackets(slices: Range<u32>) -> String {
    if slices.len() == 1 {
        return slices.start.to_string();
    }
    let middle = slices.start + slices.len() as u32 / 2;
    format!("({}+{})", brackets(slices.start..middle), brackets(middle..slices.end))
}

#[test]
fn a_whole_batch_needs_one_slot_per_level() {
    for slices in BATCHES {
        assert_eq!(SlicePlan::new(0..slices).slots(), slices.ilog2() as usize + 1);
    }
}

#[test]
fn partials_of_any_assignment_add_up_to_the_same_bits() {
    for slices in BATCHES {
        // Longer than the blocks in which it goes.
        let len = 1030;
        let leaf = |slice| gradient(slice, 1, 0, len);
        let expected = tree_sum(0..slices, &leaf);
        // Every set of cuts between slices is an assignment of contiguous runs.
        for cuts in (0..1u32 << (slices - 1)).step_by(if slices > 8 { 137 } else { 1 }) {
            let mut start = 0;
            let mut parts = Vec::new();
            for end in (1..=slices).filter(|end| *end == slices || cuts >> (end - 1) & 1 == 1) {
                parts.extend(partials(start..end, &leaf));
                start = end;
            }
            let nodes: Vec<NodeId> = parts.iter().map(|(node, _)| *node).collect();
            let mut sum = vec![f32::NAN; len];
            TreeSum::new(&nodes).add(|index| &parts[index].1, &mut sum);
            assert_eq!(bits(&sum), bits(&expected), "{slices} slices, cuts {cuts:b}");
        }
    }
}
