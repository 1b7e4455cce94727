//! A ResNet of any depth: its buffers, and the order of calls of forward and backward.
//!
//! Activations are `[N, H, W, C]` with `N` the samples of the slices that are computed at once, one after another. He et al., "Deep Residual Learning for Image
//! Recognition", 2015; bottleneck blocks carry their stride in the 3x3 convolution, as torchvision's do ("v1.5").

use std::ops::Range;

use kernels::ops::{self, Accumulate};
use kernels::{
    AugmentShape, Buffer, Device, DeviceError, ImagesShape, LinearShape, MaxPoolShape, PoolShape,
    Span,
};
use proto::job::Model;

use super::unit::{Mask, NormBackward, Shortcut, Statistics, Unit};
use crate::layout::{Layout, Total};

/// What a model is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Slices that are computed at once.
    pub slices: usize,
    /// Samples of one slice.
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub classes: usize,
}

/// A model with all its buffers, planned once: see `size`.
#[derive(Debug)]
pub struct ResNet {
    pub(super) device: Device,
    pub(super) model: Model,
    pub(super) geometry: Geometry,
    pub(super) graph: Graph,
    pub(super) buffers: Buffers,
}

/// The layers, and where each finds its numbers.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) layout: Layout,
    pub(super) packed_len: usize,
    pub(super) activations_len: usize,
    pub(super) vectors_len: usize,
    pub(super) stem: Unit,
    pub(super) max_pool: Option<MaxPool>,
    pub(super) blocks: Vec<Block>,
    pub(super) head: Head,
    /// Whether `initialise` makes the blocks start as their shortcuts.
    pub(super) zero_init_residual: bool,
    /// Among the activations: the input images; three gradients of the largest activation, used in turn.
    pub(super) input: Span,
    pub(super) scratch: [Span; 3],
}

/// Memory of the model, by lifetime.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Weights, `Layout::parameters`.
    pub(super) params: Buffer,
    /// Running statistics, `Layout::statistics`.
    pub(super) running: Buffer,
    /// Weights repacked for this step's convolutions.
    pub(super) packed: Buffer,
    /// Activations and their gradients, of the slices that are computed at once. These and the packed weights are kept in the
    /// device's precision, everything else in fp32.
    pub(super) activations: Buffer,
    /// What is small: numbers of each channel, and those behind the last activation.
    pub(super) vectors: Buffer,
}

#[derive(Debug)]
pub(super) struct MaxPool {
    pub(super) shape: MaxPoolShape,
    pub(super) y: Span, // [N, H, W, C]
}

/// A residual block: a chain of units around which the input is added.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) x: Span, // [N, H, W, C], the previous block's output
    pub(super) chain: Vec<Unit>,
    pub(super) projection: Option<Unit>,
}

/// Global average pooling, a linear layer, and the loss.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) x: Span, // [N, H, W, C], the last block's output
    pub(super) pool: PoolShape,
    pub(super) linear: LinearShape,
    pub(super) weight: Span, // [C, classes], in the parameter buffer
    pub(super) bias: Span,   // [classes], in the parameter buffer
    // Among the vectors:
    pub(super) features: Span,   // [N, C]
    pub(super) d_features: Span, // [N, C]
    pub(super) logits: Span,     // [N, classes]
    pub(super) d_logits: Span,   // [N, classes]
}

/// What the loss of a slice needs besides the logits.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    pub labels: ops::Labels<'a>,
    pub label_smoothing: f32,
    /// Factor of the gradient: 1 / global batch.
    pub grad_scale: f32,
}

impl Graph {
    /// Whether there are buffers for a backward pass.
    pub(super) fn can_train(&self) -> bool {
        self.scratch[0].len > 0
    }
}

impl Geometry {
    /// Of all slices that are computed at once.
    pub fn samples(&self) -> usize {
        self.slices * self.batch
    }

    /// Of one slice.
    fn images(&self) -> ImagesShape {
        let Geometry { slices: _, batch, height, width, channels, .. } = *self;
        ImagesShape { batch, height, width, channels }
    }
}

impl ResNet {
    pub fn layout(&self) -> &Layout {
        &self.graph.layout
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn params(&self) -> &Buffer {
        &self.buffers.params
    }

    pub fn running(&self) -> &Buffer {
        &self.buffers.running
    }

    /// Weights and running statistics, to be written; call `pack` afterwards.
    pub fn state_mut(&mut self) -> (&mut Buffer, &mut Buffer) {
        (&mut self.buffers.params, &mut self.buffers.running)
    }

    /// First weights and running statistics, from the job's seed alone.
    pub fn initialise(&mut self, seed: u64) {
        let Buffers { params, running, .. } = &mut self.buffers;
        super::init::initialise(&self.graph.layout, seed, params, running);
        if self.graph.zero_init_residual {
            for block in &self.graph.blocks {
                ops::fill(&self.device, params.view_mut(block.last().gamma), 0.0);
            }
        }
        self.pack();
    }

    /// Writes to all memory that passes use.
    pub fn touch(&mut self) {
        let Buffers { activations, vectors, .. } = &mut self.buffers;
        for buffer in [activations, vectors] {
            ops::fill(&self.device, buffer.view_mut(buffer.span()), 0.0);
        }
        self.pack();
    }

    /// Repacks the weights after they changed.
    pub fn pack(&mut self) {
        let ResNet { device, graph: Graph { stem, blocks, .. }, buffers, .. } = self;
        stem.pack(device, buffers);
        for unit in blocks.iter().flat_map(Block::units) {
            unit.pack(device, buffers);
        }
    }

    /// Normalises, crops and flips `u8` images into the model's input, as the `slice`-th of those that are computed at once.
    pub fn load(
        &mut self,
        slice: usize,
        pixels: &[u8],
        crops: &[ops::Crop],
        mean: &[f32],
        std: &[f32],
    ) {
        let Geometry { slices: _, batch, height, width, channels, .. } = self.geometry;
        let shape =
            AugmentShape { batch, height, width, channels, out_height: height, out_width: width };
        let input = self.buffers.activations.view_mut(self.input(slice));
        ops::augment(&self.device, &shape, pixels, crops, mean, std, input);
    }

    /// Takes a window out of each loaded image of a slice.
    pub fn erase(&mut self, slice: usize, windows: &[ops::Window]) {
        let input = self.buffers.activations.view_mut(self.input(slice));
        ops::erase(&self.device, &self.geometry.images(), windows, input);
    }

    /// Mixes the loaded images of a slice, each with the one before it.
    pub fn mix(&mut self, slice: usize, how: ops::Mix) {
        let input = self.buffers.activations.view_mut(self.input(slice));
        ops::mix(&self.device, &self.geometry.images(), &[how], input);
    }

    /// The images of one slice.
    fn input(&self, slice: usize) -> Span {
        let len = self.geometry.images().len();
        Span::new(self.graph.input.start + slice * len, len)
    }

    /// Training forward of the loaded slices.
    pub fn forward(&mut self) {
        assert!(self.graph.can_train(), "a model for inference only predicts");
        self.run_forward(Statistics::Slice);
    }

    /// Evaluation forward with the running statistics; returns the logits, `[N, classes]`.
    pub fn predict(&mut self) -> Result<Vec<f32>, DeviceError> {
        self.run_forward(Statistics::Running);
        let mut logits = vec![0.0; self.graph.head.logits.len];
        self.buffers.vectors.read(self.graph.head.logits, &mut logits)?;
        Ok(logits)
    }

    /// Loss and its gradient at the logits; sums over the slices go into the totals of `slice`, their gradient vector.
    pub fn loss(&mut self, targets: &Targets<'_>, slice: &mut Buffer) {
        let head = &self.graph.head;
        let [logits, d_logits] = self.buffers.vectors.views_mut([head.logits, head.d_logits]);
        let sums = Span { start: self.graph.layout.totals().start + Total::Loss as usize, len: 2 };
        ops::softmax_cross_entropy(
            &self.device,
            logits.as_view(),
            targets.labels,
            head.linear.outputs,
            targets.label_smoothing,
            targets.grad_scale,
            d_logits,
            slice.view_mut(sums),
        );
    }

    /// Backward of the slices; `slice` gets the sum of their gradients and statistics. `buckets` are runs of the gradient vector, in order; `on_ready(b, slice)` is called as soon
    /// as bucket `b` is complete.
    pub fn backward(
        &mut self,
        slice: &mut Buffer,
        buckets: &[Range<usize>],
        on_ready: &mut dyn FnMut(usize, &mut Buffer),
    ) {
        let ResNet { device, graph, buffers, .. } = self;
        let Graph { stem, max_pool, blocks, head, input, scratch, .. } = graph;
        let mut ready = Frontier { buckets, next: 0, on_ready };
        // `dy` is the gradient of the activation that backward has reached; `dz` and `dx` are free.
        let [mut dy, dz, mut dx] = *scratch;
        head.backward(device, buffers, slice, dy);
        ready.reached(head.bias.start + head.bias.len, slice);
        for block in blocks.iter().rev() {
            let result = block.backward(device, buffers, slice, [dy, dz, dx], &mut ready);
            if result.start != dy.start {
                std::mem::swap(&mut dy, &mut dx);
            }
        }
        if let Some(pool) = max_pool {
            let dy_pool = Span { len: pool.y.len, ..dy };
            let dx_pool = Span { len: stem.y.len, ..dx };
            let spans = [stem.y, pool.y, dy_pool, dx_pool];
            let [x, y, d_out, d_in] = buffers.activations.views_mut(spans);
            let (x, y) = (x.as_view(), y.as_view());
            ops::max_pool_backward(device, &pool.shape, x, y, d_out.as_view(), d_in);
            std::mem::swap(&mut dy, &mut dx);
        }
        let (dy, dz) = (Span { len: stem.y.len, ..dy }, Span { len: stem.y.len, ..dz });
        stem.backward_norm(device, buffers, slice, NormBackward { mask: Mask::Relu, dy, dz });
        stem.backward_weight(device, &mut buffers.activations, *input, dz, slice);
        ready.reached(usize::MAX, slice);
    }

    /// Folds the reduced slice statistics into the running ones.
    pub fn update_running(&mut self, sums: &Buffer, slices: usize) {
        let ResNet { device, graph: Graph { stem, blocks, .. }, buffers, .. } = self;
        for unit in std::iter::once(&*stem).chain(blocks.iter().flat_map(Block::units)) {
            unit.update_running(device, &mut buffers.running, sums, slices);
        }
    }

    fn run_forward(&mut self, statistics: Statistics) {
        let ResNet { device, graph, buffers, .. } = self;
        let Graph { stem, max_pool, blocks, head, input, .. } = graph;
        stem.convolve(device, buffers, *input, statistics);
        stem.activate(device, buffers, statistics, Shortcut::None);
        if let Some(pool) = max_pool {
            let [x, y] = buffers.activations.views_mut([stem.y, pool.y]);
            ops::max_pool_forward(device, &pool.shape, x.as_view(), y);
        }
        for block in &*blocks {
            block.forward(device, buffers, statistics);
        }
        head.forward(device, buffers);
    }
}

impl Block {
    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.chain.iter().chain(&self.projection)
    }

    pub(super) fn y(&self) -> Span {
        self.last().y
    }

    fn last(&self) -> &Unit {
        self.chain.last().expect("a block has at least two units")
    }

    fn forward(&self, device: &Device, buffers: &mut Buffers, statistics: Statistics) {
        let mut x = self.x;
        for (i, unit) in self.chain.iter().enumerate() {
            unit.convolve(device, buffers, x, statistics);
            if i + 1 < self.chain.len() {
                unit.activate(device, buffers, statistics, Shortcut::None);
            }
            x = unit.y;
        }
        let shortcut = match &self.projection {
            Some(projection) => {
                projection.convolve(device, buffers, self.x, statistics);
                Shortcut::Projection(projection)
            }
            None => Shortcut::Identity(self.x),
        };
        self.last().activate(device, buffers, statistics, shortcut);
    }

    /// `scratch[0]` holds the gradient of the block's output; returns which scratch holds that of its input.
    fn backward(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        slice: &mut Buffer,
        scratch: [Span; 3],
        ready: &mut Frontier<'_>,
    ) -> Span {
        let [dy, dz, dx] = scratch;
        let of = |scratch: Span, activation: Span| Span { len: activation.len, ..scratch };
        // The gradient of the block's output is masked in place and kept: it is also the shortcut's.
        let d_out = of(dy, self.y());
        let mut d_unit = d_out;
        for (i, unit) in self.chain.iter().enumerate().rev() {
            let x = if i == 0 { self.x } else { self.chain[i - 1].y };
            let dz = of(dz, unit.y);
            unit.backward_norm(
                device,
                buffers,
                slice,
                NormBackward { mask: Mask::Relu, dy: d_unit, dz },
            );
            unit.backward_weight(device, &mut buffers.activations, x, dz, slice);
            let identity = i == 0 && self.projection.is_none();
            // An identity shortcut's gradient is there already: the chain's is added to it.
            let (into, how) = if identity {
                (d_out, Accumulate::Add)
            } else {
                (of(dx, x), Accumulate::Overwrite)
            };
            unit.backward_input(device, buffers, dz, into, how);
            d_unit = into;
            ready.reached(unit.gradients_end(), slice);
        }
        if let Some(unit) = &self.projection {
            let dz = of(dz, unit.y);
            unit.backward_norm(
                device,
                buffers,
                slice,
                NormBackward { mask: Mask::None, dy: d_out, dz },
            );
            unit.backward_weight(device, &mut buffers.activations, self.x, dz, slice);
            unit.backward_input(device, buffers, dz, d_unit, Accumulate::Add);
            ready.reached(unit.gradients_end(), slice);
        }
        d_unit
    }
}

impl Head {
    fn forward(&self, device: &Device, buffers: &mut Buffers) {
        let Buffers { params, activations, vectors, .. } = buffers;
        let x = activations.view(self.x);
        let [mut features, logits] = vectors.views_mut([self.features, self.logits]);
        ops::average_pool_forward(device, &self.pool, x, features.reborrow());
        let (weight, bias) = (params.view(self.weight), params.view(self.bias));
        ops::linear_forward(device, &self.linear, features.as_view(), weight, bias, logits);
    }

    /// Writes the gradient of the last activation to the scratch `dy`.
    fn backward(&self, device: &Device, buffers: &mut Buffers, slice: &mut Buffer, dy: Span) {
        let Buffers { params, activations, vectors, .. } = buffers;
        let dy = activations.view_mut(Span { len: self.x.len, ..dy });
        let spans = [self.features, self.d_logits, self.d_features];
        let [features, d_logits, mut d_features] = vectors.views_mut(spans);
        let [d_weight, d_bias] = slice.views_mut([self.weight, self.bias]);
        ops::linear_backward(
            device,
            &self.linear,
            features.as_view(),
            params.view(self.weight),
            d_logits.as_view(),
            d_features.reborrow(),
            d_weight,
            d_bias,
        );
        ops::average_pool_backward(device, &self.pool, d_features.as_view(), dy);
    }
}

/// Tells which buckets of the gradient vector are complete.
struct Frontier<'a> {
    buckets: &'a [Range<usize>],
    next: usize,
    on_ready: &'a mut dyn FnMut(usize, &mut Buffer),
}

impl Frontier<'_> {
    /// All gradients before `end` are written.
    fn reached(&mut self, end: usize, slice: &mut Buffer) {
        while self.buckets.get(self.next).is_some_and(|bucket| bucket.end <= end) {
            (self.on_ready)(self.next, slice);
            self.next += 1;
        }
    }
}
