//! Models of an image folder: evaluated with the files that can be decoded, asked about files of any size.

use std::path::Path;

use clap::Parser;
use dataset::Draws;
use worker::args::{Cli, Command};
use worker::evaluate::command::{Report, report};
use worker::predict::predictions;

use crate::short_run::{Made, train};

#[test]
fn a_file_that_can_not_be_decoded_counts_as_answered_wrong_in_its_class() {
    let (folder, made) = photos();
    let whole = evaluated(&made);
    let own = made.manifest.evaluation.unwrap();
    assert_eq!((whole.images, whole.correct, whole.loss), (own.samples, own.correct, own.loss));
    assert_eq!((whole.undecodable, whole.as_in_training), (0, Some(true)));
    // The same length: the list of files is the one that was trained on.
    let victim = folder.path().join("val/dark/3.png");
    let len = std::fs::metadata(&victim).unwrap().len() as usize;
    std::fs::write(&victim, vec![7; len]).unwrap();
    let found = evaluated(&made);
    assert_eq!((found.images, found.undecodable), (own.samples, 1));
    let [bright, dark] = &found.classes[..] else { panic!("{found:?}") };
    assert_eq!(*bright, whole.classes[0]);
    assert_eq!((dark.class.as_str(), dark.images), ("dark", whole.classes[1].images));
    assert!(
        dark.correct == whole.classes[1].correct - 1 || dark.correct == whole.classes[1].correct
    );
    assert_eq!(found.classes.iter().map(|row| row.correct).sum::<u64>(), found.correct);
}

#[test]
fn a_photo_is_prepared_as_the_runs_evaluation_prepared_it() {
    let (folder, made) = photos();
    let files: Vec<String> = ["bright", "dark"]
        .iter()
        .flat_map(|class| (0..COUNT).map(move |n| format!("val/{class}/{n}.png")))
        .map(|file| folder.path().join(file).to_str().unwrap().to_owned())
        .collect();
    let checkpoint = made.folder.to_str().unwrap();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let arguments = [&["worker", "predict", checkpoint], &files[..]].concat();
    let Command::Predict(arguments) = Cli::try_parse_from(arguments).unwrap().command else {
        panic!()
    };
    let found = predictions(&arguments).unwrap();
    let right =
        |(n, image): (usize, &worker::predict::Prediction)| image.answers[0].label == n / COUNT;
    let correct = found.images.iter().enumerate().filter(|&pair| right(pair)).count();
    assert_eq!(correct as u64, made.manifest.evaluation.unwrap().correct);
}

/// Bright and dark noise, in files of different sizes, and a model that was trained on them.
fn photos() -> (tempfile::TempDir, Made) {
    let folder = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(5, 0);
    for split in ["train", "val"] {
        for (class, brightest) in [("bright", 256), ("dark", 160)] {
            let place = folder.path().join(split).join(class);
            std::fs::create_dir_all(&place).unwrap();
            for n in 0..COUNT {
                let sides = [20 + n as u32, 40 - n as u32];
                write_png(&place.join(format!("{n}.png")), sides, || draws.below(brightest) as u8);
            }
        }
    }
    let job = "name='photos'\n[data]\nformat='imagefolder'\npath='.'\nsize=16\n[model]\nblock='basic'\nblocks=[1]\n\
               widths=[8]\nstem='cifar'\n[train]\nepochs=9\nbatch=16\nslices=2\n[optimizer]\nlearning_rate=0.05\n";
    let made = train(job, folder.path(), 15);
    (folder, made)
}

fn write_png(path: &Path, [width, height]: [u32; 2], mut value: impl FnMut() -> u8) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..width * height * 3).map(|_| value()).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
}

fn evaluated(made: &Made) -> Report {
    let (checkpoint, data) = (made.folder.to_str().unwrap(), made.data.to_str().unwrap());
    let cli = Cli::try_parse_from(["worker", "evaluate", checkpoint, data]).unwrap();
    let Command::Evaluate(arguments) = cli.command else { panic!("{cli:?}") };
    report(&arguments).unwrap()
}

/// Files of each class and split.
const COUNT: usize = 12;
