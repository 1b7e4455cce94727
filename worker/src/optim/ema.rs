//! The exponential moving average of parameters and running statistics: the model that a user takes, smoother than the
//! one that is trained (Polyak and Juditsky, 1992).

use kernels::{Buffer, Device, ops};
use proto::job;

use crate::layout::Layout;

#[derive(Debug)]
pub struct Ema {
    device: Device,
    rule: job::Ema,
    params: Buffer,  // `Layout::parameters`
    running: Buffer, // `Layout::statistics`
}

impl Ema {
    /// Zeros until `start` or a checkpoint fills it.
    pub fn new(device: &Device, layout: &Layout, rule: job::Ema) -> Ema {
        Ema {
            device: device.clone(),
            rule,
            params: device.alloc(layout.parameters_len()),
            running: device.alloc(layout.statistics_len()),
        }
    }

    /// The average of a model that has not been trained yet is that model.
    pub fn start(&mut self, params: &Buffer, running: &Buffer) {
        for (average, value) in [(&mut self.params, params), (&mut self.running, running)] {
            ops::fill(&self.device, average.view_mut(average.span()), 0.0);
            ops::add(&self.device, average.view_mut(average.span()), value.view(value.span()));
        }
    }

    /// Takes in the state after `step`, if it is one of those that count.
    pub fn update(&mut self, step: u64, params: &Buffer, running: &Buffer) {
        let Some(weight) = weight(&self.rule, step) else { return };
        for (average, value) in [(&mut self.params, params), (&mut self.running, running)] {
            let whole = average.span();
            ops::lerp(&self.device, average.view_mut(whole), value.view(whole), weight);
        }
    }

    /// Exchanges the average with the trained state: once to look at it, once more to train on.
    pub fn swap(&mut self, params: &mut Buffer, running: &mut Buffer) {
        std::mem::swap(&mut self.params, params);
        std::mem::swap(&mut self.running, running);
    }

    pub fn params(&self) -> &Buffer {
        &self.params
    }

    pub fn running(&self) -> &Buffer {
        &self.running
    }

    /// Averaged parameters and running statistics, to be read from a checkpoint.
    pub fn state_mut(&mut self) -> (&mut Buffer, &mut Buffer) {
        (&mut self.params, &mut self.running)
    }
}

/// Share of the new state in the average after `step` (counted from 1); `None` when the step is not one of every `every`.
///
/// The `t`-th update, counted from 0, keeps `min(decay, (1 + t) / (10 + t))` of the average: TensorFlow's
/// `ExponentialMovingAverage` with `num_updates`. Without such a warm-up (timm's default) a run that is not many times
/// longer than `1 / (1 - decay)` steps ends with an average that still holds the random first weights. torchvision's
/// scripts restart the average until the learning rate has warmed up, which helps only jobs that warm up.
fn weight(rule: &job::Ema, step: u64) -> Option<f32> {
    let every = u64::from(rule.every);
    if !step.is_multiple_of(every) {
        return None;
    }
    let updates = (step / every - 1) as f64;
    let decay = rule.decay.min((1.0 + updates) / (10.0 + updates));
    Some((1.0 - decay) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_warms_up_to_its_decay_and_looks_at_every_nth_step() {
        let rule = job::Ema { decay: 0.99, every: 3 };
        let weights: Vec<Option<f32>> = (1..=9).map(|step| weight(&rule, step)).collect();
        let share = |kept: f64| Some((1.0 - kept) as f32);
        let [none, first, second, third] = [None, share(0.1), share(2.0 / 11.0), share(3.0 / 12.0)];
        assert_eq!(weights, [none, none, first, none, none, second, none, none, third]);
        assert_eq!(weight(&rule, 3 * 900), share(0.99));
    }
}
