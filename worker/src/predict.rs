//! `worker predict`: what a trained model says of image files.

use std::path::{Path, PathBuf};

use dataset::{Draws, ImageError, Preparation, Preparer};
use kernels::ops::Crop;
use kernels::{Device, DeviceError};
use proto::exit::ExitCode;
use proto::job::{DataFormat, ImageFolder};
use serde::Serialize;

use crate::args::Predict;
use crate::join::all_cores;
use crate::table::{Align, Table, json};
use crate::trained::{Trained, TrainedError, Weights};

/// What a model said.
#[derive(Clone, Debug, Serialize)]
pub struct Predictions {
    pub checkpoint: String,
    pub weights: Weights,
    /// Of the file of these weights.
    pub weights_sha256: String,
    /// In the order of the command line.
    pub images: Vec<Prediction>,
    /// Files that gave no image, in the order of the command line.
    pub failed: Vec<Failed>,
}

/// A file that can't be read or is no image.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    pub image: String,
    /// The rest of a sentence that begins with the file.
    pub problem: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    pub image: String,
    /// The likeliest first.
    pub answers: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    pub class: String,
    pub label: usize,
    pub probability: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    #[error(transparent)]
    Checkpoint(#[from] TrainedError),
    #[error("predict: {failed} of {of} files gave no image; the lines above say why")]
    Images { failed: usize, of: usize },
    #[error(
        "predict: the model takes {height}x{width} images of {channels} channels; image files can be made square, and grey \
         or RGB, nothing else"
    )]
    Input { channels: usize, height: usize, width: usize },
    #[error(
        "predict {}: the model's answer is not finite; use a checkpoint from before the run diverged",
        .image.display()
    )]
    NotFinite { image: PathBuf },
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl PredictError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            PredictError::Checkpoint(error) => error.exit_code(),
            PredictError::Images { .. } => ExitCode::Data,
            PredictError::Input { .. } | PredictError::NotFinite { .. } => ExitCode::State,
            PredictError::Device(_) => ExitCode::Failure,
        }
    }
}

/// What the command prints, and how it ends behind that: with an error when files gave no image.
pub fn predict(args: &Predict) -> Result<(String, Result<(), PredictError>), PredictError> {
    let predictions = predictions(args)?;
    for Failed { image, problem } in &predictions.failed {
        tracing::error!("predict: image {image} {problem}");
    }
    let (failed, of) = (predictions.failed.len(), args.images.len());
    let end = if failed == 0 { Ok(()) } else { Err(PredictError::Images { failed, of }) };
    Ok((if args.json { json(&predictions) } else { predictions.text() }, end))
}

/// All images, a batch at a time. A file that gives none holds up no other.
pub fn predictions(args: &Predict) -> Result<Predictions, PredictError> {
    let trained = Trained::open(&args.checkpoint, args.weights)?;
    let mut reader = Reader::new(&trained)?;
    let device = Device::cpu(args.threads.unwrap_or_else(all_cores))?;
    let batch = trained.batch().min(args.images.len());
    let mut model = trained.model(&device, batch)?;
    let input = &trained.manifest.input;
    let crops = vec![Crop { top: 0, left: 0, flip: false }; batch];
    let (mut images, mut failed) = (Vec::new(), Vec::new());
    for paths in args.images.chunks(batch) {
        let (mut read, mut pixels) = (Vec::new(), Vec::new());
        for path in paths {
            match reader.read(path) {
                Ok(image) => {
                    read.push(path);
                    pixels.extend(image);
                }
                Err(ImageError { path, fault }) => {
                    let (image, problem) = (path.display().to_string(), fault.to_string());
                    failed.push(Failed { image, problem });
                }
            }
        }
        // The batch is filled up with black images, whose answers nobody reads.
        pixels.resize(batch * reader.image_len(), 0);
        model.load(0, &pixels, &crops, &input.mean, &input.std);
        let logits = model.predict()?;
        for (path, logits) in
            read.into_iter().zip(logits.chunks_exact(trained.manifest.classes.len()))
        {
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err(PredictError::NotFinite { image: path.clone() });
            }
            let answers = answers(logits, &trained.manifest.classes, args.top.get());
            images.push(Prediction { image: path.display().to_string(), answers });
        }
    }
    let (checkpoint, weights_sha256) = (trained.title(), trained.sha256().to_owned());
    Ok(Predictions { checkpoint, weights: trained.kind, weights_sha256, images, failed })
}

/// Makes what the model takes out of image files: as its run's evaluation did, or, where the run had images of one size,
/// by resizing the shorter side to that size and taking the middle. An image of that size stays as it is.
struct Reader {
    preparer: Preparer,
    side: usize,
    channels: usize,
}

impl Reader {
    fn new(trained: &Trained) -> Result<Reader, PredictError> {
        let input = &trained.manifest.input;
        let (channels, height, width) = (input.channels, input.height, input.width);
        if height != width || (channels != 1 && channels != 3) {
            return Err(PredictError::Input { channels, height, width });
        }
        // Where the run had images of one size, one of that size must stay as it is.
        let resize = match trained.job.data.format {
            DataFormat::ImageFolder(images) if images.size == height => images.resize,
            DataFormat::ImageFolder(_) => ImageFolder::usual(height).resize,
            DataFormat::Idx | DataFormat::Cifar10 | DataFormat::Cifar100 => height,
        };
        let preparation = Preparation::ResizeCentreCrop { resize, size: height };
        Ok(Reader { preparer: Preparer::new(preparation), side: height, channels })
    }

    /// Bytes of an image.
    fn image_len(&self) -> usize {
        self.side * self.side * self.channels
    }

    /// `[side, side, channels]`
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let mut rgb = vec![0; self.side * self.side * 3];
        // Nothing is left to chance: the draws don't matter.
        self.preparer.sample(path, &mut Draws::new(0, 0), &mut rgb)?;
        Ok(if self.channels == 1 { luma(&rgb) } else { rgb })
    }
}

/// Grey as Pillow's `convert("L")`: ITU-R 601-2 luma, `0.299 R + 0.587 G + 0.114 B`, in 16-bit fixed point, rounded.
fn luma(rgb: &[u8]) -> Vec<u8> {
    let weights = [19_595, 38_470, 7_471];
    let grey = |pixel: &[u8]| {
        let sum: u32 =
            pixel.iter().zip(weights).map(|(&value, weight)| u32::from(value) * weight).sum();
        ((sum + 0x8000) >> 16) as u8
    };
    rgb.chunks_exact(3).map(grey).collect()
}

/// The likeliest classes, by softmax in fp64.
fn answers(logits: &[f32], classes: &[String], top: usize) -> Vec<Answer> {
    let mut labels: Vec<usize> = (0..logits.len()).collect();
    // Stable: of equal logits the smaller label comes first.
    labels.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let largest = f64::from(logits[labels[0]]);
    let exps: Vec<f64> =
        logits.iter().map(|&logit| libm::exp(f64::from(logit) - largest)).collect();
    let sum: f64 = exps.iter().sum();
    let answer = |label: usize| Answer {
        class: classes[label].clone(),
        label,
        probability: exps[label] / sum,
    };
    labels.into_iter().take(top).map(answer).collect()
}

impl Predictions {
    fn text(&self) -> String {
        let columns =
            [("image", Align::Left), ("class", Align::Left), ("probability", Align::Right)];
        let mut table = Table::new(&columns);
        for Prediction { image, answers } in &self.images {
            for Answer { class, probability, .. } in answers {
                let percent = format!("{:.2} %", 100.0 * probability);
                table.row(vec![image.clone(), class.clone(), percent]);
            }
        }
        format!("{}, {}\n\n{}", self.checkpoint, self.weights.file(), table.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_is_what_pillow_makes_of_a_colour() {
        // Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
        for (colour, grey) in [
            ([255, 0, 0], 76),
            ([0, 255, 0], 150),
            ([0, 0, 255], 29),
            ([255, 255, 255], 255),
            ([12, 200, 77], 130),
            ([1, 2, 3], 2),
        ] {
            assert_eq!(luma(&colour), [grey], "{colour:?}");
        }
        let greys: Vec<u8> = (0..=255).collect();
        let rgb: Vec<u8> = greys.iter().flat_map(|&grey| [grey; 3]).collect();
        assert_eq!(luma(&rgb), greys);
    }

    #[test]
    fn probabilities_are_the_softmax_and_ties_go_to_the_smaller_label() {
        let classes = ["a", "b", "c"].map(str::to_owned);
        let found = answers(&[0.0, 0.0, 1.0], &classes, 3);
        assert_eq!(found.iter().map(|a| a.class.as_str()).collect::<String>(), "cab");
        let e = std::f64::consts::E;
        assert!((found[0].probability - e / (e + 2.0)).abs() < 1e-12);
        assert!((found.iter().map(|a| a.probability).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(answers(&[1000.0, -1000.0, 0.0], &classes, 9).len(), 3);
        assert_eq!(answers(&[1000.0, -1000.0, 0.0], &classes, 1)[0].probability, 1.0);
    }
}
