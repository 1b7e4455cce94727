//! From a model's description to its graph: the tables of the family, the shapes of all layers, the place of every tensor.
//!
//! He et al., "Deep Residual Learning for Image Recognition", 2015. Nothing is allocated here.

use kernels::{ConvShape, Family, LinearShape, MaxPoolShape, PoolShape, Span};
use proto::job::{Block as BlockKind, Model, Stem};

use super::resnet::{Block, Geometry, Graph, Head, MaxPool};
use super::unit::{Planners, Unit};
use crate::layout::{Layout, Role};

/// Lays out a model for devices of a family.
pub(super) fn build(family: Family, model: &Model, geometry: Geometry) -> Graph {
    let builder = Builder { layout: Layout::default(), planners: Planners::new(family) };
    builder.build(model, geometry)
}

/// Shapes are known from the input on, but gradients finish from the output on: the first pass
/// collects the convolutions, the second places their parameters in the order of backward.
struct Builder {
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
    fn build(mut self, model: &Model, geometry: Geometry) -> Graph {
        let Geometry { height, width, channels, classes, .. } = geometry;
        let samples = geometry.samples();
        let input = self.planners.activations.span(samples * height * width * channels);
        let stem_shape = stem_shape(model, geometry);
        let pool_shape = pool_shape(model, &stem_shape);
        let (rows, columns) = match &pool_shape {
            Some(pool) => (pool.out_height(), pool.out_width()),
            None => (stem_shape.out_height(), stem_shape.out_width()),
        };
        let stem_channels = stem_shape.out_channels;
        let shapes = block_shapes(model, &stem_shape, [rows, columns, stem_channels]);
        let last = shapes.last().and_then(|block| block.chain.last());
        let last = *last.expect("a model has at least one block");

        let mut head = self.head(&last, classes);
        let mut blocks: Vec<Block> = shapes.iter().rev().map(|shape| self.block(shape)).collect();
        blocks.reverse();
        let (layout, planners) = (&mut self.layout, &mut self.planners);
        let mut stem = Unit::plan("conv1", "bn1", stem_shape, layout, planners);
        if model.stem_bias {
            stem = stem.with_bias("conv1", layout, planners);
        }
        let max_pool = pool_shape.map(|shape| {
            let y = self.planners.activations.span(shape.output_len());
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
        let scratch = [(); 3].map(|()| self.planners.activations.span(largest));
        let Builder { layout, planners: Planners { packed, activations, vectors, .. } } = self;
        Graph {
            layout,
            packed_len: packed.len(),
            activations_len: activations.len(),
            vectors_len: vectors.len(),
            stem,
            max_pool,
            blocks,
            head,
            zero_init_residual: model.zero_init_residual,
            input,
            scratch,
        }
    }

    fn head(&mut self, last: &ConvShape, classes: usize) -> Head {
        let ConvShape { slices, batch, out_channels: channels, .. } = *last;
        let pixels = last.out_height() * last.out_width();
        let role = Role::LinearWeight { inputs: channels, outputs: classes };
        let weight = self.layout.parameter("fc.weight".to_owned(), role, channels * classes);
        let role = Role::LinearBias { inputs: channels };
        let bias = self.layout.parameter("fc.bias".to_owned(), role, classes);
        let vectors = &mut self.planners.vectors;
        Head {
            x: Span { start: 0, len: 0 }, // tied once the blocks are placed
            pool: PoolShape { batch, pixels, channels },
            linear: LinearShape { slices, batch, inputs: channels, outputs: classes },
            weight,
            bias,
            features: vectors.span(batch * channels),
            d_features: vectors.span(batch * channels),
            logits: vectors.span(batch * classes),
            d_logits: vectors.span(batch * classes),
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
    let Geometry { slices, height, width, channels, .. } = geometry;
    let batch = geometry.samples();
    let (kernel, stride, pad) = match model.stem {
        Stem::Imagenet => (7, 2, 3),
        Stem::Cifar => (3, 1, 1),
    };
    // He et al. give the stem the width of the first stage.
    let out_channels = model.widths[0];
    let in_channels = channels;
    ConvShape { slices, batch, height, width, in_channels, out_channels, kernel, stride, pad }
}

fn pool_shape(model: &Model, stem: &ConvShape) -> Option<MaxPoolShape> {
    let (height, width) = (stem.out_height(), stem.out_width());
    let (batch, channels) = (stem.batch, stem.out_channels);
    let shape = MaxPoolShape { batch, height, width, channels, kernel: 3, stride: 2, pad: 1 };
    (model.stem == Stem::Imagenet).then_some(shape)
}

/// Shapes of all blocks, given the stem's and the `[H, W, C]` that the first one takes.
fn block_shapes(
    model: &Model,
    &ConvShape { slices, batch, .. }: &ConvShape,
    [mut height, mut width, mut channels]: [usize; 3],
) -> Vec<BlockShape> {
    let mut shapes = Vec::new();
    for (stage, (&blocks, &inner)) in model.blocks.iter().zip(&model.widths).enumerate() {
        for index in 0..blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let conv = |in_channels, out_channels, kernel, stride| {
                let pad = kernel / 2;
                ConvShape {
                    slices,
                    batch,
                    height,
                    width,
                    in_channels,
                    out_channels,
                    kernel,
                    stride,
                    pad,
                }
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
