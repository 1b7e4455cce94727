//! What goes wrong on a GPU is told by whoever reads a result, once and for all; no op panics, and no wait is for ever. Only
//! the mock fails on purpose.

use std::time::Duration;

use cuda_mock::Fault;
use kernels::{CudaError, CudaOptions, Device, DeviceError, ops};

/// A mock GPU that no other test uses.
fn own_device(ordinal: u16, patience: Duration) -> Option<Device> {
    if std::env::var("KERNELS_TEST_GPU").is_ok() {
        println!("skipped: real hardware does not fail on purpose");
        return None;
    }
    if let Err(missing) = cuda_mock::install() {
        println!("skipped: {missing}");
        return None;
    }
    cuda_mock::set_devices(8);
    let options = CudaOptions { patience, ..CudaOptions::default() };
    Some(Device::cuda(usize::from(ordinal), options).unwrap())
}

fn failure(device: &Device, fault: Fault) -> CudaError {
    let mut buffer = device.alloc(100);
    let mut values = [0.0; 100];
    buffer.read(buffer.span(), &mut values).unwrap();
    cuda_mock::fail_next(fault);
    let mut more = device.alloc(10);
    ops::fill(device, buffer.view_mut(buffer.span()), 1.0);
    ops::fill(device, more.view_mut(more.span()), 1.0);
    let told = [(); 2].map(|()| buffer.read(buffer.span(), &mut values).unwrap_err());
    let [DeviceError::Cuda(first), DeviceError::Cuda(second)] = told else {
        panic!("not the GPU's: {told:?}");
    };
    assert_eq!(first, second, "it stays");
    first
}

#[test]
fn an_illegal_address_names_the_gpu() {
    let Some(device) = own_device(5, Duration::from_secs(60)) else { return };
    let error = failure(&device, Fault::LaunchIllegalAddress);
    let CudaError::Fault { ordinal: 5, reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("illegal"), "{error}");
}

#[test]
fn memory_that_is_not_there_says_how_much_is() {
    let Some(device) = own_device(6, Duration::from_secs(60)) else { return };
    let error = failure(&device, Fault::OutOfMemory);
    let CudaError::OutOfMemory { asked: 40, free, total } = error else { panic!("{error}") };
    assert!(free <= total && total > 0);
}

#[test]
fn a_gpu_that_hangs_is_given_up() {
    let Some(device) = own_device(7, Duration::from_millis(200)) else { return };
    let error = failure(&device, Fault::Hang);
    let CudaError::Hang { ordinal: 7, waited, .. } = error else { panic!("{error}") };
    assert!(waited >= Duration::from_millis(200));
    cuda_mock::clear_faults(7);
}
