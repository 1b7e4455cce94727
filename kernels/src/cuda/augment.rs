use super::{CudaDevice, CudaViewMut};
use crate::ops::Crop;
use crate::shape::AugmentShape;

impl CudaDevice {
    pub(crate) fn augment(
        &self,
        shape: &AugmentShape,
        pixels: &[u8],
        crops: &[Crop],
        mean: &[f32],
        std: &[f32],
        out: CudaViewMut<'_>,
    ) {
        unimplemented!("not written yet")
    }
}
