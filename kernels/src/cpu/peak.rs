//! How fast the processor's multiply-adds are when nothing else is in their way: what shares of the
//! peak refer to. No op comes near memory here.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::CpuDevice;
use super::simd::{Kernel, LANES, Simd};

impl CpuDevice {
    /// Floating-point operations a second of all threads together, the best of a few short runs.
    pub(crate) fn peak_flops(&self) -> f64 {
        let vectors = self.vectors();
        let once = || {
            let spent = self.inner.pool.broadcast(|_| {
                let since = Instant::now();
                let flops = black_box(vectors.run(Chains { rounds: black_box(ROUNDS) }));
                (flops, since.elapsed())
            });
            let slowest = spent.iter().map(|spent| spent.1).max().unwrap_or(Duration::ZERO);
            let flops: usize = spent.iter().map(|spent| spent.0).sum();
            flops as f64 / slowest.as_secs_f64().max(f64::MIN_POSITIVE)
        };
        (0..RUNS).map(|_| once()).fold(0.0, f64::max)
    }
}

/// Independent chains of multiply-adds in registers: enough to hide the latency of each.
struct Chains {
    rounds: usize,
}

impl Kernel for Chains {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        if S::PANELS == 4 {
            chains::<S, 16>(simd, self.rounds)
        } else {
            chains::<S, 6>(simd, self.rounds)
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const N: usize>(simd: S, rounds: usize) -> usize {
    let (factor, term) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
    let mut values = [simd.splat(black_box(2.0)); N];
    for _ in 0..rounds {
        for value in &mut values {
            *value = simd.mul_add(*value, factor, term);
        }
    }
    let mut sum = [0.0; LANES];
    for value in values {
        simd.store(value, &mut sum);
        black_box(&sum);
    }
    2 * N * LANES * rounds
}

/// Multiply-adds of a chain in one run: a millisecond or two.
const ROUNDS: usize = 500_000;
const RUNS: usize = 5;
