//! From a job file to a job that can run: parsed, its paths made absolute, its dataset indexed, the weights that it starts
//! from checked. Reads each once.

use std::path::{Path, PathBuf};

use dataset::{Dataset, DatasetError};
use proto::Job;
use proto::exit::ExitCode;
use proto::job::{DataFormat, Init, JobError, Normalisation};
use proto::manifest::Input;
use proto::wire::JOB_BYTES_MAX;

use crate::checkpoints::{self, InitialError};
use crate::core::{DatasetFacts, JobSpec};

/// Why a job can't run.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("reading the job file {}: {source}; check the path", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the job file has more than {JOB_BYTES_MAX} bytes")]
    TooLong,
    #[error("the folder {} that paths in the job file start from is not absolute", folder.display())]
    RelativeFolder { folder: PathBuf },
    #[error("{0}")]
    Job(#[from] JobError),
    #[error("dataset: {0}")]
    Dataset(#[from] DatasetError),
    #[error("{0}")]
    Weights(#[from] InitialError),
    #[error(
        "the images of this format are not measured; give data.mean and data.std in the job file"
    )]
    NotMeasured,
    #[error(
        "the job gives data.mean and data.std {given} values, but the images have {channels} channels"
    )]
    Channels { given: usize, channels: usize },
}

impl IntakeError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            IntakeError::Dataset(_) => ExitCode::Data,
            _ => ExitCode::Usage,
        }
    }
}

/// Reads a job file; returns its text and the folder that its paths start from.
pub fn read_job_file(path: &Path) -> Result<(String, PathBuf), IntakeError> {
    let fail = |source| IntakeError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let folder = path.canonicalize().map_err(fail)?;
    let folder = folder.parent().map(Path::to_owned).unwrap_or_default();
    Ok((text, folder))
}

/// Resolves the job and indexes its dataset.
pub fn read_job(text: &str, base_folder: &Path) -> Result<JobSpec, IntakeError> {
    if text.len() > JOB_BYTES_MAX {
        return Err(IntakeError::TooLong);
    }
    if !base_folder.is_absolute() {
        return Err(IntakeError::RelativeFolder { folder: base_folder.to_owned() });
    }
    let mut job = Job::parse(text)?;
    let folder = base_folder.join(&job.data.path);
    // One spelling of the path, so that the same job is recognised; a missing folder is the dataset's error.
    job.data.path = folder.canonicalize().unwrap_or(folder);
    let dataset = index(&job)?;
    let weights = match &mut job.init {
        Init::Seed => None,
        Init::File(path) => {
            *path = spelled_out(base_folder, path);
            checkpoints::read_facts(path, &job.model, &dataset)?
        }
    };
    Ok(JobSpec { toml: job.to_toml(), job, dataset, weights })
}

/// One spelling of a file's path, whether the file is there or not.
fn spelled_out(base_folder: &Path, path: &Path) -> PathBuf {
    let path = base_folder.join(path);
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

fn index(job: &Job) -> Result<DatasetFacts, IntakeError> {
    let format = match job.data.format {
        DataFormat::Idx => dataset::Format::Idx,
        DataFormat::Cifar10 => dataset::Format::Cifar10,
        DataFormat::Cifar100 => dataset::Format::Cifar100,
        DataFormat::ImageFolder(folder) => dataset::Format::ImageFolder { size: folder.size },
    };
    let dataset = Dataset::open(format, &job.data.path)?;
    let channels = dataset.shape.channels;
    let (mean, std) = match &job.data.normalisation {
        Normalisation::Given { mean, std } => (mean.clone(), std.clone()),
        Normalisation::Measured => {
            let measured = dataset.train.channel_statistics().ok_or(IntakeError::NotMeasured)?;
            (measured.mean, measured.std)
        }
    };
    if mean.len() != channels {
        return Err(IntakeError::Channels { given: mean.len(), channels });
    }
    let (height, width) = (dataset.shape.height, dataset.shape.width);
    Ok(DatasetFacts {
        fingerprint: dataset.fingerprint.to_string(),
        train_len: dataset.train.len() as u64,
        test_len: dataset.test.len() as u64,
        classes: dataset.classes,
        input: Input { channels, height, width, mean, std },
    })
}
