//! A model in training on made-up images, and where the time of its steps goes. What is printed is not known here.

use std::time::{Duration, Instant};

use dataset::Draws;
use kernels::ops::{self, Crop};
use kernels::{Buffer, Device, Span};
use proto::job::{Model, Optimizer, Rule};

use crate::args::Bench;
use crate::layout::Total;
use crate::model::{Geometry, ResNet, Targets};
use crate::optim::Sgd;
use crate::step::{digest, first_non_finite};

#[derive(Debug)]
pub(super) struct Rig {
    device: Device,
    model: ResNet,
    optimizer: Sgd,
    slots: Vec<Buffer>,
    pixels: Vec<u8>, // of one slice
    crops: Vec<Crop>,
    labels: Vec<u32>,
}

/// Wall time of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Phases {
    load: Duration,
    forward: Duration,
    backward: Duration,
    update: Duration,
    pack: Duration,
}

/// A part of a step and how to read it.
type Phase = (&'static str, fn(&Phases) -> Duration);

impl Phases {
    pub(super) const NAMES: [Phase; 5] = [
        ("load", |phases| phases.load),
        ("forward", |phases| phases.forward),
        ("backward", |phases| phases.backward),
        ("update", |phases| phases.update),
        ("pack", |phases| phases.pack),
    ];

    pub(super) fn total(&self) -> Duration {
        Phases::NAMES.iter().map(|(_, phase)| phase(self)).sum()
    }
}

impl Rig {
    pub(super) fn new(device: &Device, args: &Bench) -> Rig {
        let description = Model { stem: args.stem(), ..Model::standard(args.model) };
        let [channels, height, width] = args.input.0;
        let slices = args.slices.get();
        let batch = args.batch.get() / slices;
        let classes = args.classes.get();
        let geometry = Geometry { batch, height, width, channels, classes };
        let mut model = ResNet::new(device, &description, geometry);
        model.initialise(1);
        let len = model.layout().gradient_len();
        let mut draws = Draws::new(1, 0);
        let pixels = batch * height * width * channels;
        Rig {
            optimizer: Sgd::new(device, model.layout(), &RULE),
            slots: (0..slices).map(|_| device.alloc(len)).collect(),
            pixels: (0..pixels).map(|_| draws.below(256) as u8).collect(),
            crops: vec![Crop { top: 0, left: 0, flip: false }; batch],
            labels: (0..batch).map(|_| draws.below(classes as u64) as u32).collect(),
            device: device.clone(),
            model,
        }
    }

    /// One optimizer step.
    pub(super) fn step(&mut self) -> Phases {
        let Rig { device, model, optimizer, slots, pixels, crops, labels } = self;
        let mut phases = Phases::default();
        let mut since = Instant::now();
        let mut lap = |phase: &mut Duration| {
            *phase += since.elapsed();
            since = Instant::now();
        };
        let channels = model.geometry().channels;
        let slices = slots.len();
        let targets = Targets {
            labels: ops::Labels::of(labels),
            label_smoothing: 0.0,
            grad_scale: 1.0 / (labels.len() * slices) as f32,
        };
        for slot in &mut *slots {
            model.load(pixels, crops, &[0.5; 4][..channels], &[0.25; 4][..channels]);
            lap(&mut phases.load);
            model.forward(slot);
            model.loss(&targets, slot);
            lap(&mut phases.forward);
            model.backward(slot, &[], &mut |_, _| {});
            lap(&mut phases.backward);
        }
        add_over_tree(device, slots);
        let sum = &mut slots[0];
        // Nobody votes here: that total is not written by the passes.
        let votes = model.layout().totals().start + Total::StopVotes as usize;
        sum.write(Span::new(votes, 1), &[0.0]);
        let norms = optimizer.gradient_norms(sum);
        let bad = first_non_finite(device, model.layout(), sum, &norms);
        assert_eq!(bad, None, "a small rate");
        optimizer.update(model.state_mut().0, sum, &norms, RULE.learning_rate);
        model.update_running(sum, slices);
        lap(&mut phases.update);
        model.pack();
        lap(&mut phases.pack);
        std::hint::black_box(digest(model, None));
        lap(&mut phases.update);
        phases
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

/// Small enough that random images train for ever.
const RULE: Optimizer = Optimizer {
    learning_rate: 1e-3,
    momentum: 0.9,
    nesterov: true,
    weight_decay: 5e-4,
    rule: Rule::Sgd,
    clip_norm: None,
};
