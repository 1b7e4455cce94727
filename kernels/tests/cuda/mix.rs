//! Windows that are erased, and images that take from their neighbours: the CPU's bits, rounded to what the device keeps.

use kernels::ops::{Mix, Window, erase, mix};
use kernels::{Device, ImagesShape, Precision};

use crate::numbers::Numbers;
use crate::support::{
    PRECISIONS, activations, assert_same_bits_each_time, cpu, device, read, rounded,
};

#[test]
fn an_erased_window_is_zero_and_nothing_else_changes() {
    for precision in PRECISIONS {
        let Some(gpu) = device(precision) else { return };
        for shape in SHAPES {
            let ImagesShape { batch, height, width, .. } = shape;
            let all = Window { top: 0, left: 0, height, width };
            let corner = Window { top: height - 1, left: width - 2, height: 1, width: 2 };
            let none = Window { top: height, left: width, height: 0, width: 0 };
            let inner = Window { top: 2, left: 1, height: 3, width: 1 };
            let windows: Vec<Window> = [all, Window::default(), corner, none, inner]
                .into_iter()
                .cycle()
                .take(batch)
                .collect();
            let run = |device: &Device, x: &[f32]| {
                let mut x = activations(device, x);
                let whole = x.span();
                erase(device, &shape, &windows, x.view_mut(whole));
                read(&x)
            };
            let x = images(&gpu, &shape);
            assert_eq!(run(&gpu, &x), run(&cpu(), &x), "{precision:?} {shape:?}");
        }
    }
}

#[test]
fn each_image_is_mixed_with_the_one_before_it_as_it_was() {
    for precision in PRECISIONS {
        let Some(gpu) = device(precision) else { return };
        for shape in SHAPES {
            let x = images(&gpu, &shape);
            for how in kinds() {
                let expected = rounded(&gpu, &run(&cpu(), &shape, &[how], &x));
                assert_eq!(
                    run(&gpu, &shape, &[how], &x),
                    expected,
                    "{precision:?} {how:?} {shape:?}"
                );
            }
        }
    }
}

#[test]
fn slices_do_not_see_each_other() {
    let Some(gpu) = device(Precision::Bf16) else { return };
    let all = ImagesShape { batch: 12, ..SHAPES[0] };
    let slice = ImagesShape { batch: 3, ..all };
    let x = images(&gpu, &all);
    let one_by_one: Vec<f32> = kinds()
        .into_iter()
        .zip(x.chunks(slice.len()))
        .flat_map(|(how, x)| run(&gpu, &slice, &[how], x))
        .collect();
    assert_same_bits_each_time("mix", || {
        let together = run(&gpu, &all, &kinds(), &x);
        assert_eq!(together, one_by_one);
        vec![together]
    });
}

/// With images that are no multiple of sixteen bytes, and that are; of more than one block; a single one.
const SHAPES: [ImagesShape; 4] = [
    ImagesShape { batch: 6, height: 9, width: 7, channels: 3 },
    ImagesShape { batch: 5, height: 8, width: 8, channels: 4 },
    ImagesShape { batch: 4, height: 29, width: 33, channels: 3 },
    ImagesShape { batch: 1, height: 6, width: 5, channels: 1 },
];

fn kinds() -> [Mix; 4] {
    let window = Window { top: 1, left: 2, height: 4, width: 3 };
    [
        Mix::Blend { lambda: 0.3 },
        Mix::Paste { window },
        Mix::Paste { window: Window::default() },
        Mix::Blend { lambda: 1.0 },
    ]
}

/// As the device can hold them.
fn images(device: &Device, shape: &ImagesShape) -> Vec<f32> {
    rounded(device, &Numbers::new(5).vec(shape.len()))
}

fn run(device: &Device, shape: &ImagesShape, how: &[Mix], x: &[f32]) -> Vec<f32> {
    let mut x = activations(device, x);
    let whole = x.span();
    mix(device, shape, how, x.view_mut(whole));
    read(&x)
}
