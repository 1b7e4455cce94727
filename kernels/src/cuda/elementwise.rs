use super::{CudaDevice, CudaError, CudaView, CudaViewMut};

impl CudaDevice {
    pub(crate) fn add(&self, into: CudaViewMut<'_>, from: CudaView<'_>) {
        unimplemented!("not written yet")
    }
    pub(crate) fn fill(&self, into: CudaViewMut<'_>, value: f32) {
        unimplemented!("not written yet")
    }
    pub(crate) fn lerp(&self, into: CudaViewMut<'_>, toward: CudaView<'_>, weight: f32) {
        unimplemented!("not written yet")
    }
    pub(crate) fn sum_slices(&self, slices: usize, from: CudaView<'_>, into: CudaViewMut<'_>) {
        unimplemented!("not written yet")
    }
    pub(crate) fn first_non_finite(
        &self,
        values: CudaView<'_>,
    ) -> Result<Option<usize>, CudaError> {
        unimplemented!("not written yet")
    }
}
