//! The one-dimensional transforms at the points 0, 1, -1, 2, -2, infinity. Each is applied to the
//! columns and then to the rows of a tile; no memory is known here.

use crate::cpu::simd::Simd;

/// `N` values to `M`. A trait and not a closure: what is compiled for an instruction set must be
/// inlined, and only a function can be made to.
pub(super) trait Transform<const N: usize, const M: usize> {
    fn map<S: Simd>(simd: S, values: [S::V; N]) -> [S::V; M];
}

/// `B^T d`: six neighbouring inputs to six points.
#[derive(Debug)]
pub(super) struct Input;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn map<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::V; 6]) -> [S::V; 6] {
        let a = times(simd, -4.0, d2, d4);
        let b = times(simd, -4.0, d1, d3);
        let c = simd.sub(d4, d2);
        let d = simd.mul(simd.splat(2.0), simd.sub(d3, d1));
        [
            times(simd, 4.0, d0, times(simd, -5.0, d2, d4)),
            simd.add(a, b),
            simd.sub(a, b),
            simd.add(c, d),
            simd.sub(c, d),
            times(simd, 4.0, d1, times(simd, -5.0, d3, d5)),
        ]
    }
}

/// `A^T m`: six points to four neighbouring outputs.
#[derive(Debug)]
pub(super) struct Output;

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn map<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 4] {
        let (a, b) = (simd.add(m1, m2), simd.sub(m1, m2));
        let (c, d) = (simd.add(m3, m4), simd.sub(m3, m4));
        [
            simd.add(m0, simd.add(a, c)),
            times(simd, 2.0, d, b),
            times(simd, 4.0, c, a),
            simd.add(times(simd, 8.0, d, b), m5),
        ]
    }
}

/// `G g`: three weights to six points.
#[derive(Debug)]
pub(super) struct Weight;

impl Transform<3, 6> for Weight {
    #[inline(always)]
    fn map<S: Simd>(simd: S, [g0, g1, g2]: [S::V; 3]) -> [S::V; 6] {
        let (sixth, twelfth) = (simd.splat(-1.0 / 6.0), simd.splat(1.0 / 12.0));
        let ends = simd.add(g0, g2);
        let even = simd.mul_add(simd.splat(1.0 / 6.0), g2, simd.mul(simd.splat(1.0 / 24.0), g0));
        let odd = simd.mul(twelfth, g1);
        [
            simd.mul(simd.splat(0.25), g0),
            simd.mul(sixth, simd.add(ends, g1)),
            simd.mul(sixth, simd.sub(ends, g1)),
            simd.add(even, odd),
            simd.sub(even, odd),
            g2,
        ]
    }
}

/// `G' d`: four neighbouring output gradients, the filter of the weight gradient, to six points.
#[derive(Debug)]
pub(super) struct OutputGrad;

impl Transform<4, 6> for OutputGrad {
    #[inline(always)]
    fn map<S: Simd>(simd: S, [d0, d1, d2, d3]: [S::V; 4]) -> [S::V; 6] {
        let (sixth, part) = (simd.splat(-1.0 / 6.0), simd.splat(1.0 / 24.0));
        let (even, odd) = (simd.add(d0, d2), simd.add(d1, d3));
        let far_even = times(simd, 4.0, d2, d0);
        let far_odd = simd.mul(simd.splat(2.0), times(simd, 4.0, d3, d1));
        [
            simd.mul(simd.splat(0.25), d0),
            simd.mul(sixth, simd.add(even, odd)),
            simd.mul(sixth, simd.sub(even, odd)),
            simd.mul(part, simd.add(far_even, far_odd)),
            simd.mul(part, simd.sub(far_even, far_odd)),
            d3,
        ]
    }
}

/// `A'^T m`: six points to the gradients of three neighbouring weights.
#[derive(Debug)]
pub(super) struct WeightGrad;

impl Transform<6, 3> for WeightGrad {
    #[inline(always)]
    fn map<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 3] {
        let (a, b) = (simd.add(m1, m2), simd.sub(m1, m2));
        let (c, d) = (simd.add(m3, m4), simd.sub(m3, m4));
        [simd.add(m0, simd.add(a, c)), times(simd, 2.0, d, b), simd.add(times(simd, 4.0, c, a), m5)]
    }
}

/// Applies `T` to the columns of `N` rows, then to the rows.
#[inline(always)]
pub(super) fn both_ways<T: Transform<N, M>, S: Simd, const N: usize, const M: usize>(
    simd: S,
    tile: &[[S::V; N]; N],
) -> [[S::V; M]; M] {
    let mut half = [[simd.splat(0.0); N]; M];
    for column in 0..N {
        let mut values = [simd.splat(0.0); N];
        for row in 0..N {
            values[row] = tile[row][column];
        }
        let mapped = T::map(simd, values);
        for row in 0..M {
            half[row][column] = mapped[row];
        }
    }
    let mut whole = [[simd.splat(0.0); M]; M];
    for row in 0..M {
        whole[row] = T::map(simd, half[row]);
    }
    whole
}

/// `a * factor + b`.
#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, a: S::V, b: S::V) -> S::V {
    simd.mul_add(simd.splat(factor), a, b)
}
