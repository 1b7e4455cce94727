//! Samples on their way to the device: which ones, how they are changed, and reading ahead.

mod batch;
mod lanes;
mod loader;
mod quarantine;

pub use batch::{Batch, Quarantined, Source, format};
pub use lanes::Lanes;
pub use loader::{Loader, LoaderError, Share};
pub use quarantine::{Found, Part, Quarantine};
