//! `cargo xtask chaos`: hundreds of faults on real runs of four workers, by `coordinator train --chaos`, each run proved by
//! `verify` and compared with the weights of an undisturbed one; then steps/s with few faults against none, in turn within
//! a run.
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
use crate::programs;
use findings::{Bar, Goodput, LARGE_STATE, Recovery, SMALL_STATE};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Storms follow each other until there were so many.
    faults: usize,
    seed: u64,
    /// Length of a run.
    epochs: usize,
    /// Spells with faults of each plan whose steps/s are compared, and seconds of each.
    rounds: usize,
    spell: usize,
    only: Vec<Part>,
}

/// A part of the command that can be had alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Faults of all kinds.
    Storms,
    /// Steps/s with few faults against none.
    Goodput,
    /// Workers that are taken in with a large state.
    Joins,
}

impl Part {
    const ALL: [(&str, Part); 3] =
        [("storms", Part::Storms), ("goodput", Part::Goodput), ("joins", Part::Joins)];

    fn parse(name: &str) -> Option<Part> {
        Part::ALL.iter().find(|(known, _)| *known == name).map(|(_, part)| *part)
    }
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let only = Part::ALL.map(|(_, part)| part).to_vec();
        let mut options = Options { faults: 500, seed: 1, epochs: 600, rounds: 3, spell: 60, only };
        let mut rest = arguments;
        while let [flag, value, more @ ..] = rest {
            match *flag {
                "--faults" => options.faults = value.parse().context(USAGE)?,
                "--seed" => options.seed = value.parse().context(USAGE)?,
                "--epochs" => options.epochs = value.parse().context(USAGE)?,
                "--rounds" => options.rounds = value.parse().context(USAGE)?,
                "--spell" => options.spell = value.parse().context(USAGE)?,
                "--only" => {
                    let parts: Option<Vec<Part>> = value.split(',').map(Part::parse).collect();
                    options.only = parts.context(USAGE)?;
                }
                _ => bail!(USAGE),
            }
            rest = more;
        }
        ensure!(rest.is_empty() && options.epochs > 0 && options.spell >= SPELL_MIN, USAGE);
        Ok(options)
    }
}

/// The programs, the jobs and where runs go.
struct Stage {
    coordinator: PathBuf,
    folder: PathBuf,
    /// Where the data lies.
    digits: PathBuf,
    /// Runs so far.
    runs: usize,
}

/// Storms, then steps/s; what was found goes to `out` and `bench/results`. An error when a run did not end with the weights of
/// an undisturbed one, or was not proved, or when a bar is missed.
pub(crate) fn run(root: &Path, options: &Options, out: &mut dyn Write) -> Result<()> {
    let mut stage = Stage::set_up(root, options)?;
    let (commit, before) = (commit_of(root), load());
    let wanted = |part: Part| options.only.contains(&part);
    let (mut weights, mut runs, mut same) = (Value::Null, Vec::new(), 0);
    if wanted(Part::Storms) {
        let calm = stage.train(&Ask::digits(NO_FAULTS, options.seed))?;
        weights = calm["model_sha256"].clone();
        say(out, &format!("undisturbed: {}", findings::line(&calm)))?;
        runs = storms(&mut stage, options, out)?;
        same = runs.iter().filter(|report| report["model_sha256"] == weights).count();
        say(out, &format!("{same} of {} storms ended with the same weights", runs.len()))?;
    }
    let of_storms = |run: &Value| run["faults"].as_array().cloned().unwrap_or_default();
    let faults: Vec<Value> = runs.iter().flat_map(of_storms).collect();
    let mut compared = Vec::new();
    if wanted(Part::Goodput) {
        compared = compare(&mut stage, options, out)?;
    }
    let readings: Vec<Goodput> = compared.iter().map(Goodput::of).collect();
    let mut large = Value::Null;
    if wanted(Part::Joins) {
        large = stage.train(&Ask { job: LARGE_JOB, ..Ask::digits("kill 10s", options.seed) })?;
        say(out, &format!("large state: {}", findings::line(&large)))?;
    }
    let mut recoveries = Recovery::all(&faults);
    recoveries.push(Recovery::of_joins(SMALL_STATE, &runs));
    recoveries.push(Recovery::of_joins(LARGE_STATE, std::slice::from_ref(&large)));
    recoveries.retain(|recovery| recovery.count > 0);
    for recovery in &recoveries {
        say(out, &recovery.line())?;
    }
    let bars = Bar::all(&recoveries, &readings);
    bars.iter().try_for_each(|bar| say(out, &bar.line()))?;
    let storms = runs.len();
    runs.extend(compared);
    let proved = runs.iter().chain([&large]).filter(|report| report["verified"] == true).count();
    let trained = runs.len() + usize::from(!large.is_null());
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let found = json!({
        "commit": commit,
        "processor": processor(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "load": [before, load()],
        "unix_seconds": seconds,
        "settings": {
            "job": "examples/digits/job.toml", "epochs": options.epochs, "workers": WORKERS, "storm": STORM,
            "seed": options.seed, "rounds": options.rounds, "spell_seconds": options.spell,
        },
        "faults": faults.len(),
        "recovery": recoveries.iter().map(Recovery::json).collect::<Vec<_>>(),
        "goodput": readings.iter().map(Goodput::json).collect::<Vec<_>>(),
        "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
        "model_sha256": weights,
        "storms": storms,
        "storms_with_these_weights": same,
        "runs": trained,
        "runs_proved": proved,
        "reports": runs,
        "large": large,
    });
    let path = save(root, &commit, seconds, &found)?;
    say(out, &format!("{proved} of {trained} runs proved; {}", path.display()))?;
    ensure!(same == storms, "runs ended with other weights: {}", storms - same);
    ensure!(proved == trained, "runs not proved: {}", trained - proved);
    let missed = bars.iter().filter(|bar| bar.met() == Some(false)).count();
    ensure!(missed == 0, "bars missed: {missed}; see above");
    Ok(())
}

/// One storm after the other until there were enough faults; their reports.
fn storms(stage: &mut Stage, options: &Options, out: &mut dyn Write) -> Result<Vec<Value>> {
    let (mut reports, mut faults) = (Vec::new(), 0);
    while faults < options.faults {
        let report = stage.train(&Ask::digits(STORM, options.seed + reports.len() as u64))?;
        let more = report["faults"].as_array().map_or(0, Vec::len);
        ensure!(more > 0, "a storm without faults; give it more --epochs");
        faults += more;
        say(out, &format!("{faults} faults so far: {}", findings::line(&report)))?;
        reports.push(report);
    }
    Ok(reports)
}

/// Runs with few faults in every other spell; their reports. All compute the same, and must end with the same weights.
fn compare(stage: &mut Stage, options: &Options, out: &mut dyn Write) -> Result<Vec<Value>> {
    let mut reports: Vec<Value> = Vec::new();
    if options.rounds == 0 {
        return Ok(reports);
    }
    stage.write_compared(TRIAL_EPOCHS)?;
    let ask = Ask { job: COMPARED_JOB, ..Ask::digits(NO_FAULTS, options.seed) };
    let trial = stage.train(&ask)?;
    let spent = trial["storm"]["seconds"].as_f64().context("a report tells seconds")?;
    let steps = trial["storm"]["steps"].as_f64().context("a report tells steps")?;
    ensure!(spent > 0.0, "a trial run that was over at once tells no steps/s");
    // Each spell with faults lies between two without, and may wait until all is in order again.
    let seconds = (2 * options.rounds + 1) as f64 * 1.1 * options.spell as f64;
    stage.write_compared((steps / spent * seconds / COMPARED_STEPS).ceil() as usize)?;
    for plan in FEW_FAULTS {
        let report = stage.train(&Ask { plan, spell: Some(options.spell), ..ask })?;
        say(out, &Goodput::of(&report).line())?;
        let weights = &reports.first().unwrap_or(&report)["model_sha256"];
        ensure!(report["model_sha256"] == *weights, "{plan:?} ended with other weights");
        reports.push(report);
    }
    Ok(reports)
}

/// A run to be made.
#[derive(Clone, Copy, Debug)]
struct Ask<'a> {
    job: &'a str,
    plan: &'a str,
    seed: u64,
    /// Seconds of every other spell with faults, and of those without; faults to the end otherwise.
    spell: Option<usize>,
}

impl<'a> Ask<'a> {
    fn digits(plan: &'a str, seed: u64) -> Ask<'a> {
        Ask { job: DIGITS_JOB, plan, seed, spell: None }
    }
}

impl Stage {
    fn set_up(root: &Path, options: &Options) -> Result<Stage> {
        let programs = programs::build(root, &["worker", "coordinator"])?;
        let digits = root.join("examples").join("digits");
        let text = std::fs::read_to_string(digits.join("job.toml")).context("read the example")?;
        let path = format!("path = {:?}", digits.display().to_string());
        let text = replace(&text, "path = \".\"", &path)?;
        let text = replace(&text, "epochs = 20", &format!("epochs = {}", options.epochs))?;
        let folder = programs::target(root).join("chaos");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let stage = Stage { coordinator: programs.join("coordinator"), folder, digits, runs: 0 };
        stage.write_job(DIGITS_JOB, &text)?;
        stage.write_job(LARGE_JOB, LARGE)?;
        Ok(stage)
    }

    fn write_compared(&self, epochs: usize) -> Result<()> {
        self.write_job(COMPARED_JOB, &COMPARED.replace("EPOCHS", &epochs.to_string()))
    }

    fn write_job(&self, name: &str, text: &str) -> Result<()> {
        let text = text.replace("FOLDER", &self.digits.display().to_string());
        let path = self.folder.join(name).with_extension("toml");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// One run; its report, with what `verify` says of its files. They stay when the run fails.
    fn train(&mut self, ask: &Ask<'_>) -> Result<Value> {
        let Ask { job, plan, seed, spell } = *ask;
        self.runs += 1;
        let state = self.folder.join(format!("run-{}", self.runs));
        if state.exists() {
            std::fs::remove_dir_all(&state)
                .with_context(|| format!("clear {}", state.display()))?;
        }
        let log = self.folder.join(format!("run-{}.log", self.runs));
        let file =
            std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let spell = spell.map(|seconds| ["--chaos-spells".to_owned(), seconds.to_string()]);
        let status = Command::new(&self.coordinator)
            .arg("train")
            .arg(self.folder.join(job).with_extension("toml"))
            .args(["--workers", &WORKERS.to_string(), "--threads", "1", "--chaos", plan])
            .args(spell.iter().flatten())
            .args(["--chaos-seed", &seed.to_string(), "--state"])
            .arg(&state)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("start a run")?;
        ensure!(status.success(), "{plan:?} with seed {seed}: {status}; see {}", log.display());
        let report = state.join("jobs").join(format!("{job}-1")).join("chaos.json");
        let text = std::fs::read(&report).with_context(|| format!("read {}", report.display()))?;
        let mut report: Value = serde_json::from_slice(&text)?;
        report["asked"] = plan.into();
        report["verified"] = self.is_verified(&state, &format!("{job}-1"), &report)?.into();
        std::fs::remove_dir_all(&state).with_context(|| format!("clear {}", state.display()))?;
        Ok(report)
    }

    /// `verify` finds nothing wrong, and the weights that the report names.
    fn is_verified(&self, state: &Path, job: &str, report: &Value) -> Result<bool> {
        let mut verify = Command::new(&self.coordinator);
        let verify = verify.args(["verify", job, "--json", "--state"]).arg(state);
        let output = verify.output().context("start verify")?;
        let account: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let weights = &account["account"]["model_sha256"];
        Ok(output.status.success() && weights.is_string() && *weights == report["model_sha256"])
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
const COMPARED_JOB: &str = "compared";
/// Steps of tens of milliseconds, so that a journal is as long as that of a real run of some hours, not of weeks.
const COMPARED: &str = "name = \"compared\"\n[data]\nformat = \"idx\"\npath = \"FOLDER\"\n[model]\nblock = \"basic\"\n\
                        blocks = [1, 1, 1]\nwidths = [64, 128, 256]\nstem = \"cifar\"\n[train]\nepochs = EPOCHS\nbatch = 64\n\
                        [optimizer]\nlearning_rate = 0.05\n[checkpoint]\nevery_epochs = 20\n";
/// Of an epoch of it.
const COMPARED_STEPS: f64 = 22.0;
/// Enough to tell its steps/s.
const TRIAL_EPOCHS: usize = 20;
/// Faults must fit in.
const SPELL_MIN: usize = 5;
const WORKERS: usize = 4;
/// Once in a day: a run is over before.
const NO_FAULTS: &str = "kill 1440m";
const STORM: &str = "kill 2s, pause 6s, leave 15s, coordinator 10s";
/// Whose steps/s are compared with none.
const FEW_FAULTS: [&str; 3] = ["kill 60s", "kill 15s", "coordinator 15s"];

pub(crate) const USAGE: &str = "\
usage: cargo xtask chaos [--faults N] [--seed N] [--epochs N] [--rounds N] [--spell SECONDS] [--only PART,...]

  --faults  storms follow each other until there were so many [default: 500]
  --seed    of the first storm; each further one has the next [default: 1]
  --epochs  length of each storm [default: 600]
  --rounds  spells with few faults, each between two without, whose steps/s are compared [default: 3]
  --spell   seconds of each [default: 60]
  --only    of storms, goodput (those steps/s) and joins (workers taken in with a large state) [default: all]

What was found goes to standard output and, with every fault, to bench/results. Fails when a bar is missed. Wants a quiet
machine.
Example: cargo xtask chaos --faults 100 --rounds 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_get_the_usage() {
        let options = Options::parse(&["--faults", "20", "--seed", "7"]).unwrap();
        let only = vec![Part::Storms, Part::Goodput, Part::Joins];
        let expected = Options { faults: 20, seed: 7, epochs: 600, rounds: 3, spell: 60, only };
        assert_eq!(options, expected);
        assert_eq!(Options::parse(&["--only", "joins"]).unwrap().only, [Part::Joins]);
        for wrong in [
            &["--faults"][..],
            &["--storms", "3"],
            &["--only", "rain"],
            &["--epochs", "0"],
            &["--spell", "2"],
            &["20"],
        ] {
            let error = Options::parse(wrong).unwrap_err();
            assert!(format!("{error:#}").contains("usage:"), "{wrong:?}");
        }
    }
}
