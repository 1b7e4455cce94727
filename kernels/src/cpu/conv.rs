//! Convolution.
use super::CpuDevice;
use super::tasks::Cost;
use crate::ops::Accumulate;
use crate::shape::ConvShape;

fn taps(s: &ConvShape, oh: usize, ow: usize) -> Vec<(usize, usize)> {
    let mut v = Vec::new();
    for kh in 0..s.kernel {
        for kw in 0..s.kernel {
            let (ih, iw) = (oh * s.stride + kh, ow * s.stride + kw);
            if ih >= s.pad && iw >= s.pad && ih - s.pad < s.height && iw - s.pad < s.width {
                v.push((kh * s.kernel + kw, (ih - s.pad) * s.width + iw - s.pad));
            }
        }
    }
    v
}

impl CpuDevice {
    pub(crate) fn conv_pack(&self, s: &ConvShape, w: &[f32], f: &mut [f32], b: &mut [f32]) {
        f[..w.len()].copy_from_slice(w);
        b[..w.len()].copy_from_slice(w);
        let _ = s;
    }
    pub(crate) fn conv_forward(&self, s: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32], stats: Option<&mut [f32]>) {
        let (ci, co, ow) = (s.in_channels, s.out_channels, s.out_width());
        let xl = s.height * s.width * ci;
        self.chunks(Cost::flops(s.flops()), y, s.out_height() * ow * co, |n, y| {
            for (p, y) in y.chunks_exact_mut(co).enumerate() {
                y.fill(0.0);
                for (t, q) in taps(s, p / ow, p % ow) {
                    for c in 0..ci {
                        let v = x[n * xl + q * ci + c];
                        for (y, w) in y.iter_mut().zip(&w[(t * ci + c) * co..]) {
                            *y += v * w;
                        }
                    }
                }
            }
        });
        if let Some(stats) = stats {
            let rows = (y.len() / co) as f64;
            for c in 0..co {
                let mean = y[c..].iter().step_by(co).map(|&v| f64::from(v)).sum::<f64>() / rows;
                let var = y[c..].iter().step_by(co).map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / rows;
                stats[c] = mean as f32;
                stats[co + c] = var as f32;
            }
        }
    }
    pub(crate) fn conv_input_grad(&self, s: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], a: Accumulate) {
        let (ci, co, ow) = (s.in_channels, s.out_channels, s.out_width());
        let op = s.out_height() * ow;
        self.chunks(Cost::flops(s.flops()), dx, s.height * s.width * ci, |n, dx| {
            if a == Accumulate::Overwrite {
                dx.fill(0.0);
            }
            for p in 0..op {
                let dy = &dy[(n * op + p) * co..][..co];
                for (t, q) in taps(s, p / ow, p % ow) {
                    for c in 0..ci {
                        let w = &w[(t * ci + c) * co..][..co];
                        dx[q * ci + c] += dy.iter().zip(w).map(|(a, b)| a * b).sum::<f32>();
                    }
                }
            }
        });
    }
    pub(crate) fn conv_weight_grad(&self, s: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (ci, co, ow) = (s.in_channels, s.out_channels, s.out_width());
        let op = s.out_height() * ow;
        dw.fill(0.0);
        for n in 0..s.batch {
            for p in 0..op {
                let dy = &dy[(n * op + p) * co..][..co];
                for (t, q) in taps(s, p / ow, p % ow) {
                    for c in 0..ci {
                        let v = x[(n * s.height * s.width + q) * ci + c];
                        for (dw, dy) in dw[(t * ci + c) * co..].iter_mut().zip(dy) {
                            *dw += v * dy;
                        }
                    }
                }
            }
        }
    }
}
