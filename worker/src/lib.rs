//! The worker: computes its slices of every step, exchanges gradients with its peers, reports to the coordinator.
//!
//! In the order of the data's flow: `data` (samples), `model` (forward, backward), `collective` (the exchange), `optim`
//! (the update), `checkpoint` (the state as files). `step` composes one optimizer step, `evaluate` the exact evaluation,
//! `prepare` and `trainer` the life of a generation, `held` the state
//! that outlives it. `conduct` decides what the coordinator's plans mean; `session` alone speaks to it.

pub mod args;
pub mod bench;
pub mod describe;
pub mod devices;
pub mod export;
pub mod predict;
pub mod join;
mod node;
pub mod session;
pub mod conduct;
pub mod trainer;
mod prepare;
mod memory;
mod held;
pub mod step;
pub mod guard;
pub mod table;
pub mod onnx;
pub mod evaluate;
pub mod trained;
pub mod progress;
pub mod layout;
pub mod data;
pub mod model;
pub mod collective;
pub mod optim;
pub mod checkpoint;
