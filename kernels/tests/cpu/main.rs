//! The CPU device against plain f64 arithmetic, and against itself with other threads, instruction
//! sets and batches. One module per op; what they share is in `support`.

#![expect(clippy::unwrap_used, reason = "a test that cannot start has failed")]
#![expect(clippy::print_stdout, reason = "what a machine cannot test is said aloud")]

#[path = "../reference/numbers.rs"]
mod numbers;
mod support;
mod counting;
mod allocations;
mod augment;
mod conv;
mod winograd;
mod device;
mod linear;
mod loss;
mod mix;
mod norm;
mod pool;
mod sgd;
mod sums;
