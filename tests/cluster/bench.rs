//! `worker bench`: each part gives figures, and wrong arguments are told apart. What the figures are is not tested.

use std::io::Write;
use std::process::Stdio;

use cluster_tests::{Ended, Running};

use crate::quarantine::image_folder;
use crate::refusals::{DATA, LIMIT, USAGE};

fn bench(args: &[&str]) -> Ended {
    let mut command = cluster_tests::worker(&["bench"]);
    command.args(args);
    Running::spawn(command).finish(LIMIT)
}

#[test]
fn every_part_of_training_gives_its_figures() {
    let (folder, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = folder.path().to_str().unwrap();
    let photos = image_folder(photos.path());
    let photos = ["loader", "--data", photos.to_str().unwrap(), "--images", "32", "--seconds", "0"];
    let small = ["--input", "3x8x8", "--batch", "4", "--threads", "1", "--seconds", "0", "--json"];
    let exchange = ["exchange", "--megabytes", "1", "--seconds", "0", "--json"];
    for (args, figures) in [
        (small.to_vec(), &["images_per_second", "peak_gflops", "share_of_peak"][..]),
        ([&small[..], &["--workers", "2"]].concat(), &["images_per_second", "isa", "bucket_mib"]),
        ([&exchange[..], &["--workers", "2,3"]].concat(), &["gb_per_second", "\"workers\": 3"]),
        ([&exchange[..], &["--workers", "2", "--tcp"]].concat(), &["gb_per_second", "tcp"]),
        (
            [&photos[..], &["--json"]].concat(),
            &["images_per_second", "images_per_processor_second"],
        ),
        (
            vec!["checkpoint", "--model", "resnet18", "--dir", dir, "--json"],
            &["write and sync", "mb_per_second"],
        ),
    ] {
        let ended = bench(&args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        for figure in figures {
            assert!(ended.stdout.contains(figure), "{args:?}: no {figure} in {}", ended.stdout);
        }
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "nothing is left in the folder");
}

#[test]
fn a_paced_bench_does_a_round_for_each_line() {
    let mut command = cluster_tests::worker(&["bench", "--paced"]);
    command.args(["--input", "3x8x8", "--batch", "4", "--threads", "1"]);
    let mut paced = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Nothing is left to say when these are answered, which ends it.
    paced.stdin.take().unwrap().write_all(b"\n\n").unwrap();
    let said = String::from_utf8(paced.wait_with_output().unwrap().stdout).unwrap();
    let [ready, rounds @ ..] = &said.lines().collect::<Vec<&str>>()[..] else { panic!("silent") };
    assert_eq!((*ready, rounds.len()), ("ready", 2), "{said}");
    for round in rounds {
        let numbers: Vec<f64> = round.split(' ').map(|number| number.parse().unwrap()).collect();
        assert!(numbers.len() == 3 && numbers[0] > 0.0, "{said}");
    }
}

#[test]
fn what_can_not_be_measured_is_refused() {
    for (args, code, message) in [
        (&["--batch", "10", "--slices", "4"][..], USAGE, "equal slices"),
        (&["--workers", "3", "--batch", "6"], USAGE, "power of two"),
        (&["exchange", "--workers", "1"], USAGE, "2 to 64"),
        (&["loader", "--data", "/nowhere"], DATA, "/nowhere"),
    ] {
        let ended = bench(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(message), "{args:?}: {}", ended.stderr);
    }
}
