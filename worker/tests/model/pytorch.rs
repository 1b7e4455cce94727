//! The trainings of `tests/fixtures/pytorch`, run again: losses, first gradients, final state and evaluation against
//! PyTorch's in fp64. `make.py` in that folder says how its files were made.

use std::path::PathBuf;
use std::sync::Arc;

use dataset::{Dataset, Format};
use kernels::ConvShape;
use proto::Job;
use proto::job::{Block, Model, Stem};
use safetensors::SafeTensors;
use serde_json::Value;
use worker::collective::Abort;
use worker::data::Source;
use worker::evaluate::evaluate;
use worker::model::Geometry;

use crate::formula;
use crate::tensors::{self, Tensors, difference, worst};
use crate::training::{
    Images, LABEL_SMOOTHING, NORMALISATION, RULE, Training, any_device, predict,
};

#[test]
fn digits_in_one_slice_train_as_in_pytorch() {
    let (readings, mut training) = train_again("basic-whole", &digits());
    println!("{readings:?}");
    assert!(readings.are_close(), "{readings:?}");
    assert_evaluation_is_pytorchs("basic-whole", &mut training);
}

#[test]
fn digits_in_four_slices_train_as_in_pytorch() {
    let (readings, mut training) = train_again("basic-sliced", &digits());
    println!("{readings:?}");
    assert!(readings.are_close(), "{readings:?}");
    assert_evaluation_is_pytorchs("basic-sliced", &mut training);
}

#[test]
fn bottleneck_blocks_behind_the_imagenet_stem_train_as_in_pytorch() {
    let (readings, _) = train_again("bottleneck", &noise());
    println!("{readings:?}");
    assert!(readings.are_close(), "{readings:?}");
}

#[test]
fn layers_wide_enough_for_winograd_convolutions_train_as_in_pytorch() {
    let (model, geometry) = model_of(&expected()["runs"]["wide"]);
    let Geometry { slices: _, batch, height, width, .. } = geometry;
    let channels = model.widths[0];
    let (in_channels, out_channels) = (channels, channels);
    let conv = ConvShape {
        slices: 1,
        batch,
        height,
        width,
        in_channels,
        out_channels,
        kernel: 3,
        stride: 1,
        pad: 1,
    };
    // Winograd's weights are packed transformed: 36 for each 9.
    assert!(
        conv.packed_len(kernels::Family::Cpu).forward >= 4 * conv.weight_len(),
        "the layers are wide enough"
    );
    let train = formula::images(80, geometry);
    let data = Data { evaluated: train.part(0, 32), train };
    let (readings, _) = train_again("wide", &data);
    println!("{readings:?}");
    assert!(readings.are_close(), "{readings:?}");
}

#[test]
fn the_fixture_was_made_with_the_settings_of_these_tests() {
    let expected = expected();
    let number = |path: &str| expected.pointer(path).unwrap().as_f64().unwrap() as f32;
    assert_eq!(number("/optimizer/learning_rate"), RULE.learning_rate);
    assert_eq!(number("/optimizer/momentum"), RULE.momentum);
    assert_eq!(number("/optimizer/weight_decay"), RULE.weight_decay);
    assert_eq!(number("/label_smoothing"), LABEL_SMOOTHING);
    assert_eq!((number("/normalisation/mean"), number("/normalisation/std")), NORMALISATION);
}

/// Largest errors of a training. PyTorch's own in fp32, against fp64: 3e-7 for losses, 4e-7 for the final tensors.
#[derive(Clone, Copy, Debug)]
struct Readings {
    /// Relative, over all steps.
    loss: f64,
    /// Of the tensors' first gradients, relative.
    gradient_norm: f64,
    /// Of the final parameters and running statistics: largest difference over the tensor's largest value.
    parameter: f64,
    statistic: f64,
    /// Of the evaluation: relative, and absolute.
    evaluation_loss: f64,
    logit: f64,
}

impl Readings {
    fn are_close(&self) -> bool {
        let Readings { loss, gradient_norm, parameter, statistic, evaluation_loss, logit } = *self;
        [loss, gradient_norm, parameter, statistic, evaluation_loss, logit]
            .iter()
            .all(|&error| error <= ERROR_MAX)
    }
}

/// What a run is fed with.
struct Data {
    train: Images,
    evaluated: Images,
}

/// Repeats a run of the fixture from its initial weights on.
fn train_again(name: &str, data: &Data) -> (Readings, Training) {
    let expected = expected();
    let run = &expected["runs"][name];
    let batch = integer(&run["batch"]);
    let mut training = start(run);
    let mut readings = Readings {
        loss: 0.0,
        gradient_norm: 0.0,
        parameter: 0.0,
        statistic: 0.0,
        evaluation_loss: 0.0,
        logit: 0.0,
    };
    for (step, exact) in numbers(&run["losses_float64"]).into_iter().enumerate() {
        let loss = training.gradients(&data.train.part(step * batch, batch));
        readings.loss = readings.loss.max(relative(loss, exact));
        if step == 0 {
            readings.gradient_norm = gradient_norm_error(run, &training);
        }
        training.update();
    }
    let found = tensors::of_model(&training);
    let is_statistic = |name: &str| name.contains("running_");
    let error = |meant: &dyn Fn(&str) -> bool| match run["final_float64"].as_object() {
        Some(samples) => sample_error(&found, samples, meant),
        None => {
            let exact = tensors::parse(&file(&format!("{name}.final.safetensors")));
            tensor_error(&found, &exact, meant)
        }
    };
    readings.parameter = error(&|name| !is_statistic(name));
    readings.statistic = error(&is_statistic);
    (readings.evaluation_loss, readings.logit) =
        evaluation_errors(run, &mut training, &data.evaluated);
    (readings, training)
}

/// The run's model with its initial weights.
fn start(run: &Value) -> Training {
    let (model, geometry) = model_of(run);
    let mut training = Training::new(&any_device(), &model, geometry, integer(&run["slices"]));
    training.restore_model(&match run["init"].as_str() {
        Some(name) => file(name),
        None => formula::weights(&model, geometry),
    });
    training
}

/// The run's model, and the geometry of its slices.
fn model_of(run: &Value) -> (Model, Geometry) {
    let model = Model {
        block: if run["block"] == "basic" { Block::Basic } else { Block::Bottleneck },
        blocks: integers(&run["depths"]),
        widths: integers(&run["widths"]),
        stem: if run["stem"] == "cifar" { Stem::Cifar } else { Stem::Imagenet },
        stem_bias: false,
        zero_init_residual: false,
    };
    let input = integers(&run["input_shape_hwc"]);
    let geometry = Geometry {
        slices: 1,
        batch: integer(&run["batch"]) / integer(&run["slices"]),
        height: input[0],
        width: input[1],
        channels: input[2],
        classes: integer(&run["classes"]),
    };
    (model, geometry)
}

fn gradient_norm_error(run: &Value, training: &Training) -> f64 {
    let found = tensors::of_gradients(training.model.layout(), &training.slots[0]);
    let exact = run["first_gradient_norms_float64"].as_object().unwrap();
    assert!(found.keys().eq(exact.keys()), "the same tensors have gradients");
    let error =
        |(name, norm): (&String, &Value)| relative(found[name].norm(), norm.as_f64().unwrap());
    worst(exact.iter().map(error))
}

/// Largest over the tensors that are `meant`.
fn tensor_error(found: &Tensors, exact: &Tensors, meant: &dyn Fn(&str) -> bool) -> f64 {
    assert!(found.keys().eq(exact.keys()), "the same tensors are in the file");
    let error = |(name, found): (&String, &tensors::Tensor)| {
        let exact = &exact[name];
        assert_eq!(found.shape, exact.shape, "{name}");
        difference(&found.values, &exact.values) / exact.largest()
    };
    worst(found.iter().filter(|(name, _)| meant(name)).map(error))
}

/// The same where the fixture has samples of the tensors.
fn sample_error(
    found: &Tensors,
    exact: &serde_json::Map<String, Value>,
    meant: &dyn Fn(&str) -> bool,
) -> f64 {
    assert!(found.keys().eq(exact.keys()), "the same tensors are in the file");
    let error = |(name, found): (&String, &tensors::Tensor)| {
        let samples = &exact[name];
        let found: Vec<f64> =
            found.values.iter().copied().step_by(integer(&samples["every"])).collect();
        difference(&found, &numbers(&samples["values"])) / samples["largest"].as_f64().unwrap()
    };
    worst(found.iter().filter(|(name, _)| meant(name)).map(error))
}

/// Errors of the loss and of the logits with running statistics. Hits are compared at once: they must be equal.
fn evaluation_errors(run: &Value, training: &mut Training, images: &Images) -> (f64, f64) {
    let exact = &run["evaluation_float64"];
    let batch = training.model.geometry().batch;
    let mut logits: Vec<Vec<f64>> = Vec::new();
    for first in (0..images.labels.len()).step_by(batch) {
        let found = predict(&mut training.model, &images.part(first, batch).pixels);
        let rows = found.chunks_exact(training.model.geometry().classes);
        logits.extend(rows.map(|row| row.iter().map(|&logit| f64::from(logit)).collect()));
    }
    let (mut loss, mut correct) = (0.0, 0);
    for (logits, &label) in logits.iter().zip(&images.labels) {
        let own = logits[label as usize];
        loss += logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - own;
        correct += usize::from(logits.iter().all(|&logit| logit <= own));
    }
    assert_eq!(correct, integer(&exact["correct"]));
    let loss = relative(loss / images.labels.len() as f64, exact["loss"].as_f64().unwrap());
    let first: Vec<Vec<f64>> =
        exact["first_logits"].as_array().unwrap().iter().map(numbers).collect();
    let logit = logits.iter().zip(&first).map(|(found, exact)| difference(found, exact));
    (loss, worst(logit))
}

/// The evaluation of the product itself, on the dataset as it is opened by a worker.
fn assert_evaluation_is_pytorchs(name: &str, training: &mut Training) {
    let (mean, std) = NORMALISATION;
    let job = Job::parse(&format!(
        "name='digits'\n[data]\nformat='idx'\npath='.'\nmean=[{mean:?}]\nstd=[{std:?}]\n[model]\narch='resnet18'\n\
         [train]\nepochs=1\nbatch=32\n[optimizer]\nlearning_rate=1.0\n"
    ));
    let source = Source::new(Arc::new(digits_dataset()), &job.unwrap());
    let expected = expected();
    let run = &expected["runs"][name];
    let images = integer(&run["evaluated_images"]);
    let counts = evaluate(&mut training.model, &source, 0..images, &Abort::new());
    let (counts, _) = counts.expect("nobody aborts");
    assert_eq!(counts.samples, images as u64);
    assert_eq!(counts.correct, run["evaluation_float64"]["correct"].as_u64().unwrap());
    let loss = counts.loss_fixed as f64 / f64::from(1 << 20) / images as f64;
    let error = relative(loss, run["evaluation_float64"]["loss"].as_f64().unwrap());
    assert!(error <= ERROR_MAX, "the loss is {loss}: off by {error:.1e}");
}

fn digits() -> Data {
    let digits = digits_dataset();
    let images = |split: &dataset::Split, count: usize| Images {
        pixels: (0..count).flat_map(|i| split.pixels(i).unwrap().to_vec()).collect(),
        labels: (0..count).map(|i| split.label(i)).collect(),
    };
    Data { train: images(&digits.train, 320), evaluated: images(&digits.test, 32) }
}

fn digits_dataset() -> Dataset {
    Dataset::open(Format::Idx, &repository().join("examples/digits")).unwrap()
}

/// The random images, evaluated on the first of those that the training saw.
fn noise() -> Data {
    let bytes = file("bottleneck.inputs.safetensors");
    let inputs = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| inputs.tensor(name).unwrap().data();
    let labels = data("labels").iter().map(|&label| u32::from(label)).collect();
    let train = Images { pixels: data("images").to_vec(), labels };
    Data { evaluated: train.part(0, 32), train }
}

fn expected() -> Value {
    serde_json::from_slice(&file("expected.json")).unwrap()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/fixtures/pytorch").join(name)).unwrap()
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn relative(found: f64, exact: f64) -> f64 {
    assert!(found.is_finite());
    (found - exact).abs() / exact.abs()
}

fn integer(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn integers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(integer).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Ten to a hundred times what the CPU device and PyTorch's fp32 are off by.
const ERROR_MAX: f64 = 1e-5;
