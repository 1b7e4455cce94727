//! Failures that a test asks for show as a real driver shows them.

use crate::gpu;
use crate::gpu::Device;
use crate::gpu::Gpu;
use crate::gpu::shape;
use cuda_mock::Fault;
use cudarc::driver::DevicePtrMut;
use cudarc::driver::DriverError;
use cudarc::driver::PushKernelArg;
use cudarc::driver::sys::CUresult;

/// A kernel that writes three.
fn launch(gpu: &Gpu) -> Result<Vec<f32>, DriverError> {
    let mut out = gpu.stream.alloc_zeros::<f32>(5)?;
    let kernel = gpu.kernel("selftest_arguments");
    let (a, b) = (3i32, 1f32);
    let s = [0u64; 2];
    let mut launch = gpu.stream.launch_builder(&kernel);
    // SAFETY: the arguments have the sizes of those of the kernel.
    unsafe { launch.arg(&mut out).arg(&a).arg(&s).arg(&b).launch(shape(1, 1)) }?;
    gpu.stream.clone_dtoh(&out)
}

#[test]
fn an_illegal_address_shows_at_the_next_wait_and_stays() {
    let Some(gpu) = gpu::mock(Device::IllegalAddress) else { return };
    let device = Device::IllegalAddress as u16;
    let kernel = gpu.kernel("selftest_add_one");
    let mut out = gpu.stream.alloc_zeros::<f32>(1).unwrap();
    gpu.finish().unwrap();
    cuda_mock::fail_next(Fault::LaunchIllegalAddress);
    let mut builder = gpu.stream.launch_builder(&kernel);
    // SAFETY: the arguments are those of the kernel.
    unsafe { builder.arg(&mut out).launch(shape(1, 32)) }.expect("the launch itself is taken");
    let illegal = Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(gpu.finish(), illegal);
    assert_eq!(gpu.finish(), illegal, "every call from now on");
    assert_eq!(gpu.stream.alloc_zeros::<f32>(1).err(), illegal.err());
    assert_eq!(cuda_mock::error_message(device).as_deref(), Some("illegal address, as asked for"));
    drop((out, kernel, gpu));

    let neighbour = gpu::mock(Device::Neighbour).unwrap();
    assert_eq!(launch(&neighbour).unwrap()[0], 3.0, "another device is not harmed");
    cuda_mock::clear_faults(device);
    assert_eq!(cuda_mock::error_message(device), None);
    let anew = gpu::mock(Device::IllegalAddress).unwrap();
    assert_eq!(launch(&anew).unwrap()[0], 3.0);
}

#[test]
fn out_of_memory_is_one_refused_allocation() {
    let Some(gpu) = gpu::mock(Device::Memory) else { return };
    let refused = Some(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    cuda_mock::fail_next(Fault::OutOfMemory);
    assert_eq!(gpu.stream.alloc_zeros::<f32>(1).err(), refused);
    assert_eq!(launch(&gpu).unwrap()[0], 3.0);
    gpu.finish().unwrap();

    cuda_mock::set_total_memory(Device::Memory as u16, 1000);
    assert_eq!(gpu.context.total_mem().unwrap(), 1000);
    let first = gpu.stream.alloc_zeros::<u8>(600).unwrap();
    assert_eq!(gpu.context.mem_get_info().unwrap(), (400, 1000));
    assert_eq!(gpu.stream.alloc_zeros::<u8>(600).err(), refused);
    drop(first);
    let second = gpu.stream.alloc_zeros::<u8>(600);
    assert!(second.is_ok(), "what is freed in a stream is there for the next allocation");
}

#[test]
fn a_hang_ends_when_it_is_told_to() {
    let Some(gpu) = gpu::mock(Device::Hang) else { return };
    let kernel = gpu.kernel("selftest_add_one");
    let mut out = gpu.stream.alloc_zeros::<f32>(1).unwrap();
    cuda_mock::fail_next(Fault::Hang);
    let mut builder = gpu.stream.launch_builder(&kernel);
    // SAFETY: the arguments are those of the kernel.
    unsafe { builder.arg(&mut out).launch(shape(1, 32)) }.unwrap();
    let behind = gpu.stream.record_event(None).unwrap();
    for _ in 0..20 {
        assert_eq!(behind.try_is_complete(), Ok(false));
    }
    let waiting = std::thread::spawn({
        let stream = gpu.stream.clone();
        move || stream.synchronize()
    });
    assert_eq!(behind.try_is_complete(), Ok(false));
    cuda_mock::clear_faults(Device::Hang as u16);
    waiting.join().unwrap().unwrap();
    assert_eq!(behind.try_is_complete(), Ok(true));
    assert_eq!(gpu.stream.clone_dtoh(&out).unwrap(), [1.0], "and then it has run");
}

#[test]
fn memory_of_another_device_is_reached_by_copies_alone() {
    let Some(near) = gpu::mock(Device::Near) else { return };
    let far = gpu::mock(Device::Far).unwrap();
    let mut theirs = far.stream.clone_htod(&[1f32; 4]).unwrap();
    let mut ours = near.stream.alloc_zeros::<f32>(4).unwrap();
    near.stream.memcpy_dtod(&theirs, &mut ours).unwrap();
    assert_eq!(near.stream.clone_dtoh(&ours).unwrap(), [1.0; 4]);

    let kernel = near.kernel("selftest_add_one");
    let (address, _record) = theirs.device_ptr_mut(&far.stream);
    let mut builder = near.stream.launch_builder(&kernel);
    // SAFETY: the mock looks at the address before it runs the kernel.
    unsafe { builder.arg(&address).launch(shape(1, 32)) }.unwrap();
    assert_eq!(near.finish(), Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
    let message = cuda_mock::error_message(Device::Near as u16).unwrap();
    assert!(message.contains("selftest_add_one: an argument points to another device's memory"));
}
