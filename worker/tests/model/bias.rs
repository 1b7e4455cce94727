//! A bias in the first convolution: invisible in training but for the running mean, and used in evaluation.

use dataset::Draws;
use proto::job::{Block, Model, Stem};
use worker::model::Geometry;

use crate::gradients::{input, leave_ones_and_zeros};
use crate::reference::{self, Network, Statistics, Target};
use crate::tensors::{self, difference, largest, worst};
use crate::training::{Images, LABEL_SMOOTHING, Training, any_device, predict};

#[test]
fn evaluation_adds_the_bias_to_the_first_convolution() {
    for stem in [Stem::Cifar, Stem::Imagenet] {
        let mut training = training(stem, true, 1);
        let mut draws = Draws::new(SEED, 2);
        let (_, running) = training.model.state_mut();
        for value in running.host_mut().unwrap() {
            *value += 0.5 * draws.unit() as f32;
        }
        let images = Images::random(SEED, GEOMETRY.batch, GEOMETRY);
        let found = predict(&mut training.model, &images.pixels);
        let tensors = tensors::of_model(&training);
        let network = Network { tensors: &tensors, statistics: Statistics::Running };
        let exact = |network| {
            let rows =
                reference::logits_with(&model(stem, true), network, &input(&images, GEOMETRY));
            rows.concat()
        };
        let with_bias = exact(network);
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        let error = difference(&found, &with_bias) / largest(&with_bias);
        assert!(error <= ERROR_MAX, "{stem:?}: off by {error:.1e}");
        let mut without = tensors.clone();
        without.remove("conv1.bias").unwrap();
        let matters = difference(&exact(Network { tensors: &without, ..network }), &with_bias);
        assert!(matters > 100.0 * error * largest(&with_bias), "{stem:?}: {matters:.1e}");
    }
}

#[test]
fn training_has_the_same_bits_with_and_without_the_bias_whose_gradient_is_zero() {
    for stem in [Stem::Cifar, Stem::Imagenet] {
        let (mut with, mut without) = (training(stem, true, 2), training(stem, false, 2));
        let images = Images::random(SEED, 2 * GEOMETRY.batch, GEOMETRY);
        let [a, b] = [&mut with, &mut without].map(|training| training.gradients(&images));
        assert_eq!(a.to_bits(), b.to_bits(), "{stem:?}: the loss");
        let of = |training: &Training| {
            tensors::of_gradients(training.model.layout(), &training.slots[0])
        };
        let (mut found, expected) = (of(&with), of(&without));
        let bias = found.remove("conv1.bias").unwrap();
        assert!(bias.values.iter().all(|&value| value == 0.0), "{stem:?}: {bias:?}");
        assert!(found.keys().eq(expected.keys()));
        for (name, gradient) in &expected {
            assert_eq!(found[name].values, gradient.values, "{stem:?}: {name}");
        }
    }
}

#[test]
fn the_training_loss_is_that_of_the_reference_which_adds_the_bias() {
    let mut training = training(Stem::Imagenet, true, 1);
    let images = Images::random(SEED, GEOMETRY.batch, GEOMETRY);
    let loss = training.gradients(&images);
    let tensors = tensors::of_model(&training);
    let model = model(Stem::Imagenet, true);
    let logits = reference::logits(&model, &tensors, &input(&images, GEOMETRY));
    let target = Target { labels: &images.labels, smoothing: f64::from(LABEL_SMOOTHING) };
    let error = (loss / reference::loss(&logits, target) - 1.0).abs();
    assert!(error <= ERROR_MAX, "off by {error:.1e}");
}

#[test]
fn the_running_mean_follows_the_biased_output_and_nothing_else_changes() {
    let (mut with, mut without) =
        (training(Stem::Imagenet, true, 2), training(Stem::Imagenet, false, 2));
    let images = Images::random(SEED, 2 * GEOMETRY.batch, GEOMETRY);
    let bias = tensors::of_model(&with)["conv1.bias"].clone();
    let steps = 3;
    for training in [&mut with, &mut without] {
        for _ in 0..steps {
            training.step(&images);
        }
    }
    let (mut with, mut without) = (tensors::of_model(&with), tensors::of_model(&without));
    assert_eq!(with.remove("conv1.bias").unwrap().values, bias.values, "no decay, no gradient");
    let means = [&mut with, &mut without].map(|all| all.remove("bn1.running_mean").unwrap());
    // The running mean started at 0 and took a tenth of the new mean in each step.
    let taken = 1.0 - 0.9_f64.powi(steps);
    let pairs = means[0].values.iter().zip(&means[1].values).zip(&bias.values);
    let error = worst(pairs.map(|((with, without), b)| (with - without - taken * b).abs()));
    assert!(error <= ERROR_MAX, "off by {error:.1e}");
    for (name, tensor) in &without {
        assert_eq!(with[name].values, tensor.values, "{name}");
    }
}

#[test]
fn the_bias_is_a_vector_in_the_checkpoint_under_its_torchvision_name() {
    let training = training(Stem::Cifar, true, 1);
    let tensors = tensors::of_model(&training);
    assert_eq!(tensors["conv1.bias"].shape, [7]);
    // PyTorch draws it evenly between two bounds.
    let bound = 1.0 / (9.0 * 3.0_f64).sqrt() + 0.2;
    assert!(tensors["conv1.bias"].largest() <= bound);
}

fn model(stem: Stem, stem_bias: bool) -> Model {
    let (blocks, widths) = (vec![1, 1], vec![7, 10]);
    Model { block: Block::Basic, blocks, widths, stem, stem_bias, zero_init_residual: false }
}

/// The same weights with and without a bias: it is drawn last.
fn training(stem: Stem, stem_bias: bool, slices: usize) -> Training {
    let mut training = Training::new(&any_device(), &model(stem, stem_bias), GEOMETRY, slices);
    training.model.initialise(SEED);
    leave_ones_and_zeros(&mut training);
    training
}

const SEED: u64 = 21;
const GEOMETRY: Geometry =
    Geometry { slices: 1, batch: 4, height: 19, width: 17, channels: 3, classes: 5 };
const ERROR_MAX: f64 = 1e-5;
