//! From a kernel's name to a launch.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::sync::{PoisonError, RwLock};

use cudarc::driver::{DriverError, result, sys};

use super::compile::Image;
use super::context::CudaDevice;
use super::memory::Element;

/// A kernel: `extern "C" __global__` in a file of `kernels/cuda`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    file: &'static str,
    name: &'static str,
}

/// A kernel that is there for both kinds of elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct TypedKernel {
    file: &'static str,
    f32: &'static str,
    bf16: &'static str,
}

/// How many threads, and how they are grouped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) blocks: [u32; 3],
    pub(super) threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
}

/// A kernel's parameter, as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Arg<'a> {
    value: *const c_void,
    lifetime: PhantomData<&'a ()>,
}

/// The modules of one GPU and the functions that were used so far.
#[derive(Debug)]
pub(super) struct Kernels {
    modules: HashMap<&'static str, Handle<sys::CUmodule>>,
    functions: RwLock<HashMap<&'static str, Function>>,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    handle: Handle<sys::CUfunction>,
    /// Bytes of dynamic shared memory that it was allowed.
    shared: u32,
}

/// A driver's handle, which any thread may use.
#[derive(Clone, Copy, Debug)]
struct Handle<T>(T);

// SAFETY: modules and functions of a context may be used by all threads that the context is current in.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

impl Kernel {
    pub(super) const fn new(file: &'static str, name: &'static str) -> Kernel {
        Kernel { file, name }
    }
}

impl TypedKernel {
    /// Its names, for fp32 and for bf16.
    pub(super) const fn new(file: &'static str, [f32, bf16]: [&'static str; 2]) -> TypedKernel {
        TypedKernel { file, f32, bf16 }
    }

    pub(super) fn of(self, element: Element) -> Kernel {
        let TypedKernel { file, f32, bf16 } = self;
        Kernel { file, name: if element == Element::F32 { f32 } else { bf16 } }
    }
}

impl Grid {
    /// This many blocks, none for 0.
    pub(super) fn blocks(blocks: usize, threads: u32) -> Grid {
        let blocks = u32::try_from(blocks).expect("a grid of 2^31 blocks is enough");
        Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared: 0 }
    }

    /// One thread for each of `items`.
    pub(super) fn cover(items: usize, threads: u32) -> Grid {
        let blocks = u32::try_from(items.div_ceil(threads as usize))
            .expect("a grid of 2^31 blocks is enough");
        Grid { blocks: [blocks.max(1), 1, 1], threads: [threads, 1, 1], shared: 0 }
    }
}

impl<'a> Arg<'a> {
    /// A pointer, an integer, a float, or a structure that the kernel declares alike.
    pub(super) fn of<T: bytemuck::NoUninit>(value: &'a T) -> Arg<'a> {
        Arg { value: std::ptr::from_ref(value).cast(), lifetime: PhantomData }
    }
}

impl Kernels {
    /// In the context of the calling thread.
    pub(super) fn load(images: &[Image]) -> Result<Kernels, DriverError> {
        let mut modules = HashMap::new();
        for Image { file, code } in images {
            // SAFETY: code that the compiler made for this GPU.
            let module = unsafe { result::module::load_data(code.as_ptr().cast()) }?;
            modules.insert(*file, Handle(module));
        }
        Ok(Kernels { modules, functions: RwLock::default() })
    }

    /// The kernel, allowed this much dynamic shared memory.
    fn function(&self, kernel: Kernel, shared: u32) -> Result<sys::CUfunction, DriverError> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let known = functions.get(kernel.name).copied();
        drop(functions);
        if let Some(function) = known.filter(|function| function.shared >= shared) {
            return Ok(function.handle.0);
        }
        let Handle(module) = self.modules[kernel.file];
        let name = CString::new(kernel.name).expect("a kernel's name has no zero");
        // SAFETY: modules are never unloaded.
        let function = unsafe { result::module::get_function(module, name) }?;
        let shared = shared.max(FREE_SHARED_BYTES);
        if shared > FREE_SHARED_BYTES {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            unsafe {
                result::function::set_function_attribute(function, attribute, shared as i32)
            }?;
        }
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.insert(kernel.name, Function { handle: Handle(function), shared });
        Ok(function)
    }
}

impl CudaDevice {
    /// Puts a kernel on the stream. The arguments are those that its source declares, in order.
    pub(super) fn launch<const N: usize>(&self, kernel: Kernel, grid: Grid, args: [Arg<'_>; N]) {
        let Grid { blocks, threads, shared } = grid;
        if blocks.contains(&0) {
            return;
        }
        self.attempt(kernel.name, || {
            let function = self.kernels().function(kernel, shared)?;
            let mut values = args.map(|arg| arg.value.cast_mut());
            // SAFETY: the op's file on this side and its kernel declare the same parameters; every pointer among them comes
            // from a view that the op was given, or from scratch and staged memory, with room for what the op's shape says.
            unsafe {
                result::launch_kernel(
                    function,
                    blocks.into(),
                    threads.into(),
                    shared,
                    self.stream(),
                    &mut values,
                )
            }
        });
    }
}

/// Dynamic shared memory that any kernel may have without asking.
const FREE_SHARED_BYTES: u32 = 48 << 10;
