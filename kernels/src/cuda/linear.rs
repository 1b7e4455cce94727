use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::LinearShape;

impl CudaDevice {
    pub(crate) fn linear_forward(
        &self,
        shape: &LinearShape,
        x: CudaView<'_>,
        weight: CudaView<'_>,
        bias: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn linear_backward(
        &self,
        shape: &LinearShape,
        x: CudaView<'_>,
        weight: CudaView<'_>,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
        d_weight: CudaViewMut<'_>,
        d_bias: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
