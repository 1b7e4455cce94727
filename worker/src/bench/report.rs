//! What `worker bench` found, as a table and as JSON. Nothing is measured here.

use std::fmt;
use std::time::Duration;

use kernels::ConvShape;
use kernels::profile::OpTime;
use serde_json::{Value, json};

use super::rig::BUCKET_MIB;
use crate::args::BenchSteps;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) device: String,
    pub(super) settings: BenchSteps,
    pub(super) steps: usize,
    pub(super) step: Spread,
    pub(super) phases: [(&'static str, Spread); 7],
    /// FLOP/s of multiply-adds alone, measured before and after.
    pub(super) peak: f64,
    pub(super) ops: Vec<OpTime>,
    pub(super) profiled_steps: usize,
}

/// Of several workers together.
#[derive(Debug)]
pub(super) struct CrewReport {
    pub(super) machine: Machine,
    pub(super) settings: BenchSteps,
    pub(super) steps: usize,
    pub(super) step: Spread,
    /// Processor time of all workers.
    pub(super) busy: Spread,
    /// Bytes, of all workers.
    pub(super) peak_memory: u64,
}

/// What figures are true of.
#[derive(Debug)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
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

    pub(super) fn json(&self) -> Value {
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
        rate(op.flops, op.busy) * 1e9 / (self.peak / self.settings.threads().get() as f64)
    }

    pub(super) fn json(&self) -> Value {
        let phases = self.phases.iter().map(|(name, spread)| ((*name).to_owned(), spread.json()));
        json!({
            "machine": self.machine.json(),
            "device": self.device,
            "settings": settings_json(&self.settings),
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
        writeln!(f, "{}; {}\n{}", self.machine, self.device, settings_line(&self.settings))?;
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

impl CrewReport {
    fn images_per_second(&self) -> f64 {
        self.settings.batch.get() as f64 / self.step.median.as_secs_f64()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "machine": self.machine.json(),
            "settings": settings_json(&self.settings),
            "workers": self.settings.workers,
            "bucket_mib": BUCKET_MIB,
            "steps": self.steps,
            "images_per_second": self.images_per_second(),
            "step": self.step.json(),
            "processor": self.busy.json(),
            "peak_memory_bytes": self.peak_memory,
        })
    }
}

impl fmt::Display for CrewReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.machine, settings_line(&self.settings))?;
        writeln!(
            f,
            "{} workers of {} thread(s), {}, buckets of {BUCKET_MIB} MiB: {:.1} images/s (median of {} steps of \
             {:.1} ms, {:.1} to {:.1}); processor {:.1} ms; peak memory {} MiB",
            self.settings.workers,
            self.settings.threads(),
            self.settings.isa(),
            self.images_per_second(),
            self.steps,
            ms(self.step.median),
            ms(self.step.min),
            ms(self.step.max),
            ms(self.busy.median),
            self.peak_memory >> 20
        )
    }
}

fn settings_json(settings: &BenchSteps) -> Value {
    json!({
        "model": settings.model.as_str(),
        "stem": format!("{:?}", settings.stem()).to_lowercase(),
        "input": settings.input.to_string(),
        "batch": settings.batch,
        "slices": settings.slices(),
        "classes": settings.classes,
        "threads": settings.threads(),
        "isa": settings.isa().to_string(),
    })
}

fn settings_line(settings: &BenchSteps) -> String {
    let BenchSteps { model, input, batch, classes, .. } = settings;
    let stem = format!("{:?}", settings.stem()).to_lowercase();
    let (model, slices) = (model.as_str(), settings.slices());
    format!("{model}, {stem} stem, {input}, batch {batch} in {slices} slice(s), {classes} classes")
}

impl Machine {
    /// The processor's own name and its number of cores.
    pub(super) fn this() -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            processor: name.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": COMMIT,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores } = self;
        write!(f, "{processor} ({cores} cores); worker {}", env!("CARGO_PKG_VERSION"))?;
        COMMIT.map_or(Ok(()), |commit| write!(f, ", commit {commit}"))
    }
}

/// That a release was built from; a development build does not know it.
const COMMIT: Option<&str> = option_env!("WORKER_COMMIT");

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
