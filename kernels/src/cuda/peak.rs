use super::CudaDevice;

impl CudaDevice {
    pub(crate) fn peak_flops(&self) -> f64 {
        unimplemented!("not written yet")
    }
}
