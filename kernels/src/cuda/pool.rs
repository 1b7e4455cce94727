use super::{CudaDevice, CudaView, CudaViewMut};
use crate::shape::{MaxPoolShape, PoolShape};

impl CudaDevice {
    pub(crate) fn max_pool_forward(
        &self,
        shape: &MaxPoolShape,
        x: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn max_pool_backward(
        &self,
        shape: &MaxPoolShape,
        x: CudaView<'_>,
        y: CudaView<'_>,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn average_pool_forward(
        &self,
        shape: &PoolShape,
        x: CudaView<'_>,
        y: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn average_pool_backward(
        &self,
        shape: &PoolShape,
        dy: CudaView<'_>,
        dx: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
