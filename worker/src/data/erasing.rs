//! Which part of an image random erasing takes out: Zhong et al., "Random Erasing Data Augmentation", 2017, with
//! torchvision's ranges. A pure function of the sample's draws.

use dataset::Draws;
use kernels::ops::Window;

/// A window of the image, with this probability; else an empty one.
pub(super) fn erased(probability: f64, sides: [usize; 2], draws: &mut Draws) -> Window {
    if draws.unit() < probability { window(sides, draws) } else { Window::default() }
}

/// torchvision's rule: a random area and shape that leaves a part of each row and column, where one is found.
fn window([height, width]: [usize; 2], draws: &mut Draws) -> Window {
    let area = (height * width) as f64;
    let log_ratio = RATIO.map(libm::log);
    for _ in 0..TRIES {
        let target = area * between(SCALE, draws);
        let shape = libm::exp(between(log_ratio, draws));
        let h = (target * shape).sqrt().round_ties_even() as usize;
        let w = (target / shape).sqrt().round_ties_even() as usize;
        if h < height && w < width {
            let top = draws.below((height - h + 1) as u64) as usize;
            let left = draws.below((width - w + 1) as u64) as usize;
            return Window { top, left, height: h, width: w };
        }
    }
    Window::default()
}

fn between(range: [f64; 2], draws: &mut Draws) -> f64 {
    range[0] + (range[1] - range[0]) * draws.unit()
}

/// Least and largest share of the image that is erased.
const SCALE: [f64; 2] = [0.02, 0.33];
/// Least and largest height / width of what is erased.
const RATIO: [f64; 2] = [0.3, 3.3];
const TRIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_torchvision() {
        let text = include_str!("../../../dataset/tests/fixtures/erasures.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 120);
        for case in cases {
            let number = |key: &str| case[key].as_u64().unwrap();
            let sides = [number("height"), number("width")].map(|side| side as usize);
            let Window { top, left, height, width } =
                window(sides, &mut Draws::new(7, number("position")));
            let expected = [0, 1, 2, 3].map(|i| case["window"][i].as_u64().unwrap() as usize);
            assert_eq!([left, top, width, height], expected, "{case}");
        }
    }

    #[test]
    fn as_many_images_are_erased_as_the_probability_says() {
        let erased = |probability: f64| {
            let windows = (0..1000).map(|p| erased(probability, [32, 32], &mut Draws::new(1, p)));
            windows.filter(|window| window.width > 0).count()
        };
        assert_eq!((erased(0.0), erased(1.0)), (0, 1000));
        // Five standard errors.
        assert!((181..320).contains(&erased(0.25)), "{}", erased(0.25));
    }
}
