//! The core's plans as wire messages, and the lines that the driver words itself.

use proto::identity::{Generation, JobId, unhex};
use proto::manifest::Evaluation;
use proto::wire::v1;
use proto::wire::v1::plan::Kind;

use crate::core::{Formation, HEARTBEAT, JobSpec, LOST_AFTER, Plan};
use crate::metrics::Progress;

/// The first plan of a stream.
pub fn welcome(generation: Generation) -> Kind {
    Kind::Welcome(v1::Welcome {
        heartbeat_ms: HEARTBEAT.as_millis() as u32,
        lost_after_ms: LOST_AFTER.as_millis() as u32,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: generation.0,
    })
}

/// What the core says in one word.
pub fn plan(plan: Plan) -> Kind {
    match plan {
        Plan::Run => Kind::Run(v1::Run {}),
        Plan::Seal { attempt } => Kind::Seal(v1::Seal { attempt: attempt.0 }),
        Plan::Stop => Kind::Stop(v1::Stop {}),
        Plan::Pause => Kind::Pause(v1::Pause {}),
        Plan::Committed { step } => Kind::Committed(v1::Committed { step }),
        Plan::Abandon { reason } => Kind::Abandon(v1::Abandon { reason }),
        Plan::Release => Kind::Release(v1::Release {}),
        Plan::Goodbye { reason } => Kind::Goodbye(v1::Goodbye { reason }),
    }
}

/// For the member at this rank.
pub fn form(formation: &Formation, rank: usize, exchange_key: &[u8; 32]) -> Kind {
    let spec = &formation.spec;
    let members = formation.members.iter().map(|member| v1::Member {
        worker: member.name.to_string(),
        incarnation: member.incarnation.0.to_vec(),
        exchange_address: member.address.clone(),
        first_slice: member.slices.start,
        slice_count: member.slices.len() as u32,
    });
    Kind::Form(v1::Form {
        job_id: formation.job.to_string(),
        job_toml: spec.toml.clone(),
        data_path: spec.job.data.path.to_string_lossy().into_owned(),
        dataset_fingerprint: unhex(&spec.dataset.fingerprint).expect("it was written by `hex`"),
        rank: rank as u32,
        members: members.collect(),
        exchange_key: exchange_key.to_vec(),
        base_step: formation.base.step,
        base_digest: formation.base.digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        holders: formation.holders.clone(),
        evaluate_base: formation.redo.evaluation,
        checkpoint_base: formation.redo.checkpoint,
    })
}

/// To a worker that may be needed soon.
pub fn warm(job: &JobId, spec: &JobSpec, workers: u32) -> Kind {
    Kind::Warm(v1::Warm {
        job_id: job.to_string(),
        job_toml: spec.toml.clone(),
        data_path: spec.job.data.path.to_string_lossy().into_owned(),
        dataset_fingerprint: unhex(&spec.dataset.fingerprint).expect("it was written by `hex`"),
        workers,
    })
}

/// "epoch 3 of 20 (step 69 of 460): test accuracy 97.5 % (351 of 360), loss 0.1234, 5210 images/s".
pub(super) fn evaluation_line(step: u64, evaluation: &Evaluation, progress: &Progress) -> String {
    let Evaluation { samples, correct, .. } = *evaluation;
    let percent = 100.0 * correct as f64 / samples.max(1) as f64;
    let (epoch, epochs) = (progress.epoch.floor(), progress.epochs);
    let (total, loss, speed) = (progress.total_steps, progress.loss, progress.images_per_second);
    format!(
        "epoch {epoch} of {epochs} (step {step} of {total}): test accuracy {percent:.1} % ({correct} of {samples}), \
         training loss {loss:.4}, {speed:.0} images/s"
    )
}
