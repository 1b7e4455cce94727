//! What is opened once for a GPU: its context, one stream, its kernels, and the memory of what went wrong.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use super::compile;
use super::error::CudaError;
use super::launch::Kernels;
use super::library;
use super::memory::{Element, Scratch};
use super::staging::Staging;
use crate::device::Precision;
use crate::profile::Profile;

/// A GPU of this machine, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, from 0.
    pub ordinal: usize,
    /// The model.
    pub name: String,
    /// Major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: usize,
}

/// How a GPU is opened.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// Of activations, until `Device::with_precision` says otherwise.
    pub precision: Precision,
    /// Folder for compiled kernels; `None` compiles them anew each time.
    pub cache: Option<PathBuf>,
    /// The longest that one wait for the GPU may take.
    pub patience: Duration,
}

/// An opened GPU. Cloning refers to the same one.
#[derive(Clone)]
pub struct CudaDevice {
    inner: Arc<Inner>,
    precision: Precision,
}

struct Inner {
    gpu: Gpu,
    options: CudaOptions,
    stream: Arc<CudaStream>,
    finished: CudaEvent,
    kernels: Kernels,
    staging: Mutex<Staging>,
    scratch: Mutex<Scratch>,
    fault: Mutex<Option<CudaError>>,
    profile: Profile,
}

impl Gpu {
    pub(super) fn query(ordinal: usize) -> Result<Gpu, CudaError> {
        let describe = || {
            let device = result::device::get(ordinal as i32)?;
            // SAFETY: the driver is loaded and gave out this handle.
            let attribute = |which| unsafe { result::device::get_attribute(device, which) };
            use sys::CUdevice_attribute_enum as Attribute;
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
            // SAFETY: as above.
            let memory = unsafe { result::device::total_mem(device) }?;
            let name = result::device::get_name(device)?;
            let capability = (major as u32, minor as u32);
            Ok(Gpu { ordinal, name, capability, multiprocessors: processors as u32, memory })
        };
        describe().map_err(|error| CudaError::fault(ordinal, "describe the GPU", error))
    }

    /// `sm_90`: what decides which kernels run, and so the bits of a result.
    pub fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }
}

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions { precision: Precision::Bf16, cache: None, patience: PATIENCE }
    }
}

impl CudaDevice {
    pub(crate) fn open(ordinal: usize, options: CudaOptions) -> Result<CudaDevice, CudaError> {
        let gpus = library::gpus()?;
        let Some(gpu) = gpus.get(ordinal) else {
            return Err(CudaError::NoDevice { ordinal, count: gpus.len() });
        };
        if gpu.capability < OLDEST {
            return Err(CudaError::TooOld { name: gpu.name.clone(), capability: gpu.capability });
        }
        let images = compile::all(gpu, options.cache.as_deref())?;
        let open = || -> Result<_, DriverError> {
            let context = CudaContext::new(ordinal)?;
            let stream = context.new_stream()?;
            let finished = context.new_event(None)?;
            Ok((stream, finished, Kernels::load(&images)?))
        };
        let opened = open().map_err(|error| CudaError::fault(ordinal, "open the GPU", error));
        let (stream, finished, kernels) = opened?;
        let (staging, scratch, fault) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (gpu, profile, precision) = (gpu.clone(), Profile::default(), options.precision);
        let inner =
            Inner { gpu, options, stream, finished, kernels, staging, scratch, fault, profile };
        Ok(CudaDevice { inner: Arc::new(inner), precision })
    }

    /// What it is.
    pub fn gpu(&self) -> &Gpu {
        &self.inner.gpu
    }

    pub(crate) fn kind(&self) -> String {
        format!("cuda {}", self.gpu().architecture())
    }

    pub(crate) fn describe(&self) -> String {
        let Gpu { ordinal, name, memory, .. } = self.gpu();
        format!("{}: GPU {ordinal}, {name}, {} GiB", self.kind(), memory >> 30)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// The same GPU, for a model with activations of another kind.
    pub(crate) fn with_precision(&self, precision: Precision) -> CudaDevice {
        CudaDevice { inner: Arc::clone(&self.inner), precision }
    }

    /// Bytes that nobody has taken; all of them where the driver does not tell.
    pub fn free_memory(&self) -> usize {
        let told = self.attempt("ask for free memory", result::mem_get_info);
        told.map_or(self.gpu().memory, |(free, _)| free)
    }

    /// What went wrong on this GPU since it was opened; it stays.
    pub(crate) fn fault(&self) -> Option<CudaError> {
        self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of one number of an activation.
    pub fn activation_bytes(&self) -> usize {
        self.activations().size()
    }

    /// What activations are kept in.
    pub(crate) fn activations(&self) -> Element {
        match self.precision {
            Precision::Fp32 => Element::F32,
            Precision::Bf16 => Element::Bf16,
        }
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.inner.stream.cu_stream()
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.inner.kernels
    }

    pub(super) fn staging(&self) -> MutexGuard<'_, Staging> {
        self.inner.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn working_memory(&self) -> MutexGuard<'_, Scratch> {
        self.inner.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the driver, in this GPU's context. `None` when that, or anything before it, failed.
    pub(super) fn attempt<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce() -> Result<T, DriverError>,
    ) -> Option<T> {
        if self.is_faulty() {
            return None;
        }
        let result = self.inner.stream.context().bind_to_thread().and_then(|()| act());
        result
            .map_err(|error| self.remember(CudaError::fault(self.gpu().ordinal, operation, error)))
            .ok()
    }

    /// What went wrong first stays.
    pub(super) fn remember(&self, error: CudaError) {
        let mut fault = self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error);
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until everything put on the stream so far is through.
    ///
    /// # Errors
    /// What went wrong on this GPU since it was opened, and a hang.
    pub(crate) fn finish(&self, operation: &'static str) -> Result<(), CudaError> {
        let record = || self.inner.finished.record(&self.inner.stream);
        if self.attempt(operation, record).is_some() {
            self.wait(&self.inner.finished, operation);
        }
        let fault = self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone().map_or(Ok(()), Err)
    }

    /// Waits for an event that was recorded. Asked again and again: the driver's own wait has no deadline.
    pub(super) fn wait(&self, event: &CudaEvent, operation: &'static str) {
        let since = Instant::now();
        // SAFETY: the event lives as long as its reference.
        let is_done = || match unsafe { result::event::query(event.cu_event()) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(error),
        };
        while self.attempt(operation, is_done) == Some(false) {
            let waited = since.elapsed();
            if waited > self.inner.options.patience {
                self.remember(CudaError::Hang { ordinal: self.gpu().ordinal, operation, waited });
            } else if waited > BUSY_WAIT {
                std::thread::sleep(NAP);
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// An event of this GPU.
    pub(super) fn event(&self) -> Result<CudaEvent, DriverError> {
        self.inner.stream.context().new_event(None)
    }

    pub(super) fn record(&self, event: &CudaEvent) -> Result<(), DriverError> {
        event.record(&self.inner.stream)
    }
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDevice").field("gpu", self.gpu()).finish_non_exhaustive()
    }
}

/// The first compute capability with bf16 in its tensor cores and asynchronous copies into shared memory.
const OLDEST: (u32, u32) = (8, 0);
/// A step of the largest model takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most waits are for a step that is nearly through.
const BUSY_WAIT: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(100);
