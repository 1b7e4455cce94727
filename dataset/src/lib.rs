//! Labelled image datasets, and the order in which training visits them.
//!
//! * [`Dataset::open`] reads one of the known [`Format`]s into memory: `u8` pixels, channel last.
//! * [`SampleOrder`] maps a position of the endless sample stream to a sample of the training split.
//! * [`Draws`] is the augmentation randomness of one position.
//!
//! Order and draws are pure functions of `(seed, position)`. That is why the whole data state of a
//! job is one integer, and why any worker can compute any part of any step.
//!
//! This crate knows no tensor, no device, no network and no job file. Batching, augmentation and
//! normalisation belong to the worker.

#![forbid(unsafe_code)]

mod error;
mod folder;
mod idx;
mod cifar;
mod index;
mod order;

pub use error::DatasetError;
pub use index::ChannelStatistics;
pub use index::Dataset;
pub use index::Fingerprint;
pub use index::Format;
pub use index::ImageShape;
pub use index::Split;
pub use order::Draws;
pub use order::SampleOrder;
