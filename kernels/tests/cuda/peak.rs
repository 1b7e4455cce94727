//! What shares of the peak refer to.

use crate::support::{PRECISIONS, device, runs_large_grids};

#[test]
fn a_peak_is_measured() {
    if !runs_large_grids() {
        return;
    }
    for precision in PRECISIONS {
        let Some(gpu) = device(precision) else { return };
        let peak = gpu.measure_peak();
        println!("{}: {:.3} TFLOP/s", gpu.describe(), peak / 1e12);
        assert!(peak > 0.0 && peak.is_finite());
    }
}
