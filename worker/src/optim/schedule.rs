//! The learning rate as a pure function of the step.

use proto::job::{Decay, Job};
use proto::timeline::Timeline;

/// The rate that step `step` (counted from 1) is taken with. Warm-up is linear and reaches the peak at its end (Goyal et
/// al., "Accurate, Large Minibatch SGD", 2017); the cosine is Loshchilov and Hutter's (SGDR, 2016) without restarts.
pub fn learning_rate(job: &Job, timeline: &Timeline, step: u64) -> f32 {
    let peak = f64::from(job.optimizer.learning_rate);
    let warmup = job.schedule.warmup_epochs;
    let end = timeline.epochs_at(timeline.total_steps());
    // Warm-up counts the step itself, so that the first rate is not 0; decay counts the steps before it, so that
    // the last one is not 0 either.
    let after = timeline.epochs_at(step);
    let before = timeline.epochs_at(step - 1);
    if after < warmup {
        return (peak * after / warmup) as f32;
    }
    let factor = match &job.schedule.decay {
        Decay::Constant => 1.0,
        Decay::Cosine => {
            let progress = ((before - warmup) / (end - warmup)).clamp(0.0, 1.0);
            0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))
        }
        Decay::Step { milestones, gamma } => {
            // A product and not `powi`, whose last bits differ between platforms.
            let passed = milestones.iter().filter(|&&milestone| before >= milestone);
            passed.map(|_| f64::from(*gamma)).product()
        }
    };
    (peak * factor) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(schedule: &str) -> (Job, Timeline) {
        let text = format!(
            "name='x'\n[data]\nformat='idx'\npath='.'\n[model]\narch='resnet18'\n\
             [train]\nepochs=10\nbatch=8\n[optimizer]\nlearning_rate=1.0\n[schedule]\n{schedule}"
        );
        let job = Job::parse(&text).unwrap();
        let timeline = Timeline::new(&job, 80);
        (job, timeline)
    }

    #[test]
    fn warm_up_rises_to_the_peak_and_the_cosine_falls_towards_zero() {
        let (job, timeline) = job("warmup_epochs = 1");
        let rates: Vec<f32> = (1..=100).map(|step| learning_rate(&job, &timeline, step)).collect();
        assert!((rates[0] - 0.1).abs() < 1e-6 && (rates[10] - 1.0).abs() < 1e-6);
        assert!(rates[..10].windows(2).all(|pair| pair[0] < pair[1]));
        assert!(rates[11..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(rates[99] > 0.0 && rates[99] < 0.001);
    }

    #[test]
    fn steps_fall_at_their_milestones() {
        let (job, timeline) = job("decay = 'step'\nmilestones = [5, 8]\ngamma = 0.1");
        let rate = |step| learning_rate(&job, &timeline, step);
        assert_eq!((rate(1), rate(50), rate(51), rate(80)), (1.0, 1.0, 0.1, 0.1));
        assert!((rate(81) - 0.01).abs() < 1e-8);
    }
}
