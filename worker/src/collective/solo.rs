//! The exchange of a worker on its own: it holds every slice, so its one partial is the root of the tree and the sum.

use super::calls::Calls;
use super::{Collective, CollectiveError, NodeId, subtrees};

#[derive(Debug)]
pub struct Solo {
    slices: u32,
    sums: Vec<Vec<f32>>,
    calls: Calls,
}

impl Solo {
    pub fn new(slices: u32, bucket_lens: &[usize]) -> Solo {
        let sums = bucket_lens.iter().map(|len| vec![0.0; *len]).collect();
        Solo { slices, sums, calls: Calls::new(bucket_lens.len()) }
    }
}

impl Collective for Solo {
    fn reduce(
        &mut self,
        step: u64,
        bucket: usize,
        partials: &[(NodeId, &[f32])],
    ) -> Result<(), CollectiveError> {
        self.calls.reduce(step, bucket);
        assert!(
            partials.iter().map(|(node, _)| *node).eq(subtrees(0..self.slices)),
            "a worker on its own holds the sum of all slices"
        );
        partials.iter().for_each(|(_, values)| self.sums[bucket].copy_from_slice(values));
        Ok(())
    }

    fn wait(&mut self, step: u64, bucket: usize, sum: &mut [f32]) -> Result<(), CollectiveError> {
        self.calls.wait(step, bucket);
        sum.copy_from_slice(&self.sums[bucket]);
        Ok(())
    }

    fn shutdown(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
