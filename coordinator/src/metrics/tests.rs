//! The file that people plot from, and the numbers they watch.

use serde_json::Value;

use super::*;
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
