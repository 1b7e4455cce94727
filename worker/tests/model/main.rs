//! A whole model against what it must equal: PyTorch, derivatives in fp64, torchvision's sizes, and itself on other
//! threads, instruction sets and after a restart. Needs no network, no coordinator and no second process.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod training;
mod tensors;
mod reference;
mod pytorch;
mod formula;
mod gradients;
mod bias;
mod sizes;
mod invariants;
mod zero_init;
mod resume;
mod cuda;
