//! `stop`: ends a job after its current step.

use proto::wire::v1;

use super::connect::{client, refused};
use super::output::line;
use super::{Exit, Failure};
use crate::args::JobArgs;

pub(super) async fn stop(args: &JobArgs) -> Result<Exit, Failure> {
    let mut client = client(&args.connection).await?;
    let request = v1::StopRequest { job_id: args.job.clone() };
    let tried = format!("stopping {}", args.job);
    client.stop(request).await.map_err(|status| refused(&tried, &status))?;
    line(&format!(
        "job {} stops after its current step, with a checkpoint; submit the same job again to go on",
        args.job
    ))?;
    Ok(None)
}
