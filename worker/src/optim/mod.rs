//! How weights change: the learning rate of a step, and stochastic gradient descent.
//!
//! Knows no model: a layout says which tensors decay.

mod schedule;
mod sgd;

pub use schedule::learning_rate;
pub use sgd::Sgd;
