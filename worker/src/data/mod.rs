//! Samples on their way to the device: which ones, how they are changed, and reading ahead.

mod batch;
mod erasing;
mod lanes;
mod loader;
mod mixing;
mod quarantine;

pub use batch::{Batch, Quarantined, Source, format};
pub use lanes::Lanes;
pub use loader::{Loader, LoaderError, Share};
pub use mixing::Mixed;
pub use quarantine::{Found, Part, Quarantine};
