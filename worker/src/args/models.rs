//! The arguments of the commands that look at models and use trained ones.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Input, StemName};
use crate::trained::Weights;

#[derive(Clone, Debug, Args)]
pub struct Describe {
    /// A standard depth (resnet18, resnet34, resnet50, resnet101, resnet152) or a job file, whose `model` section is shown.
    pub model: String,
    /// Channels, rows and columns of an image [default: 3x224x224; for a job file, those of its dataset].
    #[arg(long, value_name = "CxHxW")]
    pub input: Option<Input>,
    /// Classes of the last layer [default: 1000; for a job file, those of its dataset].
    #[arg(long, value_parser = classes)]
    pub classes: Option<usize>,
    /// First layers of a standard depth [default: imagenet].
    #[arg(long, value_enum)]
    pub stem: Option<StemName>,
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub format: TableFormat,
}

#[derive(Clone, Debug, Args)]
pub struct Evaluate {
    /// A checkpoint's folder, such as step-00000460.
    pub checkpoint: PathBuf,
    /// A dataset's folder; its test images are looked at, each once.
    pub data: PathBuf,
    /// How the dataset is laid out [default: as the one that was trained on].
    #[arg(long, value_enum)]
    pub format: Option<FormatName>,
    /// The average that the run kept, or the weights as it trained them [default: ema where there is one].
    #[arg(long, value_enum)]
    pub weights: Option<Weights>,
    /// Compute threads [default: all cores].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Predict {
    /// A checkpoint's folder, such as step-00000460.
    pub checkpoint: PathBuf,
    /// JPEG or PNG files.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Answers for each image, the likeliest first.
    #[arg(long, default_value = "5")]
    pub top: NonZeroUsize,
    /// The average that the run kept, or the weights as it trained them [default: ema where there is one].
    #[arg(long, value_enum)]
    pub weights: Option<Weights>,
    /// Compute threads [default: all cores].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Layouts of a dataset's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// The MNIST family.
    Idx,
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version.
    Cifar100,
    /// A folder of JPEG and PNG files for each class.
    Imagefolder,
}

#[derive(Clone, Debug, Args)]
pub struct Export {
    /// A checkpoint's folder, such as step-00000460.
    pub checkpoint: PathBuf,
    /// The file to write: .onnx for the inference graph, .safetensors for the weights alone.
    pub out: PathBuf,
    /// The average that the run kept, or the weights as it trained them [default: ema where there is one].
    #[arg(long, value_enum)]
    pub weights: Option<Weights>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    Table,
    Markdown,
    Json,
}

/// At most 2^20: far beyond any dataset, and sums of sizes can't overflow.
fn classes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=0x10_0000) => Ok(count),
        _ => Err("give a number of classes, 1 to 1048576".to_owned()),
    }
}
