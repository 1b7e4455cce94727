//! Bytes to activations: the CPU's bits, rounded to what the device keeps.

use kernels::ops::{Crop, augment};
use kernels::{AugmentShape, Device, Precision};

use crate::numbers::Numbers;
use crate::support::{
    PRECISIONS, activations_result, assert_same_bits_each_time, cpu, device, read, rounded,
};

#[test]
fn every_crop_and_flip_has_the_bits_of_the_cpu() {
    for precision in PRECISIONS {
        let Some(gpu) = device(precision) else { return };
        for shape in SHAPES {
            let expected = rounded(&gpu, &run(&cpu(), &shape));
            assert_eq!(run(&gpu, &shape), expected, "{precision:?} {shape:?}");
        }
    }
}

#[test]
fn bits_are_the_same_each_time() {
    let Some(gpu) = device(Precision::Bf16) else { return };
    assert_same_bits_each_time("augment", || vec![run(&gpu, &SHAPES[1])]);
}

/// Windows smaller and larger than the image; several blocks to a sample; one channel, three and eight; a row that is no
/// multiple of sixteen bytes, and whole ones.
const SHAPES: [AugmentShape; 5] = [
    shape(2, [50, 95], 3, [61, 97]),
    shape(7, [9, 11], 3, [7, 9]),
    shape(3, [5, 4], 1, [4, 4]),
    shape(3, [4, 6], 8, [6, 5]),
    shape(0, [4, 6], 3, [4, 6]),
];

const fn shape(
    batch: usize,
    [height, width]: [usize; 2],
    channels: usize,
    [out_height, out_width]: [usize; 2],
) -> AugmentShape {
    AugmentShape { batch, height, width, channels, out_height, out_width }
}

fn run(device: &Device, shape: &AugmentShape) -> Vec<f32> {
    let mut numbers = Numbers::new(1);
    let pixels: Vec<u8> = (0..shape.input_len()).map(|_| numbers.next_u64() as u8).collect();
    let crops: Vec<Crop> = (0..shape.batch)
        .map(|sample| Crop {
            top: (numbers.next_u64() % 9) as isize - 4,
            left: (numbers.next_u64() % 9) as isize - 4,
            flip: sample % 2 == 1,
        })
        .collect();
    let mean: Vec<f32> = (0..shape.channels).map(|channel| 0.4 + 0.05 * channel as f32).collect();
    let std: Vec<f32> = (0..shape.channels).map(|channel| 0.2 + 0.03 * channel as f32).collect();
    let mut out = activations_result(device, shape.output_len());
    let whole = out.span();
    augment(device, shape, &pixels, &crops, &mean, &std, out.view_mut(whole));
    read(&out)
}
