//! How exact Winograd's algorithm is: root mean squares of the errors of all passes, over those of the
//! results. `conv` holds these layers to everything else that a convolution must keep.

use crate::conv::{Data, conv, reference, run};
use crate::support::{device, to_f64};

#[test]
fn errors_are_a_few_units_in_the_last_place() {
    for (channels, size) in [(64, 16), (128, 8), (256, 7), (512, 4)] {
        let shape = conv(2, size, size, channels, channels, 3, 1, 1);
        let data = Data::new(&shape);
        let result = run(&device(2), &shape, &data);
        let (x, w, dy) = (to_f64(&data.x), to_f64(&data.w), to_f64(&data.dy));
        let forward = relative_rms(&result.y, &reference::forward(&shape, &x, &w));
        let input = relative_rms(&result.dx, &reference::input_grad(&shape, &dy, &w));
        let weight = relative_rms(&result.dw, &reference::weight_grad(&shape, &x, &dy));
        println!("{channels} @{size}: y {forward:.1e}, dx {input:.1e}, dw {weight:.1e}");
        assert!(forward.max(input).max(weight) < RELATIVE_RMS_MAX, "{channels} channels @{size}");
    }
}

fn relative_rms(is: &[f32], must_be: &[f64]) -> f64 {
    let errors = is.iter().zip(must_be).map(|(&is, must_be)| (f64::from(is) - must_be).powi(2));
    let squares = must_be.iter().map(|v| v * v).sum::<f64>();
    (errors.sum::<f64>() / squares).sqrt()
}

/// Direct sums in fp32 are off by up to 1e-6.
const RELATIVE_RMS_MAX: f64 = 1e-5;
