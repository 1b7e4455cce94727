//! A device with one stream, and modules compiled for it the way that the product does it.

use cudarc::driver::CudaContext;
use cudarc::driver::CudaFunction;
use cudarc::driver::CudaModule;
use cudarc::driver::CudaStream;
use cudarc::driver::DriverError;
use cudarc::driver::LaunchConfig;
use cudarc::nvrtc::Ptx;
use cudarc::nvrtc::sys;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_char;
use std::sync::Arc;
use std::sync::Once;

pub(crate) const PORTABLE: &str = include_str!("../../../kernels/cuda/portable.cuh");
pub(crate) const CONFORMANCE: &str = include_str!("../../selftest/conformance.cu");
pub(crate) const PLANTED: &str = include_str!("../../selftest/planted.cu");

/// A device of its own for each test that breaks one, since tests run side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device {
    Sound = 0,
    Planted = 1,
    IllegalAddress = 2,
    Hang = 3,
    Memory = 4,
    Neighbour = 5,
    Emptied = 6,
    Near = 7,
    Far = 8,
}

pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
}

/// The mock; none, with the reason printed, where it can't be.
pub(crate) fn mock(device: Device) -> Option<Gpu> {
    if is_off() {
        println!("skipped: CUDA_MOCK=off, and this test is about the mock");
        return None;
    }
    if let Err(missing) = cuda_mock::install() {
        println!("skipped: {missing}");
        return None;
    }
    static DEVICES: Once = Once::new();
    DEVICES.call_once(|| cuda_mock::set_devices(9));
    Some(Gpu::open(device as usize))
}

/// The mock, or a real GPU with `CUDA_MOCK=off`.
pub(crate) fn mock_or_real() -> Option<Gpu> {
    if !is_off() {
        return mock(Device::Sound);
    }
    // SAFETY: looks for a library and calls nothing in it.
    if !unsafe { cudarc::driver::sys::is_culib_present() && sys::is_culib_present() } {
        println!("skipped: CUDA_MOCK=off, and no CUDA driver or no NVRTC is here");
        return None;
    }
    Some(Gpu::open(0))
}

fn is_off() -> bool {
    std::env::var("CUDA_MOCK").is_ok_and(|value| value == "off")
}

impl Gpu {
    fn open(ordinal: usize) -> Self {
        let context = CudaContext::new(ordinal).unwrap();
        let stream = context.new_stream().unwrap();
        Self { context, stream }
    }

    pub(crate) fn module(&self, name: &str, source: &str) -> Arc<CudaModule> {
        let (major, minor) = self.context.compute_capability().unwrap();
        let suffix = if major == 9 { "a" } else { "" };
        let arch = format!("--gpu-architecture=sm_{major}{minor}{suffix}");
        let cubin = compile(name, source, &[&arch]).unwrap();
        self.context.load_module(Ptx::from_binary(cubin)).unwrap()
    }

    pub(crate) fn kernel(&self, name: &str) -> CudaFunction {
        let (file, source) = match name.split_once('_') {
            Some(("planted", _)) => ("planted.cu", PLANTED),
            _ => ("conformance.cu", CONFORMANCE),
        };
        self.module(file, source).load_function(name).unwrap()
    }

    /// What the device says after all of its work.
    pub(crate) fn finish(&self) -> Result<(), DriverError> {
        self.stream.synchronize()
    }
}

/// A grid and a block of one dimension.
pub(crate) fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// The cubin, or the log.
pub(crate) fn compile(name: &str, source: &str, options: &[&str]) -> Result<Vec<u8>, String> {
    let text = |text: &str| CString::new(text).unwrap();
    let (source, name) = (text(source), text(name));
    let (header, header_name) = (text(PORTABLE), text("portable.cuh"));
    let options: Vec<CString> = options.iter().map(|option| text(option)).collect();
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: all texts end with zero and live to the end of this function; sizes are NVRTC's own.
    unsafe {
        let (headers, names) = ([header.as_ptr()], [header_name.as_ptr()]);
        let created = sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            1,
            headers.as_ptr(),
            names.as_ptr(),
        );
        assert_eq!(created, sys::nvrtcResult::NVRTC_SUCCESS);
        let count = i32::try_from(options.len()).unwrap();
        let compiled = sys::nvrtcCompileProgram(program, count, options.as_ptr());
        let mut bytes = 0;
        sys::nvrtcGetProgramLogSize(program, &mut bytes);
        let mut log = vec![0u8; bytes];
        sys::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        sys::nvrtcGetCUBINSize(program, &mut bytes);
        let mut cubin = vec![0u8; bytes];
        if compiled == sys::nvrtcResult::NVRTC_SUCCESS && bytes > 0 {
            sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast());
        }
        sys::nvrtcDestroyProgram(&mut program);
        match compiled {
            sys::nvrtcResult::NVRTC_SUCCESS => Ok(cubin),
            _ => Err(CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap().to_owned()),
        }
    }
}
