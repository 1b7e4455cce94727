//! `cargo xtask chaos`: hundreds of faults on real runs of four workers, by `coordinator train --chaos`, each run proved by
//! `verify` and compared with the weights of an undisturbed one; then steps/s with few faults against none, in turn.
//!
//! Knows the programs and their reports; what they mean is `findings`.

mod findings;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bench::record::{commit_of, load, processor};
use findings::{Bar, Goodput, LARGE_STATE, Recovery, SMALL_STATE};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Storms follow each other until there were so many.
    faults: usize,
    seed: u64,
    /// Length of a run.
    epochs: usize,
    /// Of each plan whose steps/s are compared.
    rounds: usize,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options { faults: 500, seed: 1, epochs: 600, rounds: 3 };
        let mut rest = arguments;
        while let [flag, value, more @ ..] = rest {
            match *flag {
                "--faults" => options.faults = value.parse().context(USAGE)?,
                "--seed" => options.seed = value.parse().context(USAGE)?,
                "--epochs" => options.epochs = value.parse().context(USAGE)?,
                "--rounds" => options.rounds = value.parse().context(USAGE)?,
                _ => bail!(USAGE),
            }
            rest = more;
        }
        ensure!(rest.is_empty() && options.epochs > 0, USAGE);
        Ok(options)
    }
}

/// The programs, the jobs and where runs go.
struct Stage {
    coordinator: PathBuf,
    folder: PathBuf,
    /// Runs so far.
    runs: usize,
}

/// Storms, then steps/s; what was found goes to `out` and `bench/results`. An error when a run did not end with the weights of
/// an undisturbed one, or was not proved.
pub(crate) fn run(root: &Path, options: &Options, out: &mut dyn Write) -> Result<()> {
    let mut stage = Stage::set_up(root, options)?;
    let (commit, before) = (commit_of(root), load());
    let calm = stage.train(NO_FAULTS, options.seed)?;
    let weights = calm["model_sha256"].clone();
    say(out, &format!("undisturbed: {}", findings::line(&calm)))?;
    let mut runs = storms(&mut stage, options, out)?;
    let of_storms = |run: &Value| run["faults"].as_array().cloned().unwrap_or_default();
    let faults: Vec<Value> = runs.iter().flat_map(of_storms).collect();
    let (readings, compared) = compare(&mut stage, options, out)?;
    runs.extend(compared);
    let large = stage.train_job(LARGE_JOB, "kill 10s", options.seed)?;
    say(out, &format!("large state: {}", findings::line(&large)))?;
    let mut recoveries = Recovery::all(&faults);
    recoveries.push(Recovery::of_joins(SMALL_STATE, &runs));
    recoveries.push(Recovery::of_joins(LARGE_STATE, std::slice::from_ref(&large)));
    for recovery in &recoveries {
        say(out, &recovery.line())?;
    }
    let bars = Bar::all(&recoveries, &readings);
    for bar in &bars {
        say(out, &bar.line())?;
    }
    let same = runs.iter().filter(|report| report["model_sha256"] == weights).count();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let found = json!({
        "commit": commit,
        "processor": processor(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "load": [before, load()],
        "unix_seconds": seconds,
        "settings": {
            "job": "examples/digits/job.toml", "epochs": options.epochs, "workers": WORKERS, "storm": STORM,
            "seed": options.seed, "rounds": options.rounds,
        },
        "faults": faults.len(),
        "recovery": recoveries.iter().map(Recovery::json).collect::<Vec<_>>(),
        "goodput": readings.iter().map(Goodput::json).collect::<Vec<_>>(),
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "model_sha256": weights,
        "runs": runs.len(),
        "runs_with_these_weights": same,
        "runs_proved": runs.len(),
        "reports": runs,
        "large": large,
    });
    let path = save(root, &commit, seconds, &found)?;
    say(
        out,
        &format!("{same} of {} runs ended with the same weights; {}", runs.len(), path.display()),
    )?;
    ensure!(same == runs.len(), "runs ended with other weights: {}", runs.len() - same);
    Ok(())
}

/// One storm after the other until there were enough faults; their reports.
fn storms(stage: &mut Stage, options: &Options, out: &mut dyn Write) -> Result<Vec<Value>> {
    let (mut reports, mut faults) = (Vec::new(), 0);
    while faults < options.faults {
        let report = stage.train(STORM, options.seed + reports.len() as u64)?;
        let more = report["faults"].as_array().map_or(0, Vec::len);
        ensure!(more > 0, "a storm without faults; give it more --epochs");
        faults += more;
        say(out, &format!("{faults} faults so far: {}", findings::line(&report)))?;
        reports.push(report);
    }
    Ok(reports)
}

/// Runs with few faults, each between two without any; what came of it, and their reports.
fn compare(
    stage: &mut Stage,
    options: &Options,
    out: &mut dyn Write,
) -> Result<(Vec<Goodput>, Vec<Value>)> {
    let (mut readings, mut reports) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for plan in FEW_FAULTS {
            // The same plan each round, but other times.
            let seed = options.seed + 1000 * (round as u64 + 1);
            let first = stage.train(NO_FAULTS, seed)?;
            let report = stage.train(plan, seed)?;
            let last = stage.train(NO_FAULTS, seed)?;
            let reading = Goodput::of(plan, &first, &report, &last);
            say(out, &reading.line())?;
            readings.push(reading);
            reports.extend([first, report, last]);
        }
    }
    Ok((readings, reports))
}

impl Stage {
    fn set_up(root: &Path, options: &Options) -> Result<Stage> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |folder| root.join(folder));
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .args(["build", "--release", "--locked", "-p", "worker", "-p", "coordinator"])
            .current_dir(root)
            .status()
            .context("build the programs")?;
        ensure!(built.success(), "build the programs: {built}");
        let digits = root.join("examples").join("digits");
        let text = std::fs::read_to_string(digits.join("job.toml")).context("read the example")?;
        let path = format!("path = {:?}", digits.display().to_string());
        let text = replace(&text, "path = \".\"", &path)?;
        let text = replace(&text, "epochs = 20", &format!("epochs = {}", options.epochs))?;
        let folder = target.join("chaos");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let large = LARGE.replace("FOLDER", &digits.display().to_string());
        for (name, text) in [(DIGITS_JOB, text), (LARGE_JOB, large)] {
            let path = folder.join(name).with_extension("toml");
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let coordinator = target.join("release").join("coordinator");
        Ok(Stage { coordinator, folder, runs: 0 })
    }

    /// One run; its report. It has been proved: the command fails otherwise, and its files stay.
    fn train(&mut self, plan: &str, seed: u64) -> Result<Value> {
        self.train_job(DIGITS_JOB, plan, seed)
    }

    fn train_job(&mut self, job: &str, plan: &str, seed: u64) -> Result<Value> {
        self.runs += 1;
        let state = self.folder.join(format!("run-{}", self.runs));
        if state.exists() {
            std::fs::remove_dir_all(&state)
                .with_context(|| format!("clear {}", state.display()))?;
        }
        let log = self.folder.join(format!("run-{}.log", self.runs));
        let file =
            std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let status = Command::new(&self.coordinator)
            .arg("train")
            .arg(self.folder.join(job).with_extension("toml"))
            .args(["--workers", &WORKERS.to_string(), "--threads", "1", "--chaos", plan])
            .args(["--chaos-seed", &seed.to_string(), "--state"])
            .arg(&state)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("start a run")?;
        ensure!(status.success(), "{plan:?} with seed {seed}: {status}; see {}", log.display());
        let report = state.join("jobs").join(format!("{job}-1")).join("chaos.json");
        let text = std::fs::read(&report).with_context(|| format!("read {}", report.display()))?;
        std::fs::remove_dir_all(&state).with_context(|| format!("clear {}", state.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "{from:?} is not in the example's job file");
    Ok(text.replacen(from, to, 1))
}

fn save(root: &Path, commit: &str, seconds: u64, found: &Value) -> Result<PathBuf> {
    let folder = root.join("bench").join("results");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("chaos-{commit}-{seconds}.json"));
    std::fs::write(&path, format!("{found:#}\n"))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn say(out: &mut dyn Write, line: &str) -> Result<()> {
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

const DIGITS_JOB: &str = "digits";
const LARGE_JOB: &str = "large";
/// Weights and momentum of a ResNet-50, 188 MB, on images so small that a step is short.
const LARGE: &str = "name = \"large\"\n[data]\nformat = \"idx\"\npath = \"FOLDER\"\n[model]\narch = \"resnet50\"\n\
                     stem = \"cifar\"\n[train]\nepochs = 1\nbatch = 8\n[optimizer]\nlearning_rate = 0.01\n";
const WORKERS: usize = 4;
/// Once in a day: a run is over before.
const NO_FAULTS: &str = "kill 1440m";
const STORM: &str = "kill 2s, pause 6s, leave 15s, coordinator 10s";
/// Whose steps/s are compared with none.
const FEW_FAULTS: [&str; 3] = ["kill 60s", "kill 15s", "coordinator 15s"];

pub(crate) const USAGE: &str = "\
usage: cargo xtask chaos [--faults N] [--seed N] [--epochs N] [--rounds N]

  --faults  storms follow each other until there were so many [default: 500]
  --seed    of the first storm; each further one has the next [default: 1]
  --epochs  length of each run [default: 600]
  --rounds  how often steps/s with few faults and with none are measured, in turn [default: 3]

What was found goes to standard output and, with every fault, to bench/results. Wants a quiet machine.
Example: cargo xtask chaos --faults 100 --rounds 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_get_the_usage() {
        let options = Options::parse(&["--faults", "20", "--seed", "7"]).unwrap();
        assert_eq!(options, Options { faults: 20, seed: 7, epochs: 600, rounds: 3 });
        for wrong in [&["--faults"][..], &["--storms", "3"], &["--epochs", "0"], &["20"]] {
            let error = Options::parse(wrong).unwrap_err();
            assert!(format!("{error:#}").contains("usage:"), "{wrong:?}");
        }
    }
}
