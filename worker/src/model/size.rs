//! The memory of a model, and images of another size in the same memory.
//!
//! Parameters and running statistics do not depend on the images' size; activations do, and packed weights, since the
//! algorithm of a convolution is chosen by its shape. Their buffers have the length that the largest plan needs, and each
//! plan starts at their beginning.

use kernels::Device;
use proto::job::Model;

use super::build::build;
use super::plan::Elements;
use super::resnet::{Buffers, Geometry, Graph, ResNet};

impl ResNet {
    /// Plans the layers and allocates every buffer; weights are zero until `initialise` or a checkpoint fills them.
    pub fn new(device: &Device, model: &Model, geometry: Geometry) -> ResNet {
        ResNet::with_room(device, model, geometry, &[])
    }

    /// The same, with room for images of these sizes, `[height, width]`, too.
    pub fn with_room(
        device: &Device,
        model: &Model,
        geometry: Geometry,
        sizes: &[[usize; 2]],
    ) -> ResNet {
        ResNet::allocate(device, model, geometry, graph(model, geometry, sizes))
    }

    /// What `with_room` would allocate.
    pub fn elements(model: &Model, geometry: Geometry, sizes: &[[usize; 2]]) -> Elements {
        graph(model, geometry, sizes).elements()
    }

    pub(super) fn allocate(
        device: &Device,
        model: &Model,
        geometry: Geometry,
        graph: Graph,
    ) -> ResNet {
        let buffers = Buffers {
            params: device.alloc(graph.layout.parameters_len()),
            running: device.alloc(graph.layout.statistics_len()),
            packed: device.alloc(graph.packed_len),
            arena: device.alloc(graph.arena_len),
        };
        ResNet { device: device.clone(), model: model.clone(), geometry, graph, buffers }
    }

    /// Goes on with images of another size. Weights and running statistics stay.
    ///
    /// # Panics
    /// If there is no room for this size, or the model is one for inference.
    pub fn resize(&mut self, height: usize, width: usize) {
        let geometry = Geometry { height, width, ..self.geometry };
        if geometry == self.geometry {
            return;
        }
        assert!(self.graph.can_train(), "a model for inference keeps its size");
        let graph = build(&self.model, geometry);
        assert!(graph.layout == self.graph.layout, "parameters do not depend on the images' size");
        let fits = graph.packed_len <= self.buffers.packed.len()
            && graph.arena_len <= self.buffers.arena.len();
        assert!(fits, "the buffers were planned without images of {height}x{width}");
        (self.graph, self.geometry) = (graph, geometry);
        self.pack();
    }
}

/// The layers, and buffers long enough for images of these sizes too.
fn graph(model: &Model, geometry: Geometry, sizes: &[[usize; 2]]) -> Graph {
    let mut graph = build(model, geometry);
    for &[height, width] in sizes {
        let other = build(model, Geometry { height, width, ..geometry });
        graph.packed_len = graph.packed_len.max(other.packed_len);
        graph.arena_len = graph.arena_len.max(other.arena_len);
    }
    graph
}
