//! Memory of a GPU: what is written is read back, in what the device keeps it.

use kernels::{Precision, Span};

use crate::support::{PRECISIONS, device, read, rounded};

#[test]
fn what_is_written_is_read_back() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let mut buffers = [device.alloc(10), device.alloc_activations(10)];
        for buffer in &mut buffers {
            assert_eq!(read(buffer), [0.0; 10]);
            buffer.write(Span::new(3, 4), &[1.0, -2.5, 3.0, f32::INFINITY]);
            let mut back = [7.0; 6];
            buffer.read(Span::new(2, 6), &mut back).unwrap();
            assert_eq!(back, [0.0, 1.0, -2.5, 3.0, f32::INFINITY, 0.0]);
        }
    }
}

#[test]
fn activations_are_rounded_to_the_precision() {
    let values = [1.0 + 1.0 / 1024.0, 1.0 + 3.0 / 256.0, -1.0 - 1.0 / 128.0];
    let Some(full) = device(Precision::Fp32) else { return };
    assert_eq!(rounded(&full, &values), values);
    let Some(half) = device(Precision::Bf16) else { return };
    assert_eq!(rounded(&half, &values), [1.0, 1.0 + 4.0 / 256.0, -1.0 - 1.0 / 128.0]);
}

#[test]
fn a_device_tells_its_kind() {
    let Some(device) = device(Precision::Bf16) else { return };
    let kind = device.kind();
    assert!(kind.starts_with("cuda sm_"), "{kind}");
    assert!(device.describe().starts_with(&kind));
}
