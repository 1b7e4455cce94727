//! What can be done with a trained model: evaluate it, predict with it, take it elsewhere. Each test starts from a
//! checkpoint that a short run in this process wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![allow(
    clippy::print_stdout,
    reason = "a check that could not be made says so, one that was its figures"
)]

mod short_run;
mod folder;
mod evaluation;
mod averages;
mod prediction;
mod photos;
mod export;
