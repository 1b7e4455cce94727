//! The way of gradients to the exchange and of their sum back. On the CPU they are computed in the exchange's memory and
//! there is no way to go. A GPU's go through main memory: copied out when backward is through, and the sum back in.

use std::ops::Range;

use kernels::{Buffer, Device, DeviceError, Family};

use crate::collective::{Collective, CollectiveError, SlicePlan};

#[derive(Debug)]
pub(super) enum Passage {
    /// The exchange's own memory.
    None,
    ThroughHost {
        /// The exchange's memory: this worker's partials.
        partials: Vec<Buffer>,
        /// On the device.
        sum: Buffer,
    },
}

impl Passage {
    /// Returns the gradient vectors in which the device computes, too.
    pub(super) fn open(
        device: &Device,
        plan: &SlicePlan,
        collective: &mut dyn Collective,
    ) -> (Vec<Buffer>, Passage) {
        let slots = collective.slots();
        match device.family() {
            Family::Cpu => {
                assert_eq!(slots.len(), plan.slots(), "the exchange knows the slices");
                (slots, Passage::None)
            }
            Family::Cuda => {
                let len = collective.sum().len();
                let own = (0..plan.slots()).map(|_| device.alloc(len)).collect();
                (own, Passage::ThroughHost { partials: slots, sum: device.alloc(len) })
            }
        }
    }

    /// Whether a bucket may enter the exchange while backward goes on.
    pub(super) fn is_open_during_backward(&self) -> bool {
        matches!(self, Passage::None)
    }

    /// Waits for the end of backward. `own`: this worker's partials, with which the slots start.
    pub(super) fn leave(&mut self, own: &[Buffer]) -> Result<(), DeviceError> {
        let Passage::ThroughHost { partials, .. } = self else { return Ok(()) };
        for (from, into) in own.iter().zip(partials) {
            let host = into.host_mut().expect("the exchange's memory is host memory");
            from.read(from.span(), host)?;
        }
        Ok(())
    }

    /// What did not enter the exchange during backward does now.
    pub(super) fn enter(
        &mut self,
        step: u64,
        buckets: &[Range<usize>],
        collective: &mut dyn Collective,
    ) -> Result<(), CollectiveError> {
        if self.is_open_during_backward() {
            return Ok(());
        }
        (0..buckets.len()).try_for_each(|bucket| collective.reduce(step, bucket))
    }

    /// The exchange has the sum.
    pub(super) fn arrive(&mut self, collective: &dyn Collective) {
        let Passage::ThroughHost { sum, .. } = self else { return };
        let host = collective.sum().host().expect("the exchange's memory is host memory");
        sum.write(sum.span(), host);
    }

    /// On the device, over all slices.
    pub(super) fn sum<'a>(&'a self, collective: &'a dyn Collective) -> &'a Buffer {
        match self {
            Passage::None => collective.sum(),
            Passage::ThroughHost { sum, .. } => sum,
        }
    }
}
