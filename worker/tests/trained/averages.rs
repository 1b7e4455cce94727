//! A checkpoint with averaged weights beside the trained ones: which are taken, and that it is said.

use clap::Parser;
use proto::exit::ExitCode;
use proto::identity::hex;
use proto::manifest::{EMA_FILE, FileEntry};
use sha2::{Digest, Sha256};
use worker::args::{Cli, Command};
use worker::evaluate::command::{Report, report, run};
use worker::export::export;
use worker::predict::predictions;
use worker::trained::Weights;

use crate::short_run::{Made, digits};

#[test]
fn the_average_is_taken_where_there_is_one_unless_the_trained_weights_are_asked_for() {
    let made = with_average();
    let own = made.manifest.evaluation.unwrap();
    let average = evaluated(&made, &[]);
    assert_eq!(average.weights, Weights::Ema);
    assert_eq!(average.weights_sha256, sha256(&made, EMA_FILE));
    assert!(average.correct < own.correct, "a model of zeros knows nothing");
    assert_eq!(average.as_in_training, Some(false));
    let trained = evaluated(&made, &["--weights", "model"]);
    assert_eq!((trained.weights, trained.correct), (Weights::Model, own.correct));
    assert_eq!(trained.as_in_training, None, "the run evaluated the average");
    let text = run(&evaluate_arguments(&made, &[])).unwrap();
    assert!(text.contains("step 40 of digits-1, ema.safetensors"), "{text}");
    let json = run(&evaluate_arguments(&made, &["--json", "--weights", "model"])).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["weights"], "model");
}

#[test]
fn an_export_and_a_prediction_take_the_average_too() {
    let made = with_average();
    let out = made.root.path().join("out.safetensors");
    let checkpoint = made.folder.to_str().unwrap().to_owned();
    for (options, file) in [(vec![], EMA_FILE), (vec!["--weights", "model"], "model.safetensors")] {
        let arguments = [vec!["worker", "export", &checkpoint, out.to_str().unwrap()], options];
        let Command::Export(arguments) = parsed(arguments.concat()) else { panic!() };
        let said = export(&arguments).unwrap();
        assert!(said.contains(file), "{said}");
        let whole = std::fs::read(made.folder.join(file)).unwrap();
        assert!(std::fs::read(&out).unwrap() == whole, "{file}");
        std::fs::remove_file(&out).unwrap();
    }
    let image = made.root.path().join("black.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&image).unwrap(), 8, 8);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[0; 64]).unwrap();
    let arguments = vec!["worker", "predict", &checkpoint, image.to_str().unwrap()];
    let Command::Predict(arguments) = parsed(arguments) else { panic!() };
    let found = predictions(&arguments).unwrap();
    assert_eq!(found.weights, Weights::Ema);
    // All logits are 0.
    assert!(found.images[0].answers.iter().all(|answer| answer.probability == 0.1));
}

#[test]
fn an_average_that_no_run_kept_is_refused() {
    let made = digits();
    let error = report(&evaluate_arguments(&made, &["--weights", "ema"])).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::State);
    assert!(error.to_string().contains("its run kept none; leave out `--weights ema`"), "{error}");
    let damaged = with_average();
    std::fs::write(damaged.folder.join(EMA_FILE), "short").unwrap();
    let error = report(&evaluate_arguments(&damaged, &[])).unwrap_err().to_string();
    assert!(error.contains(EMA_FILE) && error.contains("has 5 bytes"), "{error}");
}

/// A run's checkpoint, to which weights of zero are added as their average.
fn with_average() -> Made {
    let made = digits();
    let model = std::fs::read(made.model_file()).unwrap();
    let header = 8 + u64::from_le_bytes(*model.first_chunk().unwrap()) as usize;
    let mut bytes = model[..header].to_vec();
    bytes.resize(model.len(), 0);
    std::fs::write(made.folder.join(EMA_FILE), &bytes).unwrap();
    let entry = FileEntry { len: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
    made.rewrite_manifest(|manifest| {
        manifest.files.insert(EMA_FILE.to_owned(), entry);
    });
    made
}

fn sha256(made: &Made, file: &str) -> String {
    hex(&Sha256::digest(std::fs::read(made.folder.join(file)).unwrap()))
}

fn evaluated(made: &Made, options: &[&str]) -> Report {
    report(&evaluate_arguments(made, options)).unwrap()
}

fn evaluate_arguments(made: &Made, options: &[&str]) -> worker::args::Evaluate {
    let (checkpoint, data) = (made.folder.to_str().unwrap(), made.data.to_str().unwrap());
    let arguments = [&["worker", "evaluate", checkpoint, data], options].concat();
    let Command::Evaluate(arguments) = parsed(arguments) else { panic!() };
    arguments
}

fn parsed(arguments: Vec<&str>) -> Command {
    Cli::try_parse_from(arguments).unwrap().command
}
