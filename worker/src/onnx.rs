//! ONNX files: a trained model as the inference graph that other programs run.
//!
//! `messages` is the part of ONNX's protobuf schema that is written, `graph` the nodes of a ResNet. Knows no file system.

mod graph;
mod messages;

pub use graph::model;
