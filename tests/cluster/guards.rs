//! What must not go on silently: numbers that are not finite, and memory that changes by itself.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::{JobFile, Running, Train, coordinator, verified};

use crate::bits::{model_sha256, steps_in_metrics};

#[test]
fn a_worker_whose_weights_change_in_memory_is_evicted_and_the_bits_stay_the_same() {
    let folder = tempfile::tempdir().unwrap();
    // Updates too small to move a weight, so that what a checkpoint holds is found in a worker's memory.
    let job = JobFile::digits().with("learning_rate = 0.1", "learning_rate = 1e-30");
    let job = job.with("weight_decay = 5e-4", "weight_decay = 0.0");
    let job = job.with("epochs = 3", "epochs = 30").write(folder.path());
    let whole = folder.path().join("whole");
    let undisturbed = Train::new(&job, &whole).spawn().finish(LIMIT);
    let weights = tensor(&newest_model(&whole), "fc.bias");

    let flipped = folder.path().join("flipped");
    let train = Train { workers: 3, ..Train::new(&job, &flipped) };
    let mut running = train.spawn();
    running.wait_for(&["epoch 2 of"], LIMIT);
    let victim = running.children()[1];
    match flip(victim, &weights) {
        Err(error) => return println!("skipped: no access to another process's memory: {error}"),
        Ok(places) => assert!(places > 0, "the weights are not where they were looked for"),
    }
    let (line, _) = running.wait_for(&["evicted: it holds state"], LIMIT);
    assert!(line.contains("continuing with 2 workers"), "{line}");
    let ended = running.finish(LIMIT);
    assert_eq!(model_sha256(&ended), model_sha256(&undisturbed));
    assert_eq!(steps_in_metrics(&flipped), steps_in_metrics(&whole));
    assert!(verified(&flipped, "digits-1").contains("1 loss, 0 joins"));
}

#[test]
fn a_job_that_diverges_skips_steps_by_name_and_stops_with_its_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("learning_rate = 0.1", "learning_rate = 1e37");
    let job = job.write(folder.path());
    let state = folder.path().join("state");
    let ended = Train::new(&job, &state).spawn().finish(LIMIT);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    for count in ["1 in a row", "2 in a row", "the last of 3 in a row; lower the learning rate"] {
        let named = |line: &&str| {
            line.contains(count)
                && line.contains("skipped by all: the gradient of ")
                && line.contains(" of worker ")
                && line.contains("is not finite")
        };
        assert!(ended.stderr.lines().any(|line| named(&line)), "{count}: {}", ended.stderr);
    }
    let mut verify = coordinator(&["verify", "digits-1", "--state"]);
    verify.arg(&state);
    let proof = Running::spawn(verify).finish(LIMIT);
    assert_eq!(proof.code, Some(0), "{}{}", proof.stdout, proof.stderr);
    assert!(proof.stdout.contains(" skipped steps; not finished"), "{}", proof.stdout);
    // The state is on disk, and can be looked at.
    let values = tensor(&newest_model(&state), "fc.bias");
    let finite = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap()).is_finite();
    assert!(values.chunks_exact(4).all(finite));
}

fn newest_model(state: &Path) -> PathBuf {
    let folders = std::fs::read_dir(state.join("jobs/digits-1/checkpoints")).unwrap();
    let newest = folders.map(|entry| entry.unwrap().path()).max();
    newest.expect("there is a checkpoint").join("model.safetensors")
}

/// The bytes of one tensor of a safetensors file.
fn tensor(file: &Path, name: &str) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let offset = |at: usize| header[name]["data_offsets"][at].as_u64().unwrap() as usize;
    bytes[8 + len + offset(0)..8 + len + offset(1)].to_vec()
}

/// Flips a bit of the first number wherever these bytes lie in a process's memory. Gives the number of places.
fn flip(process: u32, pattern: &[u8]) -> std::io::Result<usize> {
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/mem"))?;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut places = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        // What can't be read is no memory of its own.
        if !rest.starts_with("rw-") || memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for at in memchr::memmem::find_iter(&bytes, pattern) {
            // The exponent's lowest bit: half or twice as large.
            memory.write_all_at(&[bytes[at + 2] ^ 0x80], start + at as u64 + 2)?;
            places += 1;
        }
    }
    Ok(places)
}

const LIMIT: Duration = Duration::from_secs(120);
