//! `cargo xtask overhead`: what surviving costs a training step when nothing goes wrong: digests, reports, journal, metrics.
//!
//! A real run of one worker, coordinator beside it: the processor time of the whole coordinator and of those threads of the
//! worker that neither compute nor exchange nor load, against the wall time of the steps that the metrics tell. The digest is
//! computed on the training thread; `worker bench` times it apart. Differences of a percent can't be read off two runs on a
//! machine with other users; sums of processor time can.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::bench::record::{commit_of, load, processor};
use crate::programs;

/// Measures, prints and writes to `bench/results`. An error when it costs more than it may.
pub(crate) fn run(root: &Path, out: &mut dyn Write) -> Result<()> {
    let programs = programs::build(root, &["worker", "coordinator"])?;
    let folder = programs::target(root).join("overhead");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("clear the last run")?;
    }
    let job = write_job(root, &folder)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let before = load();
    let digest = digest_ms(&programs.join("worker"), threads)?;
    let run = TrainingRun::start(&programs.join("coordinator"), &job, &folder, threads)?;
    let first = run.after(FIRST_STEP)?;
    let last = run.after(LAST_STEP)?;
    let steps = (last.steps - first.steps) as f64;
    let each = |of: fn(&Sample) -> f64| (of(&last) - of(&first)) / steps;
    let step = each(|sample| sample.step_ms);
    let (coordinator, worker) = (each(|s| s.coordinator_ms), each(|s| s.protocol_ms));
    let share = (digest + coordinator + worker) / step;
    let line = format!(
        "ResNet-18, 3x224x224, batch {BATCH}, 1 worker x {threads} threads: step {step:.1} ms; digest {digest:.2} ms, \
         the worker's session {worker:.2} ms, the coordinator {coordinator:.2} ms of processor time: {:.2} % of a step",
        100.0 * share
    );
    writeln!(out, "{line}")?;
    let (commit, seconds) =
        (commit_of(root), SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let found = json!({
        "commit": commit, "processor": processor(), "cores": threads, "load": [before, load()], "unix_seconds": seconds,
        "batch": BATCH, "steps": steps, "step_ms": step, "digest_ms": digest, "session_ms": worker, "coordinator_ms": coordinator,
        "share": share,
    });
    let path = root.join("bench").join("results").join(format!("overhead-{commit}-{seconds}.json"));
    std::fs::write(&path, format!("{found:#}\n"))
        .with_context(|| format!("write {}", path.display()))?;
    writeln!(out, "{}", path.display())?;
    let (percent, aim) = (100.0 * share, 100.0 * SHARE_MAX);
    ensure!(share < SHARE_MAX, "{percent:.2} % of a step is not below the aim of {aim} %");
    Ok(())
}

/// Photos of the dataset crate's tests, a few times each, and the job that trains on them.
fn write_job(root: &Path, folder: &Path) -> Result<PathBuf> {
    let fixtures = root.join("dataset").join("tests").join("fixtures");
    for (split, count) in [("train", IMAGES / 2), ("val", 1)] {
        for (class, file) in [("a", "baseline_420.jpg"), ("b", "baseline_444.jpg")] {
            let place = folder.join("data").join(split).join(class);
            std::fs::create_dir_all(&place)?;
            for number in 0..count {
                let image = fixtures.join(file);
                std::fs::copy(&image, place.join(format!("{number}.jpg")))
                    .with_context(|| format!("copy {}", image.display()))?;
            }
        }
    }
    let text = format!(
        "name = \"overhead\"\n[data]\nformat = \"imagefolder\"\npath = \"data\"\nsize = 224\n[model]\narch = \"resnet18\"\n\
         [train]\nepochs = 20\nbatch = {BATCH}\nslices = 1\n[optimizer]\nlearning_rate = 0.001\n[checkpoint]\nevery_epochs = 20\n"
    );
    let path = folder.join("job.toml");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn digest_ms(worker: &Path, threads: usize) -> Result<f64> {
    let (batch, threads) = (BATCH.to_string(), threads.to_string());
    let output = Command::new(worker)
        .args(["bench", "--model", "resnet18", "--stem", "imagenet", "--input", "3x224x224"])
        .args(["--batch", &batch, "--threads", &threads, "--json"])
        .output()
        .context("run worker bench")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).context("read worker bench")?;
    let digest = &report["phases"]["digest"]["median_ms"];
    digest.as_f64().with_context(|| format!("worker bench tells no digest: {report}"))
}

/// `coordinator train` and its worker. Dropping it ends both.
struct TrainingRun {
    coordinator: Child,
    metrics: PathBuf,
}

/// Sums since the start, after so many steps.
struct Sample {
    steps: usize,
    step_ms: f64,
    coordinator_ms: f64,
    protocol_ms: f64,
}

impl TrainingRun {
    fn start(program: &Path, job: &Path, folder: &Path, threads: usize) -> Result<TrainingRun> {
        let state = folder.join("state");
        let coordinator = Command::new(program)
            .arg("train")
            .arg(job)
            .args(["--workers", "1", "--threads", &threads.to_string(), "--state"])
            .arg(&state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start a run")?;
        let metrics = state.join("jobs").join("overhead-1").join("metrics.jsonl");
        Ok(TrainingRun { coordinator, metrics })
    }

    fn after(&self, step: usize) -> Result<Sample> {
        let began = Instant::now();
        loop {
            let (steps, step_ms) = self.steps();
            if steps >= step {
                let coordinator = self.coordinator.id();
                let worker = child_of(coordinator)?;
                let coordinator_ms = tasks(coordinator)?.iter().map(|task| task.1).sum();
                let protocol = tasks(worker)?;
                let protocol = protocol.iter().filter(|(name, _)| !has_other_work(name));
                let protocol_ms = protocol.map(|task| task.1).sum();
                return Ok(Sample { steps, step_ms, coordinator_ms, protocol_ms });
            }
            ensure!(began.elapsed() < PATIENCE, "{steps} of {step} steps after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Steps in the metrics, and the worker's time in them.
    fn steps(&self) -> (usize, f64) {
        let text = std::fs::read_to_string(&self.metrics).unwrap_or_default();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let phases = rows.filter_map(|row| {
            let times = row["workers"].as_object()?.values().next()?.as_object()?;
            Some(times.values().filter_map(Value::as_f64).sum::<f64>())
        });
        phases.fold((0, 0.0), |(steps, sum), step| (steps + 1, sum + step))
    }
}

impl Drop for TrainingRun {
    fn drop(&mut self) {
        // Its worker ends with it.
        self.coordinator.kill().ok();
        self.coordinator.wait().ok();
    }
}

/// Computes, exchanges or loads: what any data-parallel training does.
fn has_other_work(thread: &str) -> bool {
    ["trainer", "compute-", "exchange-", "loader", "decode-"]
        .iter()
        .any(|name| thread.starts_with(name))
}

fn child_of(process: u32) -> Result<u32> {
    let mut children = String::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        children.push_str(&std::fs::read_to_string(task?.path().join("children"))?);
    }
    let first = children.split_whitespace().next().context("the coordinator has no worker")?;
    Ok(first.parse()?)
}

/// Names and milliseconds of processor time of a process's threads.
fn tasks(process: u32) -> Result<Vec<(String, f64)>> {
    let folder = std::fs::read_dir(format!("/proc/{process}/task"))?;
    folder
        .map(|task| {
            let task = task?.path();
            let name = std::fs::read_to_string(task.join("comm"))?.trim().to_owned();
            // First of three numbers: nanoseconds on a processor (proc(5), schedstat).
            let spent = std::fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds: f64 =
                spent.split(' ').next().context("schedstat is empty")?.parse()?;
            Ok((name, nanoseconds / 1e6))
        })
        .collect()
}

/// Of a step.
const SHARE_MAX: f64 = 0.01;
const BATCH: usize = 16;
const IMAGES: usize = 64;
/// Steps before it do what is done once.
const FIRST_STEP: usize = 6;
const LAST_STEP: usize = 60;
const PATIENCE: Duration = Duration::from_secs(300);
