//! Which faults come, how often, and when: "kill 5s, pause 20s". Pure: the times, victims and lengths are functions of the
//! seed, so that a storm can be had again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dataset::Draws;
use serde::Serialize;

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL of a worker; another process joins in its place.
    Kill,
    /// SIGSTOP of a worker, then SIGCONT.
    Pause,
    /// SIGTERM of a worker; another process joins in its place.
    Leave,
    /// SIGKILL of the coordinator; it starts again with the same state.
    Coordinator,
}

/// The faults of a storm, with the mean time between two of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    means: Vec<(Fault, Duration)>,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// Since the storm began.
    pub at: Duration,
    pub fault: Fault,
    /// Picks the victim among those that can be hit then: its remainder is the index.
    pub pick: u64,
    /// How long the victim is stopped, or away.
    pub length: Duration,
}

/// The endless sequence of a plan's faults, in the order of their times. Those of each kind come as a Poisson process.
#[derive(Debug)]
pub struct Schedule {
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    fault: Fault,
    mean: Duration,
    draws: Draws,
    next: Blow,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{word:?} is no fault; there are kill, pause, leave and coordinator: {EXAMPLE}")]
    Fault { word: String },
    #[error("{part:?} is not a fault and the mean time between two of them: {EXAMPLE}")]
    Part { part: String },
    #[error("{word:?} is no time; write 500ms, 5s or 2m: {EXAMPLE}")]
    Time { word: String },
    #[error("{word:?} is not between 100ms and 1440m: {EXAMPLE}")]
    Range { word: String },
    #[error("{fault} is there twice; give one mean time for it")]
    Twice { fault: Fault },
}

impl Fault {
    pub const ALL: [Fault; 4] = [Fault::Kill, Fault::Pause, Fault::Leave, Fault::Coordinator];

    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Leave => "leave",
            Fault::Coordinator => "coordinator",
        }
    }

    /// Between which times it lasts. A pause may be too short to be noticed, or too long to be waited for.
    fn lengths(self) -> [Duration; 2] {
        let [least, most] = match self {
            Fault::Kill | Fault::Leave => [0, 600],
            Fault::Pause => [200, 3000],
            Fault::Coordinator => [100, 1000],
        };
        [Duration::from_millis(least), Duration::from_millis(most)]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Plan, PlanError> {
        let mut means: Vec<(Fault, Duration)> = Vec::new();
        for part in text.split(',') {
            let words: Vec<&str> = part.split_whitespace().collect();
            let [name, time] = words[..] else {
                return Err(PlanError::Part { part: part.trim().to_owned() });
            };
            let fault = Fault::ALL.into_iter().find(|fault| fault.as_str() == name);
            let fault = fault.ok_or_else(|| PlanError::Fault { word: name.to_owned() })?;
            if means.iter().any(|(other, _)| *other == fault) {
                return Err(PlanError::Twice { fault });
            }
            means.push((fault, mean(time)?));
        }
        Ok(Plan { means })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |(fault, mean): &(Fault, Duration)| format!("{fault} {}ms", mean.as_millis());
        f.write_str(&self.means.iter().map(part).collect::<Vec<_>>().join(", "))
    }
}

fn mean(word: &str) -> Result<Duration, PlanError> {
    let unit = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (number, unit) = word.split_at(unit);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(PlanError::Time { word: word.to_owned() }),
    };
    let number: u64 = number.parse().map_err(|_| PlanError::Time { word: word.to_owned() })?;
    let total = number.saturating_mul(milliseconds);
    if !(MEAN_MS_MIN..=MEAN_MS_MAX).contains(&total) {
        return Err(PlanError::Range { word: word.to_owned() });
    }
    Ok(Duration::from_millis(total))
}

impl Schedule {
    pub fn new(plan: &Plan, seed: u64) -> Schedule {
        let stream = |&(fault, mean): &(Fault, Duration)| {
            // Each kind has draws of its own, so that one more kind moves none of the others.
            let mut draws = Draws::new(seed, fault as u64);
            let next = following(Duration::ZERO, fault, mean, &mut draws);
            Stream { fault, mean, draws, next }
        };
        Schedule { streams: plan.means.iter().map(stream).collect() }
    }
}

impl Iterator for Schedule {
    type Item = Blow;

    fn next(&mut self) -> Option<Blow> {
        let first = self.streams.iter_mut().min_by_key(|stream| (stream.next.at, stream.fault))?;
        let after = following(first.next.at, first.fault, first.mean, &mut first.draws);
        Some(std::mem::replace(&mut first.next, after))
    }
}

/// The first fault of a kind after a time: the gap is exponentially distributed.
fn following(after: Duration, fault: Fault, mean: Duration, draws: &mut Draws) -> Blow {
    let gap = mean.mul_f64(-(1.0 - draws.unit()).ln());
    let [least, most] = fault.lengths();
    let length = least + (most - least).mul_f64(draws.unit());
    Blow { at: after + gap, fault, pick: draws.next_u64(), length }
}

const EXAMPLE: &str = "for example \"kill 5s, pause 20s, coordinator 30s\"";
/// Below this there are only faults; above, none in a day.
const MEAN_MS_MIN: u64 = 100;
const MEAN_MS_MAX: u64 = 24 * 60 * 60 * 1000;
