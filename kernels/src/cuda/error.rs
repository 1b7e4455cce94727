//! What can be wrong with a GPU or with what it takes to use one.

use std::path::PathBuf;
use std::time::Duration;

use cudarc::driver::DriverError;

/// Cloned whenever it is told: a GPU's fault stays until the process ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// No `libcuda`.
    #[error(
        "use a GPU: this machine has no NVIDIA driver (libcuda.so.1 is not found); install it, or train on the CPU with \
         --devices cpu"
    )]
    NoDriver,
    /// A driver, but nothing that it drives, or none with this number.
    #[error("use GPU {ordinal}: the driver knows {count} (`worker devices` lists them)")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// Older than the first one whose tensor cores take bf16.
    #[error("use {name}: its compute capability {}.{} is below 8.0, the first with bf16", .capability.0, .capability.1)]
    TooOld {
        /// The GPU's name.
        name: String,
        /// Major and minor.
        capability: (u32, u32),
    },
    /// No `libnvrtc`.
    #[error(
        "compile the kernels: NVIDIA's compiler library libnvrtc is not found (looked through the loader's path, {}); \
         `pip install nvidia-cuda-nvrtc` brings it, NVRTC_LIBRARY=/path/to/libnvrtc.so names it",
        .tried.display()
    )]
    NoCompiler {
        /// The last folder that was tried.
        tried: PathBuf,
    },
    /// It makes code for drivers that are newer than this one.
    #[error(
        "compile the kernels: libnvrtc is of CUDA {compiler} and the driver of CUDA {driver}, which refuses newer code; \
         update the driver, or `pip install nvidia-cuda-nvrtc-cu{driver}`"
    )]
    CompilerTooNew {
        /// Major version of the compiler.
        compiler: u32,
        /// Major version of the driver.
        driver: u32,
    },
    /// The compiler's own words.
    #[error("compile {file} for {architecture}: {log}")]
    Compile {
        /// The source.
        file: &'static str,
        /// `sm_90a`
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// The device's memory is too small, or somebody else has it.
    #[error("take {asked} bytes of GPU memory: {free} of {total} are free")]
    OutOfMemory {
        /// Bytes.
        asked: usize,
        /// Bytes.
        free: usize,
        /// Bytes.
        total: usize,
    },
    /// An operation failed, or one that was put on the stream before it.
    #[error("GPU {ordinal} failed at or before `{operation}`: {reason}")]
    Fault {
        /// The GPU.
        ordinal: usize,
        /// A kernel, or what was asked of the driver.
        operation: &'static str,
        /// The driver's words.
        reason: String,
    },
    /// It does not come to an end.
    #[error("GPU {ordinal} did not finish within {} s, waiting for `{operation}`", .waited.as_secs())]
    Hang {
        /// The GPU.
        ordinal: usize,
        /// What was waited for.
        operation: &'static str,
        /// How long.
        waited: Duration,
    },
}

impl CudaError {
    pub(super) fn fault(ordinal: usize, operation: &'static str, error: DriverError) -> CudaError {
        let text = |result: Result<&std::ffi::CStr, DriverError>| {
            result.map_or_else(
                |_| format!("{:?}", error.0),
                |text| text.to_string_lossy().into_owned(),
            )
        };
        let reason = format!("{} ({})", text(error.error_string()), text(error.error_name()));
        CudaError::Fault { ordinal, operation, reason }
    }
}
