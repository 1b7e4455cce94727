//! Softmax cross-entropy in f64, after its definition; the gradient is that of [`SCALE`] times the loss.

/// What gradients are multiplied by.
pub(crate) const SCALE: f64 = 0.125;

pub(crate) fn loss(logits: &[f64], labels: &[u32], classes: usize, smoothing: f32) -> f64 {
    let mut sum = 0.0;
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let log_sum = row.iter().map(|v| v.exp()).sum::<f64>().ln();
        for (logit, target) in row.iter().zip(targets(label, classes, smoothing)) {
            sum += target * (log_sum - logit);
        }
    }
    sum
}

pub(crate) fn gradient(logits: &[f64], labels: &[u32], classes: usize, smoothing: f32) -> Vec<f64> {
    let mut gradient = Vec::new();
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        for (logit, target) in row.iter().zip(targets(label, classes, smoothing)) {
            gradient.push(SCALE * (logit.exp() / sum - target));
        }
    }
    gradient
}

fn targets(label: u32, classes: usize, smoothing: f32) -> impl Iterator<Item = f64> {
    let smoothing = f64::from(smoothing);
    (0..classes).map(move |class| {
        let hit = if class == label as usize { 1.0 - smoothing } else { 0.0 };
        hit + smoothing / classes as f64
    })
}
