//! Magnitudes and operations against torchvision's, and who changes what how often. The expected values
//! are made by `tests/fixtures/make_augment.py`.

use super::Policy;
use super::operation::Kind;
use super::operation::Operation;
use super::translate;
use crate::decode::tests::fixtures;
use crate::index::ImageShape;
use crate::order::Draws;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;

#[test]
fn magnitudes_are_those_of_torchvision() {
    let text = fs::read_to_string(fixtures().join("magnitudes.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 2 * 2 * Kind::ALL.len());
    for case in cases {
        let policy = match case["policy"].as_str().unwrap() {
            "rand" => Policy::RandAugment { operations: 2, magnitude: 9 },
            _ => Policy::TrivialAugment,
        };
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let shape = ImageShape { height: number("height"), width: number("width"), channels: 3 };
        let kind = kind(case["kind"].as_str().unwrap());
        assert_eq!(kind.is_signed(), case["signed"].as_bool().unwrap(), "{case}");
        for level in 0..=Policy::MAGNITUDE_MAX {
            let found = policy.ranges(shape).magnitude(kind, level);
            let expected = case["magnitudes"][level].as_f64().unwrap();
            // torchvision's are fp32.
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                "{level} of {case}"
            );
        }
    }
}

#[test]
fn operations_are_those_of_torchvision() {
    let bytes = fs::read(fixtures().join("operations.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut seen = 0;
    for (name, expected) in tensors.tensors() {
        let parts: Vec<&str> = name.split('_').collect();
        let [kind_name, magnitude, image] = parts[..] else { continue };
        let image = tensors.tensor(image).unwrap();
        let [height, width, channels] = image.shape()[..] else { panic!("{name}") };
        let mut pixels = image.data().to_vec();
        let operation = Operation { kind: kind(kind_name), magnitude: magnitude.parse().unwrap() };
        operation.apply(ImageShape { height, width, channels }, &mut pixels);
        let differences: Vec<u8> =
            pixels.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).collect();
        let most = differences.iter().max().unwrap();
        let other = differences.iter().filter(|&&difference| difference > 0).count();
        if other > 0 {
            println!("{name}: {other} of {} differ, at most by {most}", pixels.len());
        }
        // Blends in fp32 that torchvision rounds once where we round twice, cut to whole values.
        assert!(*most <= 1, "{name}: {most}");
        seen += 1;
    }
    assert_eq!(seen, 47 * 4);
}

#[test]
fn a_policy_is_a_function_of_the_draws() {
    let shape = ImageShape { height: 20, width: 20, channels: 3 };
    let bytes = fs::read(fixtures().join("operations.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let original = tensors.tensor("noise").unwrap().data().to_vec();
    let two = Policy::RandAugment { operations: 2, magnitude: 9 };
    let none = Policy::RandAugment { operations: 0, magnitude: 9 };
    let changed = |policy: Policy, position| {
        let mut pixels = original.clone();
        policy.apply(shape, &mut Draws::new(5, position), &mut pixels);
        pixels
    };
    for policy in [Policy::TrivialAugment, two] {
        let samples: Vec<Vec<u8>> = (0..300).map(|position| changed(policy, position)).collect();
        assert_eq!(samples, (0..300).map(|p| changed(policy, p)).collect::<Vec<_>>());
        let kept = samples.iter().filter(|sample| **sample == original).count();
        // Identity is one of fourteen; a weak operation may change nothing either.
        assert!(kept < 75, "{policy:?}: {kept} of 300 unchanged");
    }
    assert_eq!(changed(none, 1), original);
}

#[test]
fn a_translation_is_a_crop_of_the_image_with_black_around_it() {
    let shape = ImageShape { height: 4, width: 5, channels: 1 };
    let original: Vec<u8> = (1..=20).collect();
    for (top, left) in [(0, 0), (1, -2), (-3, 4), (0, 5), (-9, 0)] {
        let mut pixels = original.clone();
        translate(shape, &mut pixels, [-left, -top]);
        for (index, &value) in (0isize..).zip(&pixels) {
            let (row, column) = (index / 5 + top, index % 5 + left);
            let inside = (0..4).contains(&row) && (0..5).contains(&column);
            let expected = if inside { original[(row * 5 + column) as usize] } else { 0 };
            assert_eq!(value, expected, "{index} of a crop at {top}, {left}");
        }
    }
}

#[test]
fn pixels_never_change_silently() {
    let shape = ImageShape { height: 9, width: 7, channels: 3 };
    let mut pixels: Vec<u8> = (0..shape.len()).map(|i| (i * 37 % 251) as u8).collect();
    for position in 0..60 {
        Policy::TrivialAugment.apply(shape, &mut Draws::new(1, position), &mut pixels);
        // Fresh values, so that a black or flat image is not the end.
        pixels.iter_mut().enumerate().for_each(|(i, value)| *value ^= (i * 91 % 256) as u8);
    }
    let sum = pixels.iter().fold(0u64, |sum, &value| sum.wrapping_mul(31) + u64::from(value));
    assert_eq!(sum, PINNED);
}

fn kind(name: &str) -> Kind {
    *Kind::ALL.iter().find(|kind| format!("{kind:?}") == name).unwrap()
}

const PINNED: u64 = 14331889066859563594;
