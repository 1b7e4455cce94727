//! Bytes to activations.

use kernels::ops::{Crop, augment};
use kernels::{AugmentShape, Device, ViewMut};

use crate::support::{Numbers, assert_close, assert_same_bits_everywhere, device};

#[test]
fn every_crop_and_flip_equals_the_f64_reference() {
    let (shape, pixels, crops) = example();
    assert_close(
        "out",
        &run(&device(2), &shape, &pixels, &crops),
        &reference(&shape, &pixels, &crops),
    );
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    let (shape, pixels, crops) = example();
    assert_same_bits_everywhere("augment", |d| vec![run(d, &shape, &pixels, &crops)]);
}

#[test]
fn the_padding_is_a_black_pixel_and_not_a_zero_activation() {
    let shape =
        AugmentShape { batch: 1, height: 1, width: 1, channels: 3, out_height: 1, out_width: 1 };
    let far = [Crop { top: -1, left: 0, flip: false }];
    let out = run(&device(1), &shape, &[255, 255, 255], &far);
    assert_close("padding", &out, &[-0.4 / 0.2, -0.5 / 0.25, -0.6 / 0.3]);
}

const MEAN: [f32; 3] = [0.4, 0.5, 0.6];
const STD: [f32; 3] = [0.2, 0.25, 0.3];

fn example() -> (AugmentShape, Vec<u8>, Vec<Crop>) {
    let shape = AugmentShape {
        batch: 41,
        height: 33,
        width: 31,
        channels: 3,
        out_height: 28,
        out_width: 29,
    };
    let mut numbers = Numbers::new(1);
    let pixels = (0..shape.input_len()).map(|_| numbers.next_u64() as u8).collect();
    let crops = (0..shape.batch)
        .map(|sample| Crop {
            top: (numbers.next_u64() % 13) as isize - 4,
            left: (numbers.next_u64() % 11) as isize - 4,
            flip: sample % 2 == 1,
        })
        .collect();
    (shape, pixels, crops)
}

fn run(device: &Device, shape: &AugmentShape, pixels: &[u8], crops: &[Crop]) -> Vec<f32> {
    let mut out = vec![f32::NAN; shape.output_len()];
    augment(device, shape, pixels, crops, &MEAN, &STD, ViewMut::Cpu(&mut out));
    out
}

fn reference(shape: &AugmentShape, pixels: &[u8], crops: &[Crop]) -> Vec<f64> {
    let mut out = Vec::new();
    for (sample, crop) in crops.iter().enumerate() {
        for row in 0..shape.out_height as isize {
            for column in 0..shape.out_width as isize {
                let mirrored = shape.out_width as isize - 1 - column;
                let source_column = crop.left + if crop.flip { mirrored } else { column };
                let source_row = crop.top + row;
                let inside = (0..shape.height as isize).contains(&source_row)
                    && (0..shape.width as isize).contains(&source_column);
                for channel in 0..3 {
                    let position = (sample * shape.height)
                        .wrapping_add_signed(source_row)
                        .wrapping_mul(shape.width)
                        .wrapping_add_signed(source_column);
                    let pixel = if inside { pixels[position * 3 + channel] } else { 0 };
                    let (mean, std) = (f64::from(MEAN[channel]), f64::from(STD[channel]));
                    out.push((f64::from(pixel) / 255.0 - mean) / std);
                }
            }
        }
    }
    out
}
