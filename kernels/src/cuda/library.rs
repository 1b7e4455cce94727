//! Whether this machine has a driver and a compiler. cudarc panics when a library is missing, so each is looked for before
//! it is touched for the first time.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use cudarc::driver::{DriverError, result, sys};

use super::context::Gpu;
use super::error::CudaError;

/// The GPUs of this machine, by number.
///
/// # Errors
/// Without a driver, or with one that can't start.
pub fn gpus() -> Result<Vec<Gpu>, CudaError> {
    match load_driver() {
        // What a driver says where it drives nothing.
        Err(CudaError::NoDevice { count: 0, .. }) => return Ok(Vec::new()),
        loaded => loaded?,
    }
    let count = result::device::get_count()
        .map_err(|error| CudaError::fault(0, "count the GPUs", error))?;
    (0..count as usize).map(Gpu::query).collect()
}

/// Makes cudarc's driver functions safe to call.
pub(super) fn load_driver() -> Result<(), CudaError> {
    // SAFETY: opens libraries by the driver's names and closes them again.
    let is_present = unsafe { sys::is_culib_present() };
    if !is_present {
        return Err(CudaError::NoDriver);
    }
    result::init().map_err(|error| match error {
        DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE) => {
            CudaError::NoDevice { ordinal: 0, count: 0 }
        }
        _ => CudaError::fault(0, "start the driver", error),
    })
}

/// The newest CUDA that the driver knows: major and minor.
pub(super) fn driver_version() -> Result<(u32, u32), CudaError> {
    let mut version = 0;
    // SAFETY: the driver is loaded and writes one integer.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    result.map_err(|error| CudaError::fault(0, "ask for the driver's version", error))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// Of the compiler, which is loaded: major and minor.
pub(super) fn compiler_version() -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the compiler is loaded and writes two integers; with an error it writes none.
    let result = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    if result.result().is_err() {
        return (0, 0);
    }
    (major as u32, minor as u32)
}

/// What of NVIDIA's is installed: versions of CUDA, major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaVersions {
    /// The newest that the driver knows.
    pub driver: (u32, u32),
    /// Of the compiler library, if it is found.
    pub compiler: Option<(u32, u32)>,
}

/// `None` without a driver.
pub fn versions() -> Option<CudaVersions> {
    load_driver().ok()?;
    let driver = driver_version().ok()?;
    let compiler = load_compiler().is_ok().then(compiler_version);
    Some(CudaVersions { driver, compiler })
}

/// Makes cudarc's compiler functions safe to call.
pub(super) fn load_compiler() -> Result<(), CudaError> {
    static FOUND: OnceLock<Result<(), CudaError>> = OnceLock::new();
    FOUND.get_or_init(find_compiler).clone()
}

fn find_compiler() -> Result<(), CudaError> {
    if let Some(path) = env::var_os("NVRTC_LIBRARY") {
        let path = PathBuf::from(path);
        return if open_compiler(&path) {
            Ok(())
        } else {
            Err(CudaError::NoCompiler { tried: path })
        };
    }
    if is_compiler_present() {
        return Ok(());
    }
    let mut tried = PathBuf::new();
    for folder in compiler_folders() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let is_compiler = |path: &PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.starts_with("libnvrtc.so")
        };
        let found = entries.flatten().map(|entry| entry.path()).find(is_compiler);
        if found.is_some_and(|path| open_compiler(&path)) {
            return Ok(());
        }
        tried = folder;
    }
    Err(CudaError::NoCompiler { tried })
}

/// Opens the library by its path and keeps it: cudarc then finds it by its name.
fn open_compiler(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("."));
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_part = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("libnvrtc-builtins.so")
    };
    // NVRTC 13.0 finds this part only when it is there already.
    files.filter(is_part).for_each(|part| keep_open(&part));
    keep_open(path);
    is_compiler_present()
}

fn keep_open(path: &Path) {
    // SAFETY: NVIDIA's libraries may be loaded in any thread.
    if let Ok(library) = unsafe { libloading::Library::new(path) } {
        std::mem::forget(library);
    }
}

fn is_compiler_present() -> bool {
    // SAFETY: opens libraries by the compiler's names and closes them again.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// Where pip and NVIDIA's own packages put it.
fn compiler_folders() -> Vec<PathBuf> {
    let environment = env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let prefixes = environment.into_iter().chain(home).chain(["/usr/local".into(), "/usr".into()]);
    let mut folders = Vec::new();
    for prefix in prefixes {
        let versions = fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        for version in
            versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        {
            for packages in ["site-packages/nvidia", "dist-packages/nvidia"] {
                folders.push(version.path().join(packages).join("cu13/lib"));
                folders.push(version.path().join(packages).join("cuda_nvrtc/lib"));
            }
        }
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders
}
