//! What the journal holds: every decision that must outlive the process, and how a restarted core reads it back.
//! Plain strings and numbers, so that the file stays readable to people and to later versions.

use std::time::Duration;

use proto::Job;
use proto::identity::{Generation, Incarnation, JobId, Name, hex, unhex};
use proto::manifest::Evaluation;
use proto::mutant::{Mutant, active};
use proto::wire::v1::{Phase, Split};
use serde::{Deserialize, Serialize};

use super::action::{Cause, Member, Outcome};
use super::event::{Digest, SessionId};
use super::job::{
    CheckpointEntry, DatasetFacts, JobRun, JobSpec, Mark, Policy, Shortage, Stage, Submission,
    WeightsFacts,
};
use super::membership::{Away, Membership, Seat};
use super::roster::{Warmth, Worker};
use super::{Cluster, RETURN_WITHIN};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A coordinator started; generations up to `generation` are burned.
    Booted {
        boot: u64,
        generation: u64,
    },
    Submitted {
        job: String,
        toml: String,
        dataset: DatasetFacts,
        /// Absent when the seed makes the first weights.
        #[serde(default)]
        weights: Option<WeightsFacts>,
        workers: u32,
        #[serde(default)]
        policy: Policy,
        shortage: Shortage,
    },
    /// The job goes on from a checkpoint (or, without any, from the beginning). These are the checkpoints it has.
    Resumed {
        job: String,
        workers: u32,
        #[serde(default)]
        policy: Policy,
        shortage: Shortage,
        /// By itself, when nobody held its state any more: it does not wait for as many workers as at its start.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        went_back: bool,
        checkpoints: Vec<CheckpointEntry>,
    },
    Formed {
        job: String,
        generation: u64,
        device_kind: String,
        base_step: u64,
        /// Hex; absent for the initial state before anybody has made it.
        base_digest: Option<String>,
        /// Members held the base in memory.
        #[serde(default)]
        carried: bool,
        members: Vec<MemberRecord>,
    },
    Committed {
        job: String,
        generation: u64,
        step: u64,
        digest: String,
        /// Hex: the ledger's link to everything before.
        chain: String,
        /// Nobody applied it; its samples are used up all the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skipped: Option<String>,
    },
    /// A member of the generation went away.
    Parted {
        job: String,
        generation: u64,
        worker: String,
        incarnation: String,
        parting: Parting,
        /// What the log says of it.
        line: String,
    },
    Evaluated {
        job: String,
        step: u64,
        evaluation: Evaluation,
    },
    /// `entry` is sealed; `removed` are no longer kept.
    Sealed {
        job: String,
        entry: CheckpointEntry,
        removed: Vec<u64>,
    },
    /// These images can't be decoded, by their numbers.
    Quarantined {
        job: String,
        train: Vec<u64>,
        test: Vec<u64>,
    },
    Ended {
        job: String,
        end: End,
        trained_ms: u64,
        trained_steps: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub worker: String,
    /// Hex.
    pub incarnation: String,
    pub address: String,
    pub first_slice: u32,
    pub slice_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parting {
    /// It died, was silent, or could not go on.
    Lost,
    /// It asked to leave.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Finished { model_sha256: String },
    Stopped,
    Failed { cause: Cause, reason: String },
}

impl From<&Outcome> for End {
    fn from(outcome: &Outcome) -> End {
        match outcome.clone() {
            Outcome::Finished { model_sha256 } => End::Finished { model_sha256 },
            Outcome::Stopped => End::Stopped,
            Outcome::Failed { cause, reason } => End::Failed { cause, reason },
        }
    }
}

impl From<&Seat> for MemberRecord {
    fn from(seat: &Seat) -> MemberRecord {
        MemberRecord {
            worker: seat.member.name.to_string(),
            incarnation: seat.member.incarnation.to_string(),
            address: seat.member.address.clone(),
            first_slice: seat.member.slices.start,
            slice_count: seat.member.slices.len() as u32,
        }
    }
}

/// A record that is whole but makes no sense: written by another version, or by a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("it speaks of job {0:?}, which no earlier record submits")]
    UnknownJob(String),
    #[error("it holds an unreadable {what}: {problem}")]
    Unreadable { what: &'static str, problem: String },
}

impl Cluster {
    /// Takes in one record of an earlier life. Follow the last one with `boot`.
    // long: one arm for each kind of record
    pub fn replay(&mut self, record: &Record) -> Result<(), ReplayError> {
        match record {
            Record::Booted { boot, generation } => {
                self.boot = *boot;
                self.burn(Generation(*generation));
            }
            Record::Submitted { job, toml, dataset, weights, workers, policy, shortage } => {
                let id = job_id(job)?;
                let parsed = Job::parse(toml).map_err(|e| unreadable("job file", &e))?;
                let (toml, dataset, weights) = (toml.clone(), dataset.clone(), weights.clone());
                let spec = JobSpec { job: parsed, toml, dataset, weights };
                let (workers, policy, shortage) = (*workers, *policy, *shortage);
                let submission = Submission { spec, workers, policy, fresh: false, shortage };
                self.jobs.push(JobRun::new(id, submission, Stage::Queued));
            }
            Record::Formed {
                job,
                generation,
                device_kind,
                base_step,
                base_digest,
                carried,
                members,
            } => {
                let generation = Generation(*generation);
                if !active(Mutant::GenerationReused) {
                    self.burn(generation);
                }
                let run = self.replayed(job)?;
                run.device_kind = Some(device_kind.clone());
                run.stage = Stage::Active;
                run.generation = generation;
                run.chain.form(generation.0, *base_step, members);
                let id = run.id.clone();
                let digest = base_digest.as_deref().map(parse_digest).transpose()?;
                let base = Mark { step: *base_step, digest };
                let mut membership = remembered((id, generation), base, members, device_kind)?;
                membership.carried = *carried;
                self.membership = Some(membership);
            }
            Record::Resumed { job, workers, policy, shortage, went_back, checkpoints } => {
                let base = base_of(checkpoints)?;
                self.membership.take_if(|membership| membership.job.as_str() == job);
                let run = self.replayed(job)?;
                run.checkpoints = checkpoints.clone();
                run.rewind(base);
                run.chain.resume(base.step);
                (run.workers, run.policy, run.shortage) = (*workers, *policy, *shortage);
                run.went_back = *went_back;
                run.stage = Stage::Queued;
            }
            Record::Committed { job, step, digest, chain, skipped, .. } => {
                let digest = parse_digest(digest)?;
                if active(Mutant::WatermarkForgotten) {
                    return Ok(());
                }
                let run = self.replayed(job)?;
                run.commit(*step, digest, skipped.is_some());
                run.chain.read(chain);
                let current = self.membership.as_mut().filter(|m| m.job.as_str() == job);
                for seat in current.into_iter().flat_map(|membership| &mut membership.seats) {
                    seat.applied = seat.applied.max(*step);
                }
            }
            // Its generation is over, or goes on: that is decided anew.
            Record::Parted { .. } => {}
            Record::Evaluated { job, step, evaluation } => {
                if !active(Mutant::EvaluationsForgotten) {
                    self.replayed(job)?.evaluations.insert(*step, *evaluation);
                }
            }
            Record::Sealed { job, entry, .. } => {
                let run = self.replayed(job)?;
                run.unsealed.remove(&entry.step);
                run.keep(entry.clone());
            }
            Record::Quarantined { job, train, test } => {
                let run = self.replayed(job)?;
                let numbers = train.iter().map(|number| (Split::Train, number));
                for (split, &number) in numbers.chain(test.iter().map(|n| (Split::Test, n))) {
                    run.quarantine.add(split, number);
                }
            }
            Record::Ended { job, end, trained_ms, trained_steps } => {
                self.membership.take_if(|membership| membership.job.as_str() == job);
                let run = self.replayed(job)?;
                run.stage = Stage::Ended(end.outcome());
                run.trained = Duration::from_millis(*trained_ms);
                run.trained_steps = *trained_steps;
            }
        }
        Ok(())
    }

    fn burn(&mut self, generation: Generation) {
        self.generation = self.generation.max(generation);
    }

    fn replayed(&mut self, job: &str) -> Result<&mut JobRun, ReplayError> {
        let found = self.jobs.iter_mut().find(|run| run.id.as_str() == job);
        found.ok_or_else(|| ReplayError::UnknownJob(job.to_owned()))
    }
}

/// A member of an earlier life, of whom nothing has been heard yet.
fn absent(member: &MemberRecord, device_kind: &str) -> Result<Worker, ReplayError> {
    let name: Name = member.worker.parse().map_err(|e| unreadable("worker's name", &e))?;
    Ok(Worker {
        session: NOBODY,
        name,
        incarnation: incarnation(&member.incarnation)?,
        address: member.address.clone(),
        device_kind: device_kind.to_owned(),
        threads: 0,
        last_heard: Duration::ZERO,
        step: 0,
        phase: Phase::Idle,
        dismissed: false,
        leaving: false,
        warmth: Warmth::Cold,
        pace_ns: None,
    })
}

/// The generation that an earlier life formed, as if all its streams had just ended.
fn remembered(
    (job, generation): (JobId, Generation),
    base: Mark,
    records: &[MemberRecord],
    device_kind: &str,
) -> Result<Membership, ReplayError> {
    let workers: Result<Vec<Worker>, _> =
        records.iter().map(|record| absent(record, device_kind)).collect();
    let workers = workers?;
    let slices = records.iter().map(|r| r.first_slice..r.first_slice + r.slice_count);
    let members = workers.iter().zip(slices).map(Member::new).collect();
    let mut membership = Membership::new(generation, job, base, false, members, Duration::ZERO);
    membership.remembered = true;
    for (seat, worker) in membership.seats.iter_mut().zip(workers) {
        let cause = "it did not come back to the coordinator".to_owned();
        seat.away = Some(Away { until: RETURN_WITHIN, cause, worker });
    }
    Ok(membership)
}

/// No stream has this number.
const NOBODY: SessionId = SessionId(u64::MAX);

impl End {
    fn outcome(&self) -> Outcome {
        match self.clone() {
            End::Finished { model_sha256 } => Outcome::Finished { model_sha256 },
            End::Stopped => Outcome::Stopped,
            End::Failed { cause, reason } => Outcome::Failed { cause, reason },
        }
    }
}

/// Where a job with these checkpoints starts from.
pub(crate) fn base_of(checkpoints: &[CheckpointEntry]) -> Result<Mark, ReplayError> {
    let oldest = active(Mutant::OldestCheckpointTaken);
    match if oldest { checkpoints.first() } else { checkpoints.last() } {
        Some(entry) => Ok(Mark { step: entry.step, digest: Some(parse_digest(&entry.digest)?) }),
        None => Ok(Mark { step: 0, digest: None }),
    }
}

/// The digest behind its hexadecimal form.
pub(crate) fn parse_digest(text: &str) -> Result<Digest, ReplayError> {
    let bytes: Option<[u8; 16]> = unhex(text).and_then(|bytes| bytes.try_into().ok());
    bytes.map(Digest).ok_or_else(|| unreadable("digest", &format!("{text:?}")))
}

fn job_id(text: &str) -> Result<JobId, ReplayError> {
    text.parse().map_err(|e| unreadable("job id", &e))
}

fn incarnation(text: &str) -> Result<Incarnation, ReplayError> {
    let parsed = unhex(text).and_then(|bytes| Incarnation::from_bytes(&bytes));
    parsed.ok_or_else(|| unreadable("incarnation", &hex(text.as_bytes())))
}

fn unreadable(what: &'static str, problem: &dyn std::fmt::Display) -> ReplayError {
    ReplayError::Unreadable { what, problem: problem.to_string() }
}
