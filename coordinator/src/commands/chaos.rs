//! `train --chaos`: a cluster of processes on this machine that trains while faults are done to it, and what it made of them.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::exit::ExitCode;
use proto::wire::v1;

use super::connect::{Client, client};
use super::output::line;
use super::submit::Order;
use super::verify::conclusion;
use super::{Exit, Failure};
use crate::args::{Connection, TrainArgs};
use crate::chaos::{
    Cast, CastError, Percentiles, Plan, Programs, Report, Schedule, Spells, Storm, StormError,
    Summary, goodput, total,
};
use crate::intake;
use crate::local::{Means, worker_program};
use crate::state::token_path;
use crate::terminal::Interrupts;
use crate::verify::{End, verify};

pub(super) async fn train(args: &TrainArgs, plan: &Plan, means: Means) -> Result<Exit, Failure> {
    let (text, folder) = intake::read_job_file(&args.job)?;
    let job = proto::Job::parse(&text)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    let state = args.state.clone().unwrap_or_else(|| Path::new("runs").join(job.name.as_str()));
    let programs = Programs { coordinator: std::env::current_exe()?, worker: worker_program()? };
    let mut interrupts = Interrupts::listen()?;
    let mut cast = Cast::new(&state, programs, args.workers, means)?;
    cast.start_coordinator()?;
    let mut client = reach(&mut cast).await?;
    let TrainArgs { workers, fresh, ref policy, .. } = *args;
    let order = Order { job_toml: text, folder: &folder, workers, fresh, policy };
    let v1::SubmitReply { job_id, already_finished, .. } =
        order.hand_over(&mut client, &args.job).await?;
    if already_finished {
        cast.end(END_WITHIN).await;
        tracing::info!("this job has finished already; start over with --fresh");
        line(&prove(cast.state(), &job_id)?)?;
        return Ok(None);
    }
    let schedule = Schedule::new(plan, args.chaos_seed);
    let spells = Spells::new(args.chaos_spells.map(Duration::from_secs));
    let mut storm = Storm::new(cast, job_id.clone(), schedule, spells)?;
    let ended = tokio::select! {
        ended = storm.run() => Some(ended?),
        () = interrupts.next() => None,
    };
    let Some(end) = ended else {
        tracing::info!("stopping after the current step; interrupt again to stop at once");
        tokio::select! {
            stopped = stop(&mut storm.cast) => stopped?,
            () = interrupts.next() => {}
        }
        return Ok(Some(ExitCode::Interrupted));
    };
    storm.cast.end(END_WITHIN).await;
    conclude(storm, end, (args, plan), job_id)
}

/// Waits until the coordinator, which was just started, answers.
async fn reach(cast: &mut Cast) -> Result<Client, Failure> {
    let connection = Connection {
        coordinator: Some(cast.address().to_string()),
        state: cast.state().to_owned(),
        token_file: Some(token_path(cast.state())),
    };
    let deadline = Instant::now() + START_WITHIN;
    loop {
        match client(&connection).await {
            Ok(client) => return Ok(client),
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Err(_) if !cast.coordinator_runs() => {
                let log = cast.state().join("coordinator.log");
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing");
                let text = format!("the coordinator ended: {last}");
                return Err(Failure::new(ExitCode::State, text));
            }
            Err(_) => tokio::time::sleep(TRY_EVERY).await,
        }
    }
}

/// The job writes a checkpoint first, so that the same command goes on from there.
async fn stop(cast: &mut Cast) -> Result<(), Failure> {
    if !cast.coordinator_runs() {
        cast.start_coordinator()?;
        // Only one that listens knows what a signal asks of it.
        reach(cast).await?;
    }
    cast.end(STOP_WITHIN).await;
    Ok(())
}

/// Proves the run, writes `chaos.json`, and says what came out.
fn conclude(
    storm: Storm,
    end: End,
    (args, plan): (&TrainArgs, &Plan),
    job: String,
) -> Result<Exit, Failure> {
    let model_sha256 = match end {
        End::Finished { model_sha256 } => model_sha256,
        End::Failed { reason } => {
            return Err(Failure::new(ExitCode::RunStopped, format!("training {job}: {reason}")));
        }
        End::Stopped => {
            return Err(Failure::new(ExitCode::RunStopped, format!("job {job} was stopped")));
        }
    };
    let proof = prove(storm.cast.state(), &job)?;
    let spells = storm.spells();
    let path = storm.cast.state().join("jobs").join(&job).join("chaos.json");
    let report = Report {
        job,
        faults_asked: plan.to_string(),
        seed: args.chaos_seed,
        workers: args.workers,
        undisturbed: total(&spells, false),
        storm: total(&spells, true),
        goodput: goodput(&spells),
        spells,
        unasked_ends: storm.unasked_ends,
        summaries: Summary::of(&storm.recoveries.faults),
        step_ms: Percentiles::of(storm.recoveries.step_ms.into_iter()).map(|times| times.p50),
        taken_in_ms: storm.recoveries.taken_in_ms,
        faults: storm.recoveries.faults,
        model_sha256,
        proof,
    };
    let text = serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n";
    crate::files::write_atomically(&path, text.as_bytes())?;
    show(&report)?;
    Ok(None)
}

fn show(report: &Report) -> std::io::Result<()> {
    line(&format!("job {} finished, {} faults", report.job, report.faults.len()))?;
    for summary in &report.summaries {
        line(&summary.line())?;
    }
    if let Some(pauses) = Percentiles::of(report.taken_in_ms.iter().copied()) {
        line(&format!("workers taken in {} times: pause {}", pauses.count, pauses.words()))?;
    }
    if let Some(goodput) = report.goodput {
        let (with, without) = (report.storm.rate(), report.undisturbed.rate());
        let percent = 100.0 * goodput;
        line(&format!("goodput {percent:.1} %: {with:.1} steps/s, without faults {without:.1}"))?;
    }
    line(&format!("model sha256 {}", report.model_sha256))?;
    line(&report.proof)
}

/// Proves the run from its files, and says so in one line.
fn prove(state: &Path, job: &str) -> Result<String, Failure> {
    let id = job.parse().map_err(|_| Failure::new(ExitCode::State, format!("{job} is no job")))?;
    Ok(conclusion(&verify(state, &id)?))
}

impl From<CastError> for Failure {
    fn from(error: CastError) -> Failure {
        Failure::new(ExitCode::Failure, error.to_string())
    }
}

impl From<StormError> for Failure {
    fn from(error: StormError) -> Failure {
        let code = match error {
            StormError::Cast(error) => return error.into(),
            StormError::Watch(_) => ExitCode::State,
            StormError::Stalled { .. } => ExitCode::RunStopped,
        };
        Failure::new(code, error.to_string())
    }
}

const TRY_EVERY: Duration = Duration::from_millis(10);
const START_WITHIN: Duration = Duration::from_secs(30);
/// A coordinator without jobs.
const END_WITHIN: Duration = Duration::from_secs(5);
/// A coordinator that has its job write a checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(60);
