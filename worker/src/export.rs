//! `worker export`: a checkpoint's model as one file for other programs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kernels::{Device, DeviceError};
use proto::exit::ExitCode;
use safetensors::SafeTensors;

use crate::args::Export;
use crate::model::Outline;
use crate::onnx;
use crate::table::grouped;
use crate::trained::{Trained, TrainedError};

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("export to {}: its ending says no known format; end it with .onnx or .safetensors", .path.display())]
    Ending { path: PathBuf },
    #[error("export to {}: the file exists; choose another name, or add --force to replace it", .path.display())]
    Exists { path: PathBuf },
    #[error(transparent)]
    Checkpoint(#[from] TrainedError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(
        "export to {}: the model has {bytes} bytes, ONNX files hold less than 2^31; export .safetensors",
        .path.display()
    )]
    TooLarge { path: PathBuf, bytes: usize },
    #[error("write {}: {source}; choose another place", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl ExportError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            ExportError::Ending { .. } | ExportError::Exists { .. } => ExitCode::Usage,
            ExportError::Checkpoint(error) => error.exit_code(),
            ExportError::Device(_) | ExportError::TooLarge { .. } | ExportError::Write { .. } => {
                ExitCode::Failure
            }
        }
    }
}

/// Writes the file; returns what the command prints.
pub fn export(args: &Export) -> Result<String, ExportError> {
    let format = Format::of(&args.out)?;
    if !args.force && args.out.exists() {
        return Err(ExportError::Exists { path: args.out.clone() });
    }
    let trained = Trained::open(&args.checkpoint, args.weights)?;
    // Proves that the weights are those of the manifest's job, before they are given away under its name.
    let device = Device::cpu(NonZeroUsize::MIN)?;
    trained.model(&device, 1)?;
    let bytes = match format {
        Format::Safetensors => trained.weights.clone(),
        Format::Onnx => {
            let outline = Outline::new(&trained.job.model, trained.geometry(1));
            let weights = SafeTensors::deserialize(&trained.weights);
            let weights = weights.expect("the model was made of these bytes");
            onnx::model(&outline, &weights, &trained.manifest)
        }
    };
    if format == Format::Onnx && bytes.len() > ONNX_BYTES_MAX {
        return Err(ExportError::TooLarge { path: args.out.clone(), bytes: bytes.len() });
    }
    write_whole(&args.out, &bytes)
        .map_err(|source| ExportError::Write { path: args.out.clone(), source })?;
    let (title, out, size) = (trained.title(), args.out.display(), grouped(bytes.len() as u64));
    Ok(format!("{title}, {}, as {out}, {size} bytes\n", trained.kind.file()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Onnx,
    Safetensors,
}

impl Format {
    fn of(path: &Path) -> Result<Format, ExportError> {
        match path.extension().and_then(OsStr::to_str) {
            Some("onnx") => Ok(Format::Onnx),
            Some("safetensors") => Ok(Format::Safetensors),
            _ => Err(ExportError::Ending { path: path.to_owned() }),
        }
    }
}

/// Under another name first: a file of the wanted name is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&part, path));
    if renamed.is_err() {
        // Nothing of it stays behind; the first error is the one that matters.
        std::fs::remove_file(&part).ok();
    }
    renamed
}

/// protobuf's own limit for a message.
const ONNX_BYTES_MAX: usize = i32::MAX as usize;
