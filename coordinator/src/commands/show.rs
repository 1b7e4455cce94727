//! `jobs`, `status` and `checkpoints`.

use std::io::IsTerminal;
use std::time::Duration;

use proto::wire::v1;

use super::connect::{Source, source};
use super::output::{accuracy, line, table};
use super::{Exit, Failure};
use crate::args::{Connection, JobArgs, StatusArgs};
use crate::core::STRAGGLER_FROM;

pub(super) async fn jobs(connection: &Connection) -> Result<Exit, Failure> {
    let reply = source(connection).await?.status().await?;
    show_jobs(&reply.jobs)?;
    Ok(None)
}

pub(super) async fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    let mut source = source(&args.connection).await?;
    let redraw = std::io::stdout().is_terminal();
    loop {
        let reply = source.status().await?;
        if args.watch && redraw {
            // Clear, then home.
            line("\x1b[2J\x1b[H")?;
        }
        show_jobs(&reply.jobs)?;
        line("")?;
        show_workers(&reply.workers)?;
        if !args.watch || matches!(source, Source::AtRest(_)) {
            return Ok(None);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

pub(super) async fn checkpoints(args: &JobArgs) -> Result<Exit, Failure> {
    let found = source(&args.connection).await?.checkpoints(&args.job).await?;
    if found.is_empty() {
        line(&format!("job {} has no checkpoint yet", args.job))?;
        return Ok(None);
    }
    let mut rows = vec![words(["STEP", "ACCURACY", "BYTES", "", "FOLDER"])];
    for checkpoint in found {
        rows.push(vec![
            checkpoint.step.to_string(),
            accuracy(checkpoint.evaluated_correct, checkpoint.evaluated_samples),
            checkpoint.bytes.to_string(),
            if checkpoint.best { "best".to_owned() } else { String::new() },
            checkpoint.folder,
        ]);
    }
    table(&rows)?;
    Ok(None)
}

fn show_jobs(jobs: &[v1::JobStatus]) -> Result<(), Failure> {
    if jobs.is_empty() {
        return Ok(line("no jobs; add one with `coordinator submit JOB.toml`")?);
    }
    let mut rows = vec![words(["JOB", "STATE", "STEP", "LOSS", "ACCURACY", "IMAGES/S", "WHY"])];
    for job in jobs {
        rows.push(vec![
            job.job_id.clone(),
            state_word(job.state()).to_owned(),
            format!("{}/{}", job.step, job.total_steps),
            job.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}")),
            accuracy(job.evaluated_correct, job.evaluated_samples),
            match job.images_per_second {
                speed if speed > 0.0 => format!("{speed:.0}"),
                _ => "-".to_owned(),
            },
            job.reason.clone(),
        ]);
    }
    Ok(table(&rows)?)
}

fn show_workers(workers: &[v1::WorkerStatus]) -> Result<(), Failure> {
    if workers.is_empty() {
        return Ok(line("no workers; start one with `worker join HOST:PORT`")?);
    }
    let heads = ["WORKER", "ADDRESS", "DEVICE", "THREADS", "JOB", "STEP", "MS/SLICE", "DOING"];
    let mut rows = vec![words(heads)];
    for worker in workers {
        let job = if worker.job_id.is_empty() { "-" } else { &worker.job_id };
        rows.push(vec![
            worker.worker.clone(),
            worker.address.clone(),
            worker.device_kind.clone(),
            worker.threads.to_string(),
            job.to_owned(),
            worker.step.to_string(),
            match worker.slice_ms {
                known if known > 0.0 => format!("{known:.1}"),
                _ => "-".to_owned(),
            },
            worker.doing.clone(),
        ]);
    }
    table(&rows)?;
    match stragglers(workers) {
        Some(text) => Ok(line(&text)?),
        None => Ok(()),
    }
}

/// Members that hold the others up, slowest first.
fn stragglers(workers: &[v1::WorkerStatus]) -> Option<String> {
    let slow = workers.iter().filter(|worker| worker.times_median >= STRAGGLER_FROM);
    let mut slow: Vec<&v1::WorkerStatus> = slow.collect();
    slow.sort_by(|a, b| b.times_median.total_cmp(&a.times_median));
    let named = slow.iter().map(|w| format!("{} ({:.1} times)", w.worker, w.times_median));
    let named: Vec<String> = named.collect();
    let named = named.join(", ");
    (!slow.is_empty()).then(|| format!("slower than the median for a slice: {named}"))
}

fn state_word(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Waiting => "waiting",
        v1::JobState::Forming => "forming",
        v1::JobState::Running => "running",
        v1::JobState::Finished => "finished",
        v1::JobState::Stopped => "stopped",
        v1::JobState::Failed => "failed",
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

const WATCH_EVERY: Duration = Duration::from_secs(1);
