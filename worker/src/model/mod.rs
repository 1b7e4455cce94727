//! The ResNet family: explicit forward and backward over planned buffers, no autograd.
//!
//! `build` is the tables and shapes, `plan` hands out the buffers, `resnet` the order of calls, `unit` one convolution with
//! its BatchNorm, `init` the first values, `size` the memory and other sizes of images, `inference` the buffers of a model
//! that only predicts, `outline` the layers for those who show or export them.
//! A model knows no collective, no optimizer and no file: backward tells through a closure which bucket is complete.

mod build;
mod inference;
mod init;
mod outline;
mod plan;
mod resnet;
mod size;
mod unit;

pub use outline::{BlockOutline, Outline, UnitOutline};
pub use plan::Elements;
pub use resnet::{Geometry, ResNet, Targets};
pub use unit::EPSILON as BATCH_NORM_EPSILON;
