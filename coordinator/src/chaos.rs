//! Faults on purpose: what is done to the processes of a cluster on this machine while it trains, and how well it takes it.
//!
//! In reading order: `plan` (which faults, and when: a pure function of a seed), `watch` (what the journal says meanwhile),
//! `recovery` (how long each fault held the run up), `spells` (when there are faults, and how fast it goes with and without),
//! `cast` (the processes), `report` (what came out of it), `storm` (the loop around all of it).

mod plan;
mod watch;
mod recovery;
mod spells;
mod cast;
mod report;
mod storm;

pub use cast::{Cast, CastError, Programs};
pub use plan::{Blow, Fault, Plan, PlanError, Schedule};
pub use recovery::{Injected, Recoveries, Standing};
pub use report::{Percentiles, Report, Spell, Summary};
pub use spells::{Spells, Stretch, goodput, total};
pub use storm::{Storm, StormError};
pub use watch::{Seen, Watch};

#[cfg(test)]
mod tests;
