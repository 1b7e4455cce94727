//! A ResNet as ONNX nodes, for inference: BatchNormalization takes the running statistics.
//!
//! Input `image`: float `[N, channels, height, width]`, any `N`, each channel `(pixel / 255 - mean) / std`; mean, std and
//! class names lie in the file's metadata. Output `logits`: float `[N, classes]`. Weights keep the checkpoint's names. The
//! operators (Conv 11, BatchNormalization 15, Relu 14, Add 14, MaxPool 12, GlobalAveragePool 1, Flatten 13, Gemm 13) are
//! those of operator set 17.

use kernels::{ConvShape, MaxPoolShape};
use prost::Message;
use proto::manifest::Manifest;
use safetensors::SafeTensors;

use super::messages::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionProto, GraphProto, ModelProto,
    NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::model::{BATCH_NORM_EPSILON, BlockOutline, Outline, UnitOutline};

/// The bytes of an ONNX file. `weights` are those of the outlined model.
pub fn model(outline: &Outline, weights: &SafeTensors<'_>, manifest: &Manifest) -> Vec<u8> {
    let mut nodes = Nodes::default();
    nodes.network(outline);
    let input = &manifest.input;
    let image = [input.channels, input.height, input.width];
    let graph = GraphProto {
        node: nodes.nodes,
        name: manifest.job_id.clone(),
        initializer: weights.tensors().iter().map(|(name, view)| tensor(name, view)).collect(),
        input: vec![value("image", &image)],
        output: vec![value("logits", &[outline.linear.outputs])],
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "worker export".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: format!(
            "image: float [N, {}, {}, {}], each channel (pixel / 255 - mean) / std; logits: float [N, {}]",
            input.channels, input.height, input.width, outline.linear.outputs
        ),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
        metadata_props: metadata(manifest),
    };
    model.encode_to_vec()
}

/// Nodes so far. Each node is named after its layer, and its output after itself.
#[derive(Default)]
struct Nodes {
    nodes: Vec<NodeProto>,
}

impl Nodes {
    fn network(&mut self, outline: &Outline) {
        let mut x = self.unit(&outline.stem, "image".to_owned());
        x = self.simple("Relu", "relu", vec![x]);
        if let Some(pool) = &outline.max_pool {
            x = self.node("MaxPool", "maxpool", vec![x], window(pool.into()));
        }
        for block in &outline.blocks {
            x = self.block(block, x);
        }
        x = self.simple("GlobalAveragePool", "avgpool", vec![x]);
        x = self.node("Flatten", "flatten", vec![x], vec![int("axis", 1)]);
        let inputs = vec![x, "fc.weight".to_owned(), "fc.bias".to_owned()];
        // The weight is `[outputs, inputs]`.
        self.node("Gemm", "logits", inputs, vec![int("transB", 1)]);
    }

    fn block(&mut self, block: &BlockOutline, x: String) -> String {
        let name = &block.name;
        let mut y = x.clone();
        for (i, unit) in block.chain.iter().enumerate() {
            if i > 0 {
                y = self.simple("Relu", &format!("{name}.relu{i}"), vec![y]);
            }
            y = self.unit(unit, y);
        }
        let shortcut = match &block.projection {
            Some(unit) => self.unit(unit, x),
            None => x,
        };
        let sum = self.simple("Add", &format!("{name}.add"), vec![y, shortcut]);
        self.simple("Relu", &format!("{name}.relu"), vec![sum])
    }

    fn unit(&mut self, unit: &UnitOutline, x: String) -> String {
        let UnitOutline { conv_name, norm_name, conv, has_bias } = unit;
        let mut inputs = vec![x, format!("{conv_name}.weight")];
        if *has_bias {
            inputs.push(format!("{conv_name}.bias"));
        }
        let z = self.node("Conv", conv_name, inputs, window(conv.into()));
        let parameters = ["weight", "bias", "running_mean", "running_var"];
        let parameters = parameters.map(|what| format!("{norm_name}.{what}"));
        let inputs = std::iter::once(z).chain(parameters).collect();
        let epsilon = vec![float("epsilon", BATCH_NORM_EPSILON)];
        self.node("BatchNormalization", norm_name, inputs, epsilon)
    }

    fn simple(&mut self, operator: &str, name: &str, inputs: Vec<String>) -> String {
        self.node(operator, name, inputs, Vec::new())
    }

    fn node(
        &mut self,
        operator: &str,
        name: &str,
        input: Vec<String>,
        attribute: Vec<AttributeProto>,
    ) -> String {
        let output = vec![name.to_owned()];
        let (name, op_type) = (name.to_owned(), operator.to_owned());
        self.nodes.push(NodeProto { input, output, name: name.clone(), op_type, attribute });
        name
    }
}

/// Kernel, stride and padding, the same both ways.
struct Window {
    kernel: usize,
    stride: usize,
    pad: usize,
}

impl From<&ConvShape> for Window {
    fn from(shape: &ConvShape) -> Window {
        Window { kernel: shape.kernel, stride: shape.stride, pad: shape.pad }
    }
}

impl From<&MaxPoolShape> for Window {
    fn from(shape: &MaxPoolShape) -> Window {
        Window { kernel: shape.kernel, stride: shape.stride, pad: shape.pad }
    }
}

fn window(window: Window) -> Vec<AttributeProto> {
    let Window { kernel, stride, pad } = window;
    let ints = |name: &str, value: usize, count: usize| AttributeProto {
        name: name.to_owned(),
        ints: vec![value as i64; count],
        r#type: AttributeType::Ints.into(),
        ..AttributeProto::default()
    };
    // Padding is top, left, bottom, right.
    vec![ints("kernel_shape", kernel, 2), ints("strides", stride, 2), ints("pads", pad, 4)]
}

fn int(name: &str, i: i64) -> AttributeProto {
    let r#type = AttributeType::Int.into();
    AttributeProto { name: name.to_owned(), i, r#type, ..AttributeProto::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    let r#type = AttributeType::Float.into();
    AttributeProto { name: name.to_owned(), f, r#type, ..AttributeProto::default() }
}

/// Both formats hold row-major little-endian elements.
fn tensor(name: &str, view: &safetensors::tensor::TensorView<'_>) -> TensorProto {
    TensorProto {
        dims: view.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: DataType::Float.into(),
        name: name.to_owned(),
        raw_data: view.data().to_vec(),
    }
}

/// A float tensor of any batch.
fn value(name: &str, sides: &[usize]) -> ValueInfoProto {
    let sides = sides.iter().map(|&side| Dimension::Value(side as i64));
    let dims = std::iter::once(Dimension::Param("N".to_owned())).chain(sides);
    let shape =
        TensorShapeProto { dim: dims.map(|value| DimensionProto { value: Some(value) }).collect() };
    let tensor_type =
        Some(TensorTypeProto { elem_type: DataType::Float.into(), shape: Some(shape) });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
}

/// What a program needs besides the graph, as JSON.
fn metadata(manifest: &Manifest) -> Vec<StringStringEntryProto> {
    let entries = [
        ("mean", serde_json::json!(manifest.input.mean).to_string()),
        ("std", serde_json::json!(manifest.input.std).to_string()),
        ("classes", serde_json::json!(manifest.classes).to_string()),
        ("job", manifest.job_id.clone()),
        ("step", manifest.step.to_string()),
    ];
    let entry =
        |(key, value): (&str, String)| StringStringEntryProto { key: key.to_owned(), value };
    entries.into_iter().map(entry).collect()
}

/// ONNX 1.12 (2022) brought both; every current runtime reads them.
const IR_VERSION: i64 = 8;
const OPERATOR_SET: i64 = 17;
