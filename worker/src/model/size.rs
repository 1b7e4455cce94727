//! The memory of a model, and images of another size in the same memory.
//!
//! Parameters and running statistics do not depend on the images' size; activations do, and packed weights, since the
//! algorithm of a convolution is chosen by its shape. Their buffers have the length that the largest plan needs, and each
//! plan starts at their beginning.

use kernels::{Device, Family};
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
        let graph = graph(device.family(), model, geometry, sizes);
        ResNet::allocate(device, model, geometry, graph)
    }

    /// What `with_room` would allocate.
    pub fn elements(
        family: Family,
        model: &Model,
        geometry: Geometry,
        sizes: &[[usize; 2]],
    ) -> Elements {
        graph(family, model, geometry, sizes).elements()
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
            packed: device.alloc_activations(graph.packed_len),
            activations: device.alloc_activations(graph.activations_len),
            vectors: device.alloc(graph.vectors_len),
        };
        ResNet { device: device.clone(), model: model.clone(), geometry, graph, buffers }
    }

    /// Goes on with images of another size, and another number of slices at once. Weights and running statistics stay.
    ///
    /// # Panics
    /// If there is no room for this size, or the model is one for inference.
    pub fn resize(&mut self, slices: usize, height: usize, width: usize) {
        let geometry = Geometry { slices, height, width, ..self.geometry };
        if geometry == self.geometry {
            return;
        }
        assert!(self.graph.can_train(), "a model for inference keeps its size");
        let graph = build(self.device.family(), &self.model, geometry);
        assert!(graph.layout == self.graph.layout, "parameters do not depend on the images' size");
        let fits = graph.packed_len <= self.buffers.packed.len()
            && graph.activations_len <= self.buffers.activations.len()
            && graph.vectors_len <= self.buffers.vectors.len();
        assert!(fits, "the buffers were planned without {slices} slices of {height}x{width}");
        let same_images = (height, width) == (self.geometry.height, self.geometry.width);
        (self.graph, self.geometry) = (graph, geometry);
        if !same_images {
            self.pack();
        }
    }
}

/// The layers, and buffers long enough for images of these sizes too.
fn graph(family: Family, model: &Model, geometry: Geometry, sizes: &[[usize; 2]]) -> Graph {
    let mut graph = build(family, model, geometry);
    for &[height, width] in sizes {
        let other = build(family, model, Geometry { height, width, ..geometry });
        graph.packed_len = graph.packed_len.max(other.packed_len);
        graph.activations_len = graph.activations_len.max(other.activations_len);
        graph.vectors_len = graph.vectors_len.max(other.vectors_len);
    }
    graph
}
