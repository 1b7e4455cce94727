//! How weights change: the learning rate of a step, stochastic gradient descent with what may shorten or rescale its
//! gradients, and the average of what it leaves behind.
//!
//! Knows no model: a layout says which tensors decay.

mod schedule;
mod clip;
mod lars;
mod sgd;
mod ema;

pub use ema::Ema;
pub use schedule::learning_rate;
pub use sgd::Sgd;

#[cfg(test)]
mod tests;
