//! A model in training on made-up images, and where the time of its steps goes. What is printed is not known here.

use std::ops::Range;
use std::time::{Duration, Instant};

use dataset::Draws;
use kernels::ops::{self, Crop};
use kernels::{Buffer, Device, Span};
use proto::job::{Model, Optimizer, Rule};

use super::BenchError;
use crate::args::BenchSteps;
use crate::collective::{Collective, CollectiveError};
use crate::guard::first_non_finite;
use crate::layout::Total;
use crate::model::{Geometry, ResNet, Targets};
use crate::optim::Sgd;
use crate::step::digest;

#[derive(Debug)]
pub(super) struct Rig {
    device: Device,
    model: ResNet,
    optimizer: Sgd,
    slots: Vec<Buffer>,
    pixels: Vec<u8>, // of one slice
    crops: Vec<Crop>,
    labels: Vec<u32>,
    grad_scale: f32,
    buckets: Vec<Range<usize>>,
    peers: Option<Peers>,
}

/// The other workers of the step.
#[derive(Debug)]
struct Peers {
    exchange: Box<dyn Collective>,
    workers: usize,
    step: u64,
}

/// Wall time of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Phases {
    load: Duration,
    forward: Duration,
    backward: Duration,
    exchange: Duration,
    update: Duration,
    pack: Duration,
    digest: Duration,
}

/// A part of a step and how to read it.
type Phase = (&'static str, fn(&Phases) -> Duration);

impl Phases {
    pub(super) const NAMES: [Phase; 7] = [
        ("load", |phases| phases.load),
        ("forward", |phases| phases.forward),
        ("backward", |phases| phases.backward),
        ("exchange", |phases| phases.exchange),
        ("update", |phases| phases.update),
        ("pack", |phases| phases.pack),
        ("digest", |phases| phases.digest),
    ];

    pub(super) fn total(&self) -> Duration {
        Phases::NAMES.iter().map(|(_, phase)| phase(self)).sum()
    }
}

impl Rig {
    pub(super) fn new(device: &Device, args: &BenchSteps) -> Rig {
        let description = Model { stem: args.stem(), ..Model::standard(args.model) };
        let [channels, height, width] = args.input.0;
        let batch = args.batch.get() / args.slices();
        let slices = args.slices() / args.workers.get(); // of this worker
        let classes = args.classes.get();
        let geometry = Geometry { slices: 1, batch, height, width, channels, classes };
        let mut model = ResNet::new(device, &description, geometry);
        model.initialise(1);
        let len = model.layout().gradient_len();
        let mut draws = Draws::new(1, 0);
        let pixels = batch * height * width * channels;
        Rig {
            buckets: model.layout().buckets(BUCKET_LEN_MAX),
            peers: None,
            grad_scale: 1.0 / args.batch.get() as f32,
            optimizer: Sgd::new(device, model.layout(), &RULE),
            slots: (0..slices).map(|_| device.alloc(len)).collect(),
            pixels: (0..pixels).map(|_| draws.below(256) as u8).collect(),
            crops: vec![Crop { top: 0, left: 0, flip: false }; batch],
            labels: (0..batch).map(|_| draws.below(classes as u64) as u32).collect(),
            device: device.clone(),
            model,
        }
    }

    pub(super) fn bucket_lens(&self) -> Vec<usize> {
        self.buckets.iter().map(Range::len).collect()
    }

    /// Makes this one of several workers, each of which computes one slice.
    pub(super) fn connect(&mut self, workers: usize, mut exchange: Box<dyn Collective>) {
        self.slots = exchange.slots();
        self.peers = Some(Peers { exchange, workers, step: 0 });
    }

    /// One optimizer step.
    pub(super) fn step(&mut self) -> Result<Phases, BenchError> {
        let Rig { device, model, optimizer, slots, pixels, crops, labels, .. } = self;
        let Rig { grad_scale, buckets, peers, .. } = self;
        let mut phases = Phases::default();
        let mut since = Instant::now();
        let mut lap = |phase: &mut Duration| {
            *phase += since.elapsed();
            since = Instant::now();
        };
        let channels = model.geometry().channels;
        let targets = Targets {
            labels: ops::Labels::of(labels),
            label_smoothing: 0.0,
            grad_scale: *grad_scale,
        };
        // Nobody votes here: these totals are not written by the passes.
        let votes = Span::new(model.layout().totals().start + Total::StopVotes as usize, 2);
        for slot in &mut *slots {
            model.load(0, pixels, crops, &[0.5; 4][..channels], &[0.25; 4][..channels]);
            lap(&mut phases.load);
            model.forward();
            model.loss(&targets, slot);
            lap(&mut phases.forward);
            slot.write(votes, &[0.0; 2]);
            match peers {
                None => model.backward(slot, &[], &mut |_, _| {}),
                Some(peers) => peers.backward(model, buckets, slot)?,
            }
            lap(&mut phases.backward);
        }
        let (sum, slices) = match peers {
            None => {
                add_over_tree(device, slots);
                (&slots[0], slots.len())
            }
            Some(peers) => peers.wait(buckets.len())?,
        };
        lap(&mut phases.exchange);
        let norm = optimizer.measure(sum)?;
        let bad = first_non_finite(device, model.layout(), sum, norm)?;
        assert_eq!(bad, None, "a small rate");
        optimizer.update(model.state_mut().0, sum, RULE.learning_rate)?;
        model.update_running(sum, slices);
        lap(&mut phases.update);
        model.pack();
        lap(&mut phases.pack);
        std::hint::black_box(digest(model, None)?);
        lap(&mut phases.digest);
        Ok(phases)
    }
}

impl Peers {
    /// Backward of the slice; each bucket enters the exchange when it is complete.
    fn backward(
        &mut self,
        model: &mut ResNet,
        buckets: &[Range<usize>],
        slot: &mut Buffer,
    ) -> Result<(), CollectiveError> {
        let Peers { exchange, step, .. } = self;
        *step += 1;
        let mut result = Ok(());
        model.backward(slot, buckets, &mut |bucket, _| {
            if result.is_ok() {
                result = exchange.reduce(*step, bucket);
            }
        });
        result
    }

    /// The sum of all slices, and their number.
    fn wait(&mut self, buckets: usize) -> Result<(&Buffer, usize), CollectiveError> {
        for bucket in 0..buckets {
            self.exchange.wait(self.step, bucket)?;
        }
        Ok((self.exchange.sum(), self.workers))
    }
}

fn add_over_tree(device: &Device, slots: &mut [Buffer]) {
    let mut distance = 1;
    while distance < slots.len() {
        for into in (0..slots.len()).step_by(2 * distance) {
            let (into, from) = slots[into..].split_at_mut(distance);
            // The number of slices may be no power of two here.
            if let Some(from) = from.first() {
                ops::add(device, into[0].view_mut(from.span()), from.view(from.span()));
            }
        }
        distance *= 2;
    }
}

/// As in a job file that does not say otherwise.
pub(super) const BUCKET_MIB: usize = 4;
const BUCKET_LEN_MAX: usize = BUCKET_MIB << 18; // 4-byte elements in a MiB
/// Small enough that random images train for ever.
const RULE: Optimizer = Optimizer {
    learning_rate: 1e-3,
    momentum: 0.9,
    nesterov: true,
    weight_decay: 5e-4,
    rule: Rule::Sgd,
    clip_norm: None,
};
