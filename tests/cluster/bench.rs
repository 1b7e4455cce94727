//! `worker bench`: each part gives figures, and wrong arguments are told apart. What the figures are is not tested.

use cluster_tests::{Ended, Running};

use crate::refusals::{DATA, LIMIT, USAGE};

fn bench(args: &[&str]) -> Ended {
    let mut command = cluster_tests::worker(&["bench"]);
    command.args(args);
    Running::spawn(command).finish(LIMIT)
}

#[test]
fn every_part_of_training_gives_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let small = ["--input", "3x8x8", "--batch", "4", "--threads", "1", "--seconds", "0", "--json"];
    let exchange = ["exchange", "--megabytes", "1", "--seconds", "0", "--json"];
    for (args, figures) in [
        (small.to_vec(), &["images_per_second", "peak_gflops", "share_of_peak"][..]),
        ([&small[..], &["--workers", "2"]].concat(), &["images_per_second", "peak_memory_bytes"]),
        ([&exchange[..], &["--workers", "2,3"]].concat(), &["gb_per_second", "\"workers\": 3"]),
        ([&exchange[..], &["--workers", "2", "--tcp"]].concat(), &["gb_per_second", "tcp"]),
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
