//! What must not change a result: threads, instruction sets, the rest of a batch; and what the first values and the
//! announcements of buckets must be.

use std::collections::HashSet;
use std::ops::Range;

use kernels::{Device, Family, Isa};
use proto::job::{Arch, Block, Model, Stem};
use worker::layout::Role;
use worker::model::{Geometry, ResNet};

use crate::tensors::snapshot;
use crate::training::{Images, Training, any_device, bits, device, predict};

#[test]
fn first_values_depend_on_the_seed_alone() {
    let geometry = Geometry { slices: 1, batch: 4, height: 9, width: 7, channels: 3, classes: 10 };
    let other = Geometry { slices: 1, batch: 2, height: 12, width: 12, ..geometry };
    let start = |seed, device: &Device, geometry| {
        let mut training = Training::new(device, &cifar(), geometry, 1);
        training.model.initialise(seed);
        training.state_bits()
    };
    let first = start(1, &any_device(), geometry);
    assert!(first == start(1, &device(1, Isa::Portable), other));
    let second = start(2, &any_device(), geometry);
    let differ = first[0].iter().zip(&second[0]).filter(|(a, b)| a != b).count();
    let layout = Training::new(&any_device(), &cifar(), geometry, 1).model.layout().clone();
    let drawn = layout.parameters.iter().filter(|tensor| is_drawn(tensor.role));
    let drawn: usize = drawn.map(|tensor| tensor.span.len).sum();
    // Two draws agree once in millions.
    assert!(differ > drawn - 10 && differ <= drawn, "{differ} of {drawn} drawn values differ");
}

#[test]
fn a_model_for_inference_gives_the_same_logits_out_of_less_memory() {
    let geometry = Geometry { slices: 1, batch: 3, height: 33, width: 33, channels: 3, classes: 7 };
    let widths = vec![8, 16, 20];
    let of = |block, stem, blocks: &[usize], stem_bias| {
        let (blocks, widths) = (blocks.to_vec(), widths.clone());
        Model { block, blocks, widths, stem, stem_bias, zero_init_residual: false }
    };
    for model in [
        of(Block::Basic, Stem::Cifar, &[1, 2, 1], false),
        of(Block::Bottleneck, Stem::Imagenet, &[2, 1, 2], true),
        of(Block::Basic, Stem::Imagenet, &[2, 1, 1], false),
    ] {
        let mut training = Training::new(&any_device(), &model, geometry, 1);
        training.model.initialise(5);
        let mut alone = ResNet::for_inference(&any_device(), &model, geometry);
        let (params, running) = alone.state_mut();
        params.host_mut().unwrap().copy_from_slice(training.model.params().host().unwrap());
        running.host_mut().unwrap().copy_from_slice(training.model.running().host().unwrap());
        alone.pack();
        let pixels: Vec<u8> = (0..3 * 33 * 33 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let logits = |model: &mut ResNet, pixels: &[u8]| -> Vec<u32> {
            predict(model, pixels).iter().map(|logit| logit.to_bits()).collect()
        };
        let expected = logits(&mut training.model, &pixels);
        assert_eq!(logits(&mut alone, &pixels), expected, "{model:?}");
        // Nothing is left of one image in the next.
        let others: Vec<u8> = pixels.iter().map(|&pixel| !pixel).collect();
        assert_ne!(logits(&mut alone, &others), expected);
        assert_eq!(logits(&mut alone, &pixels), expected, "{model:?}");
    }
    let resnet50 = Model::standard(Arch::Resnet50);
    let photo =
        Geometry { slices: 1, batch: 8, height: 224, width: 224, channels: 3, classes: 1000 };
    let (whole, alone) = (
        ResNet::elements(Family::Cpu, &resnet50, photo, &[]),
        ResNet::inference_elements(Family::Cpu, &resnet50, photo),
    );
    assert!(5 * alone.total < 2 * whole.total, "{alone:?} {whole:?}");
}

#[test]
fn first_values_have_the_spread_that_pytorch_gives_them() {
    let geometry = Geometry { slices: 1, batch: 1, height: 8, width: 8, channels: 3, classes: 200 };
    let mut training = Training::new(&any_device(), &cifar(), geometry, 1);
    training.model.initialise(11);
    let params = training.model.params().host().unwrap();
    for tensor in &training.model.layout().parameters {
        let deviation = match tensor.role {
            Role::ConvWeight { kernel, outputs, .. } => {
                (2.0 / (kernel * kernel * outputs) as f64).sqrt()
            }
            // Evenly between two bounds: the bound over the square root of 3.
            Role::LinearWeight { inputs, .. } | Role::LinearBias { inputs } => {
                1.0 / (3.0 * inputs as f64).sqrt()
            }
            _ => continue,
        };
        let values = &params[tensor.span.start..tensor.span.end()];
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        // Four standard errors of a mean, and of a deviation for the normal distribution.
        let chance = 4.0 / count.sqrt();
        assert!(mean.abs() < chance * deviation, "{}: mean {mean}", tensor.name);
        let ratio = (squares / count).sqrt() / deviation;
        assert!((ratio - 1.0).abs() < chance, "{}: deviation {ratio} of {deviation}", tensor.name);
    }
}

#[test]
fn no_two_convolutions_start_with_the_same_draws() {
    let geometry = Geometry { slices: 1, batch: 1, height: 8, width: 8, channels: 3, classes: 10 };
    let mut training = Training::new(&any_device(), &cifar(), geometry, 1);
    training.model.initialise(12);
    let params = training.model.params().host().unwrap();
    let layout = training.model.layout();
    let is_conv = |role: Role| matches!(role, Role::ConvWeight { .. });
    let weights = layout.parameters.iter().filter(|tensor| is_conv(tensor.role));
    // Signs survive the factor that the tensor's size puts on its draws.
    let signs = |start: usize| -> Vec<bool> {
        params[start..start + 64].iter().map(|value| value.is_sign_negative()).collect()
    };
    let starts: Vec<Vec<bool>> = weights.map(|tensor| signs(tensor.span.start)).collect();
    let distinct: HashSet<&Vec<bool>> = starts.iter().collect();
    assert_eq!(distinct.len(), starts.len());
}

#[test]
fn each_bucket_is_announced_once_in_order_and_when_its_gradients_are_final() {
    for (model, geometry) in models() {
        for len_max in BUCKET_LENS_MAX {
            let (training, buckets, announced) = announcements(&model, geometry, len_max);
            let end = bits(&training.slots[0]);
            let order: Vec<usize> = announced.iter().map(|announced| announced.bucket).collect();
            assert_eq!(order, (0..buckets.len()).collect::<Vec<usize>>());
            for (range, announced) in buckets.iter().zip(&announced) {
                assert!(announced.content == end[range.clone()], "{range:?} changed afterwards");
            }
            let end = training.slots[0].host().unwrap();
            assert!(end.iter().all(|value| value.is_finite()), "backward writes every gradient");
        }
    }
}

#[test]
fn each_bucket_is_announced_before_backward_goes_on_to_the_next_layer() {
    for (model, geometry) in models() {
        for len_max in BUCKET_LENS_MAX {
            let (training, buckets, announced) = announcements(&model, geometry, len_max);
            let layout = training.model.layout();
            let ends_layer =
                |role: Role| matches!(role, Role::ConvWeight { .. } | Role::LinearBias { .. });
            let layers = layout.parameters.iter().filter(|tensor| ends_layer(tensor.role));
            let ends: Vec<usize> = layers.map(|tensor| tensor.span.end()).collect();
            for (range, announced) in buckets.iter().zip(&announced) {
                let done = ends.iter().copied().find(|&end| end >= range.end);
                let done = done.unwrap_or(layout.parameters_len());
                assert_eq!(announced.unwritten, layout.parameters_len() - done, "{range:?}");
            }
        }
    }
}

#[test]
fn a_model_that_changed_its_size_trains_as_one_made_for_it() {
    // Wide enough that the algorithm of its convolutions depends on the size: see `ConvShape::packed_len`.
    let wide = Model { blocks: vec![1], widths: vec![64], ..cifar() };
    let geometry = Geometry { slices: 1, batch: 2, height: 8, width: 7, channels: 3, classes: 5 };
    for (model, large) in models().into_iter().chain([(wide, geometry)]) {
        // The memory holds what other sizes left, and is longer than this one needs.
        let small = Geometry { height: large.height - 3, width: large.width - 2, ..large };
        let sizes = [large, small].map(|geometry| [geometry.height, geometry.width]);
        let mut changing = Training::with_room(&any_device(), &model, large, &sizes);
        changing.model.initialise(3);
        for (step, geometry) in [large, small, large, small].into_iter().enumerate() {
            let images = Images::random(step as u64, 2 * geometry.batch, geometry);
            let mut made = Training::new(&any_device(), &model, geometry, 2);
            let saved = snapshot(&changing, step as u64);
            made.restore_model(&saved.encode_model());
            made.restore_optimizer(&saved.encode_optimizer());
            changing.model.resize(1, geometry.height, geometry.width);
            assert_eq!(changing.step(&images).to_bits(), made.step(&images).to_bits());
            assert!(changing.state_bits() == made.state_bits(), "step {step} of {model:?}");
        }
    }
}

#[test]
fn memory_is_planned_for_the_largest_size() {
    let (model, geometry) = models().remove(0);
    let elements = |sizes: &[[usize; 2]]| ResNet::elements(Family::Cpu, &model, geometry, sizes);
    assert_eq!(elements(&[[geometry.height - 1, geometry.width]]), elements(&[]));
    let large = Geometry { height: 2 * geometry.height, ..geometry };
    let alone = ResNet::elements(Family::Cpu, &model, large, &[]);
    assert_eq!(elements(&[[large.height, large.width]]).total, alone.total);
}

#[test]
fn training_has_the_same_bits_on_any_threads_and_instruction_set() {
    for (model, geometry) in models() {
        let run = |device: &Device| {
            let mut training = Training::new(device, &model, geometry, 2);
            training.model.initialise(8);
            let images = Images::random(8, 4 * geometry.batch, geometry);
            let mut seen = Vec::new();
            for step in 0..2 {
                let batch = images.part(2 * step * geometry.batch, 2 * geometry.batch);
                seen.push(training.gradients(&batch).to_bits() as u32);
                seen.extend(training.slots.iter().flat_map(bits));
                training.update();
            }
            seen.extend(training.state_bits().concat());
            let logits = predict(&mut training.model, &images.part(0, geometry.batch).pixels);
            seen.extend(logits.iter().map(|logit| logit.to_bits()));
            seen
        };
        let first = run(&device(1, Isa::Portable));
        for isa in Isa::ALL {
            if !isa.is_available() {
                println!("skipped: this processor lacks {isa}");
                continue;
            }
            for threads in 1..=3 {
                let same = run(&device(threads, isa)) == first;
                assert!(same, "{:?} with {threads} threads, {isa}", model.block);
            }
        }
    }
}

#[test]
fn a_prediction_does_not_depend_on_the_rest_of_the_batch() {
    for (model, geometry) in models() {
        let mut training = Training::new(&any_device(), &model, geometry, 1);
        training.model.initialise(9);
        let images = Images::random(9, geometry.batch, geometry);
        // A step, so that the running statistics are not those of the start.
        training.step(&images);
        let logits = predict(&mut training.model, &images.pixels);
        let row = |logits: &[f32], sample: usize| {
            let classes = geometry.classes;
            let row = &logits[sample * classes..(sample + 1) * classes];
            row.iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>()
        };
        let other = Images::random(10, geometry.batch, geometry);
        let mut alone = Training::new(&any_device(), &model, Geometry { batch: 1, ..geometry }, 1);
        alone.restore_model(&snapshot(&training, 1).encode_model());
        for sample in 0..geometry.batch {
            // Among strangers, at the mirrored place.
            let place = geometry.batch - 1 - sample;
            let image = images.part(sample, 1).pixels;
            let mut pixels = other.pixels.clone();
            pixels[place * image.len()..(place + 1) * image.len()].copy_from_slice(&image);
            let among = predict(&mut training.model, &pixels);
            assert_eq!(row(&among, place), row(&logits, sample), "{:?}", model.block);
            let alone = predict(&mut alone.model, &image);
            assert_eq!(row(&alone, 0), row(&logits, sample), "{:?} alone", model.block);
        }
    }
}

#[test]
fn slices_of_one_row_train_without_losing_a_number() {
    // One sample and one pixel: no variance to divide by, and none to correct.
    let geometry = Geometry { slices: 1, batch: 1, height: 1, width: 1, channels: 3, classes: 4 };
    let mut training = Training::new(&any_device(), &cifar(), geometry, 2);
    training.model.initialise(13);
    for seed in 0..3 {
        assert!(training.step(&Images::random(seed, 2, geometry)).is_finite());
    }
    let finite = |bits: &u32| f32::from_bits(*bits).is_finite();
    assert!(training.state_bits().iter().flatten().all(finite));
}

/// Widths that fill whole panels of channels and widths that do not, on images of odd sizes.
fn models() -> Vec<(Model, Geometry)> {
    let bottleneck = Model {
        block: Block::Bottleneck,
        blocks: vec![2, 1],
        widths: vec![6, 20],
        stem: Stem::Imagenet,
        stem_bias: false,
        zero_init_residual: false,
    };
    let geometry = Geometry { slices: 1, batch: 5, height: 19, width: 33, channels: 3, classes: 7 };
    let small = Geometry { slices: 1, batch: 4, height: 9, width: 7, channels: 1, classes: 10 };
    vec![(bottleneck, geometry), (cifar(), small)]
}

fn cifar() -> Model {
    Model {
        block: Block::Basic,
        blocks: vec![1, 1, 1],
        widths: vec![16, 24, 40],
        stem: Stem::Cifar,
        stem_bias: false,
        zero_init_residual: false,
    }
}

/// What backward said about a bucket, and the gradient vector at that moment.
struct Announced {
    bucket: usize,
    content: Vec<u32>,
    /// Parameters whose gradient nothing was written to yet.
    unwritten: usize,
}

/// Forward and backward of one slice, whose gradient vector starts as NaN.
fn announcements(
    model: &Model,
    geometry: Geometry,
    len_max: usize,
) -> (Training, Vec<Range<usize>>, Vec<Announced>) {
    let mut training = Training::new(&any_device(), model, geometry, 1);
    training.model.initialise(5);
    let buckets = training.model.layout().buckets(len_max);
    let parameters = training.model.layout().parameters_len();
    training.forward(0, &Images::random(5, geometry.batch, geometry), geometry.batch);
    let mut announced = Vec::new();
    let Training { model, slots, .. } = &mut training;
    model.backward(&mut slots[0], &buckets, &mut |bucket, slice| {
        let content = bits(slice)[buckets[bucket].clone()].to_vec();
        let gradients = &slice.host().unwrap()[..parameters];
        let unwritten = gradients.iter().filter(|value| value.is_nan()).count();
        announced.push(Announced { bucket, content, unwritten });
    });
    (training, buckets, announced)
}

fn is_drawn(role: Role) -> bool {
    matches!(role, Role::ConvWeight { .. } | Role::LinearWeight { .. } | Role::LinearBias { .. })
}

/// From one tensor a bucket to one bucket for all.
const BUCKET_LENS_MAX: [usize; 4] = [1, 300, 5000, usize::MAX];
