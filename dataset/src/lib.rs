//! Labelled image datasets, and the order in which training visits them.
//!
//! * [`Dataset::open`] reads one of the known [`Format`]s: `u8` pixels, channel last. Small images are
//!   held in memory; of a folder of JPEG and PNG files only the names are.
//! * [`Split::image`] makes a sample of an image, by a [`Preparation`]; an image that can't be decoded
//!   is an [`ImageError`], and no reason to stop.
//! * [`Policy`] changes a sample's pixels at random, as RandAugment and TrivialAugment do.
//! * [`SampleOrder`] maps a position of the endless sample stream to a sample of the training split.
//! * [`Draws`] is the augmentation randomness of one position, or of a slice.
//!
//! Order and draws are pure functions of `(seed, position)`. That is why the whole data state of a
//! job is one integer, and why any worker can compute any part of any step.
//!
//! This crate knows no tensor, no device, no network and no job file. Batching, threads, mirroring and
//! normalisation belong to the worker.

#![forbid(unsafe_code)]

mod error;
mod folder;
mod idx;
mod cifar;
mod image_folder;
mod index;
mod order;
mod beta;
mod split;
mod decode;
mod prepare;
mod policy;

pub use decode::FileKind;
pub use decode::ImageError;
pub use decode::ImageFault;
pub use error::DatasetError;
pub use index::Dataset;
pub use index::Fingerprint;
pub use index::Format;
pub use index::ImageShape;
pub use order::Draws;
pub use order::SampleOrder;
pub use policy::Policy;
pub use policy::translate;
pub use prepare::Preparation;
pub use prepare::Preparer;
pub use split::ChannelStatistics;
pub use split::IGNORED;
pub use split::Split;
