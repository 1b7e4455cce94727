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
use findings::{Bar, Goodput, Recovery};

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

/// The programs, the job and where runs go.
struct Stage {
    coordinator: PathBuf,
    folder: PathBuf,
    job: PathBuf,
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
    let mut storms: Vec<Value> = Vec::new();
    let mut faults: Vec<Value> = Vec::new();
    while faults.len() < options.faults {
        let report = stage.train(STORM, options.seed + storms.len() as u64)?;
        let of_storm = report["faults"].as_array().cloned().unwrap_or_default();
        ensure!(!of_storm.is_empty(), "a storm without faults; give it more --epochs");
        faults.extend(of_storm);
        say(out, &format!("{} faults so far: {}", faults.len(), findings::line(&report)))?;
        storms.push(report);
    }
    let mut readings: Vec<Goodput> = Vec::new();
    for round in 0..options.rounds {
        for plan in FEW_FAULTS {
            // The same plan each round, but other times.
            let seed = options.seed + 1000 * (round as u64 + 1);
            let [first, report, last] = [
                stage.train(NO_FAULTS, seed)?,
                stage.train(plan, seed)?,
                stage.train(NO_FAULTS, seed)?,
            ];
            let reading = Goodput::of(plan, &first, &report, &last);
            say(out, &reading.line())?;
            readings.push(reading);
            storms.extend([first, report, last]);
        }
    }
    let mut recoveries = Recovery::all(&faults);
    recoveries.push(Recovery::of_joins(&storms));
    for recovery in &recoveries {
        say(out, &recovery.line())?;
    }
    let bars = Bar::all(&recoveries, &readings);
    for bar in &bars {
        say(out, &bar.line())?;
    }
    let same = storms.iter().filter(|report| report["model_sha256"] == weights).count();
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
        "runs": storms.len(),
        "runs_with_these_weights": same,
        "runs_proved": storms.len(),
        "storms": storms,
    });
    let path = save(root, &commit, seconds, &found)?;
    say(
        out,
        &format!("{same} of {} runs ended with the same weights; {}", storms.len(), path.display()),
    )?;
    ensure!(same == storms.len(), "runs ended with other weights: {}", storms.len() - same);
    Ok(())
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
        let job = folder.join("job.toml");
        std::fs::write(&job, text).with_context(|| format!("write {}", job.display()))?;
        let coordinator = target.join("release").join("coordinator");
        Ok(Stage { coordinator, folder, job, runs: 0 })
    }

    /// One run; its report. It has been proved: the command fails otherwise, and its files stay.
    fn train(&mut self, plan: &str, seed: u64) -> Result<Value> {
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
            .arg(&self.job)
            .args(["--workers", &WORKERS.to_string(), "--threads", "1", "--chaos", plan])
            .args(["--chaos-seed", &seed.to_string(), "--state"])
            .arg(&state)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("start a run")?;
        ensure!(status.success(), "{plan:?} with seed {seed}: {status}; see {}", log.display());
        let report = state.join("jobs").join("digits-1").join("chaos.json");
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
