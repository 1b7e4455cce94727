//! `start`: the control plane on its own, until it is interrupted.

use std::sync::Arc;

use proto::exit::ExitCode;
use tokio::sync::oneshot;

use super::output::line;
use super::{Exit, Failure};
use crate::args::StartArgs;
use crate::driver::{self, Handle, Running};
use crate::service;
use crate::state::StateDir;
use crate::terminal::Interrupts;

pub(super) async fn start(args: &StartArgs) -> Result<Exit, Failure> {
    if let Some(parent) = args.die_with_parent {
        proto::parent::die_with(parent)?;
    }
    let mut interrupts = Interrupts::listen()?;
    // The port first: a second coordinator is told so before it waits for a lock.
    let listener = service::listen(args.listen, args.insecure).await?;
    let state = Arc::new(StateDir::open(&args.state)?);
    let token = state.token()?;
    let address = listener.local_addr()?;
    let Running { handle, mut ended } = driver::start(state.clone())?;
    state.publish_address(address)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(service::serve(listener, token, handle.clone(), async {
        // Dropped or sent: both mean the end.
        stopped.await.ok();
    }));
    line(&format!("listening on {address}"))?;
    line(&format!(
        "join workers with: worker join {address} --token-file {}",
        state.token_path().display()
    ))?;
    let result = tokio::select! {
        () = interrupts.next() => {
            tracing::info!("stopping: jobs write a checkpoint first; interrupt again to stop at once");
            tokio::select! {
                () = stop_jobs(&handle) => {}
                () = interrupts.next() => tracing::warn!("stopped at once"),
            }
            handle.shut_down().await;
            (&mut ended).await
        }
        result = &mut ended => result,
        served = &mut serving => {
            handle.shut_down().await;
            // What the driver still had to say is in its own log.
            ended.await.ok();
            state.withdraw_address();
            let cause = match served {
                Ok(Ok(())) => "it ended unexpectedly".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::new(ExitCode::Network, format!("serving: {cause}")));
        }
    };
    drop(stop);
    state.withdraw_address();
    if let Ok(served) = serving.await {
        served.map_err(|error| Failure::new(ExitCode::Network, format!("serving: {error}")))?;
    }
    match result {
        Ok(Ok(())) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::new(ExitCode::Failure, "the coordinator's loop ended unexpectedly")),
    }
}

/// Stops every job that has not ended and waits until it has. The last in the queue first, so that none takes the place of
/// one that ends.
async fn stop_jobs(handle: &Handle) {
    let Some(status) = handle.status().await else { return };
    let mut stopping = Vec::new();
    for job in status.jobs.iter().rev() {
        let Ok(id) = job.job_id.parse::<proto::JobId>() else { continue };
        if let Some(Ok(())) = handle.stop(id.clone()).await {
            stopping.push(id);
        }
    }
    for id in stopping {
        handle.wait(id).await;
    }
}
