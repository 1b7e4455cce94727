use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::{Sgd, SgdSegment};

impl CudaDevice {
    pub(crate) fn sgd(
        &self,
        rule: &Sgd,
        segments: &[SgdSegment],
        params: CudaViewMut<'_>,
        grads: CudaView<'_>,
        velocity: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
