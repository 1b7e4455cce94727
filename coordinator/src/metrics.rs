//! Numbers of a running job: `metrics.jsonl`, and what people watch (speed, smoothed loss, time left). Knows a job by its
//! spec; decides nothing.
//!
//! `metrics.jsonl` holds one object per committed step, `{"step", "epoch", "loss", "correct", "gradient_norm", "samples",
//! "images_per_second", "workers": {name: {"data_ms", ...}}}`, with the reason as `"skipped"` and perhaps a loss of `null`
//! where nobody applied the step, and one per evaluation (of the averaged weights, if the job
//! averages),
//! `{"step", "epoch", "evaluation": {"samples", "correct", "correct_top5", "loss"}}`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::Timeline;
use proto::identity::{JobId, Name};
use proto::manifest::Evaluation;
use proto::wire::v1::PhaseTimes;
use serde::{Deserialize, Serialize};

use crate::core::{JobSpec, Metric};
use crate::disk::DiskFile;
use crate::files::LineFile;

/// What people watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub job: JobId,
    pub step: u64,
    pub total_steps: u64,
    /// With fraction.
    pub epoch: f64,
    pub epochs: u32,
    /// Smoothed over about twenty steps.
    pub loss: f64,
    pub images_per_second: f64,
    pub left: Option<Duration>,
    pub evaluation: Option<Evaluation>,
}

/// The metrics of the one job that runs.
#[derive(Debug)]
pub struct Meter {
    file: LineFile,
    timeline: Timeline,
    /// When the last steps were committed, and the samples of each.
    window: VecDeque<(Duration, u64)>,
    progress: Progress,
}

#[derive(Debug, Serialize)]
struct StepLine<'a> {
    step: u64,
    epoch: f64,
    loss: f64,
    correct: u32,
    gradient_norm: f64,
    samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<&'a str>,
    images_per_second: f64,
    workers: BTreeMap<&'a str, PhaseMilliseconds>,
}

#[derive(Debug, Serialize)]
struct PhaseMilliseconds {
    data_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    exchange_wait_ms: f64,
    update_ms: f64,
}

#[derive(Debug, Serialize)]
struct EvaluationLine {
    step: u64,
    epoch: f64,
    evaluation: Evaluation,
}

/// What every line has.
#[derive(Debug, Deserialize)]
struct AnyLine {
    step: u64,
    evaluation: Option<serde::de::IgnoredAny>,
}

impl AnyLine {
    fn is_step(&self) -> bool {
        self.evaluation.is_none()
    }
}

impl Meter {
    /// `folder` is the job's folder.
    pub fn open(folder: &Path, job: JobId, spec: &JobSpec, step: u64) -> io::Result<Meter> {
        let timeline = Timeline::new(&spec.job, spec.dataset.train_len);
        let progress = Progress {
            job,
            step,
            total_steps: timeline.total_steps(),
            epoch: timeline.epochs_at(step),
            epochs: spec.job.train.epochs,
            loss: f64::NAN,
            images_per_second: 0.0,
            left: None,
            evaluation: None,
        };
        let file = LineFile::open(&metrics_path(folder))?;
        Ok(Meter { file, timeline, window: VecDeque::new(), progress })
    }

    /// Takes in one metric. `now` is on the driver's clock.
    pub fn take(&mut self, now: Duration, metric: &Metric) {
        let line = match metric {
            Metric::Step { step, loss, correct, gradient_norm, samples, skipped, times } => {
                self.advance(now, *step, *loss, *samples);
                let line = StepLine {
                    step: *step,
                    epoch: self.progress.epoch,
                    loss: *loss,
                    correct: *correct,
                    gradient_norm: *gradient_norm,
                    samples: *samples,
                    skipped: skipped.as_deref(),
                    images_per_second: tenths(self.progress.images_per_second),
                    workers: times.iter().map(|(name, times)| milliseconds(name, times)).collect(),
                };
                serde_json::to_string(&line)
            }
            Metric::Evaluation { step, evaluation } => {
                self.progress.evaluation = Some(*evaluation);
                let epoch = self.timeline.epochs_at(*step);
                serde_json::to_string(&EvaluationLine {
                    step: *step,
                    epoch,
                    evaluation: *evaluation,
                })
            }
        };
        self.file.push(&line.expect("metrics are plain data"));
    }

    /// Writes what was taken in. An error is the first one of a row, for a warning.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Lines that are not on disk.
    pub fn missing(&self) -> u64 {
        self.file.missing()
    }

    fn advance(&mut self, now: Duration, step: u64, loss: f64, samples: u64) {
        self.window.push_back((now, samples));
        let old = |at: Duration| now.saturating_sub(at) > SPEED_WINDOW;
        while self.window.len() > 2 && self.window.front().is_some_and(|(at, _)| old(*at)) {
            self.window.pop_front();
        }
        let progress = &mut self.progress;
        progress.step = step;
        progress.epoch = self.timeline.epochs_at(step);
        progress.loss = match (progress.loss.is_nan(), loss.is_finite()) {
            (true, _) => loss,
            // Of a step that nobody applied.
            (false, false) => progress.loss,
            (false, true) => progress.loss + (loss - progress.loss) / LOSS_STEPS,
        };
        // The samples of the first entry were computed before the window began.
        let spent = self.window.front().map_or(Duration::ZERO, |(first, _)| now - *first);
        if spent > Duration::ZERO {
            let done: u64 = self.window.iter().skip(1).map(|(_, samples)| samples).sum();
            let steps = (self.window.len() - 1) as f64;
            progress.images_per_second = done as f64 / spent.as_secs_f64();
            let each = spent.as_secs_f64() / steps;
            let steps_left = progress.total_steps.saturating_sub(step);
            progress.left = Duration::try_from_secs_f64(each * steps_left as f64).ok();
        }
    }
}

/// Forgets the metrics of steps after `step`: they are computed again. Lines are in the order of their steps, so that the file
/// is only shortened, which a full disk allows.
pub fn cut(folder: &Path, step: u64) -> io::Result<()> {
    let path = metrics_path(folder);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let stays =
        |line: &&str| serde_json::from_str::<AnyLine>(line).is_ok_and(|line| line.step <= step);
    let kept: usize = text.split_inclusive('\n').take_while(stays).map(str::len).sum();
    if kept == text.len() {
        return Ok(());
    }
    let file = DiskFile::open(&path)?;
    file.set_len(kept as u64)?;
    file.sync()
}

/// Newest step whose training metric is on disk; 0 without any. A last line that was cut off does not count, and is removed.
pub fn last_step(folder: &Path) -> io::Result<u64> {
    let text = match std::fs::read_to_string(metrics_path(folder)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let step = |line: &str| serde_json::from_str::<AnyLine>(line).ok().filter(AnyLine::is_step);
    Ok(text.lines().rev().find_map(step).map_or(0, |line| line.step))
}

fn metrics_path(folder: &Path) -> PathBuf {
    folder.join("metrics.jsonl")
}

fn milliseconds<'a>(name: &'a Name, times: &PhaseTimes) -> (&'a str, PhaseMilliseconds) {
    let ms = |ns: u64| (ns as f64 / 1e3).round() / 1e3;
    let phases = PhaseMilliseconds {
        data_ms: ms(times.data_ns),
        forward_ms: ms(times.forward_ns),
        backward_ms: ms(times.backward_ns),
        exchange_wait_ms: ms(times.exchange_wait_ns),
        update_ms: ms(times.update_ns),
    };
    (name.as_str(), phases)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Speed is measured over this time.
const SPEED_WINDOW: Duration = Duration::from_secs(5);
/// Steps that the shown loss is smoothed over.
const LOSS_STEPS: f64 = 20.0;

#[cfg(test)]
mod tests;
