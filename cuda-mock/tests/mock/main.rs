//! The mock GPU, through the library that the product uses: the wrappers of `portable.cuh` do what they should, planted
//! bugs are found by what the table says, and the driver fails as a real one does. With `CUDA_MOCK=off` the
//! conformance tests run on a real GPU.

#![allow(clippy::print_stdout, reason = "a test that can't run says why")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod conformance;
mod cu_text;
mod faults;
mod gpu;
mod nvrtc;
mod planted;
mod streams;
