//! `submit`: hands a job to a running coordinator.

use proto::exit::ExitCode;
use proto::wire::v1;

use super::connect::{client, refused};
use super::output::line;
use super::{Exit, Failure};
use crate::args::SubmitArgs;
use crate::intake;

pub(super) async fn submit(args: &SubmitArgs) -> Result<Exit, Failure> {
    let (job_toml, folder) = intake::read_job_file(&args.job)?;
    // Mistakes in the job file are found before anybody is asked.
    proto::Job::parse(&job_toml)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    let mut client = client(&args.connection).await?;
    let request = v1::SubmitRequest {
        job_toml,
        base_folder: folder.to_string_lossy().into_owned(),
        workers: args.workers,
        fresh: args.fresh,
        on_loss: args.policy.on_loss.on_wire().into(),
        min_workers: args.policy.min_workers,
        max_workers: args.policy.max_workers.unwrap_or(0),
    };
    let tried = format!("submitting {}", args.job.display());
    let reply = client.submit(request).await.map_err(|status| refused(&tried, &status))?;
    let v1::SubmitReply { job_id, resumed_from_step, already_finished } = reply.into_inner();
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
