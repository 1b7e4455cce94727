//! What a worker plans to need and what it needs.

use cluster_tests::{ControlPlane, JobFile};

use crate::operators::follow;
use crate::refusals::LIMIT;

#[test]
fn the_planned_peak_of_memory_is_within_a_tenth_of_the_measured_one() {
    let folder = tempfile::tempdir().unwrap();
    // Large enough that the model counts for more than the program.
    let job = JobFile::digits()
        .with("widths = [8, 16]", "widths = [32, 512]")
        .with("epochs = 3", "epochs = 2")
        .with("batch = 64\nslices = 8", "batch = 128\nslices = 2");
    let job = job.write(folder.path());
    for workers in [1, 2] {
        let mut plane = ControlPlane::start(&folder.path().join(format!("state-{workers}")));
        let mut running: Vec<_> =
            (0..workers).map(|number| plane.worker(&format!("w{number}"))).collect();
        plane.submit(&job, workers);
        follow(&plane, "digits-1");
        for worker in &mut running {
            let (line, _) = worker.wait_for(&["model planned"], LIMIT);
            let planned = number_after(&line, "memory_mib=");
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id()));
            let measured = number_after(&status.unwrap(), "VmHWM:") / 1024.0;
            let share = planned / measured;
            assert!((0.9..=1.1).contains(&share), "planned {planned} MiB, measured {measured}");
        }
    }
}

/// The first number behind some words.
fn number_after(text: &str, words: &str) -> f64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits = rest.trim_start().split(|next: char| !next.is_ascii_digit()).next();
    digits.unwrap_or_default().parse().unwrap()
}
