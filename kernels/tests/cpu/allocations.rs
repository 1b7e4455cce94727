//! What ops ask of the allocator: on one thread nothing, once each has run on its shape. (With more
//! threads the pool's queue grows by a block every few dozen ops.)

use kernels::ops::{self, Crop};
use kernels::{AugmentShape, LinearShape, View, ViewMut};

use crate::conv::{Data, conv, run_into};
use crate::counting::allocations;
use crate::support::{Numbers, device};

#[test]
fn convolutions_allocate_nothing_once_they_have_run() {
    let device = device(1);
    let shapes = [
        conv(2, 9, 9, 3, 17, 3, 1, 1),
        conv(2, 8, 8, 16, 32, 3, 2, 1),
        conv(2, 7, 7, 130, 20, 1, 1, 0),
        conv(2, 8, 8, 64, 72, 3, 1, 1),
        conv(2, 8, 8, 208, 193, 3, 1, 1),
    ];
    for shape in shapes {
        let data = Data::new(&shape);
        let mut memory = data.memory(&shape);
        run_into(&device, &shape, &data, &mut memory);
        let count = allocations(|| run_into(&device, &shape, &data, &mut memory));
        assert_eq!(count, 0, "{shape:?}");
    }
}

#[test]
fn linear_layers_and_augmentation_allocate_nothing_once_they_have_run() {
    let device = device(1);
    let mut numbers = Numbers::new(1);
    let shape = LinearShape { slices: 1, batch: 5, inputs: 40, outputs: 10 };
    let [x, weight, bias, dy] = [200, 400, 10, 50].map(|len| numbers.vec(len));
    let [mut y, mut dx, mut dw, mut db] = [50, 200, 400, 10].map(|len| vec![0.0; len]);
    let augment =
        AugmentShape { batch: 2, height: 8, width: 8, channels: 3, out_height: 8, out_width: 8 };
    let pixels = vec![7u8; augment.input_len()];
    let crops = [Crop { top: 1, left: -1, flip: true }; 2];
    let mut out = vec![0.0; augment.output_len()];
    let mut all = || {
        let (x, w) = (View::Cpu(&x), View::Cpu(&weight));
        ops::linear_forward(&device, &shape, x, w, View::Cpu(&bias), ViewMut::Cpu(&mut y));
        let (dx, dw) = (ViewMut::Cpu(&mut dx), ViewMut::Cpu(&mut dw));
        let db = ViewMut::Cpu(&mut db);
        ops::linear_backward(&device, &shape, x, w, View::Cpu(&dy), dx, dw, db);
        let out = ViewMut::Cpu(&mut out);
        ops::augment(&device, &augment, &pixels, &crops, &[0.5; 3], &[0.2; 3], out);
    };
    all();
    assert_eq!(allocations(all), 0);
}
