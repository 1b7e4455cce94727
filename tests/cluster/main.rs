//! Real processes on loopback: what a user sees, end to end.

mod bits;
mod loss;
mod refusals;
mod doors;
mod damage;
mod disk;
mod operators;
mod restart;
