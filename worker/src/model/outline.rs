//! The layers of a model in forward order, with their names and shapes: what is described and exported.
//!
//! Read off the graph that trains, so there is no second table of shapes. Knows no buffer and no output format.

use kernels::{ConvShape, Family, LinearShape, MaxPoolShape, PoolShape, Span};
use proto::job::Model;

use super::build::build;
use super::resnet::{Block, Geometry, Graph};
use super::unit::Unit;
use crate::layout::{Layout, Tensor};

/// A model's layers. Names are torchvision's.
#[derive(Clone, Debug)]
pub struct Outline {
    pub stem: UnitOutline,
    pub max_pool: Option<MaxPoolShape>,
    pub blocks: Vec<BlockOutline>,
    pub pool: PoolShape,
    pub linear: LinearShape,
    /// Elements that training learns.
    pub parameters: usize,
    /// Elements of the BatchNorm layers' running statistics.
    pub statistics: usize,
}

/// A chain of units, then the addition of the input (or of its projection), then ReLU.
#[derive(Clone, Debug)]
pub struct BlockOutline {
    /// `layer1.0`
    pub name: String,
    pub chain: Vec<UnitOutline>,
    pub projection: Option<UnitOutline>,
}

/// A convolution and its BatchNorm.
#[derive(Clone, Debug)]
pub struct UnitOutline {
    /// `layer1.0.conv1`: its weight is `<name>.weight`, its bias `<name>.bias`.
    pub conv_name: String,
    pub norm_name: String,
    pub conv: ConvShape,
    pub has_bias: bool,
}

impl Outline {
    pub fn new(model: &Model, geometry: Geometry) -> Outline {
        let Graph { layout, stem, max_pool, blocks, head, .. } =
            build(Family::Cpu, model, geometry);
        Outline {
            stem: unit(&layout, &stem),
            max_pool: max_pool.map(|pool| pool.shape),
            blocks: blocks.iter().map(|shape| block(&layout, shape)).collect(),
            pool: head.pool,
            linear: head.linear,
            parameters: layout.parameters_len(),
            statistics: layout.statistics_len(),
        }
    }
}

fn block(layout: &Layout, block: &Block) -> BlockOutline {
    let chain: Vec<UnitOutline> = block.chain.iter().map(|shape| unit(layout, shape)).collect();
    let (name, _) =
        chain[0].conv_name.rsplit_once('.').expect("a block's layers are named after it");
    BlockOutline {
        name: name.to_owned(),
        projection: block.projection.as_ref().map(|shape| unit(layout, shape)),
        chain,
    }
}

fn unit(layout: &Layout, unit: &Unit) -> UnitOutline {
    UnitOutline {
        conv_name: layer_name(layout, unit.weight),
        norm_name: layer_name(layout, unit.gamma),
        conv: unit.conv,
        has_bias: unit.has_bias(),
    }
}

/// The layer whose `weight` lies here.
fn layer_name(layout: &Layout, weight: Span) -> String {
    let is_here = |tensor: &&Tensor| tensor.span == weight;
    let tensor = layout.parameters.iter().find(is_here).expect("the layout holds every weight");
    let name = tensor.name.strip_suffix(".weight").expect("a layer's weight is named after it");
    name.to_owned()
}
