//! From image files to a model's input: decoding, random crops, flips, normalisation, by the code that feeds training. No
//! model computes with it.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataset::Dataset;
use kernels::{AugmentShape, Buffer, Device, Span, ops};
use proto::Job;
use serde_json::{Value, json};

use super::pace::{Round, paced};
use super::report::{Machine, Spread};
use super::{BenchError, print};
use crate::args::BenchLoader;
use crate::data::{Batch, Loader, Share, Source, format};
use crate::join::all_cores;

/// Measures, and writes a table or JSON to `out`.
pub(super) fn run(args: &BenchLoader, out: &mut dyn Write) -> Result<(), BenchError> {
    let mut rig = Rig::new(args)?;
    rig.read()?; // the files are in memory from here on
    if args.paced {
        return paced(out, &mut || rig.read());
    }
    let since = Instant::now();
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS_MIN || since.elapsed() < Duration::from_secs(args.seconds) {
        rounds.push(rig.read()?);
    }
    let report = Report {
        machine: Machine::this(),
        settings: args.clone(),
        rounds: rounds.len(),
        wall: Spread::of(rounds.iter().map(|round| round.wall)),
        busy: Spread::of(rounds.iter().map(|round| round.busy)),
    };
    print(out, args.json, &report, || report.json())
}

/// What reads, and where the images of a batch go.
struct Rig {
    source: Source,
    device: Device,
    shape: AugmentShape,
    input: Buffer, // [N, H, W, C]
    batches: usize,
}

impl Rig {
    /// As many threads decode as compute, as in training.
    fn new(args: &BenchLoader) -> Result<Rig, BenchError> {
        let threads = args.threads.unwrap_or_else(all_cores);
        let device = Device::cpu(threads)?;
        let (height, width) = (args.size, args.size);
        let (out_height, out_width) = (height, width);
        let shape =
            AugmentShape { batch: BATCH, height, width, channels: 3, out_height, out_width };
        Ok(Rig {
            source: source(args)?.with_decode_threads(threads),
            input: device.alloc(shape.output_len()),
            device,
            shape,
            batches: args.images.get().div_ceil(BATCH),
        })
    }

    /// Reads the round's images with a loader of its own: none are ready when the clock starts.
    fn read(&mut self) -> Result<Round, BenchError> {
        let slice_len = BATCH as u64;
        let share = Share { first_step: 1, batch: slice_len, slice_len, slices: 0..1 };
        let mut loader = None;
        let (round, result) = Round::of(|| {
            let loader = loader.insert(Loader::start(self.source.clone(), share)?);
            (0..self.batches).try_for_each(|_| self.load(loader.next_batch()?))
        });
        result.map(|()| round)
    }

    /// What training does with a batch before the first layer.
    fn load(&mut self, batch: &mut Batch) -> Result<(), BenchError> {
        if let Some(image) = batch.quarantined.pop() {
            return Err(BenchError::Image { path: image.path, cause: image.cause });
        }
        let Rig { source, device, shape, input, .. } = self;
        let into = input.view_mut(Span::new(0, shape.output_len()));
        let (mean, std) = (source.mean(), source.std());
        ops::augment(device, shape, &batch.pixels, &batch.crops, mean, std, into);
        Ok(())
    }
}

fn source(args: &BenchLoader) -> Result<Source, BenchError> {
    let folder = args.data.display().to_string();
    let size = args.size;
    let job = Job::parse(&format!(
        "name = \"bench\"\n[data]\nformat = \"imagefolder\"\npath = {}\nsize = {size}\naugment.flip = true\n\
         [model]\narch = \"resnet18\"\n[train]\nepochs = 1\nbatch = 32\nslices = 1\n\
         [optimizer]\nlearning_rate = 0.1\n",
        Value::from(folder) // a TOML string is quoted like JSON's
    ))?;
    let dataset = Arc::new(Dataset::open(format(&job), &args.data)?);
    Ok(Source::new(dataset, &job))
}

struct Report {
    machine: Machine,
    settings: BenchLoader,
    rounds: usize,
    wall: Spread,
    busy: Spread,
}

impl Report {
    fn images(&self) -> usize {
        self.settings.images.get().next_multiple_of(BATCH)
    }

    fn rate(&self, time: Duration) -> f64 {
        self.images() as f64 / time.as_secs_f64()
    }

    fn json(&self) -> Value {
        json!({
            "machine": self.machine.json(),
            "settings": {
                "data": self.settings.data,
                "size": self.settings.size,
                "threads": self.settings.threads.unwrap_or_else(all_cores),
                "images": self.images(),
            },
            "rounds": self.rounds,
            "images_per_second": self.rate(self.wall.median),
            "images_per_processor_second": self.rate(self.busy.median),
            "wall": self.wall.json(),
            "processor": self.busy.json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchLoader { data, size, threads, .. } = &self.settings;
        let threads = threads.unwrap_or_else(all_cores);
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{}, random crops of {size} pixels, flipped and normalised, {threads} thread(s)",
            data.display()
        )?;
        writeln!(
            f,
            "{:.0} images/s (median of {} rounds of {} images; {:.0} to {:.0}); {:.0} a processor second",
            self.rate(self.wall.median),
            self.rounds,
            self.images(),
            self.rate(self.wall.max),
            self.rate(self.wall.min),
            self.rate(self.busy.median)
        )
    }
}

const BATCH: usize = 32;
const ROUNDS_MIN: usize = 3;
