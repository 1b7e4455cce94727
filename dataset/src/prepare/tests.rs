//! Windows and samples against torchvision's, and that the same draws give the same pixels. The
//! expected values are made by `tests/fixtures/make.py`, which runs torchvision's code on our draws.

use super::Preparation;
use super::Preparer;
use super::Window;
use super::random_window;
use crate::decode::ImageFault;
use crate::decode::tests::fixtures;
use crate::order::Draws;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;

#[test]
fn windows_are_those_of_torchvision() {
    let text = fs::read_to_string(fixtures().join("windows.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 288);
    for case in cases {
        let pair = |key: &str| [0, 1].map(|i| case[key][i].as_f64().unwrap());
        let number = |key: &str| case[key].as_u64().unwrap();
        let mut draws = Draws::new(7, number("position"));
        let (width, height) = (number("width") as usize, number("height") as usize);
        let window = random_window(width, height, pair("scale"), pair("ratio"), &mut draws);
        let expected = [0, 1, 2, 3].map(|i| case["window"][i].as_u64().unwrap() as usize);
        let found = [window.left, window.top, window.width, window.height];
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn windows_of_the_whole_image_are_the_whole_image() {
    for (width, height) in [(1, 1), (16_384, 1), (640, 480)] {
        let ratio = [width as f64 / height as f64; 2];
        let window = random_window(width, height, [1.0, 1.0], ratio, &mut Draws::new(1, 2));
        assert_eq!(window, Window { left: 0, top: 0, width, height });
    }
    // No shape fits a strip: the largest allowed one in the middle.
    let window = random_window(16_384, 1, [0.5, 1.0], [1.0, 1.0], &mut Draws::new(1, 2));
    assert_eq!(window, Window { left: 8191, top: 0, width: 1, height: 1 });
    let window = random_window(3, 1000, [0.5, 1.0], [100.0, 100.0], &mut Draws::new(1, 2));
    assert_eq!(window, Window { left: 0, top: 499, width: 3, height: 1 });
}

#[test]
fn samples_are_those_of_torchvision() {
    let bytes = fs::read(fixtures().join("prepared.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.names().len(), 9);
    for (name, tensor) in tensors.tensors() {
        let mut numbers = name.split('_').skip(1).map(|number| number.parse::<usize>().unwrap());
        let mut next = || numbers.next().unwrap();
        let mut sample = vec![0; tensor.data().len()];
        if name.starts_with("centre") {
            let preparation = Preparation::ResizeCentreCrop { resize: next(), size: next() };
            let mut preparer = Preparer::new(preparation);
            let path = fixtures().join("photo.png");
            preparer.sample(&path, &mut Draws::new(0, 0), &mut sample).unwrap();
        } else {
            let window = Window { left: next(), top: next(), width: next(), height: next() };
            let mut preparer = Preparer::new(Preparation::AsStored);
            preparer.picture.decode(&fs::read(fixtures().join("photo.png")).unwrap()).unwrap();
            preparer.resize_window(window, 48, &mut sample);
        }
        let differences =
            || sample.iter().zip(tensor.data()).map(|(&a, &b)| f64::from(a) - f64::from(b));
        let mean = differences().map(f64::abs).sum::<f64>() / sample.len() as f64;
        let bias = differences().sum::<f64>() / sample.len() as f64;
        let largest = differences().map(f64::abs).fold(0.0, f64::max);
        // Weights and sums are rounded to fixed point, which may go either way.
        let close = mean <= 0.25 && bias.abs() <= 0.05 && largest <= 1.0;
        assert!(close, "{name}: mean {mean}, bias {bias}, largest {largest}");
    }
}

#[test]
fn a_sample_is_a_function_of_the_file_and_the_draws() {
    let crop =
        Preparation::RandomResizedCrop { size: 24, scale: [0.08, 1.0], ratio: [0.75, 1.3333] };
    let sample = |preparer: &mut Preparer, position: u64| {
        let mut pixels = vec![0; 24 * 24 * 3];
        let path = fixtures().join("baseline_420.jpg");
        preparer.sample(&path, &mut Draws::new(3, position), &mut pixels).unwrap();
        pixels
    };
    let mut used = Preparer::new(crop);
    let samples: Vec<_> = (0..20).map(|position| sample(&mut used, position)).collect();
    for (position, pixels) in samples.iter().enumerate() {
        assert_eq!(sample(&mut Preparer::new(crop), position as u64), *pixels);
    }
    assert!(samples.iter().enumerate().all(|(i, pixels)| !samples[..i].contains(pixels)));
    // Another side in between leaves nothing behind.
    let path = fixtures().join("baseline_420.jpg");
    used.resize_crops_to(7);
    used.sample(&path, &mut Draws::new(3, 0), &mut [0; 7 * 7 * 3]).unwrap();
    used.resize_crops_to(24);
    assert_eq!(sample(&mut used, 0), samples[0]);
}

#[test]
fn a_strip_is_prepared_without_the_whole_being_resized() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strip.png");
    let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 16_384, 2);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[77; 2 * 16_384]).unwrap();
    writer.finish().unwrap();
    // Resized as a whole it would be 256 x 2097152.
    let mut preparer = Preparer::new(Preparation::ResizeCentreCrop { resize: 256, size: 224 });
    let mut sample = vec![0; 224 * 224 * 3];
    preparer.sample(&path, &mut Draws::new(0, 0), &mut sample).unwrap();
    assert!(sample.iter().all(|&value| value == 77));
}

#[test]
fn files_that_give_no_sample_are_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut preparer = Preparer::new(Preparation::ResizeCentreCrop { resize: 8, size: 8 });
    let mut sample = vec![0; 8 * 8 * 3];
    let path = folder.path().join("gone.jpg");
    let error = preparer.sample(&path, &mut Draws::new(0, 0), &mut sample).unwrap_err();
    assert!(matches!(error.fault, ImageFault::Unreadable(_)));
    assert!(error.to_string().starts_with(&format!("image {} cannot be read: ", path.display())));
    let error = preparer.sample(folder.path(), &mut Draws::new(0, 0), &mut sample).unwrap_err();
    assert!(matches!(error.fault, ImageFault::NotAFile));
    fs::write(&path, "no image").unwrap();
    let error = preparer.sample(&path, &mut Draws::new(0, 0), &mut sample).unwrap_err();
    assert!(matches!(error.fault, ImageFault::UnknownKind { .. }));
    // More than any image has, and not a byte of it is read.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = preparer.sample(&path, &mut Draws::new(0, 0), &mut sample).unwrap_err();
    assert!(matches!(error.fault, ImageFault::FileTooLarge { found: 0x100_0000_0000 }));
    assert_eq!(preparer.file.capacity().min(1 << 20), preparer.file.capacity());
}

#[test]
#[should_panic(expected = "room for one sample")]
fn a_buffer_of_another_size_is_a_mistake_of_the_program() {
    let mut preparer = Preparer::new(Preparation::ResizeCentreCrop { resize: 8, size: 8 });
    let path = fixtures().join("grey.jpg");
    assert!(preparer.sample(&path, &mut Draws::new(0, 0), &mut [0; 3]).is_ok());
}
