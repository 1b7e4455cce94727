//! A checkpoint's way to disk and back, phase by phase. Copying, encoding and decoding are the worker's own; the files are
//! written, synced and hashed here as the coordinator's store does it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::{Buffer, Device};
use proto::job::Model;
use proto::manifest::{MODEL_FILE, OPTIMIZER_FILE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::report::{Machine, Spread};
use super::{BenchError, print};
use crate::args::BenchCheckpoint;
use crate::checkpoint::{Snapshot, decode_model, decode_optimizer};
use crate::join::all_cores;
use crate::model::{Geometry, ResNet};

/// Measures, and writes a table or JSON to `out`.
pub(super) fn run(args: &BenchCheckpoint, out: &mut dyn Write) -> Result<(), BenchError> {
    let device = Device::cpu(all_cores())?;
    let geometry = Geometry {
        slices: 1,
        batch: 1,
        height: 224,
        width: 224,
        channels: 3,
        classes: args.classes.get(),
    };
    let mut model = ResNet::new(&device, &Model::standard(args.model), geometry);
    model.initialise(1);
    let velocity = device.alloc(model.params().len());
    let folder = args.dir.join(format!("worker-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let rounds: Result<Vec<[Duration; 6]>, BenchError> =
        (0..ROUNDS).map(|_| round(&mut model, &velocity, &folder)).collect();
    let bytes = fs::metadata(folder.join(MODEL_FILE))
        .and_then(|model| Ok(model.len() + fs::metadata(folder.join(OPTIMIZER_FILE))?.len()));
    fs::remove_dir_all(&folder)?;
    let (rounds, bytes) = (rounds?, bytes?);
    let phase = |at: usize| Spread::of(rounds.iter().map(|round| round[at]));
    let report = Report {
        machine: Machine::this(),
        settings: args.clone(),
        bytes,
        phases: std::array::from_fn(|at| (PHASES[at], phase(at))),
    };
    print(out, args.json, &report, || report.json())
}

/// Once to disk and back; the state that comes back is compared with the one that went.
fn round(
    model: &mut ResNet,
    velocity: &Buffer,
    folder: &Path,
) -> Result<[Duration; PHASES.len()], BenchError> {
    let mut times = [Duration::ZERO; PHASES.len()];
    let mut since = Instant::now();
    let mut lap = |phase: usize| {
        times[phase] = since.elapsed();
        since = Instant::now();
    };
    let layout = Arc::new(model.layout().clone());
    let host = |buffer: &Buffer| buffer.host().expect(ON_HOST).to_vec();
    let (params, running) = (host(model.params()), host(model.running()));
    let snapshot =
        Snapshot { step: 1, layout, params, running, velocity: host(velocity), average: None };
    lap(0);
    let files =
        [(MODEL_FILE, snapshot.encode_model()), (OPTIMIZER_FILE, snapshot.encode_optimizer())];
    lap(1);
    let digests = files.each_ref().map(|(_, bytes)| Sha256::digest(bytes));
    lap(2);
    for (name, bytes) in &files {
        let mut file = File::create(folder.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    File::open(folder)?.sync_all()?;
    lap(3);
    let mut back = Vec::with_capacity(files.len());
    for (at, (name, _)) in files.iter().enumerate() {
        let bytes = fs::read(folder.join(name))?;
        if Sha256::digest(&bytes) != digests[at] {
            return Err(io::Error::other(format!("{name} changed on its way to disk")).into());
        }
        back.push(bytes);
    }
    lap(4);
    let Snapshot { layout, params, running, velocity, .. } = &snapshot;
    let mut state = (params.clone(), running.clone(), velocity.clone());
    decode_model(layout, &back[0], &mut state.0, &mut state.1)?;
    decode_optimizer(layout, &back[1], &mut state.2)?;
    lap(5);
    assert!(
        (params, running, velocity) == (&state.0, &state.1, &state.2),
        "it comes back as it went"
    );
    Ok(times)
}

struct Report {
    machine: Machine,
    settings: BenchCheckpoint,
    /// Of both files.
    bytes: u64,
    phases: [(&'static str, Spread); PHASES.len()],
}

impl Report {
    fn rate(&self, time: Duration) -> f64 {
        self.bytes as f64 / 1e6 / time.as_secs_f64()
    }

    fn json(&self) -> Value {
        let phases = self.phases.iter().map(|(name, spread)| {
            let value = json!({ "mb_per_second": self.rate(spread.median), "wall": spread.json() });
            ((*name).to_owned(), value)
        });
        json!({
            "machine": self.machine.json(),
            "settings": { "model": self.settings.model.as_str(), "dir": self.settings.dir },
            "bytes": self.bytes,
            "phases": phases.collect::<serde_json::Map<String, Value>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchCheckpoint { model, dir, .. } = &self.settings;
        let megabytes = self.bytes as f64 / 1e6;
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{}, {megabytes:.0} MB in two files in {}\n", model.as_str(), dir.display())?;
        writeln!(f, "{:<24}{:>10}{:>10}", "phase", "ms", "MB/s")?;
        for (name, spread) in &self.phases {
            let (time, rate) = (spread.median.as_secs_f64() * 1e3, self.rate(spread.median));
            writeln!(f, "{name:<24}{time:>10.1}{rate:>10.0}")?;
        }
        Ok(())
    }
}

const PHASES: [&str; 6] =
    ["copy", "encode", "hash", "write and sync", "read back and hash", "decode"];
const ON_HOST: &str = "the CPU device's memory is host memory";
const ROUNDS: usize = 5;
