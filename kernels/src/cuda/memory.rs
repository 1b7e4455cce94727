//! Memory of a GPU: owned, seen in part, copied from and to. No number is touched here.

use std::marker::PhantomData;

use cudarc::driver::{DriverError, result, sys};

use super::context::CudaDevice;
use super::error::CudaError;
use crate::device::Span;

/// What a buffer's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    /// The upper half of an fp32 number.
    Bf16,
}

/// Numbers in the memory of a GPU.
#[derive(Debug)]
pub(crate) struct CudaMemory {
    device: CudaDevice,
    address: sys::CUdeviceptr,
    len: usize,
    element: Element,
}

/// Shared access to numbers of a GPU.
#[derive(Clone, Copy, Debug)]
pub struct CudaView<'a> {
    address: sys::CUdeviceptr,
    len: usize,
    element: Element,
    lifetime: PhantomData<&'a ()>,
}

/// Exclusive access to numbers of a GPU.
#[derive(Debug)]
pub struct CudaViewMut<'a> {
    address: sys::CUdeviceptr,
    len: usize,
    element: Element,
    lifetime: PhantomData<&'a mut ()>,
}

/// Memory that ops share, each while it runs: they run one after another.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Element {
    pub(super) fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 => 2,
        }
    }
}

impl CudaDevice {
    /// Zeros. When there is no memory left, that is remembered, and the memory is nowhere: no op runs any more.
    pub(crate) fn alloc(&self, len: usize, element: Element) -> CudaMemory {
        let bytes = len * element.size();
        let address = self.take(bytes);
        if address != NOWHERE && bytes > 0 {
            self.attempt("zero memory", || {
                // SAFETY: the memory was just allocated with this size.
                unsafe { result::memset_d8_async(address, 0, bytes, self.stream()) }
            });
        }
        CudaMemory { device: self.clone(), address, len, element }
    }

    /// At least this many bytes for the op that is being launched, whatever is in them.
    pub(super) fn scratch(&self, bytes: usize) -> sys::CUdeviceptr {
        let mut scratch = self.working_memory();
        if scratch.bytes < bytes {
            self.give_back(scratch.address);
            *scratch = Scratch { address: self.take(bytes), bytes };
        }
        scratch.address
    }

    fn take(&self, bytes: usize) -> sys::CUdeviceptr {
        let allocate = || {
            // SAFETY: a plain allocation; `give_back` frees it once.
            match unsafe { result::malloc_sync(bytes.max(1)) } {
                Ok(address) => Ok(Ok(address)),
                Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                    let (free, total) = result::mem_get_info()?;
                    Ok(Err(CudaError::OutOfMemory { asked: bytes, free, total }))
                }
                Err(error) => Err(error),
            }
        };
        match self.attempt("allocate memory", allocate) {
            Some(Ok(address)) => address,
            Some(Err(error)) => {
                self.remember(error);
                NOWHERE
            }
            None => NOWHERE,
        }
    }

    fn give_back(&self, address: sys::CUdeviceptr) {
        // Freeing waits for the stream without a deadline, so it is waited for before.
        if address != NOWHERE && self.finish("free memory").is_ok() {
            // SAFETY: `take` gave it out, its owner is gone, and nothing that uses it is left on the stream.
            self.attempt("free memory", || unsafe { result::free_sync(address) });
        }
    }
}

impl CudaMemory {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn view(&self, span: Span) -> CudaView<'_> {
        let address = self.at(span);
        CudaView { address, len: span.len, element: self.element, lifetime: PhantomData }
    }

    pub(crate) fn view_mut(&mut self, span: Span) -> CudaViewMut<'_> {
        let address = self.at(span);
        CudaViewMut { address, len: span.len, element: self.element, lifetime: PhantomData }
    }

    /// Disjoint views; panics when two spans overlap.
    pub(crate) fn views_mut<const N: usize>(&mut self, spans: [Span; N]) -> [CudaViewMut<'_>; N] {
        for (index, a) in spans.iter().enumerate() {
            for b in &spans[..index] {
                let overlap = a.start < b.end() && b.start < a.end();
                assert!(!overlap, "view {spans:?} of one buffer at once: {a:?} meets {b:?}");
            }
        }
        let element = self.element;
        spans.map(|span| {
            let address = self.at(span);
            CudaViewMut { address, len: span.len, element, lifetime: PhantomData }
        })
    }

    pub(crate) fn read(&self, span: Span, into: &mut [f32]) -> Result<(), CudaError> {
        match self.element {
            Element::F32 => self.device.download(self.at(span), bytemuck::cast_slice_mut(into)),
            Element::Bf16 => {
                let mut halves = vec![0u16; span.len];
                self.device.download(self.at(span), bytemuck::cast_slice_mut(&mut halves))?;
                for (into, half) in into.iter_mut().zip(halves) {
                    *into = f32::from_bits(u32::from(half) << 16);
                }
                Ok(())
            }
        }
    }

    pub(crate) fn write(&mut self, span: Span, from: &[f32]) {
        let at = self.at(span);
        match self.element {
            Element::F32 => self.device.upload(at, bytemuck::cast_slice(from)),
            Element::Bf16 => {
                let halves: Vec<u16> = from.iter().map(|&value| to_bf16(value)).collect();
                self.device.upload(at, bytemuck::cast_slice(&halves));
            }
        }
    }

    fn at(&self, span: Span) -> sys::CUdeviceptr {
        assert!(span.end() <= self.len, "{span:?} leaves a buffer of {} elements", self.len);
        self.address.wrapping_add((span.start * self.element.size()) as u64)
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        self.device.give_back(self.address);
    }
}

impl CudaView<'_> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where numbers of this kind lie; panics when they are of another.
    pub(super) fn address(&self, element: Element) -> sys::CUdeviceptr {
        assert_eq!(self.element, element, "an operand in another precision");
        self.address
    }
}

impl CudaViewMut<'_> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn reborrow(&mut self) -> CudaViewMut<'_> {
        let CudaViewMut { address, len, element, .. } = *self;
        CudaViewMut { address, len, element, lifetime: PhantomData }
    }

    pub(crate) fn as_view(&self) -> CudaView<'_> {
        let CudaViewMut { address, len, element, .. } = *self;
        CudaView { address, len, element, lifetime: PhantomData }
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// Where numbers of this kind lie; panics when they are of another.
    pub(super) fn address(&self, element: Element) -> sys::CUdeviceptr {
        assert_eq!(self.element, element, "an operand in another precision");
        self.address
    }
}

/// The nearest bf16, of two equally near ones the even one; NaN stays NaN.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// No allocation starts here.
const NOWHERE: sys::CUdeviceptr = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_the_nearest_and_to_the_even_of_two() {
        let rounded = |bits: u32| to_bf16(f32::from_bits(bits));
        assert_eq!(rounded(0x3f80_0000), 0x3f80);
        assert_eq!([rounded(0x3f80_8000), rounded(0x3f81_8000)], [0x3f80, 0x3f82]);
        assert_eq!([rounded(0x3f80_8001), rounded(0x3f80_7fff)], [0x3f81, 0x3f80]);
        assert_eq!([rounded(0x7f7f_ffff), rounded(0xff80_0000)], [0x7f80, 0xff80]);
        assert!(f32::from_bits(u32::from(rounded(0x7f80_0001)) << 16).is_nan());
    }
}
