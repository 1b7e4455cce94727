//! `worker evaluate`: the run's own numbers again, and a table that adds up.

use std::sync::Arc;

use clap::Parser;
use dataset::{Dataset, Format};
use proto::exit::ExitCode;
use proto::job::Job;
use worker::args::{Cli, Command, Evaluate};
use worker::collective::Abort;
use worker::data::Source;
use worker::evaluate::command::{Report, report, run};
use worker::evaluate::visit;
use worker::trained::Trained;

use crate::short_run::{Made, digits};

#[test]
fn an_evaluation_gives_the_numbers_of_the_run_itself_on_any_number_of_threads() {
    let made = digits();
    let own = made.manifest.evaluation.unwrap();
    assert!(own.correct > own.samples / 2, "the short run learns: {own:?}");
    for threads in ["1", "3"] {
        let found = evaluated(&made, &["--threads", threads]);
        assert_eq!((found.images, found.correct), (own.samples, own.correct));
        assert_eq!(found.correct_top5, own.correct_top5);
        assert_eq!(found.loss, own.loss);
        assert_eq!(found.as_in_training, Some(true));
        assert_eq!(found.top1, own.correct as f64 / own.samples as f64);
    }
    made.rewrite_manifest(|manifest| manifest.evaluation.as_mut().unwrap().correct -= 1);
    assert_eq!(evaluated(&made, &[]).as_in_training, Some(false));
    made.rewrite_manifest(|manifest| manifest.evaluation = None);
    assert_eq!(evaluated(&made, &[]).as_in_training, None);
}

#[test]
fn the_class_table_is_what_the_logits_say() {
    let made = digits();
    let found = evaluated(&made, &[]);
    let pairs = answers(&made);
    for (label, row) in found.classes.iter().enumerate() {
        assert_eq!(row.class, made.manifest.classes[label]);
        let given: Vec<usize> =
            pairs.iter().filter(|(class, _)| *class == label).map(|(_, answer)| *answer).collect();
        let count = |answer: usize| given.iter().filter(|&&a| a == answer).count() as u64;
        assert_eq!((row.images, row.correct), (given.len() as u64, count(label)));
        assert_eq!(row.accuracy, Some(row.correct as f64 / row.images as f64));
        let most = (0..10).filter(|&answer| answer != label).map(count).max().unwrap();
        match &row.most_frequent_wrong {
            None => assert_eq!(most, 0),
            Some(wrong) => {
                assert_eq!((wrong.images, count(wrong.class.parse().unwrap())), (most, most));
            }
        }
    }
    assert_eq!(found.classes.iter().map(|row| row.images).sum::<u64>(), found.images);
    assert_eq!(found.classes.iter().map(|row| row.correct).sum::<u64>(), found.correct);
}

#[test]
fn the_text_and_the_json_hold_the_exact_counts() {
    let made = digits();
    let own = made.manifest.evaluation.unwrap();
    let text = run(&parsed(&made, &[])).unwrap();
    assert!(text.contains(&format!("({} of 360)", own.correct)), "{text}");
    assert!(text.contains("the run's own evaluation gave the same"), "{text}");
    assert!(text.contains("CLASS") && text.contains("MOST FREQUENT WRONG ANSWER"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&parsed(&made, &["--json"])).unwrap()).unwrap();
    assert_eq!((&json["images"], &json["correct"]), (&360.into(), &own.correct.into()));
    assert_eq!(json["classes"].as_array().unwrap().len(), 10);
}

#[test]
fn another_dataset_is_evaluated_with_the_numbers_that_the_model_was_normalised_with() {
    let made = digits();
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&made.data).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    // Darker training images: the test images are the same, so every number must be.
    let train = folder.path().join("train-images-idx3-ubyte");
    let mut bytes = std::fs::read(&train).unwrap();
    bytes[16..].fill(3);
    std::fs::write(train, bytes).unwrap();
    let here = Made { data: folder.path().to_owned(), ..made };
    let found = evaluated(&here, &[]);
    let own = here.manifest.evaluation.unwrap();
    assert_eq!((found.correct, found.loss), (own.correct, own.loss));
    assert_eq!(found.as_in_training, None, "it is not the run's dataset");
}

#[test]
fn a_dataset_that_does_not_fit_the_model_is_refused_with_both_sizes() {
    let made = digits();
    let refused = |words: &str| {
        let error = report(&parsed(&made, &[])).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Data);
        let message = error.to_string();
        assert!(message.contains(words), "{message}");
    };
    made.rewrite_manifest(|manifest| manifest.input.height = 9);
    refused("its images are 8x8x1, the checkpoint's model takes 9x8x1");
    made.rewrite_manifest(|manifest| manifest.classes.truncate(7));
    refused("it has 10 classes, the checkpoint's model 7");
    let error = report(&parsed(&made, &["--format", "cifar10"])).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Data);
    let nowhere = Made { data: made.root.path().join("nowhere"), ..made };
    let error = report(&parsed(&nowhere, &[])).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Data);
}

/// Label and answer of each test image.
fn answers(made: &Made) -> Vec<(usize, usize)> {
    let trained = Trained::open(&made.folder, None).unwrap();
    let dataset = Dataset::open(Format::Idx, &made.data).unwrap();
    let job = Job::parse(&made.manifest.job).unwrap();
    let source = Source::new(Arc::new(dataset), &job);
    let device = kernels::Device::cpu(std::num::NonZeroUsize::MIN).unwrap();
    let mut model = trained.model(&device, 7).unwrap();
    let mut pairs = Vec::new();
    let samples = 0..source.dataset().test.len();
    let done = visit(&mut model, &source, samples, &Abort::new(), &mut |logits, label| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let answer = logits.iter().position(|&logit| logit == largest).unwrap();
        pairs.push((label as usize, answer));
    });
    done.unwrap();
    pairs
}

fn evaluated(made: &Made, options: &[&str]) -> Report {
    report(&parsed(made, options)).unwrap()
}

fn parsed(made: &Made, options: &[&str]) -> Evaluate {
    let (checkpoint, data) = (made.folder.to_str().unwrap(), made.data.to_str().unwrap());
    let arguments = [&["worker", "evaluate", checkpoint, data], options].concat();
    let cli = Cli::try_parse_from(arguments).unwrap();
    let Command::Evaluate(arguments) = cli.command else { panic!("{cli:?}") };
    arguments
}
