//! NVRTC by its C interface: where the library may lie, and one compilation. Knows no rule.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Source;

/// The library, or what to do about its absence.
pub(crate) enum Found {
    Library(Nvrtc),
    Nothing(String),
}

/// A loaded NVRTC.
pub(crate) struct Nvrtc {
    library: Library,
    supported: Vec<i32>,
}

/// What a compilation yields besides machine code.
pub(crate) struct Output {
    pub(crate) log: String,
    pub(crate) ptx: String,
}

/// Looks where `NVRTC_LIBRARY` says; else asks the loader, then the packages of Python.
pub(crate) fn find() -> Found {
    if let Some(path) = std::env::var_os("NVRTC_LIBRARY") {
        let path = PathBuf::from(path);
        return match Nvrtc::open(&path) {
            Some(library) => Found::Library(library),
            None => Found::Nothing(format!(
                "NVRTC_LIBRARY names {}, which is no NVRTC; {INSTALL}",
                path.display()
            )),
        };
    }
    let by_name = NAMES.into_iter().map(PathBuf::from);
    let in_packages = package_folders().into_iter().flat_map(|folder| {
        NAMES.into_iter().map(move |name| folder.join(name)).filter(|path| path.exists())
    });
    match by_name.chain(in_packages).find_map(|path| Nvrtc::open(&path)) {
        Some(library) => Found::Library(library),
        None => Found::Nothing(format!("no NVRTC was found; {INSTALL}")),
    }
}

/// Where the wheels of NVIDIA lie, for the Python of `VIRTUAL_ENV` and the one in the path.
fn package_folders() -> Vec<PathBuf> {
    let own = std::env::var_os("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("bin/python3"));
    let mut folders = Vec::new();
    for python in own.into_iter().chain([PathBuf::from("python3")]) {
        let script = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
        let Ok(run) = Command::new(python).args(["-c", script]).output() else { continue };
        let packages = PathBuf::from(String::from_utf8_lossy(&run.stdout).trim());
        folders.extend(WHEELS.map(|wheel| packages.join(wheel)));
    }
    folders
}

impl Nvrtc {
    fn open(path: &Path) -> Option<Self> {
        // NVRTC 13.0 does not look beside itself for its second library.
        let beside = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        for entry in beside.into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
                // SAFETY: a library of data for NVRTC; never closed.
                let opened = unsafe { Library::open(Some(entry.path()), RTLD_NOW | RTLD_GLOBAL) };
                if let Ok(library) = opened {
                    std::mem::forget(library);
                }
            }
        }
        // SAFETY: loading it has no effect besides.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.ok()?;
        let mut nvrtc = Self { library, supported: Vec::new() };
        let mut count: c_int = 0;
        // SAFETY: the signatures are those of nvrtc.h, the array has as many places as it says.
        unsafe {
            type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
            nvrtc.function::<Count>(c"nvrtcGetNumSupportedArchs")?(&mut count);
            nvrtc.supported = vec![0; usize::try_from(count).ok()?];
            let list = nvrtc.function::<Count>(c"nvrtcGetSupportedArchs")?;
            list(nvrtc.supported.as_mut_ptr());
        }
        Some(nvrtc)
    }

    pub(crate) fn supports(&self, arch: i32) -> bool {
        self.supported.contains(&arch)
    }

    /// For a real architecture; the error is the log.
    pub(crate) fn compile(
        &self,
        source: &Source,
        headers: &[Source],
        arch: &str,
    ) -> Result<Output, String> {
        let program = self.create(source, headers)?;
        let options = [format!("--gpu-architecture={arch}")];
        let options: Vec<CString> =
            options.iter().map(String::as_str).chain(OPTIONS).map(zero_ended).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).expect("a handful of options");
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        // SAFETY: the program was made by this library, and the texts live until it returns.
        let result = unsafe {
            self.needed::<Compile>(c"nvrtcCompileProgram")(program, count, pointers.as_ptr())
        };
        let log = self.text(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog");
        let ptx = self.text(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX");
        let mut program = program;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        // SAFETY: made by this library, and not used any more.
        unsafe { self.needed::<Destroy>(c"nvrtcDestroyProgram")(&mut program) };
        if result == SUCCESS { Ok(Output { log, ptx }) } else { Err(log) }
    }

    fn create(&self, source: &Source, headers: &[Source]) -> Result<Program, String> {
        let (text, name) = (zero_ended(&source.text), zero_ended(&source.name));
        let texts: Vec<CString> = headers.iter().map(|header| zero_ended(&header.text)).collect();
        let names: Vec<CString> = headers.iter().map(|header| zero_ended(&header.name)).collect();
        let texts: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let names: Vec<*const c_char> = names.iter().map(|text| text.as_ptr()).collect();
        let count = c_int::try_from(texts.len()).expect("a handful of headers");
        let mut program = std::ptr::null_mut();
        // SAFETY: the signature is that of nvrtc.h; NVRTC copies all texts.
        let result = unsafe {
            let create = self.needed::<Create>(c"nvrtcCreateProgram");
            let (text, name) = (text.as_ptr(), name.as_ptr());
            create(&mut program, text, name, count, texts.as_ptr(), names.as_ptr())
        };
        if result == SUCCESS { Ok(program) } else { Err(format!("NVRTC result {result}")) }
    }

    fn text(&self, program: Program, size: &CStr, get: &CStr) -> String {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let mut bytes = 0;
        // SAFETY: the signatures are those of nvrtc.h, the buffer has the size that it asks for.
        let buffer = unsafe {
            self.needed::<Size>(size)(program, &mut bytes);
            let mut buffer = vec![0u8; bytes];
            if bytes > 0 {
                self.needed::<Get>(get)(program, buffer.as_mut_ptr().cast());
            }
            buffer
        };
        String::from_utf8_lossy(&buffer).trim_end_matches('\0').to_owned()
    }

    /// # Safety
    /// `T` is the type of that function in nvrtc.h.
    unsafe fn needed<T: Copy>(&self, name: &CStr) -> T {
        // SAFETY: as above.
        unsafe { self.function(name) }.expect("every NVRTC since 11.2 has the function")
    }

    /// # Safety
    /// `T` is the type of that function in nvrtc.h.
    unsafe fn function<T: Copy>(&self, name: &CStr) -> Option<T> {
        // SAFETY: as above; the library is open as long as `self`.
        unsafe { self.library.get::<T>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
    }
}

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;

fn zero_ended(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("zeros were removed")
}

const SUCCESS: c_int = 0;
/// Multiply-adds are fused where a kernel says so and nowhere else, as in the emulator.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"];
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
const WHEELS: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];
const INSTALL: &str = "type `python3 -m venv venv && venv/bin/pip install nvidia-cuda-nvrtc && VIRTUAL_ENV=venv cargo xtask kernels`";
