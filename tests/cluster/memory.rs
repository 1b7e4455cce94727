//! What a worker plans to need and what it needs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use cluster_tests::{ControlPlane, JobFile, Running, digits_folder};

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
        running.iter_mut().for_each(has_planned_its_peak);
    }
}

#[test]
fn a_dataset_in_memory_is_a_part_of_the_planned_peak() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    write_idx(&data, "train", 12_000);
    write_idx(&data, "t10k", 100);
    let job = JobFile::digits()
        .with(&digits_folder().display().to_string(), &data.display().to_string())
        .with("stem = \"cifar\"", "stem = \"imagenet\"")
        .with("epochs = 3", "epochs = 1");
    let job = job.write(folder.path());
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let mut worker = plane.worker("w0");
    plane.submit(&job, 1);
    follow(&plane, "digits-1");
    has_planned_its_peak(&mut worker);
}

/// Images of 64x64 pixels with random values, of ten classes: 48 MiB are 12,288 of them.
fn write_idx(data: &Path, split: &str, count: u32) {
    let file = |kind: &str, words: &[u32]| {
        let mut file = File::create(data.join(format!("{split}-{kind}-ubyte"))).unwrap();
        let header: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        file.write_all(&header).unwrap();
        file
    };
    let mut random = File::open("/dev/urandom").unwrap().take(u64::from(count) * 64 * 64);
    io::copy(&mut random, &mut file("images-idx3", &[0x803, count, 64, 64])).unwrap();
    let labels: Vec<u8> = (0..count).map(|number| (number % 10) as u8).collect();
    file("labels-idx1", &[0x801, count]).write_all(&labels).unwrap();
}

fn has_planned_its_peak(worker: &mut Running) {
    let (line, _) = worker.wait_for(&["model planned"], LIMIT);
    let planned = number_after(&line, "memory_mib=");
    let status = fs::read_to_string(format!("/proc/{}/status", worker.id()));
    let measured = number_after(&status.unwrap(), "VmHWM:") / 1024.0;
    let share = planned / measured;
    assert!((0.9..=1.1).contains(&share), "planned {planned} MiB, measured {measured}");
}

/// The first number behind some words.
fn number_after(text: &str, words: &str) -> f64 {
    let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits = rest.trim_start().split(|next: char| !next.is_ascii_digit()).next();
    digits.unwrap_or_default().parse().unwrap()
}
