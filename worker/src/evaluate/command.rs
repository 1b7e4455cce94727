//! `worker evaluate`: how well a checkpoint does on the test images of a dataset, counted exactly, class by class.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataset::{Dataset, DatasetError, Fingerprint, Format, ImageShape};
use kernels::{Device, DeviceError};
use proto::exit::ExitCode;
use proto::job::{Job, Normalisation};
use serde::Serialize;

use super::{Counts, EvaluationError, answer, visit};
use crate::args::{Evaluate, FormatName};
use crate::collective::Abort;
use crate::data::{Quarantined, Source, format};
use crate::join::all_cores;
use crate::table::{Align, Table, grouped, json};
use crate::trained::{Trained, TrainedError, Weights};

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub checkpoint: String,
    pub weights: Weights,
    /// Of the file of these weights.
    pub weights_sha256: String,
    pub data: String,
    pub images: u64,
    /// Of these: files that can't be decoded, which count as answered wrong.
    pub undecodable: u64,
    pub correct: u64,
    pub correct_top5: u64,
    /// Fractions.
    pub top1: f64,
    pub top5: f64,
    /// Mean over the images.
    pub loss: f64,
    /// Whether the run's own evaluation gave the same; absent for another dataset, for weights that it did not look at, or
    /// when the step was not evaluated.
    pub as_in_training: Option<bool>,
    /// By label.
    pub classes: Vec<ClassReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    pub class: String,
    pub images: u64,
    pub correct: u64,
    /// A fraction; absent for a class without images.
    pub accuracy: Option<f64>,
    /// The wrong answer given most often for images of this class.
    pub most_frequent_wrong: Option<WrongAnswer>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrongAnswer {
    pub class: String,
    pub images: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    Checkpoint(#[from] TrainedError),
    #[error("evaluate: {0}; --format says how the dataset is laid out")]
    Dataset(#[from] DatasetError),
    #[error(
        "evaluate {}: its images are {theirs}, the checkpoint's model takes {ours} (height x width x channels); use the \
         dataset that it was trained for",
        .folder.display()
    )]
    Shape { folder: PathBuf, ours: ImageShape, theirs: ImageShape },
    #[error(
        "evaluate {}: it has {theirs} classes, the checkpoint's model {ours}; use the dataset that it was trained for",
        .folder.display()
    )]
    Classes { folder: PathBuf, ours: usize, theirs: usize },
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl EvaluateError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            EvaluateError::Checkpoint(error) => error.exit_code(),
            EvaluateError::Dataset(_)
            | EvaluateError::Evaluation(_)
            | EvaluateError::Shape { .. }
            | EvaluateError::Classes { .. } => ExitCode::Data,
            EvaluateError::Device(_) => ExitCode::Failure,
        }
    }
}

/// What the command prints.
pub fn run(args: &Evaluate) -> Result<String, EvaluateError> {
    let report = report(args)?;
    Ok(if args.json { json(&report) } else { report.text() })
}

/// Computes every test image once.
pub fn report(args: &Evaluate) -> Result<Report, EvaluateError> {
    let trained = Trained::open(&args.checkpoint, args.weights)?;
    let threads = args.threads.unwrap_or_else(all_cores);
    let device = Device::cpu(threads)?;
    let format = args.format.map_or(format(&trained.job), |name| match name {
        FormatName::Idx => Format::Idx,
        FormatName::Cifar10 => Format::Cifar10,
        FormatName::Cifar100 => Format::Cifar100,
        FormatName::Imagefolder => Format::ImageFolder { size: trained.manifest.input.height },
    });
    let dataset = Dataset::open(format, &args.data)?;
    check(args, &trained, &dataset)?;
    let fingerprint = dataset.fingerprint;
    let source = Source::new(Arc::new(dataset), &normalised_as_in_training(&trained))
        .with_decode_threads(threads);
    let mut model = trained.model(&device, trained.batch())?;
    let mut counts = Counts::default();
    let mut answers = Answers::default();
    let samples = 0..source.dataset().test.len();
    let bad = visit(&mut model, &source, samples, &Abort::new(), &mut |logits, label| {
        counts.add(logits, label);
        answers.add(label as usize, answer(logits));
    });
    let bad = bad?;
    for Quarantined { index, path, cause } in &bad {
        tracing::warn!("image {} {cause}; it counts as answered wrong", path.display());
        counts.add_unusable(trained.manifest.classes.len());
        answers.add(source.dataset().test.label(*index) as usize, None);
    }
    Ok(Report {
        checkpoint: trained.title(),
        weights: trained.kind,
        weights_sha256: trained.sha256().to_owned(),
        data: args.data.display().to_string(),
        images: counts.samples,
        undecodable: bad.len() as u64,
        correct: counts.correct,
        correct_top5: counts.correct_top5,
        top1: fraction(counts.correct, counts.samples),
        top5: fraction(counts.correct_top5, counts.samples),
        loss: counts.mean_loss(),
        as_in_training: as_in_training(&trained, fingerprint, &counts),
        classes: answers.classes(&trained.manifest.classes),
    })
}

fn check(args: &Evaluate, trained: &Trained, dataset: &Dataset) -> Result<(), EvaluateError> {
    let input = &trained.manifest.input;
    let ours = ImageShape { height: input.height, width: input.width, channels: input.channels };
    let folder = args.data.clone();
    if dataset.shape != ours {
        return Err(EvaluateError::Shape { folder, ours, theirs: dataset.shape });
    }
    let (ours, theirs) = (trained.manifest.classes.len(), dataset.classes.len());
    if ours != theirs {
        return Err(EvaluateError::Classes { folder, ours, theirs });
    }
    if dataset.classes != trained.manifest.classes {
        tracing::warn!(
            "the dataset's class names are not the checkpoint's: labels count, in order"
        );
    }
    Ok(())
}

/// Another dataset is normalised with the numbers that the model was trained with, not with its own.
fn normalised_as_in_training(trained: &Trained) -> Job {
    let mut job = trained.job.clone();
    let input = &trained.manifest.input;
    job.data.normalisation =
        Normalisation::Given { mean: input.mean.clone(), std: input.std.clone() };
    job
}

fn as_in_training(trained: &Trained, found: Fingerprint, counts: &Counts) -> Option<bool> {
    let same_data = trained.manifest.dataset_fingerprint == found.to_string();
    let comparable = same_data && trained.is_evaluated();
    let theirs = trained.manifest.evaluation.filter(|_| comparable)?;
    let whole = (theirs.samples, theirs.correct, theirs.correct_top5);
    let same_counts = whole == (counts.samples, counts.correct, counts.correct_top5);
    Some(same_counts && counts.has_mean_loss(theirs.loss))
}

/// Which answers were given for the images of each class.
#[derive(Default)]
struct Answers {
    /// By class, then answer. Few of the pairs occur.
    given: BTreeMap<usize, BTreeMap<usize, u64>>,
    images: BTreeMap<usize, u64>,
}

impl Answers {
    fn add(&mut self, label: usize, answer: Option<usize>) {
        *self.images.entry(label).or_default() += 1;
        if let Some(answer) = answer {
            *self.given.entry(label).or_default().entry(answer).or_default() += 1;
        }
    }

    fn classes(&self, names: &[String]) -> Vec<ClassReport> {
        let class = |(label, name): (usize, &String)| {
            let given = self.given.get(&label).into_iter().flatten();
            let correct = given.clone().find(|&(&answer, _)| answer == label);
            let (images, correct) =
                (self.images.get(&label).copied().unwrap_or(0), correct.map_or(0, |(_, &n)| n));
            // Of equally frequent ones the first, so that the table does not depend on how it is searched.
            let wrong = given.filter(|&(&answer, _)| answer != label);
            let wrong = wrong.min_by_key(|&(&answer, &count)| (Reverse(count), answer));
            ClassReport {
                class: name.clone(),
                images,
                correct,
                accuracy: (images > 0).then(|| fraction(correct, images)),
                most_frequent_wrong: wrong
                    .map(|(&answer, &images)| WrongAnswer { class: names[answer].clone(), images }),
            }
        };
        names.iter().enumerate().map(class).collect()
    }
}

impl Report {
    fn text(&self) -> String {
        let mut classes = Table::new(&[
            ("class", Align::Left),
            ("images", Align::Right),
            ("correct", Align::Right),
            ("accuracy", Align::Right),
            ("most frequent wrong answer", Align::Left),
        ]);
        for row in &self.classes {
            classes.row(vec![
                row.class.clone(),
                grouped(row.images),
                grouped(row.correct),
                row.accuracy.map_or("-".to_owned(), percent),
                row.most_frequent_wrong
                    .as_ref()
                    .map_or("-".to_owned(), |wrong| format!("{} ({})", wrong.class, wrong.images)),
            ]);
        }
        let own = match self.as_in_training {
            Some(true) => "; the run's own evaluation gave the same",
            Some(false) => {
                "; the run's own evaluation gave other numbers: another kind of device or release rounds differently"
            }
            None => "",
        };
        let (images, correct, top5) =
            (grouped(self.images), grouped(self.correct), grouped(self.correct_top5));
        format!(
            "{}, {} {}\n{}: {images} test images{own}\n\ntop-1  {:>8}  ({correct} of {images})\n\
             top-5  {:>8}  ({top5} of {images})\nloss   {:>8.4}\n\n{}",
            self.checkpoint,
            self.weights.file(),
            self.weights_sha256,
            self.data,
            percent(self.top1),
            percent(self.top5),
            self.loss,
            classes.text(),
        )
    }
}

fn fraction(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}
