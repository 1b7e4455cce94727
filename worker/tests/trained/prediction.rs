//! `worker predict`: files of the test images get the answers that the evaluation counts.

use std::path::{Path, PathBuf};

use clap::Parser;
use dataset::{Dataset, Format};
use proto::exit::ExitCode;
use worker::args::{Cli, Command, Predict};
use worker::predict::{PredictError, Predictions, predict, predictions};

use crate::short_run::{Made, digits};

#[test]
fn files_of_the_test_images_get_the_answers_that_the_evaluation_counts() {
    let made = digits();
    let test = Dataset::open(Format::Idx, &made.data).unwrap().test;
    let files: Vec<PathBuf> = (0..test.len())
        .map(|i| png(&made, &format!("{i}.png"), 8, test.pixels(i).unwrap()))
        .collect();
    let found = predicted(&made, &files, &[]).unwrap();
    let first = |i: usize| found.images[i].answers[0].label as u32;
    let correct = (0..test.len()).filter(|&i| first(i) == test.label(i)).count();
    assert_eq!(correct as u64, made.manifest.evaluation.unwrap().correct);
    for (image, file) in found.images.iter().zip(&files) {
        assert_eq!(image.image, file.to_str().unwrap(), "in the order of the command line");
        assert_eq!(image.answers.len(), 5);
        assert!(image.answers.windows(2).all(|pair| pair[0].probability >= pair[1].probability));
        assert!(image.answers.iter().all(|a| a.class == made.manifest.classes[a.label]));
    }
}

#[test]
fn an_answer_does_not_depend_on_the_other_images_or_on_threads() {
    let made = digits();
    let test = Dataset::open(Format::Idx, &made.data).unwrap().test;
    let files: Vec<PathBuf> =
        (0..35).map(|i| png(&made, &format!("{i}.png"), 8, test.pixels(i).unwrap())).collect();
    let all = predicted(&made, &files, &["--top", "10"]).unwrap();
    let sum: f64 = all.images[0].answers.iter().map(|answer| answer.probability).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    for i in [0, 31, 32, 34] {
        let alone = predicted(&made, &files[i..=i], &["--top", "10", "--threads", "1"]).unwrap();
        assert_eq!(alone.images[0].answers, all.images[i].answers, "{i}");
    }
}

#[test]
fn an_image_of_another_size_is_resized_to_the_models() {
    let made = digits();
    let test = Dataset::open(Format::Idx, &made.data).unwrap().test;
    let small = test.pixels(0).unwrap();
    // Each pixel as a square of 4 x 4: made small again, it is nearly the image that it was.
    let large: Vec<u8> = (0..32 * 32).map(|at| small[at / 32 / 4 * 8 + at % 32 / 4]).collect();
    let files = [png(&made, "small.png", 8, small), png(&made, "large.png", 32, &large)];
    let found = predicted(&made, &files, &["--top", "1"]).unwrap();
    assert_eq!(found.images[0].answers[0].label, found.images[1].answers[0].label);
}

#[test]
fn the_text_and_the_json_name_image_class_and_probability() {
    let made = digits();
    let file = png(&made, "zero.png", 8, &[0; 64]);
    let (text, end) =
        predict(&parsed(&made, std::slice::from_ref(&file), &["--top", "2"])).unwrap();
    end.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "step 40 of digits-1, model.safetensors"), "{text}");
    assert!(lines[2].starts_with("IMAGE"), "{text}");
    assert!(lines[3].starts_with(file.to_str().unwrap()) && lines[3].ends_with(" %"), "{text}");
    let (json, _) = predict(&parsed(&made, &[file], &["--json"])).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let answer = &json["images"][0]["answers"][0];
    assert!(answer["probability"].as_f64().unwrap() > 0.0 && answer["class"].is_string());
}

#[test]
fn a_file_that_is_no_image_holds_up_no_other_and_the_command_fails_at_its_end() {
    let made = digits();
    let test = Dataset::open(Format::Idx, &made.data).unwrap().test;
    let good = |i: usize| png(&made, &format!("{i}.png"), 8, test.pixels(i).unwrap());
    let bad = made.root.path().join("bad.png");
    std::fs::write(&bad, "no image").unwrap();
    let gone = made.root.path().join("gone.jpg");
    let files = [good(0), bad.clone(), good(1), gone.clone(), good(2)];
    let found = predicted(&made, &files, &[]).unwrap();
    let whole = predicted(&made, &[good(0), good(1), good(2)], &[]).unwrap();
    let answers = |found: &Predictions| -> Vec<_> {
        found.images.iter().map(|image| (image.image.clone(), image.answers.clone())).collect()
    };
    assert_eq!(answers(&found), answers(&whole));
    let failed: Vec<_> = found.failed.iter().map(|failed| failed.image.as_str()).collect();
    assert_eq!(failed, [bad.to_str().unwrap(), gone.to_str().unwrap()]);
    assert!(found.failed[0].problem.contains("is neither JPEG nor PNG"));
    let (text, end) = predict(&parsed(&made, &files, &[])).unwrap();
    assert_eq!(text.lines().count(), 3 + 3 * 5);
    let error = end.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Data);
    assert!(error.to_string().contains("2 of 5 files gave no image"), "{error}");
    // None at all is no other case.
    assert!(predicted(&made, &[bad], &[]).unwrap().images.is_empty());
}

#[test]
fn what_the_model_can_not_take_is_refused() {
    let made = digits();
    let good = png(&made, "good.png", 8, &[0; 64]);
    made.rewrite_manifest(|manifest| manifest.input.width = 9);
    let error = predicted(&made, &[good], &[]).unwrap_err();
    assert!(matches!(error, PredictError::Input { height: 8, width: 9, .. }), "{error}");
}

/// Writes a grey PNG of `side` x `side` pixels.
fn png(made: &Made, name: &str, side: u32, pixels: &[u8]) -> PathBuf {
    let path: PathBuf = Path::new(made.root.path()).join(name);
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    path
}

fn predicted(
    made: &Made,
    images: &[PathBuf],
    options: &[&str],
) -> Result<Predictions, PredictError> {
    predictions(&parsed(made, images, options))
}

fn parsed(made: &Made, images: &[PathBuf], options: &[&str]) -> Predict {
    let paths: Vec<&str> = images.iter().map(|path| path.to_str().unwrap()).collect();
    let checkpoint = made.folder.to_str().unwrap();
    let arguments = [&["worker", "predict", checkpoint], &paths[..], options].concat();
    let cli = Cli::try_parse_from(arguments).unwrap();
    let Command::Predict(arguments) = cli.command else { panic!("{cli:?}") };
    arguments
}
