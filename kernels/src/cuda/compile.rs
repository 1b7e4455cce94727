//! From the sources in this program to machine code for one GPU, by NVIDIA's compiler library; kept on disk, since it takes
//! a second.
//!
//! `--fmad=false`: the sources say themselves where a product and a sum are one operation, so that the bits of a result do
//! not depend on the compiler's version.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::{result, sys};

use super::context::Gpu;
use super::error::CudaError;
use super::library;

/// Machine code of one source file.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: &'static str,
    pub(super) code: Vec<u8>,
}

struct Source {
    file: &'static str,
    text: &'static str,
}

/// A file beside this crate's sources.
macro_rules! sources {
    ($($file:literal),* $(,)?) => {
        &[$(Source { file: $file, text: include_str!(concat!("../../cuda/", $file)) }),*]
    };
}

const SOURCES: &[Source] = sources![
    "augment.cu",
    "conv_mma.cu",
    "conv_mma_weight_grad.cu",
    "conv_pack.cu",
    "conv_simt.cu",
    "conv_simt_weight_grad.cu",
    "conv_statistics.cu",
    "conv_stem.cu",
    "conv_stem_weight_grad.cu",
    "conv_sum.cu",
    "digest.cu",
    "elementwise.cu",
    "erase.cu",
    "linear.cu",
    "loss.cu",
    "mix.cu",
    "norm.cu",
    "norm_backward.cu",
    "peak.cu",
    "pool.cu",
    "sgd.cu",
    "sums_of_squares.cu"
];

/// What the sources may include.
const HEADERS: &[Source] = sources![
    "portable.cuh",
    "block.cuh",
    "conv.cuh",
    "conv_stem.cuh",
    "conv_tile.cuh",
    "lanes.cuh",
    "math.cuh",
    "rows.cuh",
    "spans.cuh",
    "vectors.cuh"
];

/// All sources for this GPU, from the folder or from the compiler.
pub(super) fn all(gpu: &Gpu, cache: Option<&Path>) -> Result<Vec<Image>, CudaError> {
    library::load_compiler()?;
    let version = library::compiler_version();
    let driver = library::driver_version()?;
    if version.0 > driver.0 {
        return Err(CudaError::CompilerTooNew { compiler: version.0, driver: driver.0 });
    }
    let architecture = target(gpu);
    std::thread::scope(|scope| {
        let one = |source: &'static Source| {
            let code = kept_or_compiled(source, &architecture, version, cache)?;
            Ok(Image { file: source.file, code })
        };
        let threads: Vec<_> =
            SOURCES.iter().map(|source| scope.spawn(move || one(source))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the compiler's thread ends"))
            .collect()
    })
}

/// `sm_90a`: with the instructions that only this architecture has.
fn target(gpu: &Gpu) -> String {
    let exact = if gpu.capability.0 >= 9 { "a" } else { "" };
    format!("{}{exact}", gpu.architecture())
}

fn kept_or_compiled(
    source: &Source,
    architecture: &str,
    version: (u32, u32),
    cache: Option<&Path>,
) -> Result<Vec<u8>, CudaError> {
    let Some(folder) = cache else { return compile(source, architecture) };
    let path = kept_path(folder, source, architecture, version);
    if let Some(code) = read_kept(&path) {
        return Ok(code);
    }
    let code = compile(source, architecture)?;
    // Kept for the next start; without it the next start compiles again.
    keep(&path, &code).ok();
    Ok(code)
}

/// Named after everything that the code depends on.
fn kept_path(folder: &Path, source: &Source, architecture: &str, version: (u32, u32)) -> PathBuf {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for part in HEADERS.iter().chain([source]).flat_map(|source| [source.file, source.text]) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    for option in options(architecture) {
        hash.update(option.to_bytes_with_nul());
    }
    hash.update(&version.0.to_le_bytes());
    hash.update(&version.1.to_le_bytes());
    folder.join(format!("{}-{architecture}-{:032x}.cubin", source.file, hash.digest128()))
}

/// `None` for what is not there, or not whole.
fn read_kept(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let (sum, code) = bytes.split_first_chunk::<8>()?;
    (xxhash_rust::xxh3::xxh3_64(code).to_le_bytes() == *sum).then(|| code.to_vec())
}

fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Another worker of this machine may be at it, too.
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let sum = xxhash_rust::xxh3::xxh3_64(code).to_le_bytes();
    fs::write(&unfinished, [&sum, code].concat())?;
    fs::rename(&unfinished, path)
}

fn options(architecture: &str) -> [CString; 3] {
    [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--fmad=false".into()]
        .map(|option| CString::new(option).expect("an option has no zero"))
}

fn compile(source: &Source, architecture: &str) -> Result<Vec<u8>, CudaError> {
    let failed = |log: String| CudaError::Compile {
        file: source.file,
        architecture: architecture.to_owned(),
        log,
    };
    let program = Program::new(source).map_err(|error| failed(error.to_string()))?;
    let options = options(architecture);
    let options = options.each_ref().map(|option| option.as_ptr());
    // SAFETY: the program exists, the options live until the end of the call.
    let result = unsafe {
        sys::nvrtcCompileProgram(program.handle, options.len() as c_int, options.as_ptr())
    };
    if let Err(error) = result.result() {
        return Err(failed(program.log().unwrap_or_else(|| error.to_string())));
    }
    program.code().map_err(|error| failed(error.to_string()))
}

/// A source in the hands of the compiler.
struct Program {
    handle: sys::nvrtcProgram,
}

impl Program {
    fn new(source: &Source) -> Result<Program, NvrtcError> {
        let text = |text: &str| CString::new(text).expect("a source has no zero");
        let (file, source) = (text(source.file), text(source.text));
        let texts: Vec<CString> = HEADERS.iter().map(|header| text(header.text)).collect();
        let names: Vec<CString> = HEADERS.iter().map(|header| text(header.file)).collect();
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).collect()
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: all strings live until the end of the call, which copies them.
        unsafe {
            sys::nvrtcCreateProgram(
                &mut handle,
                source.as_ptr(),
                file.as_ptr(),
                HEADERS.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            )
        }
        .result()?;
        Ok(Program { handle })
    }

    fn log(&self) -> Option<String> {
        // SAFETY: the program exists.
        let log = unsafe { result::get_program_log(self.handle) }.ok()?;
        let bytes: Vec<u8> = log.iter().map(|&byte| byte as u8).collect();
        let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned();
        Some(text.trim().to_owned())
    }

    fn code(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut len = 0;
        // SAFETY: the program exists and was compiled.
        unsafe { sys::nvrtcGetCUBINSize(self.handle, &mut len) }.result()?;
        let mut code = vec![0u8; len];
        // SAFETY: there is room for what the size said.
        unsafe { sys::nvrtcGetCUBIN(self.handle, code.as_mut_ptr().cast()) }.result()?;
        Ok(code)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody uses it after this. There is nothing to do about an error.
        unsafe { result::destroy_program(self.handle) }.ok();
    }
}
