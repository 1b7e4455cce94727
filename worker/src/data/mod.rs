//! Samples on their way to the device: which ones, how they are changed, and reading ahead.

mod batch;
mod loader;

pub use batch::{Batch, Source};
pub use loader::{Loader, LoaderError, Share};
