//! A training state as files: `model.safetensors`, `optimizer.safetensors` and, for a job that averages, `ema.safetensors`,
//! in torchvision's names and layouts (`state`); and weights of others to start from (`initial`).
//!
//! Bytes only: this module knows no disk, no network and no model, just the flat layout. The bytes depend on the state
//! alone, so all members of a generation write the same files, and the hash of one identifies the state.

mod initial;
mod permute;
mod state;

pub use initial::{InitialError, decode_initial};
pub use state::{Average, CheckpointError, Snapshot, decode_ema, decode_model, decode_optimizer};
