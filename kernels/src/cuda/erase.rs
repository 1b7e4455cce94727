use super::{CudaDevice, CudaViewMut};
use crate::ops::Window;
use crate::shape::ImagesShape;

impl CudaDevice {
    pub(crate) fn erase(&self, shape: &ImagesShape, windows: &[Window], x: CudaViewMut<'_>) {
        unimplemented!("not written yet")
    }
}
