//! `cargo xtask bench PYTHON [--rounds N] [--threads A,B]`: the worker's training steps against PyTorch's.
//!
//! Both programs stay up and do one step in turn, so that whatever else the machine does meets both. A ratio is
//! taken within each round; the table shows the middle one and the ends. Processor time stands beside wall time: on
//! a shared machine it is the steadier of the two. Nothing is measured here, only written down.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use std::fmt::Write as _;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// An interpreter with torch and torchvision.
    pub(crate) python: String,
    pub(crate) rounds: usize,
    pub(crate) threads: Vec<usize>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Options> {
        let (python, mut rest) = arguments.split_first().context(USAGE)?;
        let mut options = Options { python: (*python).to_owned(), rounds: 5, threads: vec![1, 2] };
        while let [flag, value, more @ ..] = rest {
            match *flag {
                "--rounds" => options.rounds = value.parse().context(USAGE)?,
                "--threads" => {
                    let counts: Result<Vec<usize>, _> = value.split(',').map(str::parse).collect();
                    options.threads = counts.context(USAGE)?;
                }
                _ => bail!(USAGE),
            }
            rest = more;
        }
        ensure!(rest.is_empty() && options.rounds > 0, USAGE);
        Ok(options)
    }
}

/// Measures every row and writes the table.
pub(crate) fn run(root: &Path, options: &Options, out: &mut dyn Write) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(&cargo)
        .args(["build", "--release", "--locked", "--package", "worker"])
        .current_dir(root)
        .status()
        .context("build the worker")?;
    ensure!(built.success(), "build the worker: {built}");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder));
    let worker = target.join("release").join("worker");
    let script = root.join("bench").join("pytorch_resnet.py");

    writeln!(out, "{}\n", conditions(root, options))?;
    writeln!(
        out,
        "| model, input, batch | threads | worker, images/s | PyTorch, images/s | ratio | by processor time |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for row in &ROWS {
        for &threads in &options.threads {
            let arguments = row.arguments(threads);
            let mut ours = Command::new(&worker);
            ours.arg("bench").args(&arguments).arg("--paced");
            let mut theirs = Command::new(&options.python);
            theirs.arg(&script).args(&arguments);
            let mut ours = Paced::start(ours)?;
            let mut theirs = Paced::start(theirs)?;
            let mut rounds = Vec::new();
            for _ in 0..options.rounds {
                rounds.push((ours.step()?, theirs.step()?));
            }
            writeln!(out, "{}", row.line(threads, &rounds))?;
            out.flush()?;
        }
    }
    Ok(())
}

/// One line of the comparison.
struct Row {
    model: &'static str,
    stem: &'static str,
    input: &'static str,
    batch: usize,
}

/// Wall and processor seconds of a step.
#[derive(Clone, Copy, Debug)]
struct Step {
    wall: f64,
    busy: f64,
}

impl Row {
    fn arguments(&self, threads: usize) -> Vec<String> {
        let Row { model, stem, input, batch } = self;
        let pairs = [
            ("--model", (*model).to_owned()),
            ("--stem", (*stem).to_owned()),
            ("--input", (*input).to_owned()),
            ("--batch", batch.to_string()),
            ("--threads", threads.to_string()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn line(&self, threads: usize, rounds: &[(Step, Step)]) -> String {
        let Row { model, stem, input, batch } = self;
        let images =
            |step: fn(&(Step, Step)) -> f64| *batch as f64 / spread(rounds.iter().map(step)).middle;
        let (ours, theirs) = (images(|round| round.0.wall), images(|round| round.1.wall));
        let wall = spread(rounds.iter().map(|(ours, theirs)| theirs.wall / ours.wall));
        let busy = spread(rounds.iter().map(|(ours, theirs)| theirs.busy / ours.busy));
        let mut line = format!("| {model} ({stem} stem) {input}, {batch} | {threads} ");
        write!(line, "| {ours:.1} | {theirs:.1} | {wall} | {busy} |")
            .expect("a string takes any text");
        line
    }
}

/// The middle of some numbers, and their ends.
struct Spread {
    middle: f64,
    least: f64,
    most: f64,
}

fn spread(numbers: impl Iterator<Item = f64>) -> Spread {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    let (least, most) = (numbers[0], numbers[numbers.len() - 1]);
    Spread { middle: numbers[numbers.len() / 2], least, most }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.middle, self.least, self.most)
    }
}

/// A program that does one step for each line that it is sent.
struct Paced {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl Paced {
    fn start(mut command: Command) -> Result<Paced> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let input = input.context("its standard input is a pipe")?;
        let output = BufReader::new(output.context("its standard output is a pipe")?);
        let mut paced = Paced { child, input, output, name };
        let line = paced.line()?;
        ensure!(line == "ready", "{} said {line:?} instead of \"ready\"", paced.name);
        Ok(paced)
    }

    fn step(&mut self) -> Result<Step> {
        writeln!(self.input)?;
        self.input.flush()?;
        let line = self.line()?;
        let mut numbers = line.split(' ').map(str::parse::<f64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(wall)), Some(Ok(busy))) => Ok(Step { wall, busy }),
            _ => bail!("{} said {line:?} instead of two numbers of seconds", self.name),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read =
            self.output.read_line(&mut line).with_context(|| format!("read from {}", self.name))?;
        ensure!(read > 0, "{} ended early", self.name);
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // It may be gone already: then there is nothing to end.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Machine, commit and settings.
fn conditions(root: &Path, options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name);
    let commit =
        said_by(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root));
    let torch = "import torch; print(torch.__version__)";
    let torch = said_by(Command::new(&options.python).args(["-c", torch]));
    format!(
        "{name}, {cores} cores; commit {commit}; PyTorch {torch}, eager, channels_last, fp32; \
         {} steps each, in turn: median (least to most)",
        options.rounds
    )
}

fn said_by(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

const USAGE: &str = "usage: cargo xtask bench PYTHON [--rounds N] [--threads A,B]";

const ROWS: [Row; 3] = [
    Row { model: "resnet18", stem: "cifar", input: "3x32x32", batch: 128 },
    Row { model: "resnet18", stem: "imagenet", input: "3x224x224", batch: 16 },
    Row { model: "resnet50", stem: "imagenet", input: "3x224x224", batch: 8 },
];
