//! Is the checker strong enough? Every seeded protocol bug must be found within a thousand seeds, and the same seeds must find
//! nothing where there is no bug. `--nocapture` shows by which seed, after how many faults, and by which promise.

use std::fmt::Write;
use std::sync::Mutex;

use proto::mutant::{Mutant, with};
use simulator::{Failure, Plan, Schedule, Violation, replay, run_seeds};

/// The first seed that finds the bug, and what it finds.
fn found(mutant: Mutant, plan: &Plan) -> Option<(u64, Violation)> {
    with(Some(mutant), || run_seeds(1, SEEDS, plan, &mut |_, _| {})).err()
}

#[test]
fn every_seeded_bug_is_found() {
    let plan = Plan::default();
    let waiting = Mutex::new(Mutant::ALL.iter().copied());
    let found_so_far = Mutex::new(Vec::new());
    let next = || waiting.lock().expect("no thread panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = next() {
                    let result = found(mutant, &plan);
                    found_so_far.lock().expect("no thread panics with it").push((mutant, result));
                }
            });
        }
    });
    let mut results = found_so_far.into_inner().expect("no thread panics with it");
    results.sort_by_key(|(mutant, _)| *mutant);
    let mut table = String::new();
    for (mutant, result) in &results {
        let name = format!("{mutant:?}");
        match result {
            Some((seed, violation)) => {
                let drawn = Schedule::draw(*seed, plan.faults, plan.workers).0;
                let faults = drawn.iter().filter(|mishap| mishap.at <= violation.at).count();
                writeln!(table, "{name:<26} seed {seed:>4}, {faults:>2} faults  {violation}")
            }
            None => writeln!(table, "{name:<26} NOT FOUND"),
        }
        .expect("a string takes any text");
    }
    eprintln!("{table}");
    assert!(results.len() >= 30, "{} bugs were tried", results.len());
    assert!(results.iter().all(|(_, result)| result.is_some()), "bugs that nobody found:\n{table}");
}

#[test]
fn without_a_bug_the_same_seeds_find_nothing() {
    let result = with(None, || run_seeds(1, SEEDS, &Plan::default(), &mut |_, _| {}));
    assert_eq!(result, Ok(()));
}

const SEEDS: u64 = 1000;

/// A number that is used again shows only after the coordinator was away.
#[test]
fn a_failing_run_of_fifty_faults_is_cut_down_to_a_few() {
    let plan = Plan { faults: 60, ..Plan::default() };
    let failing = |seed: u64| {
        let schedule = Schedule::draw(seed, plan.faults, plan.workers);
        let violation = replay(seed, &plan, &schedule).err()?;
        Some(Failure { seed, plan, schedule, violation })
    };
    with(Some(Mutant::GenerationReused), || {
        let long = (1..=SEEDS).filter_map(failing).find(|failure| {
            let at = failure.violation.at;
            failure.schedule.0.iter().filter(|mishap| mishap.at <= at).count() >= 50
        });
        let long = long.expect("one of the seeds fails late");
        let short = long.clone().shrink();
        eprintln!("{} faults were cut down to: {}", long.schedule.0.len(), short.schedule);
        assert_eq!(short.violation.invariant, long.violation.invariant);
        assert!(short.schedule.0.len() <= 10, "{} faults are left", short.schedule.0.len());
        // As it is printed, it fails again.
        let printed: Schedule = short.schedule.to_string().parse().expect("it was printed");
        assert_eq!(replay(short.seed, &short.plan, &printed), Err(short.violation));
    });
}
