//! Checkpoints on the wire: this worker's part of each goes up, a whole one comes down.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::Generation;
use proto::job::{Init, Job};
use proto::manifest::{EMA_FILE, INIT_FILE, MODEL_FILE, OPTIMIZER_FILE};
use proto::wire::v1::{
    CheckpointChunk, CheckpointData, CheckpointFile, CheckpointHeader, CheckpointRequest, Finished,
    Form, Report, checkpoint_chunk, report,
};
use proto::wire::{CHECKPOINT_BYTES_MAX, CHECKPOINT_FILES_MAX, CHUNK_BYTES_MAX, checkpoint_part};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tonic::{Code, Status};

use super::connect::Client;
use super::say;
use crate::checkpoint::Snapshot;
use crate::collective::Abort;
use crate::trainer::{Base, CheckpointFiles, Stall, Upload, Uploads};

#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("fetch the checkpoint of step {step}: {}", .status.message())]
    Refused { step: u64, status: Box<Status> },
    #[error("fetch the checkpoint of step {step}: {problem}")]
    Damaged { step: u64, problem: String },
}

impl DownloadError {
    /// The connection broke, or bytes were lost on their way.
    fn may_pass(&self) -> bool {
        match self {
            DownloadError::Refused { status, .. } => {
                // A stream that breaks in the middle is unknown or internal to HTTP/2.
                let passing =
                    [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Internal];
                passing.contains(&status.code())
            }
            DownloadError::Damaged { .. } => true,
        }
    }
}

/// Uploads one generation's checkpoints in the background, one after another.
#[derive(Debug)]
pub(super) struct Uploader {
    stall: Stall,
    client: Client,
    generation: Generation,
    job_id: String,
    rank: u32,
    world: u32,
    abort: Abort,
    reports: Sender<Report>,
}

impl Uploader {
    pub(super) fn new(
        client: Client,
        generation: Generation,
        form: &Form,
        abort: &Abort,
        reports: Sender<Report>,
    ) -> Uploader {
        let (job_id, world) = (form.job_id.clone(), form.members.len() as u32);
        let (abort, stall) = (abort.clone(), Stall::default());
        Uploader { stall, client, generation, job_id, rank: form.rank, world, abort, reports }
    }

    /// Ends when what it returns is dropped and everything is uploaded.
    pub(super) fn start(self) -> Uploads {
        let (uploads, queue) = Uploads::new(self.stall.clone());
        tokio::spawn(self.run(queue));
        uploads
    }

    async fn run(mut self, mut uploads: Receiver<Upload>) {
        // Of the newest snapshot: the last one before `Finished` is that of the final state.
        let mut model_sha256 = Vec::new();
        // Kept to be sent again: training is over, its bytes are in nobody's way.
        let mut end: Option<(u64, Arc<[Encoded]>)> = None;
        while let Some(upload) = uploads.recv().await {
            if self.abort.is_aborted() {
                return;
            }
            match upload {
                Upload::Checkpoint { snapshot, last } => {
                    let step = snapshot.step;
                    let encoded = tokio::task::spawn_blocking(move || encode(&snapshot)).await;
                    let files =
                        encoded.expect("a snapshot of the model's own layout can be encoded");
                    model_sha256 = files[0].sha256.clone();
                    let files: Arc<[Encoded]> = files.into();
                    end = last.then(|| (step, Arc::clone(&files)));
                    self.send(step, files).await;
                }
                Upload::Again => {
                    if let Some((step, files)) = end.clone() {
                        self.send(step, files).await;
                    }
                }
                Upload::Finished { step } => {
                    let finished = Finished { step, model_sha256: model_sha256.clone() };
                    say(&self.reports, self.generation.0, report::Kind::Finished(finished)).await;
                }
            }
        }
    }

    /// Tries again after what may pass. A failure is the coordinator's to tell the user; this worker trains on.
    async fn send(&mut self, step: u64, files: Arc<[Encoded]>) {
        let since = Instant::now();
        loop {
            let result = self.try_send(step, Arc::clone(&files)).await;
            let passing = result.as_ref().is_err_and(is_passing);
            self.stall.set(passing);
            let Err(status) = result else { return };
            // Only the receipt of an earlier try was lost.
            if status.code() == Code::AlreadyExists {
                return;
            }
            if !passing || since.elapsed() > UPLOAD_PATIENCE || self.abort.is_aborted() {
                return tracing::warn!(step, "checkpoint not stored: {}", status.message());
            }
            tokio::time::sleep(UPLOAD_PAUSE).await;
        }
    }

    async fn try_send(&mut self, step: u64, files: Arc<[Encoded]>) -> Result<(), Status> {
        let header = CheckpointHeader {
            job_id: self.job_id.clone(),
            generation: self.generation.0,
            step,
            rank: self.rank,
            files: files.iter().map(Encoded::describe).collect(),
        };
        let (rank, world) = (self.rank, self.world);
        let parts = (0..files.len()).flat_map(move |index| {
            let part = checkpoint_part(files[index].bytes.len() as u64, rank, world);
            let files = Arc::clone(&files);
            let offsets = part.clone().step_by(CHUNK_BYTES_MAX);
            offsets.map(move |offset| chunk(index as u32, &files[index].bytes, offset..part.end))
        });
        let header = checkpoint_chunk::Kind::Header(header);
        let chunks = std::iter::once(header).chain(parts.map(checkpoint_chunk::Kind::Data));
        let chunks = chunks.map(|kind| CheckpointChunk { kind: Some(kind) });
        let upload = self.client.upload_checkpoint(tokio_stream::iter(chunks));
        match tokio::time::timeout(UPLOAD_LIMIT, upload).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(Status::deadline_exceeded(format!("no receipt within {UPLOAD_LIMIT:?}"))),
        }
    }
}

/// The coordinator is away, for now.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// One file of a checkpoint.
struct Encoded {
    name: &'static str,
    bytes: Vec<u8>,
    sha256: Vec<u8>,
}

impl Encoded {
    fn new(name: &'static str, bytes: Vec<u8>) -> Encoded {
        let sha256 = Sha256::digest(&bytes).to_vec();
        Encoded { name, bytes, sha256 }
    }

    fn describe(&self) -> CheckpointFile {
        let (len, sha256) = (self.bytes.len() as u64, self.sha256.clone());
        CheckpointFile { name: self.name.to_owned(), len, sha256 }
    }
}

/// The model's file first.
fn encode(snapshot: &Snapshot) -> Vec<Encoded> {
    let mut files = vec![
        Encoded::new(MODEL_FILE, snapshot.encode_model()),
        Encoded::new(OPTIMIZER_FILE, snapshot.encode_optimizer()),
    ];
    files.extend(snapshot.encode_ema().map(|bytes| Encoded::new(EMA_FILE, bytes)));
    files
}

/// The chunk at the start of what is left of a part.
fn chunk(file: u32, bytes: &[u8], left: Range<u64>) -> CheckpointData {
    let end = left.end.min(left.start + CHUNK_BYTES_MAX as u64);
    let data = bytes[left.start as usize..end as usize].to_vec();
    CheckpointData { file, offset: left.start, crc32: crc32fast::hash(&data), data }
}

/// Fetches what a generation starts from, unless that is the seed, or what members hold. Tries again after what may pass.
pub(super) async fn download(client: Client, form: &Form) -> Result<Base, DownloadError> {
    let since = Instant::now();
    loop {
        match try_download(client.clone(), form).await {
            Err(error) if error.may_pass() && since.elapsed() < DOWNLOAD_PATIENCE => {
                tracing::warn!("{error}; trying again");
                tokio::time::sleep(UPLOAD_PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn try_download(mut client: Client, form: &Form) -> Result<Base, DownloadError> {
    let step = form.base_step;
    if !form.holders.is_empty() {
        return Ok(Base::Members);
    }
    // A job that does not parse is the training thread's to refuse.
    let from_file = || Job::parse(&form.job_toml).is_ok_and(|job| job.init != Init::Seed);
    if step == 0 && !from_file() {
        return Ok(Base::Seed);
    }
    let refused = |status: Status| DownloadError::Refused { step, status: Box::new(status) };
    let damaged = |problem: &str| DownloadError::Damaged { step, problem: problem.to_owned() };
    let request = CheckpointRequest { job_id: form.job_id.clone(), step };
    let fetch = async {
        let mut stream = client.download_checkpoint(request).await.map_err(refused)?.into_inner();
        let mut incoming: Option<Incoming> = None;
        while let Some(chunk) = stream.message().await.map_err(refused)? {
            match (chunk.kind, &mut incoming) {
                (Some(checkpoint_chunk::Kind::Header(header)), None) => {
                    if (header.job_id.as_str(), header.step) != (form.job_id.as_str(), step) {
                        return Err(damaged("the coordinator sent another one"));
                    }
                    incoming = Some(Incoming::new(header.files).map_err(damaged)?);
                }
                (Some(checkpoint_chunk::Kind::Data(data)), Some(incoming)) => {
                    incoming.take(&data).map_err(damaged)?;
                }
                _ => return Err(damaged("the stream is out of order")),
            }
        }
        let incoming = incoming.ok_or_else(|| damaged("the stream is empty"))?;
        // Hashing takes longer than heartbeats may be late.
        let verify = move || if step == 0 { incoming.weights() } else { incoming.checkpoint() };
        let base = tokio::task::spawn_blocking(verify).await;
        base.expect("bytes can be hashed").map_err(damaged)
    };
    let fetched = tokio::time::timeout(UPLOAD_LIMIT, fetch).await;
    fetched.unwrap_or_else(|_| Err(damaged("it took too long")))
}

/// Files being received, in order.
struct Incoming {
    files: Vec<CheckpointFile>,
    contents: Vec<Vec<u8>>,
}

impl Incoming {
    fn new(files: Vec<CheckpointFile>) -> Result<Incoming, &'static str> {
        let total = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.len));
        if files.len() > CHECKPOINT_FILES_MAX
            || total.is_none_or(|total| total > CHECKPOINT_BYTES_MAX)
        {
            return Err("its header claims more than a checkpoint can have");
        }
        // Grown as bytes arrive: a header alone allocates nothing.
        let contents = files.iter().map(|_| Vec::new()).collect();
        Ok(Incoming { files, contents })
    }

    fn take(&mut self, data: &CheckpointData) -> Result<(), &'static str> {
        let index = data.file as usize;
        let file = self.files.get(index).ok_or("a chunk names no file")?;
        let content = &mut self.contents[index];
        if data.offset != content.len() as u64 {
            return Err("a chunk is missing");
        }
        if data.offset + data.data.len() as u64 > file.len {
            return Err("a file is longer than its header says");
        }
        if crc32fast::hash(&data.data) != data.crc32 {
            return Err("a chunk's checksum is wrong");
        }
        content.extend_from_slice(&data.data);
        Ok(())
    }

    fn checkpoint(mut self) -> Result<Base, &'static str> {
        self.verify()?;
        match (self.named(MODEL_FILE), self.named(OPTIMIZER_FILE)) {
            (Some(model), Some(optimizer)) => {
                let ema = self.named(EMA_FILE);
                Ok(Base::Checkpoint(CheckpointFiles { model, optimizer, ema }))
            }
            _ => Err("the model's or the optimizer's file is missing"),
        }
    }

    fn weights(mut self) -> Result<Base, &'static str> {
        self.verify()?;
        self.named(INIT_FILE).map(Base::Weights).ok_or("the file of weights is missing")
    }

    fn verify(&self) -> Result<(), &'static str> {
        for (file, content) in self.files.iter().zip(&self.contents) {
            if Sha256::digest(content).as_slice() != file.sha256 {
                return Err("a file's SHA-256 is not the one in its header");
            }
        }
        Ok(())
    }

    fn named(&mut self, name: &str) -> Option<Vec<u8>> {
        let index = self.files.iter().position(|file| file.name == name)?;
        Some(std::mem::take(&mut self.contents[index]))
    }
}

/// One transfer. Far above what a ResNet needs on any network worth training over.
const UPLOAD_LIMIT: Duration = Duration::from_secs(300);
/// A coordinator that is away is waited for.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);
const UPLOAD_PAUSE: Duration = Duration::from_millis(500);
/// The others wait for whoever downloads, for a minute at most.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, bytes: &[u8]) -> CheckpointFile {
        let sha256 = Sha256::digest(bytes).to_vec();
        CheckpointFile { name: name.to_owned(), len: bytes.len() as u64, sha256 }
    }

    #[test]
    fn the_weights_of_step_0_are_one_file() {
        let mut incoming = Incoming::new(vec![entry(INIT_FILE, &[1, 2])]).unwrap();
        incoming.take(&chunk(0, &[1, 2], 0..2)).unwrap();
        assert!(matches!(incoming.weights(), Ok(Base::Weights(bytes)) if bytes == [1, 2]));
        assert!(Incoming::new(vec![]).unwrap().weights().is_err());
    }

    #[test]
    fn a_download_with_a_flipped_bit_or_a_gap_is_refused() {
        let (model, optimizer) = (vec![1, 2, 3], vec![4, 5]);
        let files = vec![entry(MODEL_FILE, &model), entry(OPTIMIZER_FILE, &optimizer)];
        let chunk = |file, bytes: &[u8]| chunk(file, bytes, 0..bytes.len() as u64);
        let mut good = Incoming::new(files.clone()).unwrap();
        good.take(&chunk(0, &model)).unwrap();
        good.take(&chunk(1, &optimizer)).unwrap();
        assert!(matches!(good.checkpoint(), Ok(Base::Checkpoint(files)) if files.model == model));

        let mut flipped = Incoming::new(files.clone()).unwrap();
        let mut bad = chunk(0, &model);
        bad.data[1] ^= 4;
        assert!(flipped.take(&bad).is_err());
        flipped.take(&chunk(0, &[1, 2, 7])).unwrap();
        flipped.take(&chunk(1, &optimizer)).unwrap();
        assert!(flipped.checkpoint().is_err());

        let mut short = Incoming::new(files).unwrap();
        short.take(&chunk(0, &model)).unwrap();
        assert!(short.take(&CheckpointData { offset: 1, ..chunk(1, &optimizer) }).is_err());
        assert!(short.checkpoint().is_err());
    }
}
