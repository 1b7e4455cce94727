//! `submit`: hands a job to a running coordinator.

use std::path::Path;

use proto::exit::ExitCode;
use proto::wire::v1;

use super::connect::{Client, client, refused};
use super::output::line;
use super::{Exit, Failure};
use crate::args::{PolicyArgs, SubmitArgs};
use crate::intake;

/// A job as it is handed to a coordinator.
pub(super) struct Order<'a> {
    pub(super) job_toml: String,
    /// What paths in the job file start at.
    pub(super) folder: &'a Path,
    pub(super) workers: u32,
    pub(super) fresh: bool,
    pub(super) policy: &'a PolicyArgs,
}

impl Order<'_> {
    /// `file` is where the job comes from, for people.
    pub(super) async fn hand_over(
        self,
        client: &mut Client,
        file: &Path,
    ) -> Result<v1::SubmitReply, Failure> {
        let Order { job_toml, folder, workers, fresh, policy } = self;
        let request = v1::SubmitRequest {
            job_toml,
            base_folder: folder.to_string_lossy().into_owned(),
            workers,
            fresh,
            on_loss: policy.on_loss.on_wire().into(),
            min_workers: policy.min_workers,
            max_workers: policy.max_workers.unwrap_or(0),
        };
        let tried = format!("submitting {}", file.display());
        let reply = client.submit(request).await;
        Ok(reply.map_err(|status| refused(&tried, &status))?.into_inner())
    }
}

pub(super) async fn submit(args: &SubmitArgs) -> Result<Exit, Failure> {
    let (job_toml, folder) = intake::read_job_file(&args.job)?;
    // Mistakes in the job file are found before anybody is asked.
    proto::Job::parse(&job_toml)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    let mut client = client(&args.connection).await?;
    let SubmitArgs { workers, fresh, .. } = *args;
    let order = Order { job_toml, folder: &folder, workers, fresh, policy: &args.policy };
    let reply = order.hand_over(&mut client, &args.job).await?;
    let v1::SubmitReply { job_id, resumed_from_step, already_finished } = reply;
    let text = match (already_finished, resumed_from_step) {
        (true, step) => format!(
            "job {job_id} has finished already, after step {step}; see `coordinator checkpoints {job_id}`, or start \
             over with --fresh"
        ),
        (false, 0) => {
            format!("job {job_id} submitted; follow it with `coordinator logs {job_id} -f`")
        }
        (false, step) => format!(
            "job {job_id} goes on from step {step}; follow it with `coordinator logs {job_id} -f`"
        ),
    };
    line(&text)?;
    Ok(None)
}
