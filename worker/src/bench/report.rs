//! What `worker bench` found, as a table and as JSON. Nothing is measured here.

use std::fmt;
use std::time::Duration;

use kernels::ConvShape;
use kernels::profile::OpTime;
use serde_json::{Value, json};

use crate::args::Bench;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) device: String,
    pub(super) settings: Bench,
    pub(super) threads: usize,
    pub(super) steps: usize,
    pub(super) step: Spread,
    pub(super) phases: [(&'static str, Spread); 5],
    /// FLOP/s of multiply-adds alone, measured before and after.
    pub(super) peak: f64,
    pub(super) ops: Vec<OpTime>,
    pub(super) profiled_steps: usize,
}

/// Of some times: the middle one and the ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    pub(super) median: Duration,
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Spread {
    pub(super) fn of(times: impl Iterator<Item = Duration>) -> Spread {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        let (Some(&min), Some(&max)) = (times.first(), times.last()) else {
            return Spread::default();
        };
        Spread { median: times[times.len() / 2], min, max }
    }

    fn json(&self) -> Value {
        let Spread { median, min, max } = self;
        json!({ "median_ms": ms(*median), "min_ms": ms(*min), "max_ms": ms(*max) })
    }
}

impl Report {
    fn images_per_second(&self, step: Duration) -> f64 {
        self.settings.batch.get() as f64 / step.as_secs_f64()
    }

    /// Of the peak, over the processor time that the op had: above 1 where an algorithm needs fewer operations than
    /// the textbook.
    fn share(&self, op: &OpTime) -> f64 {
        rate(op.flops, op.busy) * 1e9 / (self.peak / self.threads as f64)
    }

    pub(super) fn json(&self) -> Value {
        let phases = self.phases.iter().map(|(name, spread)| ((*name).to_owned(), spread.json()));
        json!({
            "machine": self.machine,
            "device": self.device,
            "version": env!("CARGO_PKG_VERSION"),
            "settings": {
                "model": self.settings.model.as_str(),
                "stem": format!("{:?}", self.settings.stem()).to_lowercase(),
                "input": self.settings.input.to_string(),
                "batch": self.settings.batch,
                "slices": self.settings.slices,
                "classes": self.settings.classes,
                "threads": self.threads,
            },
            "steps": self.steps,
            "images_per_second": self.images_per_second(self.step.median),
            "step": self.step.json(),
            "phases": phases.collect::<serde_json::Map<String, Value>>(),
            "peak_gflops": self.peak / 1e9,
            "ops": self.ops.iter().map(|op| self.op_json(op)).collect::<Vec<Value>>(),
        })
    }

    fn op_json(&self, op: &OpTime) -> Value {
        let steps = self.profiled_steps as f64;
        json!({
            "op": op.op,
            "shape": op.conv.as_ref().map(shape),
            "calls": op.calls as f64 / steps,
            "ms": ms(op.time) / steps,
            "gflops": rate(op.flops, op.time),
            "busy_ms": ms(op.busy) / steps,
            "share_of_peak": self.share(op),
            "gb_per_second": rate(4 * op.elements, op.time),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bench { model, input, batch, slices, classes, .. } = &self.settings;
        let stem = format!("{:?}", self.settings.stem()).to_lowercase();
        writeln!(f, "{}; {}; worker {}", self.machine, self.device, env!("CARGO_PKG_VERSION"))?;
        writeln!(
            f,
            "{}, {stem} stem, {input}, batch {batch} in {slices} slice(s), {classes} classes",
            model.as_str()
        )?;
        let Spread { median, min, max } = self.step;
        writeln!(
            f,
            "{:.1} images/s (median of {} steps; {:.1} to {:.1}); peak of multiply-adds {:.0} GFLOP/s",
            self.images_per_second(median),
            self.steps,
            self.images_per_second(max),
            self.images_per_second(min),
            self.peak / 1e9
        )?;
        write!(f, "step {:.1} ms:", ms(median))?;
        for (name, spread) in &self.phases {
            write!(f, " {name} {:.1}", ms(spread.median))?;
        }
        writeln!(
            f,
            "\n\n{:<58}{:>6}{:>9}{:>9}{:>7}{:>7}",
            "op", "calls", "ms", "GFLOP/s", "peak", "GB/s"
        )?;
        let steps = self.profiled_steps as f64;
        for op in &self.ops {
            let name = match &op.conv {
                Some(conv) => format!("{} {}", op.op, shape(conv)),
                None => op.op.to_owned(),
            };
            writeln!(
                f,
                "{name:<58}{:>6.0}{:>9.2}{:>9.2}{:>9.0}{:>7.2}{:>7.1}",
                op.calls as f64 / steps,
                ms(op.time) / steps,
                ms(op.busy) / steps,
                rate(op.flops, op.time),
                self.share(op),
                rate(4 * op.elements, op.time)
            )?;
        }
        Ok(())
    }
}

/// The processor's own name and its number of cores.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{} ({cores} cores)", name.map_or(std::env::consts::ARCH, |(_, name)| name))
}

fn shape(conv: &ConvShape) -> String {
    let ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, .. } = conv;
    format!("{kernel}x{kernel}/{stride} {in_channels}->{out_channels} @{height}x{width} b{batch}")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Billions a second.
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE) / 1e9
}
