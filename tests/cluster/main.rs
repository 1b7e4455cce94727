//! Real processes on loopback: what a user sees, end to end.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod bits;
mod averages;
mod chaos;
mod crew;
mod gpu;
mod guards;
mod crowd;
mod loss;
mod refusals;
mod doors;
mod damage;
mod hostile;
mod initial;
mod disk;
mod operators;
mod quarantine;
mod restart;
mod memory;
mod bench;
