//! The ResNet family: explicit forward and backward over planned buffers, no autograd.
//!
//! `build` is the tables and shapes, `resnet` the order of calls, `unit` one convolution with its BatchNorm, `init` the first
//! values, `outline` the layers for those who show or export them.
//! A model knows no collective, no optimizer and no file: backward tells through a closure which bucket is complete.

mod build;
mod init;
mod outline;
mod plan;
mod resnet;
mod unit;

pub use outline::{BlockOutline, Outline, UnitOutline};
pub use resnet::{Elements, Geometry, ResNet, Targets};
pub use unit::EPSILON as BATCH_NORM_EPSILON;
