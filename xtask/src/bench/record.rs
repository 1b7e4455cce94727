//! What a comparison found, as lines of a markdown table and as JSON. Nothing is measured here.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

use super::paced::Round;
use super::rows::Row;

/// A row's rounds, ours and PyTorch's in turn.
#[derive(Debug)]
pub(super) struct Measured<'a> {
    pub(super) row: &'a Row,
    pub(super) rounds: Vec<(Round, Round)>,
    /// Processes that wanted a processor, over the last minute, before and after.
    pub(super) load: [f64; 2],
}

/// The middle of some numbers, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) middle: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

pub(super) const TABLE_HEAD: &str = "\
| what | worker | PyTorch | ratio | by processor time | peak MiB, worker | PyTorch |
|---|---|---|---|---|---|---|";

impl Measured<'_> {
    /// Ratios are taken within each round: how many times as long PyTorch took.
    fn ratio(&self, of: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|(ours, theirs)| of(theirs) / of(ours)))
    }

    fn rate(&self, wall: impl Fn(&(Round, Round)) -> f64) -> f64 {
        self.row.work / Spread::of(self.rounds.iter().map(wall)).middle
    }

    fn peaks(&self) -> [f64; 2] {
        let most = |of: fn(&(Round, Round)) -> f64| Spread::of(self.rounds.iter().map(of)).most;
        [most(|round| round.0.peak_memory), most(|round| round.1.peak_memory)]
            .map(|bytes| bytes / f64::from(1 << 20))
    }

    pub(super) fn line(&self) -> String {
        let Row { name, unit, .. } = self.row;
        let (ours, theirs) = (self.rate(|round| round.0.wall), self.rate(|round| round.1.wall));
        let (wall, busy) = (self.ratio(|round| round.wall), self.ratio(|round| round.busy));
        let [our_peak, their_peak] = self.peaks();
        let digits = if ours < 10.0 { 2 } else { 1 };
        format!(
            "| {name} | {ours:.digits$} {unit} | {theirs:.digits$} {unit} | {wall} | {busy} | {our_peak:.0} | {their_peak:.0} |"
        )
    }

    pub(super) fn json(&self) -> Value {
        let round = |round: &Round| {
            json!({
                "wall_s": round.wall,
                "processor_s": round.busy,
                "peak_memory_bytes": round.peak_memory,
            })
        };
        let rounds = |of: fn(&(Round, Round)) -> &Round| -> Vec<Value> {
            self.rounds.iter().map(|pair| round(of(pair))).collect()
        };
        json!({
            "kind": self.row.kind.name(),
            "name": self.row.name,
            "unit": self.row.unit,
            "work": self.row.work,
            "worker_rate": self.rate(|round| round.0.wall),
            "pytorch_rate": self.rate(|round| round.1.wall),
            "ratio": self.ratio(|round| round.wall).middle,
            "ratio_by_processor_time": self.ratio(|round| round.busy).middle,
            "load": self.load,
            "worker": rounds(|pair| &pair.0),
            "pytorch": rounds(|pair| &pair.1),
        })
    }
}

impl Spread {
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Spread {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let (least, most) = (numbers[0], numbers[numbers.len() - 1]);
        Spread { middle: numbers[numbers.len() / 2], least, most }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.middle, self.least, self.most)
    }
}

/// What the figures are true of.
#[derive(Debug)]
pub(super) struct Conditions {
    processor: String,
    pub(super) cores: usize,
    pub(super) commit: String,
    /// Of PyTorch and torchvision.
    versions: String,
    rounds: usize,
}

impl Conditions {
    pub(super) fn find(root: &Path, versions: String, rounds: usize) -> Conditions {
        Conditions {
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            commit: commit_of(root),
            versions,
            rounds,
        }
    }

    pub(super) fn line(&self) -> String {
        let Conditions { processor, cores, commit, versions, rounds } = self;
        format!(
            "{processor}, {cores} cores; commit {commit}; {versions}, eager, channels_last, fp32; at least {rounds} \
             rounds each, in turn: median (least to most)"
        )
    }

    pub(super) fn json(&self) -> Value {
        let Conditions { processor, cores, commit, versions, rounds } = self;
        json!({
            "processor": processor,
            "cores": cores,
            "commit": commit,
            "versions": versions,
            "rounds": rounds,
        })
    }
}

/// The processor's name.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned()
}

/// Of the checkout, marked when files differ from it.
pub(crate) fn commit_of(root: &Path) -> String {
    let git = |arguments: &[&str]| said_by(Command::new("git").args(arguments).current_dir(root));
    let mut commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or("unknown".to_owned());
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty())
    {
        commit.push_str("-changed");
    }
    commit
}

/// What a command that succeeds prints.
pub(super) fn said_by(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Over the last minute; 0 where the system does not tell.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
