//! `cargo xtask bench PYTHON`: the worker against PyTorch, in training steps, all-reduces and loading.
//!
//! Both programs stay up and do one round in turn, so that whatever else the machine does meets both. A ratio is
//! taken within each round; the table shows the middle one and the ends. Processor time stands beside wall time: on
//! a shared machine it is the steadier of the two. Nothing is measured here, only written down.

mod paced;
pub(crate) mod record;
mod rows;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::programs;
use paced::Paced;
use record::{Conditions, Measured, TABLE_HEAD, load};
use rows::{Kind, Row};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// An interpreter with torch and torchvision.
    pub(crate) python: String,
    pub(crate) rounds: usize,
    pub(crate) threads: Vec<usize>,
    pub(crate) only: Vec<Kind>,
    /// An image folder; made up when there is none.
    pub(crate) photos: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let (python, mut rest) = arguments.split_first().context(USAGE)?;
        ensure!(!python.starts_with('-'), USAGE);
        let mut options = Options {
            python: (*python).to_owned(),
            rounds: 5,
            threads: vec![1, 2],
            only: Kind::ALL.to_vec(),
            photos: None,
        };
        while let [flag, value, more @ ..] = rest {
            match *flag {
                "--rounds" => options.rounds = value.parse().context(USAGE)?,
                "--threads" => {
                    let counts: Result<Vec<usize>, _> = value.split(',').map(str::parse).collect();
                    options.threads = counts.context(USAGE)?;
                }
                "--only" => {
                    let kinds: Option<Vec<Kind>> = value.split(',').map(Kind::parse).collect();
                    options.only = kinds.context(USAGE)?;
                }
                "--photos" => options.photos = Some(PathBuf::from(value)),
                _ => bail!(USAGE),
            }
            rest = more;
        }
        ensure!(rest.is_empty() && options.rounds > 0, USAGE);
        Ok(options)
    }
}

/// Measures every row, writes tables to `out`, and both tables and readings under `bench/results`.
pub(crate) fn run(root: &Path, options: &Options, out: &mut dyn Write) -> Result<()> {
    let versions = versions(&options.python)?;
    let target = programs::target(root);
    let worker = programs::build(root, &["worker"])?.join("worker");
    let conditions = Conditions::find(root, versions, options.rounds);
    let mut text = format!("{}\n", conditions.line());
    write!(out, "{text}")?;
    let (mut readings, mut failures) = (Vec::<Value>::new(), 0);
    for &kind in &options.only {
        say(out, &mut text, &format!("\n{}\n\n{TABLE_HEAD}", kind.title()))?;
        for row in rows_of(kind, root, &target, options, conditions.cores)? {
            let line = match measure(root, &worker, &row, options) {
                Ok(measured) => {
                    readings.push(measured.json());
                    measured.line()
                }
                Err(error) => {
                    failures += 1;
                    format!("| {} | failed: {error:#} | | | | | |", row.name)
                }
            };
            say(out, &mut text, &line)?;
        }
    }
    let saved = save(root, &conditions, &text, &readings)?;
    writeln!(out, "\n{} has every reading", saved.display())?;
    ensure!(failures == 0, "{failures} rows failed");
    Ok(())
}

fn say(out: &mut dyn Write, text: &mut String, line: &str) -> Result<()> {
    text.push_str(line);
    text.push('\n');
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

fn rows_of(
    kind: Kind,
    root: &Path,
    target: &Path,
    options: &Options,
    cores: usize,
) -> Result<Vec<Row>> {
    Ok(match kind {
        Kind::Step => options.threads.iter().flat_map(|&n| rows::steps(kind, 1, n)).collect(),
        Kind::Ddp => rows::steps(kind, 2, 1),
        Kind::Exchange => rows::exchanges(),
        Kind::Loader => rows::loaders(&photos(root, target, options)?, cores),
    })
}

fn measure<'a>(
    root: &Path,
    worker: &Path,
    row: &'a Row,
    options: &Options,
) -> Result<Measured<'a>> {
    let before = load();
    let mut ours = Command::new(worker);
    ours.arg("bench").args(&row.ours).arg("--paced");
    let (script, arguments) = &row.theirs;
    let mut theirs = Command::new(&options.python);
    theirs.arg(root.join("bench").join(script)).args(arguments);
    let mut ours = Paced::start(ours)?;
    let mut theirs = Paced::start(theirs)?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds * row.times {
        rounds.push((ours.round()?, theirs.round()?));
    }
    Ok(Measured { row, rounds, load: [before, load()] })
}

/// Of PyTorch and torchvision; an error that says what to install where they are missing.
fn versions(python: &str) -> Result<String> {
    let script = "import torch, torchvision as v; print('PyTorch', torch.__version__ + ', torchvision', v.__version__)";
    let output = Command::new(python).args(["-c", script]).output().with_context(|| {
        format!("can't run {python}; name a Python 3, such as the one of a virtual environment")
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or("it failed").to_owned();
    bail!("{python} can't be compared with: {last}; try {python} -m pip install torch torchvision");
}

/// Those that were named, or made-up ones, which stay for the next time.
fn photos(root: &Path, target: &Path, options: &Options) -> Result<PathBuf> {
    if let Some(photos) = &options.photos {
        let train = photos.join("train");
        ensure!(
            train.is_dir(),
            "{} is no folder; give --photos a folder with train/CLASS/*.jpg and val/CLASS/*.jpg",
            train.display()
        );
        return Ok(photos.clone());
    }
    let folder = target.join("bench-photos");
    if !folder.join("val").is_dir() {
        let script = root.join("bench").join("make_photos.py");
        let made = Command::new(&options.python).arg(script).arg(&folder).status()?;
        ensure!(made.success(), "make photos in {}: {made}", folder.display());
    }
    Ok(folder)
}

/// Writes the tables and all readings; gives the path of the latter.
fn save(root: &Path, conditions: &Conditions, text: &str, readings: &[Value]) -> Result<PathBuf> {
    let folder = root.join("bench").join("results");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = folder.join(format!("{}-{seconds}.json", conditions.commit));
    let all = json!({ "conditions": conditions.json(), "unix_seconds": seconds, "rows": readings });
    std::fs::write(&path, format!("{all:#}\n"))
        .with_context(|| format!("write {}", path.display()))?;
    std::fs::write(path.with_extension("md"), text)
        .with_context(|| format!("write {}", path.with_extension("md").display()))?;
    Ok(path)
}

pub(crate) const USAGE: &str = "\
usage: cargo xtask bench PYTHON [--only KIND,...] [--rounds N] [--threads A,B] [--photos DIR]

  PYTHON     an interpreter with torch and torchvision: python -m pip install torch torchvision
  --only     what to compare: step, ddp, exchange, loader [default: all]
  --rounds   how often, in turn; all-reduces ten times as often [default: 5]
  --threads  of training steps in one process [default: 1,2]
  --photos   an image folder for the loader [default: made-up photos]

Tables go to standard output and, with every reading, to bench/results.
Example: cargo xtask bench ~/venv/bin/python --only exchange,ddp --rounds 9";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_get_the_usage() {
        let options = Options::parse(&["py", "--only", "ddp,exchange", "--rounds", "3"]).unwrap();
        assert_eq!((options.only, options.rounds), (vec![Kind::Ddp, Kind::Exchange], 3));
        let all = Options::parse(&["py", "--threads", "4", "--photos", "p"]).unwrap();
        assert_eq!((all.only.len(), all.threads, all.photos), (4, vec![4], Some("p".into())));
        for wrong in [
            &[][..],
            &["--only", "step"],
            &["py", "--only", "speed"],
            &["py", "--rounds", "0"],
            &["py", "--rounds"],
        ] {
            let error = Options::parse(wrong).unwrap_err();
            assert!(format!("{error:#}").contains("usage:"), "{wrong:?}");
        }
    }
}
