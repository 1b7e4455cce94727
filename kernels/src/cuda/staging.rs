//! Host numbers on their way to the GPU and back. The GPU copies from memory that stays where it is ("pinned"), while the
//! caller goes on: a few pieces of such memory take turns, and each is free again when its copy is through.

use std::ffi::c_void;

use cudarc::driver::{CudaEvent, DriverError, result, sys};

use super::context::CudaDevice;
use super::error::CudaError;

/// Pieces in turn.
#[derive(Debug, Default)]
pub(super) struct Staging {
    pieces: Vec<Piece>,
    next: usize,
}

#[derive(Debug)]
struct Piece {
    host: *mut c_void,
    device: sys::CUdeviceptr,
    bytes: usize,
    /// Behind the last copy out of it.
    copied: CudaEvent,
}

// SAFETY: the pointers are used only through `Staging`, which is behind a lock.
unsafe impl Send for Piece {}

impl CudaDevice {
    /// Puts small host data where a kernel finds it that is launched right after.
    pub(super) fn stage(&self, bytes: &[u8]) -> sys::CUdeviceptr {
        self.copy_through(bytes, None).unwrap_or_default()
    }

    /// Copies host data to the GPU. The caller may change it at once.
    pub(super) fn upload(&self, mut into: sys::CUdeviceptr, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.copy_through(chunk, Some(into));
            into += chunk.len() as u64;
        }
    }

    /// Copies from the GPU when everything before is through.
    pub(super) fn download(
        &self,
        from: sys::CUdeviceptr,
        into: &mut [u8],
    ) -> Result<(), CudaError> {
        self.finish("read results")?;
        if !into.is_empty() {
            // SAFETY: the caller's span lies in its buffer, and nothing writes there any more.
            self.attempt("read results", || unsafe { result::memcpy_dtoh_sync(into, from) });
        }
        self.finish("read results")
    }

    /// Through the next piece to `into`, or to the piece's own place on the GPU; says where it went.
    fn copy_through(
        &self,
        bytes: &[u8],
        into: Option<sys::CUdeviceptr>,
    ) -> Option<sys::CUdeviceptr> {
        let mut staging = self.staging();
        let index = staging.next % PIECES;
        if index == staging.pieces.len() {
            let piece = self.attempt("take pinned memory", || Piece::new(self, bytes.len()))?;
            staging.pieces.push(piece);
        }
        staging.next += 1;
        self.wait(&staging.pieces[index].copied, "copy to the GPU");
        if staging.pieces[index].bytes < bytes.len() {
            let larger = self.attempt("take pinned memory", || Piece::new(self, bytes.len()))?;
            let old = std::mem::replace(&mut staging.pieces[index], larger);
            // What reads the old piece's place on the GPU may still be on the stream.
            self.finish("copy to the GPU").ok()?;
            self.attempt("free pinned memory", || old.free())?;
        }
        let piece = &staging.pieces[index];
        let to = into.unwrap_or(piece.device);
        self.attempt("copy to the GPU", || {
            // SAFETY: the piece has room for the bytes, and its last copy is through, so that nobody reads it now.
            let host = unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), piece.host.cast::<u8>(), bytes.len());
                std::slice::from_raw_parts(piece.host.cast::<u8>(), bytes.len())
            };
            if !host.is_empty() {
                // SAFETY: pinned memory stays until its event has passed; `to` has room by the caller's span or the
                // piece's size.
                unsafe { result::memcpy_htod_async(to, host, self.stream()) }?;
            }
            self.record(&piece.copied)
        })?;
        Some(to)
    }
}

impl Piece {
    /// In the context of the calling thread.
    fn new(device: &CudaDevice, bytes: usize) -> Result<Piece, DriverError> {
        let bytes = bytes.next_power_of_two().max(SMALLEST_BYTES);
        let copied = device.event()?;
        // SAFETY: plain allocations; `free` gives them back, or the process's end does. Not write-combined: the processor
        // writes in any order.
        let (host, device) =
            unsafe { (result::malloc_host(bytes, 0)?, result::malloc_sync(bytes)?) };
        Ok(Piece { host, device, bytes, copied })
    }

    fn free(self) -> Result<(), DriverError> {
        // SAFETY: nothing on the stream uses them any more, says the caller, and the piece is gone.
        unsafe {
            result::free_host(self.host)?;
            result::free_sync(self.device)
        }
    }
}

/// Pieces that can be on their way at once. A kernel reads what was staged for it before this many others are staged.
const PIECES: usize = 8;
const SMALLEST_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 4 << 20;
