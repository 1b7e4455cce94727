//! Starts real coordinators and workers on loopback, reads what they print, kills them, and tells how they ended.
//!
//! Every wait has a deadline and shows what had been printed when it passed. Nothing here knows what a test expects.

mod process;
mod programs;
mod plane;
mod job;
mod mounted;

pub use job::{JobFile, digits_folder};
pub use mounted::Mounted;
pub use plane::{ControlPlane, join};
pub use process::{Ended, Running, Watched, send};
pub use programs::{Train, coordinator, verified, worker};
pub use rustix::process::Signal;
