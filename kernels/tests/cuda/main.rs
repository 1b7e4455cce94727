//! The CUDA device against plain f64 arithmetic and against itself: on the GPU whose number `KERNELS_TEST_GPU` holds, or
//! else on the mock GPU of the crate `cuda-mock`. One module per op; what they share is in `support`.

#![expect(clippy::unwrap_used, reason = "a test that cannot start has failed")]
#![expect(clippy::print_stdout, reason = "what a machine cannot test is said aloud")]

#[path = "../reference/numbers.rs"]
mod numbers;
mod support;
mod device;
mod augment;
mod conv;
mod digest;
mod elementwise;
mod faults;
mod linear;
mod loss;
mod mix;
mod norm;
mod peak;
mod pool;
mod sgd;
mod sums_of_squares;
