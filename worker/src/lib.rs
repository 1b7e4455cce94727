//! The worker: computes its slices of every step, exchanges gradients with its peers, reports to the coordinator.
//!
//! In the order of the data's flow: `data` (samples), `model` (forward, backward), `collective` (the exchange), `optim`
//! (the update), `checkpoint` (the state as files). `step` composes one optimizer step, `trainer` the life of a
//! generation, `evaluate` the exact evaluation. `session` alone speaks to the coordinator.

pub mod layout;
pub mod data;
pub mod model;
// pub mod collective;
pub mod optim;
pub mod checkpoint;
pub mod progress;
// pub mod step;
pub mod evaluate;
