use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::NormShape;

impl CudaDevice {
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_reduce(
        &self,
        shape: &NormShape,
        dy: CudaViewMut<'_>,
        y: Option<CudaView<'_>>,
        z: CudaView<'_>,
        stats: CudaView<'_>,
        epsilon: f32,
        sums: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_apply(
        &self,
        shape: &NormShape,
        dy: CudaView<'_>,
        z: CudaView<'_>,
        stats: CudaView<'_>,
        gamma: CudaView<'_>,
        sums: CudaView<'_>,
        epsilon: f32,
        dz: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
