use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::Accumulate;
use crate::shape::ConvShape;

impl CudaDevice {
    pub(crate) fn conv_pack(
        &self,
        shape: &ConvShape,
        weight: CudaView<'_>,
        forward: CudaViewMut<'_>,
        input_grad: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn conv_forward(
        &self,
        shape: &ConvShape,
        x: CudaView<'_>,
        packed: CudaView<'_>,
        y: CudaViewMut<'_>,
        stats: Option<CudaViewMut<'_>>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn conv_input_grad(
        &self,
        shape: &ConvShape,
        dy: CudaView<'_>,
        packed: CudaView<'_>,
        dx: CudaViewMut<'_>,
        accumulate: Accumulate,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn conv_weight_grad(
        &self,
        shape: &ConvShape,
        x: CudaView<'_>,
        dy: CudaView<'_>,
        dw: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
