//! Direct NHWC convolution: no im2col buffer, one small table of pointers per task. The forward pass
//! and the input gradient share one engine (`tile`), the weight gradient has its own. Whether
//! another algorithm would suit a shape better is not asked here.

mod geometry;
mod pack;
mod tile;
mod stats;
mod forward;
mod input_grad;
mod outer;
mod weight_grad;

pub(super) use outer::Pairs;
pub(super) use tile::Table;
