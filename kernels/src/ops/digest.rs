//! The menu's part for members that compare what they hold.

use crate::device::{Buffer, Device, DeviceError};
use crate::profile::Work;

/// A digest of these buffers, in this order: any flipped bit changes it, and so does, but for one case in 2^128, any other
/// difference between buffers of equal lengths. It guards against accidents, not against an adversary. Only devices of one kind
/// agree on it.
///
/// # Errors
/// As those of `Buffer::read`.
pub fn digest<'a>(
    device: &Device,
    buffers: impl Iterator<Item = &'a Buffer> + Clone,
) -> Result<[u8; 16], DeviceError> {
    let elements = buffers.clone().map(Buffer::len).sum();
    let _timer = device.timer("digest", Work::elements(elements));
    match device {
        Device::Cpu(cpu) => {
            let host = |buffer: &'a Buffer| buffer.host().expect("the CPU's memory is the host's");
            Ok(cpu.digest(&mut buffers.map(host)))
        }
        Device::Cuda(cuda) => {
            let views: Vec<_> = buffers.map(|buffer| buffer.view(buffer.span()).cuda()).collect();
            Ok(cuda.digest(&views)?)
        }
    }
}
