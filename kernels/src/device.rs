//! Where arithmetic runs and where its numbers live. A closed set: `Device` is an enum, and no type
//! parameter leaves this crate. Nothing here knows an op or what a number means.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::cpu::{CpuDevice, Isa, SharedMemory};
use crate::cuda::{CudaDevice, CudaError, CudaMemory, CudaOptions, CudaView, CudaViewMut, Element};
use crate::profile::{OpTime, Timer, Work};

/// A place that computes. Cloning is cheap and refers to the same device.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor, with a pool of compute threads of its own.
    Cpu(CpuDevice),
    /// An NVIDIA GPU.
    Cuda(CudaDevice),
}

/// Kinds of devices that share the layout of packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Processors.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// How numbers are kept between the layers of a model. Weights, statistics and sums are fp32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// fp32 everywhere.
    Fp32,
    /// Activations and operands in bf16, sums in fp32. Only GPUs have it.
    Bf16,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The operating system refused to start the compute threads.
    #[error("start {threads} compute threads: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The pool's own reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// The instruction set that was asked for is missing on this processor.
    #[error("use the {isa} instruction set: this processor lacks it")]
    Isa {
        /// The set that was asked for.
        isa: Isa,
    },
    /// A GPU, or what it takes to use one.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// A run of elements inside a `Buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First element.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

/// Device memory of fixed length for fp32 numbers, or for those that the device's precision keeps between layers. Zero-filled
/// when allocated. Element 0 lies on a boundary of 16 elements (64 bytes); spans that keep that boundary are the fastest.
#[derive(Debug)]
pub struct Buffer {
    storage: Storage,
}

/// Shared access to a span of a `Buffer`, or to host numbers that the device can read.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// Main memory.
    Cpu(&'a [f32]),
    /// Memory of a GPU.
    Cuda(CudaView<'a>),
}

/// Exclusive access to a span of a `Buffer`, or to host numbers that the device can write.
#[derive(Debug)]
pub enum ViewMut<'a> {
    /// Main memory.
    Cpu(&'a mut [f32]),
    /// Memory of a GPU.
    Cuda(CudaViewMut<'a>),
}

impl Device {
    /// The CPU with its own pool of `threads` compute threads and its best instruction set.
    pub fn cpu(threads: NonZeroUsize) -> Result<Device, DeviceError> {
        Device::cpu_with_isa(threads, Isa::detect())
    }

    /// The CPU held to one instruction set: what tests compare, and how a machine can be narrowed.
    pub fn cpu_with_isa(threads: NonZeroUsize, isa: Isa) -> Result<Device, DeviceError> {
        Ok(Device::Cpu(CpuDevice::new(threads, isa)?))
    }

    /// The GPU of this number, `0` the first, with its kernels compiled and loaded.
    pub fn cuda(ordinal: usize, options: CudaOptions) -> Result<Device, DeviceError> {
        Ok(Device::Cuda(CudaDevice::open(ordinal, options)?))
    }

    /// The kind that a job's first generation fixes: `"cpu"`, `"cuda sm_90"`.
    pub fn kind(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".to_owned(),
            Device::Cuda(cuda) => cuda.kind(),
        }
    }

    /// The same device, for a model with activations of this kind; `None` where they can't be.
    pub fn with_precision(&self, precision: Precision) -> Option<Device> {
        match (self, precision) {
            (Device::Cpu(_), Precision::Fp32) => Some(self.clone()),
            (Device::Cpu(_), Precision::Bf16) => None,
            (Device::Cuda(cuda), _) => Some(Device::Cuda(cuda.with_precision(precision))),
        }
    }

    /// What went wrong on the device since it was opened. It stays: the device is of no use any more to this process.
    pub fn fault(&self) -> Option<DeviceError> {
        match self {
            Device::Cpu(_) => None,
            Device::Cuda(cuda) => cuda.fault().map(DeviceError::Cuda),
        }
    }

    /// What packed weights look like.
    pub fn family(&self) -> Family {
        match self {
            Device::Cpu(_) => Family::Cpu,
            Device::Cuda(_) => Family::Cuda,
        }
    }

    /// One line for people: threads and instruction set, or the GPU's name.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu(cpu) => cpu.describe(),
            Device::Cuda(cuda) => cuda.describe(),
        }
    }

    /// Floating-point operations a second at best, measured now: what shares of the peak refer to.
    pub fn measure_peak(&self) -> f64 {
        match self {
            Device::Cpu(cpu) => cpu.peak_flops(),
            Device::Cuda(cuda) => cuda.peak_flops(),
        }
    }

    /// Starts or stops counting the time of ops.
    pub fn profile(&self, on: bool) {
        match self {
            Device::Cpu(cpu) => cpu.profile().switch(on),
            Device::Cuda(cuda) => cuda.profile().switch(on),
        }
    }

    /// The times counted since the last call.
    pub fn take_profile(&self) -> Vec<OpTime> {
        match self {
            Device::Cpu(cpu) => cpu.profile().take(),
            Device::Cuda(cuda) => cuda.profile().take(),
        }
    }

    /// Counts the time of one call of `op`.
    pub(crate) fn timer(&self, op: &'static str, work: Work) -> Timer<'_> {
        match self {
            Device::Cpu(cpu) => cpu.profile().timer(op, work, None),
            Device::Cuda(cuda) => cuda.profile().timer(op, work, Some(cuda)),
        }
    }

    /// `len` zeros in fp32.
    pub fn alloc(&self, len: usize) -> Buffer {
        match self {
            Device::Cpu(_) => Buffer { storage: Storage::Cpu(AlignedVec::zeroed(len)) },
            Device::Cuda(cuda) => Buffer { storage: Storage::Cuda(cuda.alloc(len, Element::F32)) },
        }
    }

    /// `len` zeros in what this device keeps activations and their gradients in.
    pub fn alloc_activations(&self, len: usize) -> Buffer {
        match self {
            Device::Cpu(_) => self.alloc(len),
            Device::Cuda(cuda) => {
                Buffer { storage: Storage::Cuda(cuda.alloc(len, cuda.activations())) }
            }
        }
    }
}

impl Span {
    /// The `len` elements from `start`.
    pub fn new(start: usize, len: usize) -> Span {
        Span { start, len }
    }

    /// One past the last element.
    pub fn end(self) -> usize {
        self.start + self.len
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start..self.end()
    }
}

impl Buffer {
    /// A part of shared memory that is no other buffer's.
    pub(crate) fn shared(memory: Arc<SharedMemory>, span: Span) -> Buffer {
        let Span { start, len } = span;
        let memory = Memory::Shared(memory);
        Buffer { storage: Storage::Cpu(AlignedVec { memory, start, len }) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Cpu(memory) => memory.len,
            Storage::Cuda(memory) => memory.len(),
        }
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole buffer as a span.
    pub fn span(&self) -> Span {
        Span::new(0, self.len())
    }

    /// Shared view of a span; panics when the span leaves the buffer.
    pub fn view(&self, span: Span) -> View<'_> {
        match &self.storage {
            Storage::Cpu(memory) => View::Cpu(&memory.as_slice()[span.range()]),
            Storage::Cuda(memory) => View::Cuda(memory.view(span)),
        }
    }

    /// Exclusive view of a span; panics when the span leaves the buffer.
    pub fn view_mut(&mut self, span: Span) -> ViewMut<'_> {
        match &mut self.storage {
            Storage::Cpu(memory) => ViewMut::Cpu(&mut memory.as_mut_slice()[span.range()]),
            Storage::Cuda(memory) => ViewMut::Cuda(memory.view_mut(span)),
        }
    }

    /// Disjoint exclusive views; panics when two spans overlap: a planning bug, found at first use.
    pub fn views_mut<const N: usize>(&mut self, spans: [Span; N]) -> [ViewMut<'_>; N] {
        match &mut self.storage {
            Storage::Cpu(memory) => {
                match memory.as_mut_slice().get_disjoint_mut(spans.map(Span::range)) {
                    Ok(slices) => slices.map(ViewMut::Cpu),
                    Err(error) => panic!("view {spans:?} of one buffer at once: {error}"),
                }
            }
            Storage::Cuda(memory) => memory.views_mut(spans).map(ViewMut::Cuda),
        }
    }

    /// Copies a span to the host, as fp32, when all ops before are through.
    ///
    /// # Errors
    /// Whatever went wrong on the device since it was opened: ops themselves report nothing.
    pub fn read(&self, span: Span, into: &mut [f32]) -> Result<(), DeviceError> {
        assert_eq!(span.len, into.len(), "as many numbers on both sides");
        match &self.storage {
            Storage::Cpu(memory) => into.copy_from_slice(&memory.as_slice()[span.range()]),
            Storage::Cuda(memory) => memory.read(span, into)?,
        }
        Ok(())
    }

    /// Copies host numbers into a span, rounded to the nearest that the buffer can hold.
    pub fn write(&mut self, span: Span, from: &[f32]) {
        assert_eq!(span.len, from.len(), "as many numbers on both sides");
        match &mut self.storage {
            Storage::Cpu(memory) => memory.as_mut_slice()[span.range()].copy_from_slice(from),
            Storage::Cuda(memory) => memory.write(span, from),
        }
    }

    /// Has `change` work on whole buffers in main memory: in place on devices that have it there, or else on copies, which go
    /// back.
    ///
    /// # Errors
    /// As those of `read`.
    pub fn edit<const N: usize, T>(
        buffers: [&mut Buffer; N],
        change: impl FnOnce([&mut [f32]; N]) -> T,
    ) -> Result<T, DeviceError> {
        if buffers.iter().all(|buffer| buffer.host().is_some()) {
            return Ok(change(buffers.map(|buffer| buffer.host_mut().expect("all have it"))));
        }
        let mut copies: [Vec<f32>; N] = buffers.each_ref().map(|buffer| vec![0.0; buffer.len()]);
        for (buffer, copy) in buffers.iter().zip(&mut copies) {
            buffer.read(buffer.span(), copy)?;
        }
        let result = change(copies.each_mut().map(Vec::as_mut_slice));
        for (buffer, copy) in buffers.into_iter().zip(&copies) {
            buffer.write(buffer.span(), copy);
        }
        Ok(result)
    }

    /// Host memory behind the whole buffer, without a copy, on devices that have it.
    pub fn host(&self) -> Option<&[f32]> {
        match &self.storage {
            Storage::Cpu(memory) => Some(memory.as_slice()),
            Storage::Cuda(_) => None,
        }
    }

    /// Exclusive host memory behind the whole buffer, on devices that have it.
    pub fn host_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.storage {
            Storage::Cpu(memory) => Some(memory.as_mut_slice()),
            Storage::Cuda(_) => None,
        }
    }
}

impl<'a> View<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            View::Cpu(slice) => slice.len(),
            View::Cuda(view) => view.len(),
        }
    }

    /// For an op on the CPU; panics when the numbers lie elsewhere.
    pub(crate) fn cpu(self) -> &'a [f32] {
        match self {
            View::Cpu(slice) => slice,
            View::Cuda(_) => panic!("an op on the CPU got an operand on a GPU"),
        }
    }

    /// For an op on a GPU; panics when the numbers lie elsewhere.
    pub(crate) fn cuda(self) -> CudaView<'a> {
        match self {
            View::Cuda(view) => view,
            View::Cpu(_) => panic!("an op on a GPU got an operand in main memory"),
        }
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> ViewMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            ViewMut::Cpu(slice) => slice.len(),
            ViewMut::Cuda(view) => view.len(),
        }
    }

    /// For an op on the CPU; panics when the numbers lie elsewhere.
    pub(crate) fn cpu(self) -> &'a mut [f32] {
        match self {
            ViewMut::Cpu(slice) => slice,
            ViewMut::Cuda(_) => panic!("an op on the CPU got an operand on a GPU"),
        }
    }

    /// For an op on a GPU; panics when the numbers lie elsewhere.
    pub(crate) fn cuda(self) -> CudaViewMut<'a> {
        match self {
            ViewMut::Cuda(view) => view,
            ViewMut::Cpu(_) => panic!("an op on a GPU got an operand in main memory"),
        }
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same memory for a shorter time, so that one view serves several ops.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        match self {
            ViewMut::Cpu(slice) => ViewMut::Cpu(slice),
            ViewMut::Cuda(view) => ViewMut::Cuda(view.reborrow()),
        }
    }

    /// The same memory, shared.
    pub fn as_view(&self) -> View<'_> {
        match self {
            ViewMut::Cpu(slice) => View::Cpu(slice),
            ViewMut::Cuda(view) => View::Cuda(view.as_view()),
        }
    }
}

#[derive(Debug)]
enum Storage {
    Cpu(AlignedVec),
    Cuda(CudaMemory),
}

/// Zeros that start on a cache line: a vector load that straddles two lines costs two.
#[derive(Debug)]
pub(crate) struct AlignedVec {
    memory: Memory,
    start: usize, // first element in use
    len: usize,
}

/// Elements of a `Vec`, bytes that were asked of the system itself, or a part of what processes share.
#[derive(Debug)]
enum Memory {
    Small(Vec<f32>),
    Large(memmap2::MmapMut),
    Shared(Arc<SharedMemory>),
}

impl AlignedVec {
    pub(crate) fn zeroed(len: usize) -> AlignedVec {
        if let Some(pages) = large_pages(len) {
            return AlignedVec { memory: Memory::Large(pages), start: 0, len };
        }
        // A zeroed allocation costs no write until its pages are touched.
        let memory = vec![0.0; len + LINE_ELEMENTS - 1];
        let start = memory.as_ptr().align_offset(LINE_ELEMENTS * size_of::<f32>());
        // An allocator is free not to answer the question of alignment; correctness never needs it.
        let start = if start < LINE_ELEMENTS { start } else { 0 };
        AlignedVec { memory: Memory::Small(memory), start, len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        let all = match &self.memory {
            Memory::Small(memory) => memory,
            Memory::Large(pages) => bytemuck::cast_slice(pages),
            Memory::Shared(memory) => return memory.values(self.start, self.len),
        };
        &all[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        let all = match &mut self.memory {
            Memory::Small(memory) => memory,
            Memory::Large(pages) => bytemuck::cast_slice_mut(pages),
            Memory::Shared(memory) => return memory.values_mut(self.start, self.len),
        };
        &mut all[self.start..self.start + self.len]
    }
}

/// Zeros in pages as large as the system has them: a pass over a convolution's operands walks many
/// rows at once, and with pages of 4 KiB it waits for their addresses more than for their content.
/// `None` for what would not fill a few large pages, and where the system has none to give.
fn large_pages(len: usize) -> Option<memmap2::MmapMut> {
    if len < LARGE_ELEMENTS {
        return None;
    }
    let pages = memmap2::MmapMut::map_anon(len * size_of::<f32>()).ok()?;
    #[cfg(target_os = "linux")]
    if pages.advise(memmap2::Advice::HugePage).is_err() {
        // A kernel without huge pages refuses the advice; its small ones will do.
        return Some(pages);
    }
    Some(pages)
}

/// Two large pages of 2 MiB.
const LARGE_ELEMENTS: usize = 1024 * 1024;

/// fp32 numbers in a 64-byte cache line.
const LINE_ELEMENTS: usize = 16;
