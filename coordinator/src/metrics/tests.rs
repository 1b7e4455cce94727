//! The file that people plot from, and the numbers they watch.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::*;
use crate::disk::recorder::{Fault, FaultKind, Recorder};
use crate::disk::sweep::{Swept, folder, needed_after_restart, needless_syncs, sweep};
use crate::fixtures::spec;

fn step(step: u64) -> Metric {
    let times = PhaseTimes { data_ns: 1_500_000, forward_ns: 2_000_000, ..PhaseTimes::default() };
    let times = vec![("w1".parse().unwrap(), times)];
    Metric::Step {
        step,
        loss: 0.5,
        correct: 9,
        gradient_norm: 1.5,
        samples: 16,
        skipped: None,
        times,
    }
}

fn meter(folder: &Path, at: u64) -> Meter {
    Meter::open(folder, "digits-1".parse().unwrap(), &spec(), at).unwrap()
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(metrics_path(folder)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_step_and_evaluation_is_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = meter(folder.path(), 0);
    for at in 1..=4 {
        meter.take(Duration::from_millis(100 * at), &step(at));
    }
    let evaluation = Evaluation { samples: 40, correct: 39, correct_top5: 40, loss: 0.25 };
    meter.take(Duration::from_secs(1), &Metric::Evaluation { step: 4, evaluation });
    meter.flush().unwrap();
    let lines = lines(folder.path());
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[1]["step"], 2);
    assert_eq!(lines[1]["epoch"], 0.5);
    assert_eq!(lines[1]["gradient_norm"], 1.5);
    assert_eq!(lines[1]["workers"]["w1"]["data_ms"], 1.5);
    assert_eq!(lines[4]["evaluation"]["correct"], 39);
}

#[test]
fn speed_is_what_was_done_in_the_last_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = meter(folder.path(), 0);
    meter.take(Duration::from_secs(1), &step(1));
    assert_eq!(meter.progress().images_per_second, 0.0);
    meter.take(Duration::from_secs(2), &step(2));
    assert_eq!(meter.progress().images_per_second, 16.0);
    assert_eq!(meter.progress().left, Some(Duration::from_secs(18)));
    for at in 3..=20 {
        meter.take(Duration::from_secs(100) + Duration::from_millis(500 * at), &step(at));
    }
    assert_eq!(meter.progress().images_per_second, 32.0);
    assert_eq!(meter.progress().left, Some(Duration::ZERO));
}

#[test]
fn steps_that_are_computed_again_are_cut_first() {
    let folder = tempfile::tempdir().unwrap();
    cut(folder.path(), 3).unwrap();
    let mut first = meter(folder.path(), 0);
    for at in 1..=5 {
        first.take(Duration::from_secs(at), &step(at));
    }
    first.flush().unwrap();
    cut(folder.path(), 3).unwrap();
    let mut second = meter(folder.path(), 3);
    second.take(Duration::from_secs(9), &step(4));
    second.flush().unwrap();
    let steps: Vec<_> = lines(folder.path()).iter().map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [Some(1), Some(2), Some(3), Some(4)]);
}

/// Steps of the file, each with the attempt that computed it (the loss).
fn rows(folder: &Path) -> Result<Vec<(u64, u64)>, String> {
    let text = std::fs::read_to_string(metrics_path(folder)).map_err(|e| e.to_string())?;
    let row = |line: &str| -> Option<(u64, u64)> {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["step"].as_u64()?, line["loss"].as_f64()? as u64))
    };
    text.lines().map(|line| row(line).ok_or_else(|| format!("{line:?} is no metric"))).collect()
}

/// Steps `steps` of the `attempt`-th time, as the driver has them written.
fn run(mut meter: Meter, attempt: u64, steps: RangeInclusive<u64>) -> Result<(), String> {
    for at in steps {
        let Metric::Step { step, correct, gradient_norm, samples, times, .. } = step(at) else {
            unreachable!("it is a step")
        };
        let loss = attempt as f64;
        let skipped = None;
        let metric = Metric::Step { step, loss, correct, gradient_norm, samples, skipped, times };
        meter.take(Duration::from_secs(at), &metric);
        // Lines wait in memory while the disk fails.
        meter.flush().ok();
    }
    match meter.missing() {
        0 => Ok(()),
        lines => Err(format!("{lines} lines are missing")),
    }
}

#[test]
fn after_a_crash_the_metrics_are_the_first_lines_that_were_written() {
    let place = folder();
    let recorder = Recorder::watch(place.path());
    run(meter(recorder.root(), 0), 1, 1..=3).unwrap();
    cut(recorder.root(), 1).unwrap();
    recorder.promise(2);
    run(meter(recorder.root(), 1), 2, 2..=4).unwrap();
    let recover = |recorder: &Recorder, promised: &[u64]| {
        let root = recorder.root();
        let meter = meter(root, 0);
        let found = rows(root)?;
        let (first, second) = (vec![(1, 1), (2, 1), (3, 1)], vec![(1, 1), (2, 2), (3, 2), (4, 2)]);
        let ours = found.iter().take_while(|(_, by)| *by < 3).count();
        let (ours, theirs) = found.split_at(ours);
        let is_row = theirs.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0 && pair[1].1 == 3);
        let of_first = first.starts_with(ours) && !promised.contains(&2);
        if !is_row || !(of_first || second.starts_with(ours)) {
            return Err(format!("{found:?} are not the first lines"));
        }
        let last = last_step(root).map_err(|e| e.to_string())?;
        if last != found.last().map_or(0, |(step, _)| *step) {
            return Err(format!("{last} is not the last of {found:?}"));
        }
        run(meter, 3, last + 1..=last + 2)
    };
    let recording = recorder.recording();
    let swept = sweep(&recording, 3, &recover).unwrap();
    let Swept { states, second_crashes } = swept;
    eprintln!("metrics: {states} states after a crash, {second_crashes} after a second one");
    assert!(swept.states > 50, "{swept:?}");
    // What an opening syncs is what a process before it, that was killed, may have cut.
    assert_eq!(needless_syncs(&recording, 0, &recover), ["metrics.jsonl"; 2]);
    let needed = needed_after_restart(&recording, usize::MAX, &recover).unwrap();
    assert_eq!(needed, [PathBuf::from("metrics.jsonl")].into());
}

#[test]
fn lines_that_met_a_failing_disk_are_written_when_it_works_again() {
    for at in 0..4 {
        for kind in [FaultKind::Io, FaultKind::Full] {
            let place = folder();
            let recorder = Recorder::watch(place.path());
            let mut meter = meter(recorder.root(), 0);
            recorder.fail(Fault { at, kind, file: "metrics.jsonl" });
            for number in 1..=4 {
                meter.take(Duration::from_secs(number), &step(number));
                meter.flush().ok();
            }
            assert!(recorder.heal());
            meter.take(Duration::from_secs(5), &step(5));
            meter.flush().unwrap();
            let steps: Vec<_> = rows(recorder.root()).unwrap().iter().map(|row| row.0).collect();
            assert_eq!(steps, [1, 2, 3, 4, 5], "{kind:?} at {at}");
        }
    }
}
