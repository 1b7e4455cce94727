//! The exchange of a worker on its own: it holds every slice, so its one partial is the root of the tree and the sum.

use std::ops::Range;
use std::sync::Arc;

use kernels::{Buffer, SharedMemory};

use super::calls::Calls;
use super::memory::private;
use super::vectors::Vectors;
use super::{Collective, CollectiveError};

#[derive(Debug)]
pub struct Solo {
    vectors: Vectors,
    memory: Arc<SharedMemory>,
    /// Until the trainer takes them.
    slots: Vec<Buffer>,
    sum: Buffer,
    buckets: Vec<Range<usize>>,
    calls: Calls,
}

impl Solo {
    pub fn new(slices: u32, bucket_lens: &[usize]) -> Solo {
        let mut len = 0;
        let bucket = |bucket: &usize| {
            len += bucket;
            len - bucket..len
        };
        let buckets: Vec<Range<usize>> = bucket_lens.iter().map(bucket).collect();
        let vectors = Vectors::new(0..slices, len);
        let memory = Arc::new(private(vectors.memory_len()));
        Solo {
            slots: vectors.slots().map(|span| memory.buffer(span)).collect(),
            sum: memory.buffer(vectors.sum()),
            calls: Calls::new(buckets.len()),
            vectors,
            memory,
            buckets,
        }
    }

    fn host(&mut self) -> &mut [f32] {
        self.sum.host_mut().expect("the CPU device's memory is host memory")
    }
}

impl Collective for Solo {
    fn slots(&mut self) -> Vec<Buffer> {
        std::mem::take(&mut self.slots)
    }

    fn reduce(&mut self, step: u64, bucket: usize) -> Result<(), CollectiveError> {
        self.calls.reduce(step, bucket);
        let range = self.buckets[bucket].clone();
        let memory = Arc::clone(&self.memory);
        let partial = memory.values(self.vectors.slot(0).start + range.start, range.len());
        self.host()[range].copy_from_slice(partial);
        Ok(())
    }

    fn wait(&mut self, step: u64, bucket: usize) -> Result<&[f32], CollectiveError> {
        self.calls.wait(step, bucket);
        let range = self.buckets[bucket].clone();
        Ok(&self.host()[range])
    }

    fn sum(&self) -> &Buffer {
        assert!(self.calls.is_complete(), "the sum is whole after a complete step");
        &self.sum
    }

    fn shutdown(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
