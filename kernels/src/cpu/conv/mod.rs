//! NHWC convolution without an im2col buffer, by two algorithms; `ConvShape` says which computes a
//! layer. Direct: one small table of pointers per task, where the forward pass and the input gradient
//! share one engine (`tile`) and the weight gradient has its own (`outer`). `winograd`: 3x3 kernels of
//! stride 1 between many channels.

mod geometry;
mod pack;
mod tile;
mod stats;
mod forward;
mod input_grad;
mod outer;
mod weight_grad;
mod winograd;

pub(super) use outer::Pairs;
pub(super) use tile::Table;
