//! Where a device's time goes: calls and seconds of each op and shape, counted only while someone
//! asks. What the figures are compared with is the caller's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cuda::CudaDevice;
use crate::device::Family;
use crate::shape::ConvShape;

/// What one op did in all its calls on one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// Name of the function in `ops`.
    pub op: &'static str,
    /// Shape of a convolution.
    pub conv: Option<ConvShape>,
    /// Calls so far.
    pub calls: usize,
    /// Floating-point operations of all calls, as the textbook counts them; 0 for passes over
    /// memory.
    pub flops: usize,
    /// Elements read or written by all calls, each operand once.
    pub elements: usize,
    /// Wall time of all calls.
    pub time: Duration,
    /// Processor time of the whole process meanwhile, all threads together: what remains true when
    /// the machine is shared.
    pub busy: Duration,
}

/// The work of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    conv: Option<ConvShape>,
    flops: usize,
    elements: usize,
}

impl Work {
    pub(crate) fn conv(shape: &ConvShape) -> Work {
        let elements = shape.input_len() + shape.output_len() + shape.weight_len();
        Work { conv: Some(*shape), flops: shape.flops(), elements }
    }

    /// Not the arithmetic but the packing of a convolution's weights.
    pub(crate) fn packing(shape: &ConvShape, family: Family) -> Work {
        let packed = shape.packed_len(family);
        let elements = shape.weight_len() + packed.forward + packed.input_grad;
        Work { conv: Some(*shape), flops: 0, elements }
    }

    pub(crate) fn elements(elements: usize) -> Work {
        Work { conv: None, flops: 0, elements }
    }
}

/// The counts of a device.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    on: AtomicBool,
    times: Mutex<BTreeMap<Key, OpTime>>,
}

/// Times a call from its making to its end.
#[derive(Debug)]
pub(crate) struct Timer<'a>(Option<Running<'a>>);

#[derive(Debug)]
struct Running<'a> {
    profile: &'a Profile,
    /// Whose ops run later than they are called: it is waited for before and behind.
    gpu: Option<&'a CudaDevice>,
    op: &'static str,
    work: Work,
    since: Instant,
    busy_since: Duration,
}

type Key = (&'static str, [usize; 8]);

impl Profile {
    pub(crate) fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> Vec<OpTime> {
        let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
        times.into_values().collect()
    }

    pub(crate) fn timer<'a>(
        &'a self,
        op: &'static str,
        work: Work,
        gpu: Option<&'a CudaDevice>,
    ) -> Timer<'a> {
        let on = self.on.load(Ordering::Relaxed);
        Timer(on.then(|| {
            catch_up(gpu);
            let (since, busy_since) = (Instant::now(), processor_time());
            Running { profile: self, gpu, op, work, since, busy_since }
        }))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Some(running) = self.0.take() else { return };
        let Running { profile, gpu, op, work, since, busy_since } = running;
        catch_up(gpu);
        let (time, busy) = (since.elapsed(), processor_time().saturating_sub(busy_since));
        let key = (op, work.conv.map_or([0; 8], dimensions));
        let empty = OpTime {
            op,
            conv: work.conv,
            calls: 0,
            flops: 0,
            elements: 0,
            time: Duration::ZERO,
            busy: Duration::ZERO,
        };
        let mut times = profile.times.lock().unwrap_or_else(PoisonError::into_inner);
        let total = times.entry(key).or_insert(empty);
        total.calls += 1;
        total.flops += work.flops;
        total.elements += work.elements;
        total.time += time;
        total.busy += busy;
    }
}

/// Until what was put on the GPU's stream is through. A fault is told to whoever reads a result.
fn catch_up(gpu: Option<&CudaDevice>) {
    if let Some(Err(error)) = gpu.map(|gpu| gpu.finish("time an op")) {
        drop(error);
    }
}

/// Of all threads of this process so far.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn dimensions(shape: ConvShape) -> [usize; 8] {
    let ConvShape {
        slices: _,
        batch,
        height,
        width,
        in_channels,
        out_channels,
        kernel,
        stride,
        pad,
    } = shape;
    // Large images first: the order of a network's layers.
    let order = usize::MAX - height * width;
    [order, in_channels, out_channels, kernel, stride, pad, height, batch]
}
