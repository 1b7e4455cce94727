//! Every reader of what strangers send and disks hold, on the corpus of the fuzz targets and on some thousand changes of each
//! file in it. `fuzz/README.md` tells how to look for more.
//!
//! `FUZZ_CORPUS=write` writes the seeds that are made here into the corpus, `FUZZ_CHANGES=100000` tries more changes.

#[allow(unreachable_pub, reason = "it is a library of its own, too")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use dataset::Draws;
use targets::{TARGETS, Target};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// Seeds and findings, in a fixed order.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = corpus(target);
    let made = seeds::of(target);
    if std::env::var("FUZZ_CORPUS").is_ok_and(|value| value == "write") {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in &made {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let stored = files.iter().map(|file| std::fs::read(file).unwrap());
    made.into_iter().map(|(_, bytes)| bytes).chain(stored).collect()
}

#[test]
fn no_reader_breaks_on_the_corpus_or_on_changes_of_it() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        let wanted = std::env::var("FUZZ_CHANGES").ok();
        let wanted = wanted.map_or(CHANGES, |text| text.parse().expect("FUZZ_CHANGES is a number"));
        let changes = wanted / inputs.len() as u64;
        for (number, input) in inputs.iter().enumerate() {
            run(name, target, input);
            for change in 0..changes {
                let mut draws = Draws::new(number as u64, change);
                let other = &inputs[draws.below(inputs.len() as u64) as usize];
                run(name, target, &changed(input, other, &mut draws));
            }
        }
    }
}

/// What made it panic is kept, for the corpus.
fn run(name: &str, target: Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let found = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::write(&found, input).unwrap();
        eprintln!("{name} broke on {} bytes, see {}", input.len(), found.display());
        resume_unwind(panic);
    }
}

/// One to four changes: bits, bytes, lengths that lie, cuts, repeats, and a part of another input.
fn changed(input: &[u8], other: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=draws.below(4) {
        let len = bytes.len() as u64;
        let mut place = || draws.below(len + 1) as usize;
        let (at, to) = (place(), place());
        let (at, to) = (at.min(to), at.max(to));
        match draws.below(7) {
            0 => bytes.truncate(to),
            1 => drop(bytes.drain(at..to.min(at + 64))),
            2 => {
                let again = bytes[at..to.min(at + 64)].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let from = draws.below(other.len() as u64 + 1) as usize;
                let part = &other[from..other.len().min(from + 64)];
                bytes.splice(at..to.min(at + 64), part.iter().copied());
            }
            4 => {
                let lie = LIES[draws.below(LIES.len() as u64) as usize].to_le_bytes();
                let width = 1 << draws.below(4);
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&lie[..end - at]);
            }
            5 if at < bytes.len() => bytes[at] = draws.below(256) as u8,
            _ if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
            _ => {}
        }
    }
    bytes
}

/// Numbers at the edges of their types, and of limits.
const LIES: [u64; 8] =
    [0, 1, u64::MAX, 1 << 60, i64::MAX as u64, 1 << 31, (1 << 24) - 1, 0x7fff_7fff_7fff_7fff];
/// For each target, in a few seconds.
const CHANGES: u64 = 2000;
