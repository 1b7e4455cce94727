//! What a worker does in a step, spelled out on one worker from the model's and the optimizer's public parts; and small
//! images to train on. Knows neither loader nor exchange.

use std::num::NonZeroUsize;

use dataset::Draws;
use kernels::ops::{self, Crop};
use kernels::{Buffer, Device, Isa, Span};
use proto::job::{Model, Optimizer, Rule};
use worker::layout::Total;
use worker::model::{Geometry, ResNet, Targets};
use worker::optim::Sgd;

/// The settings of the PyTorch fixture, used everywhere.
pub(crate) const RULE: Optimizer = Optimizer {
    learning_rate: 0.05,
    momentum: 0.9,
    nesterov: true,
    weight_decay: 5e-4,
    rule: Rule::Sgd,
    clip_norm: None,
};
pub(crate) const LABEL_SMOOTHING: f32 = 0.1;
/// Mean and deviation of every channel.
pub(crate) const NORMALISATION: (f32, f32) = (0.5, 0.5);

/// A model in training.
#[derive(Debug)]
pub(crate) struct Training {
    pub(crate) device: Device,
    pub(crate) model: ResNet,
    pub(crate) optimizer: Sgd,
    /// Gradient vectors, one a slice; after `gradients` the first holds their sum.
    pub(crate) slots: Vec<Buffer>,
}

/// Labelled `u8` images.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) pixels: Vec<u8>, // [N, H, W, C]
    pub(crate) labels: Vec<u32>,
}

impl Training {
    /// `geometry.batch` is the length of a slice. Weights are zero.
    pub(crate) fn new(
        device: &Device,
        model: &Model,
        geometry: Geometry,
        slices: usize,
    ) -> Training {
        Training::of(device, ResNet::new(device, model, geometry), slices)
    }

    /// Of two slices, with room for images of these sizes too.
    pub(crate) fn with_room(
        device: &Device,
        model: &Model,
        geometry: Geometry,
        sizes: &[[usize; 2]],
    ) -> Training {
        Training::of(device, ResNet::with_room(device, model, geometry, sizes), 2)
    }

    fn of(device: &Device, model: ResNet, slices: usize) -> Training {
        let len = model.layout().gradient_len();
        Training {
            device: device.clone(),
            optimizer: Sgd::new(device, model.layout(), &RULE),
            slots: (0..slices).map(|_| device.alloc(len)).collect(),
            model,
        }
    }

    /// One optimizer step; returns the loss, the mean over the batch.
    pub(crate) fn step(&mut self, images: &Images) -> f64 {
        let loss = self.gradients(images);
        self.update();
        loss
    }

    /// Forward and backward of all slices, added over the tree; returns the loss.
    pub(crate) fn gradients(&mut self, images: &Images) -> f64 {
        let samples = self.model.geometry().samples();
        assert_eq!(images.labels.len(), samples * self.slots.len());
        for slice in 0..self.slots.len() {
            let part = images.part(slice * samples, samples);
            self.forward(slice, &part, images.labels.len());
            self.model.backward(&mut self.slots[slice], &[], &mut |_, _| {});
        }
        let mut distance = 1;
        while distance < self.slots.len() {
            for into in (0..self.slots.len()).step_by(2 * distance) {
                let (into, from) = self.slots[into..].split_at_mut(distance);
                let whole = from[0].span();
                ops::add(&self.device, into[0].view_mut(whole), from[0].view(whole));
            }
            distance *= 2;
        }
        f64::from(self.total(Total::Loss)) / images.labels.len() as f64
    }

    /// A sum over the batch, once `gradients` has run.
    pub(crate) fn total(&self, total: Total) -> f32 {
        let totals = self.model.layout().totals();
        let mut found = [0.0];
        let span = Span::new(totals.start + total as usize, 1);
        self.slots[0].read(span, &mut found).unwrap();
        found[0]
    }

    /// Forward and loss of one slice. Its gradient vector starts as numbers that must not matter.
    pub(crate) fn forward(&mut self, slice: usize, images: &Images, global_batch: usize) {
        let slot = &mut self.slots[slice];
        // What the step writes, not the model: votes and the state.
        let signed = self.model.layout().totals().start + Total::StopVotes as usize;
        let mut start = vec![f32::NAN; signed];
        start.resize(slot.len(), 0.0);
        slot.write(slot.span(), &start);
        load(&mut self.model, &images.pixels);
        let slices = self.model.geometry().slices;
        self.model.forward();
        let targets = Targets {
            labels: ops::Labels { lambda: &vec![1.0; slices], ..ops::Labels::of(&images.labels) },
            label_smoothing: LABEL_SMOOTHING,
            grad_scale: 1.0 / global_batch as f32,
        };
        self.model.loss(&targets, slot);
    }

    /// Weights and running statistics take the summed gradient vector.
    pub(crate) fn update(&mut self) {
        let sum = &self.slots[0];
        let (params, _) = self.model.state_mut();
        self.optimizer.measure(sum).unwrap();
        self.optimizer.update(params, sum, RULE.learning_rate).unwrap();
        self.model.update_running(sum, self.slots.len() * self.model.geometry().slices);
        self.model.pack();
    }

    /// Bits of weights, running statistics and velocity.
    pub(crate) fn state_bits(&self) -> [Vec<u32>; 3] {
        [self.model.params(), self.model.running(), self.optimizer.velocity()].map(bits)
    }
}

impl Images {
    pub(crate) fn part(&self, first: usize, len: usize) -> Images {
        let image = self.pixels.len() / self.labels.len();
        Images {
            pixels: self.pixels[first * image..(first + len) * image].to_vec(),
            labels: self.labels[first..first + len].to_vec(),
        }
    }

    /// `count` images of noise for a model of this geometry.
    pub(crate) fn random(seed: u64, count: usize, geometry: Geometry) -> Images {
        let mut draws = Draws::new(seed, 0);
        let len = count * geometry.height * geometry.width * geometry.channels;
        Images {
            pixels: (0..len).map(|_| draws.below(256) as u8).collect(),
            labels: (0..count).map(|_| draws.below(geometry.classes as u64) as u32).collect(),
        }
    }
}

/// Logits of a batch of images, `[N, classes]`.
pub(crate) fn predict(model: &mut ResNet, pixels: &[u8]) -> Vec<f32> {
    load(model, pixels);
    model.predict().unwrap()
}

fn load(model: &mut ResNet, pixels: &[u8]) {
    let Geometry { slices, batch, channels, .. } = model.geometry();
    let crops = vec![Crop { top: 0, left: 0, flip: false }; batch];
    let (mean, std) = NORMALISATION;
    for (slice, pixels) in pixels.chunks_exact(pixels.len() / slices).enumerate() {
        model.load(slice, pixels, &crops, &vec![mean; channels], &vec![std; channels]);
    }
}

pub(crate) fn device(threads: usize, isa: Isa) -> Device {
    Device::cpu_with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap()
}

/// Two threads, the widest instruction set.
pub(crate) fn any_device() -> Device {
    device(2, Isa::detect())
}

pub(crate) fn bits(buffer: &Buffer) -> Vec<u32> {
    values(buffer).into_iter().map(f32::to_bits).collect()
}

pub(crate) fn values(buffer: &Buffer) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    buffer.read(buffer.span(), &mut values).unwrap();
    values
}
