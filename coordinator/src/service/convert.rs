//! From wire messages to the core's values. Everything that a message could get wrong is found here.

use proto::identity::{Generation, Incarnation, Name, hex};
use proto::wire::v1;
use proto::wire::v1::report::Kind;
use proto::wire::{QUARANTINED_MAX, TEXT_BYTES_MAX};
use tonic::Status;

use crate::checkpoints::FileSpec;
use crate::core::{
    BadImage, Candidate, Digest, Held, NotFinite, Report, SessionId, StepDone, Tally, Trouble,
};

/// The first report of a stream.
pub fn candidate(session: SessionId, report: v1::Report) -> Result<Candidate, Status> {
    let Some(Kind::Hello(hello)) = report.kind else {
        return Err(invalid("the first report must be `hello`"));
    };
    let v1::Hello { worker, incarnation, software_version, .. } = hello;
    let v1::Hello { exchange_address, device_kind, threads, generation, .. } = hello;
    let generation = Generation(generation);
    let name: Name = worker.parse().map_err(|e| invalid(&format!("hello.worker: {e}")))?;
    let incarnation = Incarnation::from_bytes(&incarnation)
        .ok_or_else(|| invalid("hello.incarnation must be 16 bytes"))?;
    let address = plain("hello.exchange_address", exchange_address)?;
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        return Err(invalid("hello.exchange_address must be host:port"));
    }
    let device_kind = plain("hello.device_kind", device_kind)?;
    let software_version = plain("hello.software_version", software_version)?;
    Ok(Candidate {
        session,
        name,
        incarnation,
        generation,
        address,
        device_kind,
        threads,
        software_version,
    })
}

/// Any later report.
pub fn report(report: v1::Report) -> Result<(Generation, Report), Status> {
    let generation = Generation(report.generation);
    let kind = report.kind.ok_or_else(|| invalid("a report says nothing"))?;
    let report = match kind {
        Kind::Hello(_) => return Err(invalid("`hello` came twice")),
        Kind::Heartbeat(v1::Heartbeat { step, phase }) => {
            Report::Heartbeat { step, phase: self::phase(phase)? }
        }
        Kind::Ready(v1::Ready { step, digest }) => {
            Report::Ready { step, digest: self::digest(&digest)? }
        }
        Kind::StepDone(done) => {
            let v1::StepDone { step, digest, loss, correct, times, .. } = done;
            let v1::StepDone { gradient_norm, skipped, paused, .. } = done;
            let (digest, times) = (self::digest(&digest)?, times.unwrap_or_default());
            let skipped = skipped.map(|v1::NotFinite { sum, own }| NotFinite {
                sum: words(&sum),
                own: Some(words(&own)).filter(|own| !own.is_empty()),
            });
            Report::StepDone(StepDone {
                step,
                digest,
                loss,
                correct,
                gradient_norm,
                skipped,
                paused,
                times,
            })
        }
        Kind::Evaluated(found) => {
            if found.correct > found.samples || found.correct_top5 > found.samples {
                return Err(invalid("evaluated: more correct answers than samples"));
            }
            let v1::Evaluated { step, samples, correct, correct_top5, loss_fixed } = found;
            Report::Evaluated { step, tally: Tally { samples, correct, correct_top5, loss_fixed } }
        }
        Kind::Quarantined(found) => Report::Quarantined(bad_images(found)?),
        Kind::Trouble(trouble) => Report::Trouble(self::trouble(trouble)?),
        Kind::Finished(v1::Finished { step, model_sha256 }) => {
            if model_sha256.len() != 32 {
                return Err(invalid("finished.model_sha256 must be 32 bytes"));
            }
            Report::Finished { step, model_sha256: hex(&model_sha256) }
        }
        Kind::Leaving(v1::Leaving { reason }) => Report::Leaving { reason: words(&reason) },
        Kind::Sealed(v1::Sealed { attempt, held }) => {
            let held = held.map(self::held).transpose()?;
            Report::Sealed { attempt: Generation(attempt), held }
        }
        Kind::Warmed(v1::Warmed { job_id }) => {
            let job = job_id.parse().map_err(|e| invalid(&format!("warmed.job_id: {e}")))?;
            Report::Warm { job }
        }
    };
    Ok((generation, report))
}

/// The files of an upload's header.
pub fn files(files: Vec<v1::CheckpointFile>) -> Result<Vec<FileSpec>, Status> {
    let file = |file: v1::CheckpointFile| {
        let name = file.name.parse().map_err(|e| invalid(&format!("header.files: {e}")))?;
        if file.sha256.len() != 32 {
            return Err(invalid("header.files: sha256 must be 32 bytes"));
        }
        Ok(FileSpec { name, len: file.len, sha256: hex(&file.sha256) })
    };
    files.into_iter().map(file).collect()
}

fn bad_images(found: v1::Quarantined) -> Result<Vec<BadImage>, Status> {
    if found.images.len() > QUARANTINED_MAX {
        return Err(invalid(&format!("quarantined: more than {QUARANTINED_MAX} images")));
    }
    let image = |image: v1::BadImage| {
        let split = v1::Split::try_from(image.split)
            .map_err(|_| invalid("quarantined: the split is unknown"))?;
        let (path, cause) = (words(&image.path), words(&image.cause));
        Ok(BadImage { split, index: image.index, path, cause })
    };
    found.images.into_iter().map(image).collect()
}

fn trouble(trouble: v1::Trouble) -> Result<Trouble, Status> {
    let kind =
        v1::TroubleKind::try_from(trouble.kind).map_err(|_| invalid("trouble.kind is unknown"))?;
    let culprit = match trouble.culprit.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|e| invalid(&format!("trouble.culprit: {e}")))?),
    };
    let (step, phase) = (trouble.step, phase(trouble.phase)?);
    Ok(Trouble { kind, step, phase, culprit, message: words(&trouble.message) })
}

fn held(held: v1::HeldState) -> Result<Held, Status> {
    let v1::HeldState { generation, step, digest } = held;
    let (generation, digest) = (Generation(generation), self::digest(&digest)?);
    Ok(Held { generation, step, digest })
}

fn phase(phase: i32) -> Result<v1::Phase, Status> {
    v1::Phase::try_from(phase).map_err(|_| invalid("the phase is unknown"))
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    bytes.try_into().map(Digest).map_err(|_| invalid("a digest must be 16 bytes"))
}

/// A short field without control characters, which would garble a log.
fn plain(field: &str, text: String) -> Result<String, Status> {
    if text.is_empty() || text.len() > FIELD_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(invalid(&format!("{field} must be 1 to {FIELD_BYTES_MAX} printable bytes")));
    }
    Ok(text)
}

/// A worker's own words: one line, within bounds.
pub(crate) fn words(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let one_line = text[..end].trim().chars();
    one_line.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn invalid(problem: &str) -> Status {
    Status::invalid_argument(problem)
}

const FIELD_BYTES_MAX: usize = 256;
