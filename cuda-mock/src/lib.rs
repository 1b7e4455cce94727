//! A GPU that is none: a `libcuda.so` and a `libnvrtc.so` for tests, which run the kernels of `kernels/cuda` on the
//! CPU. After [`install`] the host path that talks to a GPU runs unchanged on them. `README.md` says what they model
//! and what they do not. A development dependency only; knows no kernel and no op.

use libloading::os::unix::Library;
use libloading::os::unix::RTLD_LOCAL;
use libloading::os::unix::RTLD_NOW;
use std::path::Path;
use std::sync::OnceLock;

/// Why this process has no mock GPU.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Missing {
    /// The build script left the libraries out, and says why.
    #[error("the mock GPU was not built: {0}")]
    NotBuilt(String),
    /// The libraries were built with a sanitizer, whose runtime has to be loaded before the program.
    #[error(
        "the mock GPU was built for the {0} sanitizer, which is not preloaded: use cargo xtask sanitize"
    )]
    NotPreloaded(String),
    /// The dynamic loader refused.
    #[error("the mock GPU can't be loaded: {0}")]
    NotLoaded(String),
}

/// In which order the threads of a kernel run that could all run. The result of a correct kernel does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Warps take turns, ascending.
    Lockstep,
    /// One warp runs until it has to wait, the last one first: warps drift apart as far as barriers let them.
    DepthFirst,
    /// Random priorities from a seed, blocks shuffled, and more places to change over.
    Random(u64),
}

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The launch fails with `CUDA_ERROR_ILLEGAL_ADDRESS`, which every call shows from the next synchronisation or
    /// query on that reaches it.
    LaunchIllegalAddress,
    /// The allocation fails with `CUDA_ERROR_OUT_OF_MEMORY`; nothing else is harmed.
    OutOfMemory,
    /// The launch does not end: events behind it never complete and synchronisation never returns, until
    /// [`clear_faults`]; then it runs.
    Hang,
}

/// Loads both libraries, once per process, so that `dlopen("libcuda.so")` and `dlopen("libnvrtc.so")` find them from
/// now on. Call it before the first look for a GPU.
///
/// # Errors
/// [`Missing`] says what to do; tests print it as `skipped: ...`.
pub fn install() -> Result<(), Missing> {
    driver().map(drop)
}

/// The folder of `libcuda.so` and `libnvrtc.so`: as `LD_LIBRARY_PATH` of a process it gives that process a mock GPU.
/// There the variables `CUDA_MOCK_DEVICES`, `CUDA_MOCK_MEMORY` (bytes) and `CUDA_MOCK_SCHEDULE` (0 lockstep, 1 depth
/// first, else a seed) stand in for the functions below; with `CUDA_MOCK_ILLEGAL_ADDRESS_AT` the launch of that number,
/// counted from 1, fails.
///
/// # Errors
/// As [`install`].
pub fn library_folder() -> Result<&'static Path, Missing> {
    let reason = option_env!("CUDA_MOCK_MISSING").unwrap_or_default();
    option_env!("CUDA_MOCK_FOLDER").map(Path::new).ok_or(Missing::NotBuilt(reason.to_owned()))
}

/// The sanitizer that the libraries were built with: `address` or `thread`.
pub fn sanitizer() -> Option<&'static str> {
    option_env!("CUDA_MOCK_SANITIZER").filter(|name| !name.is_empty())
}

/// The schedule of what the calling thread launches from now on.
///
/// # Panics
/// As all functions below: when [`install`] did not succeed.
pub fn set_schedule(schedule: Schedule) {
    let number = match schedule {
        Schedule::Lockstep => 0,
        Schedule::DepthFirst => 1,
        Schedule::Random(seed) => seed.saturating_add(2),
    };
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let set = unsafe { symbol::<unsafe extern "C" fn(u64)>(c"cuda_mock_set_schedule") };
    // SAFETY: takes any number.
    unsafe { set(number) }
}

/// Lets the next launch or allocation of the calling thread go wrong, whichever the fault is about. An error sticks to
/// its device, for all threads: tests that share a process use a device of their own for it.
pub fn fail_next(fault: Fault) {
    let number = match fault {
        Fault::LaunchIllegalAddress => 1,
        Fault::OutOfMemory => 2,
        Fault::Hang => 3,
    };
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let fail = unsafe { symbol::<unsafe extern "C" fn(i32)>(c"cuda_mock_fail_next") };
    // SAFETY: the numbers are those of mock::Fault.
    unsafe { fail(number) }
}

/// Ends the hangs of a device and forgets its error, as a new process would. What was in its streams when the error came
/// is lost, and so is what it held.
pub fn clear_faults(device: u16) {
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let clear = unsafe { symbol::<unsafe extern "C" fn(i32)>(c"cuda_mock_clear_faults") };
    // SAFETY: takes any device.
    unsafe { clear(i32::from(device)) }
}

/// How many GPUs there are from now on; one, unless set. Each has a context and memory of its own.
pub fn set_devices(count: u16) {
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let set = unsafe { symbol::<unsafe extern "C" fn(i32)>(c"cuda_mock_set_devices") };
    // SAFETY: takes any number that is not negative.
    unsafe { set(i32::from(count)) }
}

/// The memory of a device; 8 GiB, unless set. Allocations beyond it fail.
pub fn set_total_memory(device: u16, bytes: usize) {
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let set = unsafe { symbol::<unsafe extern "C" fn(i32, usize)>(c"cuda_mock_set_total_memory") };
    // SAFETY: takes any device and size.
    unsafe { set(i32::from(device), bytes) }
}

/// What the device's sticky error is about: which thread of which kernel did what.
pub fn error_message(device: u16) -> Option<String> {
    type Get = unsafe extern "C" fn(i32, *mut u8, usize) -> usize;
    // SAFETY: the symbol has this signature in driver/control.cpp.
    let get = unsafe { symbol::<Get>(c"cuda_mock_error") };
    let mut text = vec![0; 1024];
    // SAFETY: writes at most as many bytes as it is told that there are.
    let length = unsafe { get(i32::from(device), text.as_mut_ptr(), text.len()) };
    text.truncate(length);
    (length > 0).then(|| String::from_utf8_lossy(&text).into_owned())
}

/// Loaded for the rest of the process: other code holds pointers into it.
fn driver() -> Result<&'static Library, Missing> {
    static LOADED: OnceLock<Result<Library, Missing>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Missing::clone)
}

fn load() -> Result<Library, Missing> {
    let folder = library_folder()?;
    if let Some(sanitizer) = sanitizer()
        && !std::env::var("LD_PRELOAD").is_ok_and(|preloaded| !preloaded.is_empty())
    {
        return Err(Missing::NotPreloaded(sanitizer.to_owned()));
    }
    let open = |name: &str| {
        // SAFETY: our own libraries; their constructors fill the registry of kernels and nothing else.
        let opened = unsafe { Library::open(Some(folder.join(name)), RTLD_NOW | RTLD_LOCAL) };
        opened.map_err(|error| Missing::NotLoaded(error.to_string()))
    };
    // Never closed, for the same reason as the driver.
    std::mem::forget(open("libnvrtc.so")?);
    open("libcuda.so")
}

/// # Safety
/// `T` is the type of the function of that name in driver/control.cpp.
unsafe fn symbol<T: Copy>(name: &std::ffi::CStr) -> T {
    let library = driver().expect("cuda_mock::install succeeded");
    // SAFETY: the caller names the right type; the library is never closed.
    *unsafe { library.get::<T>(name.to_bytes_with_nul()) }
        .expect("the library was built with this crate")
}
