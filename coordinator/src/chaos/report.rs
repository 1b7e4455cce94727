//! What came out of a storm, for people and as JSON. Pure.

use std::time::Duration;

use serde::Serialize;

use super::plan::Fault;
use super::recovery::Injected;
use super::spells::Stretch;

/// `chaos.json` in the job's folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub job: String,
    pub faults_asked: String,
    pub seed: u64,
    pub workers: u32,
    /// Without faults.
    pub undisturbed: Spell,
    pub storm: Spell,
    /// Committed steps a second in the storm, by those without faults.
    pub goodput: Option<f64>,
    /// What they are made of.
    pub spells: Vec<Stretch>,
    /// Workers that ended by themselves and were started again.
    pub unasked_ends: u64,
    pub summaries: Vec<Summary>,
    /// How long the run stood still for each worker, or each few, that it took in.
    pub taken_in_ms: Vec<f64>,
    /// The usual time between two steps, in the storm too: the median of those that nothing came between.
    pub step_ms: Option<f64>,
    pub faults: Vec<Injected>,
    pub model_sha256: String,
    /// What `verify` said in its last line.
    pub proof: String,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spell {
    pub steps: u64,
    pub seconds: f64,
}

/// Recovery from the faults of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub fault: Fault,
    pub count: usize,
    /// Of those that hit a member while nothing else was being recovered from.
    pub alone: Option<Percentiles>,
    /// Of all that hit a member.
    pub all: Option<Percentiles>,
}

/// Milliseconds, by the nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spell {
    pub fn new(steps: u64, time: Duration) -> Spell {
        Spell { steps, seconds: time.as_secs_f64() }
    }

    /// Steps a second; 0 when no time went by.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.steps as f64 / self.seconds } else { 0.0 }
    }
}

impl Summary {
    /// One for each kind that there was.
    pub fn of(faults: &[Injected]) -> Vec<Summary> {
        let summary = |fault: Fault| {
            let of_kind: Vec<&Injected> = faults.iter().filter(|f| f.fault == fault).collect();
            let alone = of_kind.iter().filter(|fault| fault.alone);
            (!of_kind.is_empty()).then(|| Summary {
                fault,
                count: of_kind.len(),
                alone: Percentiles::of(alone.filter_map(|fault| fault.recovery_ms)),
                all: Percentiles::of(of_kind.iter().filter_map(|fault| fault.recovery_ms)),
            })
        };
        Fault::ALL.into_iter().filter_map(summary).collect()
    }

    /// "8 of kill: recovery p50 120 ms, p99 300 ms, max 310 ms (7 alone)".
    pub fn line(&self) -> String {
        let Summary { fault, count, alone, all } = self;
        match alone.or(*all) {
            None => format!("{count} of {fault}: no member was hit"),
            Some(found) => {
                let which = if alone.is_some() { "alone" } else { "amid others" };
                format!("{count} of {fault}: recovery {} ({} {which})", found.words(), found.count)
            }
        }
    }
}

impl Percentiles {
    /// "p50 120 ms, p99 300 ms, max 310 ms".
    pub fn words(&self) -> String {
        let Percentiles { p50, p99, max, .. } = self;
        format!("p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms")
    }

    pub fn of(values: impl Iterator<Item = f64>) -> Option<Percentiles> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let rank = |percent: usize| values[(count * percent).div_ceil(100).max(1) - 1];
        (count > 0).then(|| Percentiles { count, p50: rank(50), p99: rank(99), max: rank(100) })
    }
}
