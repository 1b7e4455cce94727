//! Which samples of a slice mix with which, and how: mixup and CutMix. All samples of a slice mix in one way, a pure
//! function of the seed and the slice's first position, so it does not matter who computes the slice.
//!
//! Each sample takes from the one before it in the slice, the first from the last, as torchvision's `MixUp` and `CutMix`
//! do it. Samples that are none were replaced before, so either all of a slice count or, without any image, none does.

use dataset::Draws;
use kernels::ops::{Mix, Window};
use proto::job::Augment;

/// A job's rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixing {
    seed: u64,
    /// Alphas, 0 for none.
    mixup: f64,
    cutmix: f64,
}

/// What is mixed in one slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    pub how: Mix,
    /// Weight of each sample's own label.
    pub lambda: f32,
    /// Label of the sample that each takes from.
    pub others: Vec<u32>,
}

impl Mixing {
    pub(super) fn new(seed: u64, augment: &Augment) -> Mixing {
        Mixing { seed, mixup: augment.mixup, cutmix: augment.cutmix }
    }

    /// For the slice of these labels, in images of `[height, width]`; `None` where the job mixes nothing.
    pub(super) fn of_slice(
        &self,
        first_position: u64,
        sides: [usize; 2],
        labels: &[u32],
    ) -> Option<Mixed> {
        let mut draws = Draws::of_slice(self.seed, first_position);
        let (how, lambda) = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (false, false) => return None,
            (true, true) if draws.coin() => self.mixup(&mut draws),
            (true, false) => self.mixup(&mut draws),
            (_, true) => self.cutmix(sides, &mut draws),
        };
        let mut others = labels.to_vec();
        others.rotate_right(1);
        Some(Mixed { how, lambda, others })
    }

    fn mixup(&self, draws: &mut Draws) -> (Mix, f32) {
        let lambda = draws.beta(self.mixup) as f32;
        (Mix::Blend { lambda }, lambda)
    }

    /// The window's share of the image is what its label counts, after the image's edges cut it.
    fn cutmix(&self, [height, width]: [usize; 2], draws: &mut Draws) -> (Mix, f32) {
        let window = window(draws.beta(self.cutmix), [height, width], draws);
        let share = (window.height * window.width) as f64 / (height * width) as f64;
        (Mix::Paste { window }, (1.0 - share) as f32)
    }
}

/// torchvision's rule: a window of share `1 - lambda` and the image's shape around any pixel, as far as it lies inside.
fn window(lambda: f64, [height, width]: [usize; 2], draws: &mut Draws) -> Window {
    let half = 0.5 * (1.0 - lambda).sqrt();
    let mut run = |len: usize| {
        let (middle, reach) = (draws.below(len as u64) as usize, (half * len as f64) as usize);
        let start = middle.saturating_sub(reach);
        (start, (middle + reach).min(len) - start)
    };
    let ((left, width), (top, height)) = (run(width), run(height));
    Window { top, left, height, width }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_torchvision() {
        let text = include_str!("../../../dataset/tests/fixtures/boxes.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 140);
        for case in cases {
            let number = |key: &str| case[key].as_u64().unwrap();
            let sides = [number("height"), number("width")].map(|side| side as usize);
            let mut draws = Draws::new(7, number("position"));
            let found = window(case["lambda"].as_f64().unwrap(), sides, &mut draws);
            let Window { top, left, height, width } = found;
            let expected = [0, 1, 2, 3].map(|i| case["window"][i].as_u64().unwrap() as usize);
            assert_eq!([left, top, width, height], expected, "{case}");
        }
    }

    #[test]
    fn a_slice_mixes_in_one_way_that_its_first_position_decides() {
        let labels = [4, 5, 6];
        let both = mixing(0.4, 1.0);
        let of = |position| both.of_slice(position, [9, 8], &labels).unwrap();
        assert_eq!(of(30), of(30));
        let slices: Vec<Mixed> = (0..1000).map(|slice| of(3 * slice)).collect();
        let blends = slices.iter().filter(|mixed| matches!(mixed.how, Mix::Blend { .. })).count();
        // Five standard errors around a half.
        assert!((421..580).contains(&blends), "{blends} of 1000");
        for mixed in &slices {
            assert_eq!(mixed.others, [6, 4, 5]);
            match mixed.how {
                Mix::Blend { lambda } => assert_eq!(lambda, mixed.lambda),
                Mix::Paste { window } => {
                    let share = (window.height * window.width) as f32 / 72.0;
                    assert!((mixed.lambda - (1.0 - share)).abs() < 1e-6);
                }
            }
        }
        assert!(mixing(0.0, 0.0).of_slice(0, [9, 8], &labels).is_none());
        for slice in 0..50 {
            let mixup = mixing(0.4, 0.0).of_slice(slice, [9, 8], &labels).unwrap();
            let cutmix = mixing(0.0, 0.4).of_slice(slice, [9, 8], &labels).unwrap();
            assert!(matches!(mixup.how, Mix::Blend { .. }));
            assert!(matches!(cutmix.how, Mix::Paste { .. }));
        }
    }

    fn mixing(mixup: f64, cutmix: f64) -> Mixing {
        Mixing::new(3, &Augment { mixup, cutmix, ..Augment::default() })
    }
}
