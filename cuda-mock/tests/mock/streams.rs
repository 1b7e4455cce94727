//! Streams are lazy and ordered by events alone; memory is NaN until written; copies, launches and captures are refused
//! where a real driver refuses them.

use crate::gpu;
use crate::gpu::Device;
use crate::gpu::shape;
use cudarc::driver::DriverError;
use cudarc::driver::LaunchConfig;
use cudarc::driver::PushKernelArg;
use cudarc::driver::result;
use cudarc::driver::sys;
use cudarc::driver::sys::CUresult;

#[test]
fn the_device_says_what_it_is() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    assert_eq!(gpu.context.name().unwrap(), "emulated GPU");
    assert_eq!(gpu.context.compute_capability().unwrap(), (9, 0));
    let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(gpu.context.attribute(count).unwrap(), 132);
    let neighbour = gpu::mock(Device::Neighbour).unwrap();
    assert_ne!(gpu.context.uuid().unwrap().bytes, neighbour.context.uuid().unwrap().bytes);
}

#[test]
fn nothing_runs_before_something_waits() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let stream = &gpu.stream;
    let mut out = stream.alloc_zeros::<f32>(1).unwrap();
    let kernel = gpu.kernel("selftest_add_one");
    let mut builder = stream.launch_builder(&kernel);
    // SAFETY: the arguments are those of the kernel.
    unsafe { builder.arg(&mut out).launch(shape(1, 32)) }.unwrap();
    let behind = stream.record_event(None).unwrap();
    assert!(!behind.is_complete());
    let polls = (1..100).find(|_| behind.is_complete());
    assert!(polls.is_some(), "a host that polls gets on");
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [1.0]);
}

#[test]
fn only_an_event_orders_two_streams() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    // SAFETY: this test orders its streams itself, and waits for both before it ends.
    unsafe { gpu.context.disable_event_tracking() };
    let (first, second) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
    let written = first.clone_htod(&[5f32]).unwrap();
    let read_too_early = second.clone_dtoh(&written).unwrap();
    assert!(read_too_early[0].is_nan(), "memory is NaN until it is written");
    second.wait(&first.record_event(None).unwrap()).unwrap();
    assert_eq!(second.clone_dtoh(&written).unwrap(), [5.0]);
    first.synchronize().unwrap();
}

#[test]
fn a_pinned_copy_reads_its_source_late() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let stream = &gpu.stream;
    // SAFETY: it is filled before it is read.
    let mut host = unsafe { gpu.context.alloc_pinned::<f32>(4) }.unwrap();
    host.as_mut_slice().unwrap().fill(1.0);
    let memory = host.as_mut_ptr().unwrap();
    let mut there = stream.alloc_zeros::<f32>(4).unwrap();
    stream.memcpy_htod(&host, &mut there).unwrap();
    // SAFETY: in bounds; that it comes too early is what is tested.
    unsafe { memory.write(9.0) };
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [9.0, 1.0, 1.0, 1.0]);
}

#[test]
fn copies_and_fills_outside_an_allocation_are_refused() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let stream = &gpu.stream;
    let there = stream.alloc_zeros::<f32>(4).unwrap();
    let (address, _record) = cudarc::driver::DevicePtr::device_ptr(&there, stream);
    let raw = stream.cu_stream();
    let invalid = Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE));
    // SAFETY: what is out of bounds is refused before it is touched.
    unsafe {
        assert_eq!(result::memcpy_htod_async(address + 4, &[0f32; 4], raw), invalid);
        assert_eq!(result::memcpy_dtoh_async(&mut [0f32; 5], address, raw), invalid);
        assert_eq!(result::memcpy_dtod_async(address, address + 8, 12, raw), invalid);
        assert_eq!(result::memset_d8_async(address, 0, 17, raw), invalid);
        assert_eq!(result::free_async(address + 4, raw), invalid);
    }
}

#[test]
fn a_launch_that_no_gpu_takes_is_refused() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let kernel = gpu.kernel("selftest_ticket");
    let launch = |shape: LaunchConfig| {
        let mut builder = gpu.stream.launch_builder(&kernel);
        for _ in 0..4 {
            builder.arg(&0u64);
        }
        // SAFETY: it is refused before it runs.
        unsafe { builder.launch(shape) }.err().map(|error| error.0)
    };
    let invalid = Some(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(shape(0, 32)), invalid);
    assert_eq!(launch(shape(1, 1025)), invalid);
    assert_eq!(launch(LaunchConfig { grid_dim: (1, 65536, 1), ..shape(1, 32) }), invalid);
    let large = LaunchConfig { shared_mem_bytes: 48 * 1024 + 1, ..shape(1, 32) };
    assert_eq!(launch(large), invalid, "more than 48 KiB is asked for first");
    let beyond = Some(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(launch(shape(1, 65)), beyond, "__launch_bounds__(64)");
}

#[test]
fn dynamic_shared_memory_goes_up_to_what_was_asked_for() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    let stream = &gpu.stream;
    let kernel = gpu.kernel("selftest_ticket");
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(kernel.set_attribute(attribute, 228 * 1024).is_err());
    kernel.set_attribute(attribute, 80 * 1024).unwrap();
    let ones = stream.clone_htod(&[1f32; 32]).unwrap();
    let (mut partial, mut out) =
        (stream.alloc_zeros::<f32>(1).unwrap(), stream.alloc_zeros::<f32>(1).unwrap());
    let mut ticket = stream.alloc_zeros::<u32>(1).unwrap();
    let mut builder = stream.launch_builder(&kernel);
    builder.arg(&ones).arg(&mut partial).arg(&mut ticket).arg(&mut out);
    let large = LaunchConfig { shared_mem_bytes: 80 * 1024, ..shape(1, 32) };
    // SAFETY: the arguments are those of the kernel.
    unsafe { builder.launch(large) }.unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [32.0]);
}

#[test]
fn a_captured_graph_runs_as_often_as_it_is_launched() {
    let Some(gpu) = gpu::mock(Device::Sound) else { return };
    // SAFETY: one stream, so there is nothing to order.
    unsafe { gpu.context.disable_event_tracking() };
    let stream = gpu.context.new_stream().unwrap();
    let kernel = gpu.kernel("selftest_add_one");
    let mut out = stream.alloc_zeros::<f32>(1).unwrap();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    let mut builder = stream.launch_builder(&kernel);
    // SAFETY: the arguments are those of the kernel.
    unsafe { builder.arg(&mut out).launch(shape(1, 32)) }.unwrap();
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [0.0], "capturing runs nothing");
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [3.0]);

    stream.begin_capture(mode).unwrap();
    let waited = stream.synchronize();
    assert_eq!(waited, Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)));
    let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0)).err();
    assert_eq!(ended, Some(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)));
}

#[test]
fn the_last_to_leave_a_device_takes_its_memory_along() {
    let Some(gpu) = gpu::mock(Device::Emptied) else { return };
    let leaked = gpu.stream.alloc_zeros::<u8>(1 << 20).unwrap();
    let (free, total) = gpu.context.mem_get_info().unwrap();
    assert_eq!(free, total - (1 << 20));
    leaked.leak();
    drop(gpu);
    let gpu = gpu::mock(Device::Emptied).unwrap();
    assert_eq!(gpu.context.mem_get_info().unwrap(), (total, total));
}
