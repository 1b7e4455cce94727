//! The CPU device: a thread pool, an instruction set, and one file per op. A task's borders and the
//! order of its sums come from the op's shape; which thread runs it is left to the pool. Nothing
//! here knows which ops a model is made of.

mod augment;
mod conv;
mod digest;
mod elementwise;
mod erase;
mod linear;
mod loss;
mod mix;
mod norm;
mod norm_backward;
mod peak;
mod pool;
mod scratch;
#[cfg_attr(not(target_os = "linux"), path = "unsealed.rs")]
mod sealed;
mod shared;
mod sgd;
mod simd;
mod sums_of_squares;
mod tasks;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::device::DeviceError;
use crate::profile::Profile;
use scratch::{Borrowed, ScratchShelf};
pub use shared::SharedMemory;
pub use simd::Isa;
use simd::Vectors;

/// The processor with its own compute threads. Cloning refers to the same threads.
#[derive(Clone)]
pub struct CpuDevice {
    inner: Arc<Inner>,
}

struct Inner {
    pool: rayon::ThreadPool,
    vectors: Vectors,
    op_scratch: ScratchShelf,
    task_scratch: ScratchShelf,
    profile: Profile,
}

impl CpuDevice {
    pub(crate) fn new(threads: NonZeroUsize, isa: Isa) -> Result<CpuDevice, DeviceError> {
        let vectors = Vectors::new(isa).ok_or(DeviceError::Isa { isa })?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|index| format!("compute-{index}"))
            .build()
            .map_err(|source| DeviceError::Threads { threads: threads.get(), source })?;
        let (op_scratch, task_scratch) = (ScratchShelf::default(), ScratchShelf::default());
        let profile = Profile::default();
        let inner = Inner { pool, vectors, op_scratch, task_scratch, profile };
        Ok(CpuDevice { inner: Arc::new(inner) })
    }

    /// Number of compute threads.
    pub fn threads(&self) -> usize {
        self.inner.pool.current_num_threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.inner.vectors.isa()
    }

    pub(crate) fn describe(&self) -> String {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu: {threads} thread{plural}, {}", self.isa())
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// Working memory for a whole op. Kept apart from that of tasks, which is many times as small
    /// and there for each thread.
    fn op_scratch(&self) -> Borrowed<'_> {
        self.inner.op_scratch.take()
    }

    /// Working memory for one task.
    fn scratch(&self) -> Borrowed<'_> {
        self.inner.task_scratch.take()
    }

    fn vectors(&self) -> Vectors {
        self.inner.vectors
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuDevice")
            .field("threads", &self.threads())
            .field("isa", &self.isa())
            .finish_non_exhaustive()
    }
}
