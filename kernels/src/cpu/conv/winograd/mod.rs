//! Winograd's minimal filtering for 3x3 convolutions of stride 1: 4x4 outputs of a channel pair for 36
//! products instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
//! 2015). Forward pass and input gradient are F(4x4, 3x3), the weight gradient is F(3x3, 4x4), all at
//! the points 0, 1, -1, 2, -2 and infinity.
//!
//! Every product of a result is one chain of multiply-adds over channels (over tiles, block by block,
//! in the weight gradient), so neither blocks nor threads can be seen in its bits. Which shapes are
//! computed this way is said in `shape`.

#![expect(clippy::needless_range_loop, reason = "a tile is indexed by its rows and columns")]

mod points;
mod tiles;
mod product;
mod outer;
mod pack;
mod pass;
mod weight_grad;

pub(super) use pass::Pass;

/// Products of a tile: the 6x6 points at which its polynomials are multiplied.
const POINTS: usize = 36;

/// Tiles that are transformed together: whole tiles of the products' engines.
const GROUP: usize = 12;

/// Result channels that a task multiplies at once: four panels.
const WIDTH: usize = 64;

/// Elements between two points' parts of a buffer, beyond what they need: parts at distances of a
/// power of two would meet in few sets of the cache.
const SKEW: usize = 16;
