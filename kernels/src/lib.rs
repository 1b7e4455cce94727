//! The arithmetic of a ResNet: one function per op, behind one `Device`.
//!
//! Activations are `[N, H, W, C]` (NHWC) fp32, convolution weights `[kh, kw, C_in, C_out]`,
//! linear weights `[in, out]`. This crate knows no model, no network, and no file but nameless memory
//! that processes share.
//!
//! **Invariant**: the bits of every result depend on the op's shape and inputs alone: never on the
//! thread count, on the instruction set chosen at run time, or on the other samples of the batch
//! (except through BatchNorm statistics and gradient sums, whose order of addition is fixed by the
//! shape).

pub mod device;
pub mod shape;
pub mod ops;
pub mod profile;
mod cpu;
mod cuda;

pub use cpu::{CpuDevice, Isa, SharedMemory};
pub use cuda::versions as cuda_versions;
pub use cuda::{
    CudaDevice, CudaError, CudaOptions, CudaVersions, CudaView, CudaViewMut, Gpu, gpus,
};
pub use device::{Buffer, Device, DeviceError, Family, Precision, Span, View, ViewMut};
pub use shape::{
    AugmentShape, ConvShape, ImagesShape, LinearShape, MaxPoolShape, NormShape, PackedLen,
    PoolShape,
};
