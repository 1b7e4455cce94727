//! What crosses process boundaries: the wire, the job file, identities, the checkpoint manifest.
//!
//! In reading order: `identity` (who), `job` (what to train), `timeline` (which steps that means), `wire` (how
//! processes talk), `manifest` (what a checkpoint says of itself), `weights` (what a file to start from must hold), `parent` (whose end ends a process), `mutant` (bugs that
//! the simulator must find). Nothing here opens a socket, trains, or decides.
#![forbid(unsafe_code)]

pub mod identity;
pub mod job;
pub mod timeline;
pub mod manifest;
pub mod weights;
pub mod wire;
pub mod exit;
pub mod parent;
pub mod mutant;

pub use identity::{Generation, Incarnation, JobId, Name};
pub use job::Job;
pub use timeline::Timeline;
