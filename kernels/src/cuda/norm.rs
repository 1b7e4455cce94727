use super::{CudaDevice, CudaView, CudaViewMut};
use crate::ops::{Activation, Residual};
use crate::shape::NormShape;

impl CudaDevice {
    pub(crate) fn norm_affine(
        &self,
        stats: CudaView<'_>,
        gamma: CudaView<'_>,
        beta: CudaView<'_>,
        epsilon: f32,
        affine: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_apply(
        &self,
        shape: &NormShape,
        z: CudaView<'_>,
        affine: CudaView<'_>,
        residual: Residual<'_>,
        activation: Activation,
        y: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
    pub(crate) fn norm_update_running(
        &self,
        running: CudaViewMut<'_>,
        slice_sums: CudaView<'_>,
        slices: usize,
        rows: usize,
        momentum: f32,
    ) {
        unimplemented!("not written yet")
    }
}
