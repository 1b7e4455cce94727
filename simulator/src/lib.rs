//! A cluster in one thread, without sockets and clocks: the coordinator's real core, and workers, network and disk that
//! behave as badly as a seed says. Every run is a pure function of its seed, so a failure is found again by its number.
//!
//! In reading order: `time` (what happens when), `disk` (what outlives a process), `worker` (what a worker does by the
//! protocol), `exchange` (how workers depend on each other), `world` (carries everything out), `faults` (what goes wrong),
//! `checker` (what must hold, written apart from what it judges).
#![forbid(unsafe_code)]

mod time;
mod disk;
mod exchange;
mod worker;
mod world;
mod faults;
pub mod checker;

pub use checker::Violation;
pub use faults::Faults;
pub use world::{Plan, Report, run};

/// Runs seeds `first..first + count`, tells `each` how every run went, and returns the first violation with its seed.
pub fn run_seeds(
    first: u64,
    count: u64,
    plan: &Plan,
    each: &mut dyn FnMut(u64, &Report),
) -> Result<(), (u64, Violation)> {
    for seed in first..first + count {
        match run(seed, plan) {
            Ok(report) => each(seed, &report),
            Err(violation) => return Err((seed, violation)),
        }
    }
    Ok(())
}
