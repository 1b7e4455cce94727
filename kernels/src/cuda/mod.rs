//! The CUDA device: an NVIDIA GPU, driven through `cudarc`. In reading order: `library` (is there a driver, a compiler),
//! `error`, `context` (what is opened once for a device), `compile` (sources to machine code, kept on disk), `memory`,
//! `staging` (host numbers on their way to the GPU), `launch`, `vectors`; then one file per op, named as on the CPU, whose kernels are
//! `kernels/cuda/<same stem>.cu`.
//!
//! Everything is put on one stream and runs in that order, later. What goes wrong there is remembered (`fault`): from
//! then on every op does nothing, and whoever reads a result is told. No wait is without a deadline.
//!
//! Nothing here knows which ops a model is made of.

mod compile;
mod context;
mod error;
mod launch;
mod library;
mod memory;
mod staging;
mod vectors;

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
mod sgd;
mod spans;
mod sums_of_squares;

pub use context::{CudaDevice, CudaOptions, Gpu};
pub use error::CudaError;
pub use library::{CudaVersions, gpus, versions};
pub(crate) use memory::{CudaMemory, Element};
pub use memory::{CudaView, CudaViewMut};
