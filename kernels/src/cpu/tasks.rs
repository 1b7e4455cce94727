//! How an op is cut into tasks: always into the same ones, each owning its part of the result. Small
//! ops run on the calling thread, since waking another costs more than they do; the bits are the
//! same either way. Nothing here knows what a task computes.

use rayon::prelude::*;

use super::CpuDevice;

/// Roughly how long one thread needs for an op, in nanoseconds: a function of its shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost(usize);

impl Cost {
    /// Of `flops` in registers.
    pub(super) fn flops(flops: usize) -> Cost {
        Cost(flops / 100)
    }

    /// Of touching `elements` in memory.
    pub(super) fn elements(elements: usize) -> Cost {
        Cost(elements / 2)
    }
}

impl CpuDevice {
    /// Calls `task(index, chunk)` for each chunk of `chunk_len` elements; the last may be shorter.
    pub(super) fn chunks(
        &self,
        cost: Cost,
        data: &mut [f32],
        chunk_len: usize,
        task: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        if self.is_serial(cost) {
            data.chunks_mut(chunk_len).enumerate().for_each(|(index, chunk)| task(index, chunk));
        } else {
            self.inner.pool.install(|| {
                data.par_chunks_mut(chunk_len)
                    .enumerate()
                    .for_each(|(index, chunk)| task(index, chunk));
            });
        }
    }

    /// Calls `task(index, a, b)` for the chunks of two results that belong together.
    pub(super) fn chunk_pairs(
        &self,
        cost: Cost,
        (a, a_len): (&mut [f32], usize),
        (b, b_len): (&mut [f32], usize),
        task: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        debug_assert_eq!(a.len().div_ceil(a_len), b.len().div_ceil(b_len));
        if self.is_serial(cost) {
            let pairs = a.chunks_mut(a_len).zip(b.chunks_mut(b_len));
            pairs.enumerate().for_each(|(index, (a, b))| task(index, a, b));
        } else {
            self.inner.pool.install(|| {
                a.par_chunks_mut(a_len)
                    .zip(b.par_chunks_mut(b_len))
                    .enumerate()
                    .for_each(|(index, (a, b))| task(index, a, b));
            });
        }
    }

    /// Calls `task(index, chunks)` for the chunks of `chunk_len` elements that have the same place in
    /// each ninth of `data`, `part_len` elements.
    pub(super) fn nine_chunks(
        &self,
        cost: Cost,
        data: &mut [f32],
        part_len: usize,
        chunk_len: usize,
        task: impl Fn(usize, [&mut [f32]; 9]) + Sync,
    ) {
        assert_eq!(data.len(), 9 * part_len);
        let mut parts = data.chunks_exact_mut(part_len);
        let parts: [&mut [f32]; 9] = std::array::from_fn(|_| parts.next().expect("nine parts"));
        if self.is_serial(cost) {
            let mut nine = parts.map(|part| part.chunks_mut(chunk_len));
            for index in 0..part_len.div_ceil(chunk_len) {
                let chunks = nine.each_mut().map(|chunks| chunks.next().expect("equal parts"));
                task(index, chunks);
            }
            return;
        }
        let [a, b, c, d, e, f, g, h, i] = parts.map(|part| part.par_chunks_mut(chunk_len));
        let nine = (a, b, c, d, e, f, g, h, i).into_par_iter().enumerate();
        self.inner.pool.install(|| {
            nine.for_each(|(index, (a, b, c, d, e, f, g, h, i))| {
                task(index, [a, b, c, d, e, f, g, h, i]);
            });
        });
    }

    /// `task(part)` of each part of `part_len` elements, in their order; the last may be shorter.
    pub(super) fn map<T: Send>(
        &self,
        cost: Cost,
        (data, part_len): (&[f32], usize),
        into: &mut [T],
        task: impl Fn(&[f32]) -> T + Sync,
    ) {
        debug_assert_eq!(data.len().div_ceil(part_len), into.len());
        if self.is_serial(cost) {
            let parts = data.chunks(part_len);
            into.iter_mut().zip(parts).for_each(|(into, part)| *into = task(part));
        } else {
            self.inner.pool.install(|| {
                let parts = data.par_chunks(part_len);
                into.par_iter_mut().zip(parts).for_each(|(into, part)| *into = task(part));
            });
        }
    }

    fn is_serial(&self, cost: Cost) -> bool {
        self.threads() == 1 || cost.0 < SERIAL_NANOSECONDS
    }
}

/// Waking a sleeping thread and joining it again takes some 10 microseconds.
const SERIAL_NANOSECONDS: usize = 50_000;
