//! How fast the GPU's multiply-adds are when nothing else is in their way: what shares of the peak refer to.

use std::time::{Duration, Instant};

use super::CudaDevice;
use super::launch::{Arg, Grid, TypedKernel};
use super::memory::Element;

impl CudaDevice {
    /// Floating-point operations a second in what activations are computed in, the best of a few short runs: tensor cores
    /// for bf16, by the instructions that convolutions use. 0 when the GPU has failed.
    pub(crate) fn peak_flops(&self) -> f64 {
        // The first run loads the kernel, which may take longer than a run that is long enough.
        self.chains(1);
        let mut rounds = 1;
        while self.chains(rounds).is_some_and(|time| time < LONG_ENOUGH) && rounds < ROUNDS_MAX {
            rounds *= 8;
        }
        let threads = f64::from(self.gpu().multiprocessors * BLOCKS_OF_A_PROCESSOR * THREADS);
        let flops = threads * f64::from(rounds) * self.flops_of_a_round();
        let best = (0..RUNS).filter_map(|_| self.chains(rounds)).min();
        best.map_or(0.0, |time| flops / time.as_secs_f64().max(f64::MIN_POSITIVE))
    }

    /// From the launch to the end.
    fn chains(&self, rounds: i32) -> Option<Duration> {
        let out = self.scratch(size_of::<f32>());
        self.finish("measure the peak").ok()?;
        let since = Instant::now();
        let args = [Arg::of(&rounds), Arg::of(&0.5f32), Arg::of(&NEVER), Arg::of(&out)];
        let blocks = (self.gpu().multiprocessors * BLOCKS_OF_A_PROCESSOR) as usize;
        self.launch(PEAK.of(self.activations()), Grid::blocks(blocks, THREADS), args);
        self.finish("measure the peak").ok()?;
        Some(since.elapsed())
    }

    /// Of one thread.
    fn flops_of_a_round(&self) -> f64 {
        match self.activations() {
            Element::F32 => CHAINS * 2.0,
            Element::Bf16 => CHAINS * 2.0 * 16.0 * 8.0 * 16.0 / 32.0,
        }
    }
}

const PEAK: TypedKernel = TypedKernel::new("peak.cu", ["peak_f32", "peak_bf16"]);
const THREADS: u32 = 256;
/// Two warps for each of its four schedulers would do; four hide the last latency.
const BLOCKS_OF_A_PROCESSOR: u32 = 2;
/// Independent multiply-adds of a round, as in the kernel.
const CHAINS: f64 = 8.0;
/// No sum of the chains is this.
const NEVER: f32 = f32::NEG_INFINITY;
/// Next to which a launch takes no time.
const LONG_ENOUGH: Duration = Duration::from_millis(4);
const ROUNDS_MAX: i32 = 1 << 24;
const RUNS: usize = 3;
