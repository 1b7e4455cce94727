//! A ResNet of any depth: its tables, its buffers, and the order of calls of forward and backward.
//!
//! Activations are `[N, H, W, C]` with `N` the samples of one slice. He et al., "Deep Residual Learning for Image
//! Recognition", 2015; bottleneck blocks carry their stride in the 3x3 convolution, as torchvision's do ("v1.5").

use std::ops::Range;

use kernels::ops::{self, Accumulate};
use kernels::{
    AugmentShape, Buffer, ConvShape, Device, LinearShape, MaxPoolShape, PoolShape, Span,
};
use proto::job::{Block as BlockKind, Model, Stem};

use super::unit::{Mask, NormBackward, Planners, Statistics, Unit};
use crate::layout::{Layout, Role, Total};

/// What a model is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Samples of one slice.
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub classes: usize,
}

/// A model with all its buffers, planned once.
#[derive(Debug)]
pub struct ResNet {
    device: Device,
    geometry: Geometry,
    layout: Layout,
    buffers: Buffers,
    stem: Unit,
    max_pool: Option<MaxPool>,
    blocks: Vec<Block>,
    head: Head,
    /// In the arena: the input images; three gradients of the largest activation, used in turn.
    input: Span,
    scratch: [Span; 3],
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
    /// Activations and their gradients of one slice.
    pub(super) arena: Buffer,
}

#[derive(Debug)]
struct MaxPool {
    shape: MaxPoolShape,
    y: Span, // [N, H, W, C]
}

/// A residual block: a chain of units around which the input is added.
#[derive(Debug)]
struct Block {
    x: Span, // [N, H, W, C], the previous block's output
    chain: Vec<Unit>,
    projection: Option<Unit>,
}

/// Global average pooling, a linear layer, and the loss.
#[derive(Debug)]
struct Head {
    x: Span, // [N, H, W, C], the last block's output
    pool: PoolShape,
    linear: LinearShape,
    weight: Span,     // [C, classes], in the parameter buffer
    bias: Span,       // [classes], in the parameter buffer
    features: Span,   // [N, C]
    d_features: Span, // [N, C]
    logits: Span,     // [N, classes]
    d_logits: Span,   // [N, classes]
}

/// What the loss of a slice needs besides the logits.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// One class index a sample.
    pub labels: &'a [u32],
    pub label_smoothing: f32,
    /// Factor of the gradient: 1 / global batch.
    pub grad_scale: f32,
}

impl ResNet {
    /// Plans the layers and allocates every buffer; weights are zero until `initialise` or a checkpoint fills them.
    pub fn new(device: &Device, model: &Model, geometry: Geometry) -> ResNet {
        Builder::new(device, geometry).build(model)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
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

    /// Bytes of all buffers.
    pub fn memory_bytes(&self) -> usize {
        let b = &self.buffers;
        [&b.params, &b.running, &b.packed, &b.arena].iter().map(|buffer| 4 * buffer.len()).sum()
    }

    /// First weights and running statistics, from the job's seed alone.
    pub fn initialise(&mut self, seed: u64) {
        let Buffers { params, running, .. } = &mut self.buffers;
        super::init::initialise(&self.layout, seed, params, running);
        self.pack();
    }

    /// Repacks the weights after they changed.
    pub fn pack(&mut self) {
        let ResNet { device, buffers, stem, blocks, .. } = self;
        stem.pack(device, buffers);
        for unit in blocks.iter().flat_map(Block::units) {
            unit.pack(device, buffers);
        }
    }

    /// Normalises, crops and flips `u8` images into the model's input.
    pub fn load(&mut self, pixels: &[u8], crops: &[ops::Crop], mean: &[f32], std: &[f32]) {
        let Geometry { batch, height, width, channels, .. } = self.geometry;
        let shape =
            AugmentShape { batch, height, width, channels, out_height: height, out_width: width };
        let input = self.buffers.arena.view_mut(self.input);
        ops::augment(&self.device, &shape, pixels, crops, mean, std, input);
    }

    /// Training forward of the loaded slice; leaves the slice's BatchNorm statistics in `slice`, its gradient vector.
    pub fn forward(&mut self, slice: &mut Buffer) {
        self.run_forward(Statistics::Slice, slice);
    }

    /// Evaluation forward with the running statistics; returns the logits, `[N, classes]`.
    pub fn predict(&mut self) -> Vec<f32> {
        let mut unused = self.device.alloc(0);
        self.run_forward(Statistics::Running, &mut unused);
        let mut logits = vec![0.0; self.head.logits.len];
        self.buffers.arena.read(self.head.logits, &mut logits);
        logits
    }

    /// Loss and its gradient at the logits; sums over the slice go into the totals of `slice`.
    pub fn loss(&mut self, targets: &Targets<'_>, slice: &mut Buffer) {
        let head = &self.head;
        let [logits, d_logits] = self.buffers.arena.views_mut([head.logits, head.d_logits]);
        let sums = Span { start: self.layout.totals().start + Total::Loss as usize, len: 2 };
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

    /// Backward of the slice. `buckets` are runs of the gradient vector, in order; `on_ready(b, slice)` is called as soon
    /// as bucket `b` is complete.
    pub fn backward(
        &mut self,
        slice: &mut Buffer,
        buckets: &[Range<usize>],
        on_ready: &mut dyn FnMut(usize, &mut Buffer),
    ) {
        let ResNet { device, buffers, stem, max_pool, blocks, head, input, scratch, .. } = self;
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
            let [x, y, d_out, d_in] = buffers.arena.views_mut([stem.y, pool.y, dy_pool, dx_pool]);
            let (x, y) = (x.as_view(), y.as_view());
            ops::max_pool_backward(device, &pool.shape, x, y, d_out.as_view(), d_in);
            std::mem::swap(&mut dy, &mut dx);
        }
        let (dy, dz) = (Span { len: stem.y.len, ..dy }, Span { len: stem.y.len, ..dz });
        stem.backward_norm(device, buffers, slice, NormBackward { mask: Mask::Relu, dy, dz });
        stem.backward_weight(device, &mut buffers.arena, *input, dz, slice);
        ready.reached(usize::MAX, slice);
    }

    /// Folds the reduced slice statistics into the running ones.
    pub fn update_running(&mut self, sums: &Buffer, slices: usize) {
        let ResNet { device, buffers, stem, blocks, .. } = self;
        for unit in std::iter::once(&*stem).chain(blocks.iter().flat_map(Block::units)) {
            unit.update_running(device, &mut buffers.running, sums, slices);
        }
    }

    fn run_forward(&mut self, statistics: Statistics, slice: &mut Buffer) {
        let ResNet { device, buffers, stem, max_pool, blocks, head, input, .. } = self;
        stem.convolve(device, buffers, *input, statistics, slice);
        stem.activate(device, &mut buffers.arena);
        if let Some(pool) = max_pool {
            let [x, y] = buffers.arena.views_mut([stem.y, pool.y]);
            ops::max_pool_forward(device, &pool.shape, x.as_view(), y);
        }
        for block in &*blocks {
            block.forward(device, buffers, statistics, slice);
        }
        head.forward(device, buffers);
    }
}

impl Block {
    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.chain.iter().chain(&self.projection)
    }

    fn y(&self) -> Span {
        self.last().y
    }

    fn last(&self) -> &Unit {
        self.chain.last().expect("a block has at least two units")
    }

    fn forward(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        statistics: Statistics,
        slice: &mut Buffer,
    ) {
        let mut x = self.x;
        for (i, unit) in self.chain.iter().enumerate() {
            unit.convolve(device, buffers, x, statistics, slice);
            if i + 1 < self.chain.len() {
                unit.activate(device, &mut buffers.arena);
            }
            x = unit.y;
        }
        match &self.projection {
            Some(projection) => {
                projection.convolve(device, buffers, self.x, statistics, slice);
                self.last().activate_with_projection(device, &mut buffers.arena, projection);
            }
            None => self.last().activate_with_identity(device, &mut buffers.arena, self.x),
        }
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
            unit.backward_weight(device, &mut buffers.arena, x, dz, slice);
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
            unit.backward_weight(device, &mut buffers.arena, self.x, dz, slice);
            unit.backward_input(device, buffers, dz, d_unit, Accumulate::Add);
            ready.reached(unit.gradients_end(), slice);
        }
        d_unit
    }
}

impl Head {
    fn forward(&self, device: &Device, buffers: &mut Buffers) {
        let Buffers { params, arena, .. } = buffers;
        let [x, features, logits] = arena.views_mut([self.x, self.features, self.logits]);
        let mut features = features;
        ops::average_pool_forward(device, &self.pool, x.as_view(), features.reborrow());
        let (weight, bias) = (params.view(self.weight), params.view(self.bias));
        ops::linear_forward(device, &self.linear, features.as_view(), weight, bias, logits);
    }

    /// Writes the gradient of the last activation to the scratch `dy`.
    fn backward(&self, device: &Device, buffers: &mut Buffers, slice: &mut Buffer, dy: Span) {
        let Buffers { params, arena, .. } = buffers;
        let dy = Span { len: self.x.len, ..dy };
        let spans = [self.features, self.d_logits, self.d_features, dy];
        let [features, d_logits, mut d_features, dy] = arena.views_mut(spans);
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

/// Lays out a model. Shapes are known from the input on, but gradients finish from the output on: the first pass
/// collects the convolutions, the second places their parameters in the order of backward.
struct Builder {
    device: Device,
    geometry: Geometry,
    layout: Layout,
    planners: Planners,
}

/// A block before its parameters are placed.
struct BlockShape {
    name: String,
    chain: Vec<ConvShape>,
    projection: Option<ConvShape>,
}

impl Builder {
    fn new(device: &Device, geometry: Geometry) -> Builder {
        Builder {
            device: device.clone(),
            geometry,
            layout: Layout::default(),
            planners: Planners::default(),
        }
    }

    fn build(mut self, model: &Model) -> ResNet {
        let Geometry { batch, height, width, channels, classes } = self.geometry;
        let input = self.planners.arena.span(batch * height * width * channels);
        let stem_shape = stem_shape(model, self.geometry);
        let pool_shape = pool_shape(model, &stem_shape);
        let (rows, columns) = match &pool_shape {
            Some(pool) => (pool.out_height(), pool.out_width()),
            None => (stem_shape.out_height(), stem_shape.out_width()),
        };
        let stem_channels = stem_shape.out_channels;
        let shapes = block_shapes(model, [batch, rows, columns, stem_channels]);
        let last = shapes.last().and_then(|block| block.chain.last());
        let last = *last.expect("a model has at least one block");

        let mut head = self.head(&last, classes);
        let mut blocks: Vec<Block> = shapes.iter().rev().map(|shape| self.block(shape)).collect();
        blocks.reverse();
        let mut stem = Unit::plan("conv1", "bn1", stem_shape, &mut self.layout, &mut self.planners);
        let max_pool = pool_shape.map(|shape| {
            let y = self.planners.arena.span(shape.output_len());
            MaxPool { shape, y }
        });

        // Everything is placed: tie each layer to its input and to its statistics.
        let mut x = max_pool.as_ref().map_or(stem.y, |pool| pool.y);
        stem.place_statistics(&self.layout);
        for block in &mut blocks {
            block.x = x;
            x = block.y();
            for unit in block.chain.iter_mut().chain(&mut block.projection) {
                unit.place_statistics(&self.layout);
            }
        }
        head.x = x;
        let largest = blocks.iter().flat_map(Block::units).map(|unit| unit.y.len);
        let largest = largest.chain([stem.y.len]).max().expect("there is a stem");
        let scratch = [(); 3].map(|()| self.planners.arena.span(largest));
        let buffers = self.allocate();
        let Builder { device, geometry, layout, .. } = self;
        ResNet { device, geometry, layout, buffers, stem, max_pool, blocks, head, input, scratch }
    }

    fn allocate(&self) -> Buffers {
        let alloc = |len: usize| self.device.alloc(len);
        Buffers {
            params: alloc(self.layout.parameters_len()),
            running: alloc(self.layout.statistics_len()),
            packed: alloc(self.planners.packed.len()),
            arena: alloc(self.planners.arena.len()),
        }
    }

    fn head(&mut self, last: &ConvShape, classes: usize) -> Head {
        let (batch, channels) = (last.batch, last.out_channels);
        let pixels = last.out_height() * last.out_width();
        let role = Role::LinearWeight { inputs: channels, outputs: classes };
        let weight = self.layout.parameter("fc.weight".to_owned(), role, channels * classes);
        let role = Role::LinearBias { inputs: channels };
        let bias = self.layout.parameter("fc.bias".to_owned(), role, classes);
        let arena = &mut self.planners.arena;
        Head {
            x: Span { start: 0, len: 0 }, // tied once the blocks are placed
            pool: PoolShape { batch, pixels, channels },
            linear: LinearShape { batch, inputs: channels, outputs: classes },
            weight,
            bias,
            features: arena.span(batch * channels),
            d_features: arena.span(batch * channels),
            logits: arena.span(batch * classes),
            d_logits: arena.span(batch * classes),
        }
    }

    fn block(&mut self, shape: &BlockShape) -> Block {
        let BlockShape { name, chain, projection } = shape;
        let (layout, planners) = (&mut self.layout, &mut self.planners);
        let mut units: Vec<Unit> = Vec::new();
        for (i, &conv) in chain.iter().enumerate().rev() {
            let n = i + 1;
            let (conv_name, norm_name) = (format!("{name}.conv{n}"), format!("{name}.bn{n}"));
            units.push(Unit::plan(&conv_name, &norm_name, conv, layout, planners));
        }
        units.reverse();
        let projection = projection.map(|conv| {
            let (conv_name, norm_name) =
                (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
            Unit::plan(&conv_name, &norm_name, conv, layout, planners)
        });
        Block { x: Span { start: 0, len: 0 }, chain: units, projection }
    }
}

fn stem_shape(model: &Model, geometry: Geometry) -> ConvShape {
    let Geometry { batch, height, width, channels, .. } = geometry;
    let (kernel, stride, pad) = match model.stem {
        Stem::Imagenet => (7, 2, 3),
        Stem::Cifar => (3, 1, 1),
    };
    // He et al. give the stem the width of the first stage.
    let out_channels = model.widths[0];
    ConvShape { batch, height, width, in_channels: channels, out_channels, kernel, stride, pad }
}

fn pool_shape(model: &Model, stem: &ConvShape) -> Option<MaxPoolShape> {
    let (height, width) = (stem.out_height(), stem.out_width());
    let (batch, channels) = (stem.batch, stem.out_channels);
    let shape = MaxPoolShape { batch, height, width, channels, kernel: 3, stride: 2, pad: 1 };
    (model.stem == Stem::Imagenet).then_some(shape)
}

/// Shapes of all blocks, given the `[N, H, W, C]` that the first one takes.
fn block_shapes(
    model: &Model,
    [batch, mut height, mut width, mut channels]: [usize; 4],
) -> Vec<BlockShape> {
    let mut shapes = Vec::new();
    for (stage, (&blocks, &inner)) in model.blocks.iter().zip(&model.widths).enumerate() {
        for index in 0..blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let conv = |in_channels, out_channels, kernel, stride| {
                let pad = kernel / 2;
                ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, pad }
            };
            let (outer, layers) = match model.block {
                BlockKind::Basic => {
                    (inner, vec![(channels, inner, 3, stride), (inner, inner, 3, 1)])
                }
                BlockKind::Bottleneck => {
                    let outer = EXPANSION * inner;
                    (
                        outer,
                        vec![
                            (channels, inner, 1, 1),
                            (inner, inner, 3, stride),
                            (inner, outer, 1, 1),
                        ],
                    )
                }
            };
            let mut chain: Vec<ConvShape> = Vec::new();
            for (in_channels, out_channels, kernel, stride) in layers {
                let mut shape = conv(in_channels, out_channels, kernel, stride);
                if let Some(before) = chain.last() {
                    (shape.height, shape.width) = (before.out_height(), before.out_width());
                }
                chain.push(shape);
            }
            let changes = stride > 1 || channels != outer;
            let projection = changes.then(|| conv(channels, outer, 1, stride));
            let last = chain[chain.len() - 1];
            (height, width, channels) = (last.out_height(), last.out_width(), outer);
            shapes.push(BlockShape {
                name: format!("layer{}.{index}", stage + 1),
                chain,
                projection,
            });
        }
    }
    shapes
}

/// A bottleneck block puts out this many times its inner width.
const EXPANSION: usize = 4;
