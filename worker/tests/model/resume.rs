//! A checkpoint's files against the state that they were written from, and training on from them.

use proto::job::{Block, Ema as EmaRule, Model, Optimizer, Rule, Stem};
use worker::checkpoint::{Average, Snapshot, decode_ema, decode_model, decode_optimizer};
use worker::model::Geometry;
use worker::optim::{Ema, Sgd};

use crate::tensors::snapshot;
use crate::training::{Images, RULE, Training, any_device, bits};

#[test]
fn a_run_resumed_after_three_steps_ends_with_the_bits_of_one_that_never_stopped() {
    let images = Images::random(3, STEPS * BATCH, GEOMETRY);
    let batch = |step: usize| images.part(step * BATCH, BATCH);
    let mut straight = training(1);
    let mut resumed = None;
    for step in 0..STEPS {
        if step == SAVED_AFTER {
            let saved = snapshot(&straight, step as u64);
            // Another seed and a step of its own: nothing of what it holds may stay.
            let mut fresh = training(2);
            fresh.step(&batch(0));
            fresh.restore_model(&saved.encode_model());
            fresh.restore_optimizer(&saved.encode_optimizer());
            assert!(fresh.state_bits() == straight.state_bits(), "the state as it was saved");
            resumed = Some(fresh);
        }
        let loss = straight.step(&batch(step));
        if let Some(resumed) = &mut resumed {
            assert_eq!(resumed.step(&batch(step)).to_bits(), loss.to_bits(), "step {step}");
        }
    }
    let resumed = resumed.unwrap();
    let (a, b) = (resumed.state_bits(), straight.state_bits());
    assert!(a[0] == b[0], "weights");
    assert!(a[1] == b[1], "running statistics");
    assert!(a[2] == b[2], "velocity");
}

#[test]
fn layer_wise_rates_clipping_and_an_average_go_on_with_the_same_bits() {
    let images = Images::random(3, STEPS * BATCH, GEOMETRY);
    let rule = Rule::Lars { trust_coefficient: 0.1 };
    let rule = Optimizer { rule, clip_norm: Some(0.5), ..RULE };
    let start = |seed: u64| {
        let mut training = training(seed);
        training.optimizer = Sgd::new(&any_device(), training.model.layout(), &rule);
        let ema = EmaRule { decay: 0.8, every: 2 };
        let mut ema = Ema::new(&any_device(), training.model.layout(), ema);
        ema.start(training.model.params(), training.model.running());
        (training, ema)
    };
    let step = |(training, ema): &mut (Training, Ema), step: usize| {
        training.step(&images.part(step * BATCH, BATCH));
        ema.update(step as u64 + 1, training.model.params(), training.model.running());
    };
    let mut straight = start(1);
    (0..SAVED_AFTER).for_each(|s| step(&mut straight, s));
    let (training, ema) = &straight;
    let host = |buffer: &kernels::Buffer| buffer.host().unwrap().to_vec();
    let average = Average { params: host(ema.params()), running: host(ema.running()) };
    let saved = Snapshot { average: Some(average), ..snapshot(training, SAVED_AFTER as u64) };

    let mut resumed = start(2);
    step(&mut resumed, 0);
    resumed.0.restore_model(&saved.encode_model());
    resumed.0.restore_optimizer(&saved.encode_optimizer());
    let (params, running) = resumed.1.state_mut();
    let (params, running) = (params.host_mut().unwrap(), running.host_mut().unwrap());
    decode_ema(&saved.layout, &saved.encode_ema().unwrap(), params, running).unwrap();
    for s in SAVED_AFTER..STEPS {
        step(&mut straight, s);
        step(&mut resumed, s);
    }
    assert!(resumed.0.state_bits() == straight.0.state_bits());
    for average in [Ema::params, Ema::running] {
        assert!(bits(average(&resumed.1)) == bits(average(&straight.1)));
    }
    assert!(bits(straight.1.params()) != bits(straight.0.model.params()));
}

impl Training {
    /// Weights and running statistics from `model.safetensors`.
    pub(crate) fn restore_model(&mut self, bytes: &[u8]) {
        let layout = self.model.layout().clone();
        let (params, running) = self.model.state_mut();
        let (params, running) = (params.host_mut().unwrap(), running.host_mut().unwrap());
        decode_model(&layout, bytes, params, running).unwrap();
        self.model.pack();
    }

    /// Velocity from `optimizer.safetensors`.
    pub(crate) fn restore_optimizer(&mut self, bytes: &[u8]) {
        let velocity = self.optimizer.velocity_mut().host_mut().unwrap();
        decode_optimizer(self.model.layout(), bytes, velocity).unwrap();
    }
}

fn training(seed: u64) -> Training {
    let model = Model {
        block: Block::Bottleneck,
        blocks: vec![1, 1],
        widths: vec![5, 7],
        stem: Stem::Imagenet,
        stem_bias: false,
        zero_init_residual: false,
    };
    let mut training = Training::new(&any_device(), &model, GEOMETRY, 2);
    training.model.initialise(seed);
    training
}

const GEOMETRY: Geometry =
    Geometry { slices: 1, batch: 4, height: 19, width: 17, channels: 3, classes: 3 };
const BATCH: usize = 8;
const STEPS: usize = 5;
const SAVED_AFTER: usize = 3;
