//! Checkpoint bytes on their way in and out, in chunks, each with its checksum. Disk work happens on blocking threads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::identity::{JobId, unhex};
use proto::manifest::{FileEntry, INIT_FILE, folder_name};
use proto::wire::CHUNK_BYTES_MAX;
use proto::wire::v1;
use proto::wire::v1::checkpoint_chunk::Kind;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::convert;
use crate::checkpoints::{self, Part, UploadError, Uploads};
use crate::core::{Event, WeightsFacts};
use crate::driver::Handle;

/// Receives one member's part; returns the bytes stored.
pub(super) async fn receive(
    handle: &Handle,
    mut chunks: Streaming<v1::CheckpointChunk>,
) -> Result<u64, Status> {
    let first = next(&mut chunks).await?.and_then(|chunk| chunk.kind);
    let Some(Kind::Header(header)) = first else {
        return Err(Status::invalid_argument("the first chunk must be `header`"));
    };
    let job: JobId = header
        .job_id
        .parse()
        .map_err(|error| Status::invalid_argument(format!("header.job_id: {error}")))?;
    let (generation, step, rank) = (header.generation, header.step, header.rank);
    let files = convert::files(header.files)?;
    let uploads = handle.uploads().clone();
    let name = job.to_string();
    let (skipped, part) = blocking(move || {
        let skipped = uploads.pass_over(generation, step, rank);
        (skipped, uploads.begin(&name, generation, step, rank, files))
    })
    .await?;
    for step in skipped {
        let (job, generation) = (job.clone(), proto::Generation(generation));
        let problem = format!("the worker of rank {rank} skipped it");
        handle.tell(Event::CheckpointFailed { job, generation, step, problem }).await;
    }
    let stored = match part {
        Ok(part) => store(part, chunks).await?,
        Err(error) => Err(error),
    };
    match stored {
        Ok((bytes, complete)) => {
            if complete {
                // Told before the receipt is sent: whatever the worker says next comes later.
                let generation = proto::Generation(generation);
                handle.tell(Event::CheckpointAssembled { job, generation, step }).await;
            }
            Ok(bytes)
        }
        Err(error) => {
            // A late or repeated part harms nothing. Anything else spoils the checkpoint, with one warning for all parts.
            let harmless = matches!(
                error,
                UploadError::NotCurrent { .. }
                    | UploadError::Repeated { .. }
                    | UploadError::Arriving { .. }
                    | UploadError::GivenUp { .. }
            );
            if !harmless {
                let problem = error.to_string();
                let uploads: Arc<Uploads> = handle.uploads().clone();
                if blocking(move || uploads.give_up(generation, step)).await? {
                    let generation = proto::Generation(generation);
                    handle.tell(Event::CheckpointFailed { job, generation, step, problem }).await;
                }
            }
            Err(refusal(&error))
        }
    }
}

async fn store(
    mut part: Part,
    mut chunks: Streaming<v1::CheckpointChunk>,
) -> Result<Result<(u64, bool), UploadError>, Status> {
    while let Some(chunk) = next(&mut chunks).await? {
        let Some(Kind::Data(chunk)) = chunk.kind else {
            return Err(Status::invalid_argument("only `data` follows the header"));
        };
        let (returned, stored) = blocking(move || {
            let v1::CheckpointData { file, offset, data, crc32 } = chunk;
            let stored = part.store(file, offset, &data, crc32);
            (part, stored)
        })
        .await?;
        part = returned;
        if let Err(error) = stored {
            return Ok(Err(error));
        }
    }
    blocking(move || part.finish()).await
}

/// The next chunk, which must not take forever: a part that stalls would hold its checkpoint back.
async fn next(
    chunks: &mut Streaming<v1::CheckpointChunk>,
) -> Result<Option<v1::CheckpointChunk>, Status> {
    let stalled = |_| Status::deadline_exceeded("the upload stalled");
    tokio::time::timeout(CHUNK_WITHIN, chunks.message()).await.map_err(stalled)?
}

fn refusal(error: &UploadError) -> Status {
    let text = error.to_string();
    match error {
        UploadError::NotCurrent { .. } => Status::failed_precondition(text),
        UploadError::Header(_) | UploadError::Data(_) => Status::invalid_argument(text),
        UploadError::Repeated { .. } => Status::already_exists(text),
        // The end of an attempt that broke has not been noticed yet: worth another one.
        UploadError::Arriving { .. } => Status::unavailable(text),
        UploadError::Checksum { .. } => Status::data_loss(text),
        UploadError::Disk { .. } | UploadError::GivenUp { .. } | UploadError::TooMany => {
            Status::resource_exhausted(text)
        }
    }
}

/// Files to be sent: they lie in `folder` under the names of the header.
struct Outgoing {
    folder: PathBuf,
    header: v1::CheckpointHeader,
}

/// The files of a sealed checkpoint, or the weights that a job starts from; verified before the first byte is sent.
pub(super) async fn send(
    handle: &Handle,
    request: v1::CheckpointRequest,
) -> Result<ReceiverStream<Result<v1::CheckpointChunk, Status>>, Status> {
    let v1::CheckpointRequest { job_id, step } = request;
    let job: JobId =
        job_id.parse().map_err(|error| Status::invalid_argument(format!("job_id: {error}")))?;
    let jobs = handle.jobs_folder().to_owned();
    let outgoing = if step == 0 {
        let weights = handle.view(job.clone()).await.and_then(|view| view.spec.weights);
        let Some(facts) = weights else {
            return Err(Status::not_found(format!("job {job} starts from no file of weights")));
        };
        blocking(move || weights_of(&jobs, &job, &facts)).await??
    } else {
        blocking(move || checkpoint_of(&jobs, &job, step)).await??
    };
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    spawn_blocking(move || {
        if let Err(status) = read_out(outgoing, &chunks) {
            // The receiver may be the one who has gone.
            chunks.blocking_send(Err(status)).ok();
        }
    });
    Ok(ReceiverStream::new(receiver))
}

fn checkpoint_of(jobs: &Path, job: &JobId, step: u64) -> Result<Outgoing, Status> {
    let folder = checkpoints::folder_of(jobs, job).join(folder_name(step));
    if !folder.is_dir() {
        return Err(Status::not_found(format!(
            "job {job} has no sealed checkpoint of step {step}"
        )));
    }
    let whole = checkpoints::verify(&folder);
    let manifest = whole.map_err(|damage| Status::data_loss(damage.to_string()))?.manifest;
    let file = |(name, file): (&String, &FileEntry)| described(name, file.len, &file.sha256);
    let files = manifest.files.iter().map(file).collect();
    Ok(Outgoing { folder, header: header(manifest.job_id, step, files) })
}

fn weights_of(jobs: &Path, job: &JobId, facts: &WeightsFacts) -> Result<Outgoing, Status> {
    let copy = checkpoints::copy_of(jobs, job);
    checkpoints::verify_copy(&copy, facts)
        .map_err(|damage| Status::data_loss(damage.to_string()))?;
    let files = vec![described(INIT_FILE, facts.len, &facts.sha256)];
    let folder = copy.parent().unwrap_or(jobs).to_owned();
    Ok(Outgoing { folder, header: header(job.to_string(), 0, files) })
}

fn header(job_id: String, step: u64, files: Vec<v1::CheckpointFile>) -> v1::CheckpointHeader {
    v1::CheckpointHeader { job_id, generation: 0, step, rank: 0, files }
}

fn described(name: &str, len: u64, sha256: &str) -> v1::CheckpointFile {
    let sha256 = unhex(sha256).unwrap_or_default();
    v1::CheckpointFile { name: name.to_owned(), len, sha256 }
}

fn read_out(
    outgoing: Outgoing,
    chunks: &mpsc::Sender<Result<v1::CheckpointChunk, Status>>,
) -> Result<(), Status> {
    let push = |kind| {
        let sent = chunks.blocking_send(Ok(v1::CheckpointChunk { kind: Some(kind) }));
        sent.map_err(|_| Status::cancelled("the receiver has gone"))
    };
    let Outgoing { folder, header } = outgoing;
    push(Kind::Header(header.clone()))?;
    for (index, v1::CheckpointFile { name, .. }) in header.files.iter().enumerate() {
        let path = folder.join(name);
        let lost = |error| Status::data_loss(format!("reading {}: {error}", path.display()));
        let mut file = File::open(&path).map_err(lost)?;
        let mut offset = 0;
        loop {
            let mut data = Vec::with_capacity(CHUNK_BYTES_MAX);
            let limit = CHUNK_BYTES_MAX as u64;
            let read = file.by_ref().take(limit).read_to_end(&mut data).map_err(lost)?;
            if read == 0 {
                break;
            }
            let (file, crc32) = (index as u32, crc32fast::hash(&data));
            push(Kind::Data(v1::CheckpointData { file, offset, data, crc32 }))?;
            offset += read as u64;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(work).await.map_err(|_| Status::internal("a disk task panicked"))
}

/// A chunk of 1 MiB, even over a slow network.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;
