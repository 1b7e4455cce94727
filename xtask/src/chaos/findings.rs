//! What the reports of storms come to: recovery by kind, steps/s against none, and whether the aims are met. Pure.

use serde_json::{Value, json};

/// Recovery from the faults of one kind.
#[derive(Debug, PartialEq)]
pub(super) struct Recovery {
    /// As in the reports, but for pauses, which are two kinds: shorter than it takes to be noticed, and longer.
    pub(super) kind: &'static str,
    pub(super) count: usize,
    /// Milliseconds, ascending: of those that hit a member while nothing else was out of order.
    pub(super) alone: Vec<f64>,
    /// Of all that hit a member.
    pub(super) all: Vec<f64>,
}

/// Steps a second under a plan, by those without faults in the same run.
#[derive(Debug, PartialEq)]
pub(super) struct Goodput {
    plan: String,
    share: Option<f64>,
    faults: usize,
    /// With and without faults, in turn.
    spells: Value,
    rates: [f64; 2],
}

/// An aim, and what was reached.
#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    what: String,
    aim: f64,
    /// Above the aim is good.
    at_least: bool,
    reached: Option<f64>,
}

impl Recovery {
    pub(super) fn all(faults: &[Value]) -> Vec<Recovery> {
        let recovery = |kind: &'static str| {
            let of_kind: Vec<&Value> = faults.iter().filter(|f| kind_of(f) == kind).collect();
            let times = |alone: bool| {
                let counts = of_kind.iter().filter(|f| !alone || f["alone"] == true);
                let mut times: Vec<f64> =
                    counts.filter_map(|f| f["recovery_ms"].as_f64()).collect();
                times.sort_by(f64::total_cmp);
                times
            };
            Recovery { kind, count: of_kind.len(), alone: times(true), all: times(false) }
        };
        KINDS.into_iter().map(recovery).filter(|recovery| recovery.count > 0).collect()
    }

    /// How long runs stood still to take workers in: between two steps, without the usual time between two.
    pub(super) fn of_joins(kind: &'static str, reports: &[Value]) -> Recovery {
        let mut times = Vec::new();
        for report in reports {
            let Some(step_ms) = report["step_ms"].as_f64() else { continue };
            let gaps = report["taken_in_ms"].as_array().into_iter().flatten();
            times.extend(gaps.filter_map(Value::as_f64).map(|gap| (gap - step_ms).max(0.0)));
        }
        times.sort_by(f64::total_cmp);
        Recovery { kind, count: times.len(), alone: times.clone(), all: times }
    }

    pub(super) fn line(&self) -> String {
        let Recovery { kind, count, alone, .. } = self;
        let shown = |percent| percentile(alone, percent).unwrap_or(f64::NAN);
        let (p50, p99, most, measured) = (shown(50), shown(99), shown(100), alone.len());
        format!(
            "{count} of {kind}: p50 {p50:.0} ms, p99 {p99:.0} ms, max {most:.0} ms ({measured} alone)"
        )
    }

    pub(super) fn json(&self) -> Value {
        let spread = |times: &[f64]| {
            json!({
                "count": times.len(), "p50_ms": percentile(times, 50), "p99_ms": percentile(times, 99),
                "max_ms": percentile(times, 100),
            })
        };
        json!({ "kind": self.kind, "count": self.count, "alone": spread(&self.alone), "all": spread(&self.all) })
    }
}

impl Goodput {
    pub(super) fn of(report: &Value) -> Goodput {
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let rate = |spell: &Value| number(&spell["steps"]) / number(&spell["seconds"]);
        Goodput {
            plan: report["asked"].as_str().unwrap_or_default().to_owned(),
            share: report["goodput"].as_f64(),
            faults: report["faults"].as_array().map_or(0, Vec::len),
            spells: report["spells"].clone(),
            rates: [rate(&report["storm"]), rate(&report["undisturbed"])],
        }
    }

    pub(super) fn line(&self) -> String {
        let Goodput { plan, share, faults, spells, rates: [with, without] } = self;
        let percent = 100.0 * share.unwrap_or(f64::NAN);
        let spells = spells.as_array().map_or(0, Vec::len);
        format!(
            "{plan}: {percent:.1} % of the steps/s, median of the spells with faults ({with:.1}, without {without:.1}), \
             {faults} faults, {spells} spells"
        )
    }

    pub(super) fn json(&self) -> Value {
        let Goodput { plan, share, faults, spells, rates: [with, without] } = self;
        json!({
            "plan": plan, "goodput": share, "faults": faults, "spells": spells,
            "undisturbed_steps_per_second": without, "steps_per_second": with,
        })
    }
}

impl Bar {
    pub(super) fn all(recoveries: &[Recovery], readings: &[Goodput]) -> Vec<Bar> {
        let recovery = |kind: &str, percent: usize, aim: f64| {
            let found = recoveries.iter().find(|recovery| recovery.kind == kind);
            let reached = found.and_then(|recovery| percentile(&recovery.alone, percent));
            let what = format!("{kind}: milliseconds to recover, p{percent}");
            Bar { what, aim, at_least: false, reached }
        };
        let goodput = |plan: &str, aim: f64| {
            let found = readings.iter().find(|reading| reading.plan == plan);
            let what = format!("{plan}: share of the undisturbed steps/s, median");
            Bar { what, aim, at_least: true, reached: found.and_then(|reading| reading.share) }
        };
        vec![
            recovery("kill", 50, 300.0),
            recovery("kill", 99, 1000.0),
            recovery(LONG_PAUSE, 99, 3000.0),
            recovery(LARGE_STATE, 99, 500.0),
            goodput("kill 60s", 0.97),
            goodput("kill 15s", 0.90),
            goodput("coordinator 15s", 0.99),
        ]
    }

    pub(super) fn met(&self) -> Option<bool> {
        let reached = self.reached?;
        Some(if self.at_least { reached >= self.aim } else { reached < self.aim })
    }

    pub(super) fn line(&self) -> String {
        let Bar { what, aim, at_least, reached } = self;
        let bound = if *at_least { "at least" } else { "below" };
        let verdict = match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        match reached {
            Some(reached) => format!("{verdict}: {what}: {reached:.3}, aim {bound} {aim}"),
            None => format!("{verdict}: {what}, aim {bound} {aim}"),
        }
    }

    pub(super) fn json(&self) -> Value {
        let Bar { what, aim, at_least, reached } = self;
        json!({ "what": what, "aim": aim, "at_least": at_least, "reached": reached, "met": self.met() })
    }
}

/// A run's report in one line.
pub(super) fn line(report: &Value) -> String {
    let proof = report["proof"].as_str().unwrap_or("no proof");
    let seconds = report["storm"]["seconds"].as_f64().unwrap_or(f64::NAN);
    format!("{proof} ({seconds:.0} s)")
}

/// By the nearest rank, of ascending values.
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

fn kind_of(fault: &Value) -> &str {
    match fault["fault"].as_str() {
        Some("pause") if fault["length_ms"].as_u64() >= Some(NOTICED_MS) => LONG_PAUSE,
        Some("pause") => SHORT_PAUSE,
        other => other.unwrap_or_default(),
    }
}

/// A worker that was silent for so long is left out.
const NOTICED_MS: u64 = 2000;
pub(super) const SMALL_STATE: &str = "taking workers in";
pub(super) const LARGE_STATE: &str = "taking workers in with a state of 188 MB";
const SHORT_PAUSE: &str = "pause below 2 s";
const LONG_PAUSE: &str = "pause of 2 s or more";
const KINDS: [&str; 5] = ["kill", SHORT_PAUSE, LONG_PAUSE, "leave", "coordinator"];

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: &str, length_ms: u64, alone: bool, recovery_ms: Option<f64>) -> Value {
        json!({ "fault": kind, "length_ms": length_ms, "alone": alone, "recovery_ms": recovery_ms })
    }

    #[test]
    fn faults_are_counted_by_kind_and_aims_are_compared() {
        let faults = [
            fault("kill", 10, true, Some(200.0)),
            fault("kill", 10, true, Some(1200.0)),
            fault("kill", 10, false, Some(9000.0)),
            fault("kill", 10, true, None),
            fault("pause", 1999, true, Some(1990.0)),
            fault("pause", 2000, true, Some(2100.0)),
        ];
        let found = Recovery::all(&faults);
        let counts: Vec<_> = found.iter().map(|r| (r.kind, r.count, r.alone.len())).collect();
        assert_eq!(counts, [("kill", 4, 2), (SHORT_PAUSE, 1, 1), (LONG_PAUSE, 1, 1)]);
        assert_eq!(found[0].line(), "4 of kill: p50 200 ms, p99 1200 ms, max 1200 ms (2 alone)");
        let grown = json!({ "step_ms": 100.0, "taken_in_ms": [350.0, 90.0] });
        assert_eq!(Recovery::of_joins(SMALL_STATE, &[grown]).all, [0.0, 250.0]);
        let reading = Goodput::of(&json!({
            "asked": "kill 60s", "goodput": 0.98, "faults": [1], "spells": [],
            "storm": { "steps": 980, "seconds": 10.0 }, "undisturbed": { "steps": 1000, "seconds": 10.0 },
        }));
        let bars = Bar::all(&found, &[reading]);
        let met: Vec<_> = bars.iter().map(Bar::met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true), None, Some(true), None, None]);
        assert!(bars[1].line().starts_with("MISSED: kill: milliseconds to recover, p99: 1200"));
    }
}
