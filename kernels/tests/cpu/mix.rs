//! Windows that are erased, and images that take from their neighbours.

use kernels::ops::{Mix, Window, erase, mix};
use kernels::{Device, ImagesShape, ViewMut};

use crate::support::{Numbers, assert_close, assert_same_bits_everywhere, device};

#[test]
fn an_erased_window_is_zero_and_nothing_else_changes() {
    let x = images();
    let windows = [
        Window::default(),
        Window { top: 2, left: 3, height: 4, width: 1 },
        Window { top: 0, left: 0, height: SHAPE.height, width: SHAPE.width },
        Window { top: SHAPE.height - 1, left: SHAPE.width - 2, height: 1, width: 2 },
        Window { top: SHAPE.height, left: SHAPE.width, height: 0, width: 0 },
    ];
    let mut expected = x.clone();
    for (at, value) in expected.iter_mut().enumerate() {
        let (sample, pixel) = place(at);
        if inside(windows[sample], pixel) {
            *value = 0.0;
        }
    }
    let mut found = x;
    erase(&device(2), &SHAPE, &windows, ViewMut::Cpu(&mut found));
    assert_eq!(found, expected);
}

#[test]
fn each_image_is_mixed_with_the_one_before_it_as_it_was() {
    let x = images();
    let window = Window { top: 3, left: 1, height: 5, width: 6 };
    for how in [Mix::Blend { lambda: 0.3 }, Mix::Paste { window }] {
        let expected: Vec<f64> = (0..x.len()).map(|at| mixed(&x, how, at)).collect();
        assert_close(&format!("{how:?}"), &run(&device(2), how), &expected);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for lambda in [0.0, 0.123, 0.5, 1.0] {
        assert_same_bits_everywhere("mix", |device| vec![run(device, Mix::Blend { lambda })]);
    }
}

#[test]
fn a_weight_of_one_changes_no_bit() {
    let all = Window { top: 0, left: 0, height: 0, width: 0 };
    for how in [Mix::Blend { lambda: 1.0 }, Mix::Paste { window: all }] {
        assert_eq!(run(&device(1), how), images());
    }
}

#[test]
#[should_panic(expected = "leaves an image of")]
fn a_window_outside_the_image_is_a_mistake_of_the_program() {
    let window = Window { top: SHAPE.height, left: 0, height: 1, width: 1 };
    run(&device(1), Mix::Paste { window });
}

/// Large enough that an image is more than one task.
const SHAPE: ImagesShape = ImagesShape { batch: 5, height: 83, width: 79, channels: 3 };

fn images() -> Vec<f32> {
    Numbers::new(5).vec(SHAPE.len())
}

fn run(device: &Device, how: Mix) -> Vec<f32> {
    let mut x = images();
    mix(device, &SHAPE, &[how], ViewMut::Cpu(&mut x));
    x
}

/// What element `at` must become.
fn mixed(x: &[f32], how: Mix, at: usize) -> f64 {
    let (sample, pixel) = place(at);
    let before = (sample + SHAPE.batch - 1) % SHAPE.batch;
    let (own, other) = (x[at], x[before * SHAPE.image_len() + at % SHAPE.image_len()]);
    let weight = match how {
        Mix::Blend { lambda } => f64::from(lambda),
        Mix::Paste { window } => f64::from(u8::from(!inside(window, pixel))),
    };
    weight * f64::from(own) + (1.0 - weight) * f64::from(other)
}

/// Sample, and row and column, of an element.
fn place(at: usize) -> (usize, [usize; 2]) {
    let pixel = at % SHAPE.image_len() / SHAPE.channels;
    (at / SHAPE.image_len(), [pixel / SHAPE.width, pixel % SHAPE.width])
}

fn inside(window: Window, [row, column]: [usize; 2]) -> bool {
    (window.top..window.top + window.height).contains(&row)
        && (window.left..window.left + window.width).contains(&column)
}
