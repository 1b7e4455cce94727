//! The model's gradients against derivatives of the fp64 reference, tensor by tensor.

use dataset::Draws;
use proto::job::{Block, Model, Stem};
use worker::layout::Total;
use worker::model::Geometry;

use crate::reference::{self, Activation, Target};
use crate::tensors::{self, Tensor, Tensors, difference, largest};
use crate::training::{Images, LABEL_SMOOTHING, NORMALISATION, Training, any_device};

#[test]
fn gradients_of_basic_blocks_on_an_odd_image_are_the_derivatives() {
    let case = Case {
        block: Block::Basic,
        stem: Stem::Cifar,
        blocks: &[1, 1],
        widths: &[6, 10],
        input: [7, 9, 3],
        classes: 10,
        batch: 3,
    };
    println!("{}", check(&case));
}

#[test]
fn gradients_of_bottleneck_blocks_behind_the_imagenet_stem_are_the_derivatives() {
    let case = Case {
        block: Block::Bottleneck,
        stem: Stem::Imagenet,
        blocks: &[1, 1],
        widths: &[4, 6],
        input: [19, 17, 1],
        classes: 7,
        batch: 3,
    };
    println!("{}", check(&case));
}

#[test]
fn gradients_of_a_stage_of_two_blocks_are_the_derivatives() {
    let case = Case {
        block: Block::Basic,
        stem: Stem::Cifar,
        blocks: &[2, 1],
        widths: &[5, 7],
        input: [6, 5, 2],
        classes: 3,
        batch: 4,
    };
    println!("{}", check(&case));
    println!("{}", check(&Case { block: Block::Bottleneck, ..case }));
}

#[test]
fn gradients_on_images_of_one_pixel_are_the_derivatives() {
    let case = Case {
        block: Block::Basic,
        stem: Stem::Cifar,
        blocks: &[1, 1],
        widths: &[5, 7],
        input: [1, 1, 2],
        classes: 3,
        batch: 6,
    };
    println!("{}", check(&case));
    println!("{}", check(&Case { block: Block::Bottleneck, stem: Stem::Imagenet, ..case }));
}

struct Case {
    block: Block,
    stem: Stem,
    blocks: &'static [usize],
    widths: &'static [usize],
    input: [usize; 3], // H, W, C
    classes: usize,
    batch: usize,
}

/// Largest relative errors of a case.
fn check(case: &Case) -> String {
    let model = Model {
        block: case.block,
        blocks: case.blocks.to_vec(),
        widths: case.widths.to_vec(),
        stem: case.stem,
        stem_bias: false,
        zero_init_residual: false,
    };
    let [height, width, channels] = case.input;
    let geometry =
        Geometry { slices: 1, batch: case.batch, height, width, channels, classes: case.classes };
    let mut training = Training::new(&any_device(), &model, geometry, 1);
    training.model.initialise(SEED);
    leave_ones_and_zeros(&mut training);
    let images = Images::random(SEED, case.batch, geometry);
    let loss = training.gradients(&images);

    let found = tensors::of_gradients(training.model.layout(), &training.slots[0]);
    let target = Target { labels: &images.labels, smoothing: f64::from(LABEL_SMOOTHING) };
    let input = input(&images, geometry);
    let mut weights = tensors::of_model(&training);
    let logits_of = |weights: &Tensors| reference::logits(&model, weights, &input);
    let loss_of = |weights: &Tensors| reference::loss(&logits_of(weights), target);
    let loss_error = (loss / loss_of(&weights) - 1.0).abs();
    assert!(loss_error <= LOSS_ERROR_MAX, "the loss is {loss}: off by {loss_error:.1e}");
    let hits = reference::hits(&logits_of(&weights), &images.labels);
    assert_eq!(training.total(Total::Correct), hits as f32);

    let mut worst = (0.0, String::new());
    for (name, found) in &found {
        let entries = entries(found);
        let derivative = |&at: &usize| derivative(&mut weights, name, at, &loss_of);
        let exact: Vec<f64> = entries.iter().map(derivative).collect();
        let found: Vec<f64> = entries.iter().map(|&at| found.values[at]).collect();
        let error = difference(&found, &exact) / largest(&exact);
        assert!(error <= ERROR_MAX, "{name} {entries:?} is {found:?}, not {exact:?}: {error:.1e}");
        worst = if error > worst.0 { (error, name.clone()) } else { worst };
    }
    format!(
        "{:?}, {:?}, {:?}: loss {loss_error:.1e}, {} tensors, worst {:.1e} ({})",
        case.block,
        case.stem,
        case.input,
        found.len(),
        worst.0,
        worst.1
    )
}

/// BatchNorm starts as 1 and 0, where some mistakes don't show.
pub(crate) fn leave_ones_and_zeros(training: &mut Training) {
    let spans: Vec<kernels::Span> = training
        .model
        .layout()
        .parameters
        .iter()
        .filter(|tensor| !tensor.role.decays())
        .map(|tensor| tensor.span)
        .collect();
    let mut draws = Draws::new(SEED, 1);
    let (params, _) = training.model.state_mut();
    let params = params.host_mut().unwrap();
    for span in spans {
        for value in &mut params[span.start..span.end()] {
            *value += 0.4 * (draws.unit() as f32 - 0.5);
        }
    }
    training.model.pack();
}

/// The images as the reference takes them.
pub(crate) fn input(images: &Images, geometry: Geometry) -> Activation {
    let Geometry { slices: _, batch, height, width, channels, .. } = geometry;
    let (mean, std) = NORMALISATION;
    let mut values = Vec::new();
    for sample in images.pixels.chunks_exact(height * width * channels) {
        for channel in 0..channels {
            let pixels = sample.iter().skip(channel).step_by(channels);
            values
                .extend(pixels.map(|&p| (f64::from(p) / 255.0 - f64::from(mean)) / f64::from(std)));
        }
    }
    Activation { shape: [batch, channels, height, width], values }
}

/// The entry of the largest gradient, and some others.
fn entries(gradient: &Tensor) -> Vec<usize> {
    let len = gradient.values.len();
    let largest = gradient.largest();
    let first = gradient.values.iter().position(|value| value.abs() == largest).unwrap();
    let mut draws = Draws::new(SEED, len as u64);
    let mut entries = vec![first];
    while entries.len() < len.min(ENTRIES) {
        let entry = draws.below(len as u64) as usize;
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries
}

/// The central difference of the loss at one entry.
fn derivative(
    weights: &mut Tensors,
    name: &str,
    at: usize,
    loss: &impl Fn(&Tensors) -> f64,
) -> f64 {
    let value = weights[name].values[at];
    let mut loss_at = |value: f64| {
        weights.get_mut(name).unwrap().values[at] = value;
        loss(weights)
    };
    let rise = loss_at(value + STEP) - loss_at(value - STEP);
    loss_at(value);
    rise / (2.0 * STEP)
}

const SEED: u64 = 7;
/// Entries of a tensor that are looked at.
const ENTRIES: usize = 4;
/// Small enough to meet no kink of a ReLU or of max pooling, large enough for 10 digits of a difference.
const STEP: f64 = 1e-6;
const LOSS_ERROR_MAX: f64 = 1e-6;
/// Of a tensor: largest difference over largest derivative.
const ERROR_MAX: f64 = 1e-4;
