//! Buffers of a model that only predicts. Nothing is kept for a backward pass, so the activations of all layers take turns
//! in five spans of the largest one, where training keeps two for each layer.

use kernels::{Device, Family, Span};
use proto::job::Model;

use super::build::build;
use super::plan::Elements;
use super::resnet::{Geometry, Graph, ResNet};
use super::unit::Planners;

impl ResNet {
    /// As `new`, for `predict` alone: the same bits from a fraction of the memory.
    pub fn for_inference(device: &Device, model: &Model, geometry: Geometry) -> ResNet {
        ResNet::allocate(device, model, geometry, graph(device.family(), model, geometry))
    }

    /// What `for_inference` would allocate.
    pub fn inference_elements(family: Family, model: &Model, geometry: Geometry) -> Elements {
        graph(family, model, geometry).elements()
    }
}

fn graph(family: Family, model: &Model, geometry: Geometry) -> Graph {
    let mut graph = build(family, model, geometry);
    share_buffers(family, &mut graph);
    graph
}

/// Plans all buffers again; the places of parameters and statistics stay.
fn share_buffers(family: Family, graph: &mut Graph) {
    let Graph { stem, max_pool, blocks, head, input, .. } = graph;
    let units = || std::iter::once(&*stem).chain(blocks.iter().flat_map(|block| block.units()));
    let largest = units().map(|unit| unit.y.len).max().expect("there is a stem");
    let unread = units().map(|unit| unit.conv.packed_len(family).input_grad).max().unwrap_or(0);

    let mut planners = Planners::new(family);
    *input = planners.activations.span(input.len);
    let [z, shortcut, inner, mut x, mut y] = [(); 5].map(|()| planners.activations.span(largest));
    // Packing writes the weights of the input's gradient too, all to one place: nobody reads them.
    let unread = planners.packed.span(unread);
    let of = |shared: Span, activation: Span| Span { len: activation.len, ..shared };

    let stem_y = if max_pool.is_some() { inner } else { x };
    stem.share_buffers(z, stem_y, unread, &mut planners);
    if let Some(pool) = max_pool {
        pool.y = of(x, pool.y);
    }
    for block in blocks {
        block.x = of(x, block.x);
        let last = block.chain.len() - 1;
        for (i, unit) in block.chain.iter_mut().enumerate() {
            // The block's input is needed until its end.
            let unit_y = if i == last { y } else { inner };
            unit.share_buffers(z, unit_y, unread, &mut planners);
        }
        if let Some(unit) = &mut block.projection {
            unit.share_buffers(shortcut, inner, unread, &mut planners);
        }
        std::mem::swap(&mut x, &mut y);
    }
    head.x = of(x, head.x);
    head.features = planners.vectors.span(head.features.len);
    head.logits = planners.vectors.span(head.logits.len);
    (head.d_features, head.d_logits, graph.scratch) = (NOWHERE, NOWHERE, [NOWHERE; 3]);
    let Planners { packed, activations, vectors, .. } = planners;
    (graph.packed_len, graph.activations_len) = (packed.len(), activations.len());
    graph.vectors_len = vectors.len();
}

/// A buffer of the backward pass.
const NOWHERE: Span = Span { start: 0, len: 0 };
