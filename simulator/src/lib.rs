//! A cluster in one thread, without sockets and clocks: the coordinator's real core, the real conduct of workers, and
//! processes, network and disk that behave as badly as a seed says. Every run is a pure function of its seed, so a failure
//! is found again by its number.
//!
//! In reading order: `time` (what happens when), `disk` (what outlives a process), `job`, `worker` (what a worker's process
//! does around its conduct), `exchange` (how workers depend on each other), `streams` and `uploads` (how they reach the coordinator),
//! `driver` (the coordinator's process), `world` (what happens next), `faults` (what goes wrong), `checker` (what must hold,
//! written apart from what it judges), `shrink` (the shortest schedule of faults that still fails).
#![forbid(unsafe_code)]

mod time;
mod disk;
mod job;
mod exchange;
mod worker;
mod streams;
mod uploads;
mod driver;
mod world;
mod faults;
pub mod checker;
mod shrink;

pub use checker::{Invariant, Violation};
pub use faults::{Fault, Mishap, Schedule};
pub use shrink::Failure;
pub use world::{Plan, Report, replay, run};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_of_a_thousand_breaks_a_promise() {
        let plan = Plan { workers: 4, epochs: 40, faults: 50, ..Plan::default() };
        let (mut faults, mut rewinds) = (0, 0);
        let result = run_seeds(1, 1000, &plan, &mut |_, report| {
            faults += report.faults;
            rewinds += report.rewinds;
        });
        assert_eq!(result, Ok(()));
        assert!(faults >= 30_000, "{faults}: faults were injected");
        assert!(rewinds > 0, "a total loss is among them");
    }

    #[test]
    fn ten_thousand_workers_register_and_their_job_of_a_hundred_steps_survives_a_hundred_faults() {
        let workers = 10_000;
        let plan = Plan {
            workers,
            fewer: 0,
            epochs: 25,
            faults: 100,
            slices: 64,
            pace: 300,
            trace: false,
        };
        let report = run(8, &plan).expect("no promise is broken");
        assert!(report.admitted >= workers as u64, "{report:?}");
        assert!(report.generations >= 5 && report.faults == 100, "{report:?}");
    }

    #[test]
    fn a_run_is_a_function_of_its_seed() {
        let plan = Plan { workers: 3, epochs: 20, faults: 30, ..Plan::default() };
        for seed in 1..20 {
            assert_eq!(run(seed, &plan), run(seed, &plan), "seed {seed}");
        }
    }
}
