//! Sixteen fp32 lanes on every instruction set, and the one place where a set is chosen. A kernel is
//! written once over `Simd` and compiled once per set; all sets give the same bits, because lanes
//! never meet and every multiply-add rounds once. No op is known here.

use std::fmt;

/// Lanes of a vector on every instruction set, so that no layout and no sum depends on the set.
pub(crate) const LANES: usize = 16;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Whatever the compiler's target has.
    Portable,
}

/// A computation written once over `Simd`. `run` and all that it calls with `S` must be
/// `#[inline(always)]`: only then are they compiled for the set that was chosen.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Sixteen fp32 numbers and what is done with them. Values of an implementing type are proofs that
/// the processor has its instruction set; only this file makes them.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// Panels of 16 channels that a tile in registers may span.
    const PANELS: usize;
    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, value: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `floor` where `a < floor`, else `a`: NaN stays NaN.
    fn at_least(self, a: Self::V, floor: Self::V) -> Self::V;
    /// 0 where `gate <= 0`, else `a`: a NaN in the gate lets through.
    fn gated(self, gate: Self::V, a: Self::V) -> Self::V;
    /// Asks for a line that will be read soon.
    fn prefetch(self, from: &[f32; LANES]);
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

/// The first 16 numbers of `from`, or its first `width` and zeros.
#[inline(always)]
pub(crate) fn lanes<S: Simd>(simd: S, from: &[f32], width: usize) -> S::V {
    match from.first_chunk::<LANES>() {
        Some(from) if width == LANES => simd.load(from),
        _ => {
            let mut padded = [0.0; LANES];
            padded[..width].copy_from_slice(&from[..width]);
            simd.load(&padded)
        }
    }
}

/// Stores the first 16 lanes, or as many as `to` has room for.
#[inline(always)]
pub(crate) fn store_lanes<S: Simd>(simd: S, value: S::V, to: &mut [f32]) {
    match to.first_chunk_mut::<LANES>() {
        Some(to) => simd.store(value, to),
        None => {
            let mut padded = [0.0; LANES];
            simd.store(value, &mut padded);
            to.copy_from_slice(&padded[..to.len()]);
        }
    }
}

/// Adds the first 16 lanes, or as many as `to` has room for, to what stands there.
#[inline(always)]
pub(crate) fn add_lanes<S: Simd>(simd: S, value: S::V, to: &mut [f32]) {
    let width = LANES.min(to.len());
    let sum = simd.add(lanes(simd, to, width), value);
    store_lanes(simd, sum, to);
}

/// An instruction set that this processor was seen to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    isa: Isa,
}

impl Isa {
    /// From the widest to the narrowest.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// The widest set that this processor has.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Whether this processor, with its operating system, has the set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Avx512 => "AVX-512",
            Isa::Avx2 => "AVX2",
            Isa::Portable => "portable",
        })
    }
}

impl Vectors {
    /// `None` when the processor lacks `isa`.
    pub(crate) fn new(isa: Isa) -> Option<Vectors> {
        isa.is_available().then_some(Vectors { isa })
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    /// Runs `kernel` as compiled for this set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` is the only constructor and it saw that the processor has AVX-512F.
            Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` is the only constructor and it saw that the processor has AVX2 and FMA.
            Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
            _ => kernel.run(Portable),
        }
    }
}

/// Arrays and `f32::mul_add`, which is exact on every target and slow where no FMA exists.
#[derive(Clone, Copy)]
struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn at_least(self, a: Self::V, floor: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < floor[i] { floor[i] } else { a[i] })
    }

    #[inline(always)]
    fn gated(self, gate: Self::V, a: Self::V) -> Self::V {
        std::array::from_fn(|i| if gate[i] <= 0.0 { 0.0 } else { a[i] })
    }

    #[inline(always)]
    fn prefetch(self, _from: &[f32; LANES]) {}

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, LANES, Simd};

    #[target_feature(enable = "avx512f")]
    pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    struct Avx512(());

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    struct Avx2(());

    impl Simd for Avx512 {
        type V = __m512;
        const PANELS: usize = 4;

        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            // SAFETY: an `Avx512` exists only inside `run_avx512`, whose caller has AVX-512F.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> __m512 {
            // SAFETY: as in `splat`; the reference covers the 16 floats that are read.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, value: __m512, to: &mut [f32; LANES]) {
            // SAFETY: as in `splat`; the reference covers the 16 floats that are written.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
        }

        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_sub_ps(a, b) }
        }

        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn at_least(self, a: __m512, floor: __m512) -> __m512 {
            // Of a NaN or two zeros the instruction returns its second operand.
            // SAFETY: as in `splat`.
            unsafe { _mm512_max_ps(floor, a) }
        }

        #[inline(always)]
        fn gated(self, gate: __m512, a: __m512) -> __m512 {
            // SAFETY: as in `splat`.
            unsafe {
                let zero = _mm512_setzero_ps();
                _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(gate, zero), zero)
            }
        }

        #[inline(always)]
        fn prefetch(self, from: &[f32; LANES]) {
            // SAFETY: as in `splat`; a prefetch reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.as_ptr().cast()) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as in `splat`.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    impl Simd for Avx2 {
        type V = [__m256; 2];
        const PANELS: usize = 1;

        #[inline(always)]
        fn splat(self, value: f32) -> [__m256; 2] {
            // SAFETY: an `Avx2` exists only inside `run_avx2`, whose caller has AVX2 and FMA.
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> [__m256; 2] {
            let half = from.as_ptr();
            // SAFETY: as in `splat`; the reference covers the two times 8 floats that are read.
            unsafe { [_mm256_loadu_ps(half), _mm256_loadu_ps(half.add(8))] }
        }

        #[inline(always)]
        fn store(self, value: [__m256; 2], to: &mut [f32; LANES]) {
            let half = to.as_mut_ptr();
            // SAFETY: as in `splat`; the reference covers the two times 8 floats that are written.
            unsafe {
                _mm256_storeu_ps(half, value[0]);
                _mm256_storeu_ps(half.add(8), value[1]);
            }
        }

        #[inline(always)]
        fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: as in `splat`.
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: as in `splat`.
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: as in `splat`.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }

        #[inline(always)]
        fn at_least(self, a: [__m256; 2], floor: [__m256; 2]) -> [__m256; 2] {
            // Of a NaN or two zeros the instruction returns its second operand.
            // SAFETY: as in `splat`.
            unsafe { [_mm256_max_ps(floor[0], a[0]), _mm256_max_ps(floor[1], a[1])] }
        }

        #[inline(always)]
        fn gated(self, gate: [__m256; 2], a: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: as in `splat`.
            unsafe {
                let zero = _mm256_setzero_ps();
                [
                    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(gate[0], zero), a[0]),
                    _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(gate[1], zero), a[1]),
                ]
            }
        }

        #[inline(always)]
        fn prefetch(self, from: &[f32; LANES]) {
            // SAFETY: as in `splat`; a prefetch reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.as_ptr().cast()) }
        }

        #[inline(always)]
        fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: as in `splat`.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }
}
