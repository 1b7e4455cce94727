use super::{CudaDevice, CudaError, CudaView};
use crate::device::Span;

impl CudaDevice {
    pub(crate) fn sums_of_squares(
        &self,
        values: CudaView<'_>,
        spans: &[Span],
        sums: &mut [f64],
    ) -> Result<(), CudaError> {
        unimplemented!("not written yet")
    }
}
