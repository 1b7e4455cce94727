//! The control plane of the cluster: one process that holds no tensor. It admits workers, forms them into generations, agrees
//! with them on every step, keeps their checkpoints, and tells people how it goes.
//!
//! In data-flow order:
//! ```text
//! service (sockets) --events--> driver --> core (decides) --> journal (durable) --> plans, metrics, logs, checkpoints
//!                                 ^------- store (slow disk work) <-----------------------------'
//! ```
//! `core` is pure; everything else is its shell, which changes the disk through `disk` alone. `commands` and `local` are what a person starts.
#![forbid(unsafe_code)]

pub mod core;
mod disk;
pub mod files;
pub mod journal;
pub mod state;
pub mod checkpoints;
pub mod metrics;
pub mod logs;
mod store;
pub mod driver;
pub mod verify;
pub mod intake;
pub mod service;
pub mod terminal;
pub mod chaos;
pub mod local;
pub mod args;
pub mod commands;

#[cfg(test)]
mod fixtures;
