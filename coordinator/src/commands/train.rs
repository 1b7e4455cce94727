//! `train`: one job on this machine, from its file to a summary.

use std::path::{Path, PathBuf};

use proto::exit::ExitCode;
use proto::manifest::{EMA_FILE, folder_name};

use super::output::{accuracy, line};
use super::{Exit, Failure, chaos};
use crate::args::TrainArgs;
use crate::checkpoints;
use crate::core::{Cause, JobView, Outcome};
use crate::driver::{Ended, SubmitError, Submitted};
use crate::intake;
use crate::local::{CrewPlan, Local, LocalEnd, LocalError, Means, worker_program};
use crate::terminal::Terminal;

pub(super) async fn train(args: &TrainArgs, terminal: &Terminal) -> Result<Exit, Failure> {
    if let Some(plan) = &args.chaos {
        return chaos::train(args, plan, means(args)).await;
    }
    let (text, folder) = intake::read_job_file(&args.job)?;
    let read = tokio::task::spawn_blocking(move || intake::read_job(&text, &folder)).await;
    let spec = read.map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))??;
    let program = worker_program()?;
    let default_state = || Path::new("runs").join(spec.job.name.as_str());
    let state = args.state.clone().unwrap_or_else(default_state);
    let plan = CrewPlan { program, workers: args.workers, means: means(args) };

    let mut local = Local::start(&state).await?;
    let submitted = local.submit(spec, args.workers, args.policy.policy(), args.fresh).await;
    let end = match submitted {
        Ok(Submitted { job, already_finished: false, .. }) => {
            local.run(&job, &plan, terminal).await
        }
        Ok(Submitted { job, .. }) => match local.handle.wait(job).await {
            Some(ended) => {
                tracing::info!("this job has finished already; start over with --fresh");
                Ok(LocalEnd::Job(Box::new(ended)))
            }
            None => Err(LocalError::Ended),
        },
        Err(error) => Err(error),
    };
    let checkpoints = local.state.jobs_folder();
    let ended = local.shut_down().await;
    let end = end?;
    ended?;
    match end {
        LocalEnd::Killed => Err(Failure::new(
            ExitCode::Interrupted,
            format!("stopped at once, without a last checkpoint; go on with: {}", again()),
        )),
        LocalEnd::Job(ended) => report(*ended, &state, &checkpoints),
    }
}

/// Says how the job ended: results on stdout, a failure as one line.
fn report(ended: Ended, state: &Path, jobs: &Path) -> Result<Exit, Failure> {
    let Ended { outcome, view } = ended;
    let newest = newest_checkpoint(&view, jobs);
    match outcome {
        Outcome::Finished { model_sha256 } => {
            line(&format!("job {} finished after {} steps", view.id, view.total_steps))?;
            summary(&view)?;
            if let Some(folder) = &newest {
                line(&format!("checkpoint {}", folder.display()))?;
            }
            line(&format!("model sha256 {model_sha256}"))?;
            if let Some(sha256) = newest.and_then(|folder| ema_sha256(&folder)) {
                line(&format!("averaged weights sha256 {sha256}"))?;
            }
            let state = state.display();
            line(&format!("next: coordinator checkpoints {} --state {state}", view.id))?;
            Ok(None)
        }
        Outcome::Stopped => {
            line(&format!(
                "job {} stopped after step {} of {}",
                view.id, view.step, view.total_steps
            ))?;
            summary(&view)?;
            if let Some(folder) = newest {
                line(&format!("checkpoint {}", folder.display()))?;
            }
            line(&format!("next: {}", again()))?;
            Ok(Some(ExitCode::Interrupted))
        }
        Outcome::Failed { cause, reason } => {
            let code = match cause {
                Cause::Worker | Cause::Interrupted => ExitCode::RunStopped,
                Cause::Data => ExitCode::Data,
                Cause::Checkpoint => ExitCode::State,
            };
            let newest = match newest {
                // The reason speaks of checkpoints already.
                _ if cause == Cause::Checkpoint => String::new(),
                None => "; no checkpoint yet".to_owned(),
                Some(folder) => format!("; newest checkpoint {}", folder.display()),
            };
            // What was reached before counts.
            summary(&view)?;
            let (id, again) = (&view.id, again());
            let text = format!("training {id}: {reason}{newest}; go on with: {again}");
            Err(Failure::new(code, text))
        }
    }
}

fn summary(view: &JobView) -> std::io::Result<()> {
    if let Some((_, newest)) = view.evaluation {
        let averaged = view.spec.job.ema.is_some();
        let of = if averaged { "test accuracy of the averaged weights" } else { "test accuracy" };
        let mut text = format!("{of} {}", accuracy(newest.correct, newest.samples));
        if let Some((step, best)) = view.best {
            let best = accuracy(best.correct, best.samples);
            text = format!("{text}, best {best} after step {step}");
        }
        line(&text)?;
    }
    if let Some(words) = view.bad.words() {
        line(&format!("{words}; the log names them"))?;
    }
    let seconds = view.trained.as_secs_f64();
    if seconds > 0.0 {
        let images = view.trained_steps * view.spec.job.train.batch as u64;
        let speed = images as f64 / seconds;
        line(&format!("training took {seconds:.1} s, {speed:.0} images/s"))?;
    }
    Ok(())
}

fn newest_checkpoint(view: &JobView, jobs: &Path) -> Option<PathBuf> {
    let newest = view.checkpoints.last()?;
    Some(checkpoints::folder_of(jobs, &view.id).join(folder_name(newest.step)))
}

/// What the manifest says of the averaged weights; `None` also when it can't be read, as it could a moment ago.
fn ema_sha256(folder: &Path) -> Option<String> {
    let manifest = checkpoints::read_manifest(folder).ok()?;
    manifest.files.get(EMA_FILE).map(|file| file.sha256.clone())
}

fn means(args: &TrainArgs) -> Means {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let threads = args.threads.unwrap_or_else(|| (cores / args.workers).max(1));
    Means { threads, devices: args.devices.clone() }
}

/// The command that was typed, without what would start over.
fn again() -> String {
    let words = std::env::args().filter(|word| word != "--fresh");
    let quoted = words.map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Failure {
        match error {
            LocalError::State(error) => error.into(),
            LocalError::Driver(error) => error.into(),
            LocalError::Listen(error) => error.into(),
            LocalError::Submit(SubmitError::Refused(refusal)) => {
                Failure::new(refusal.exit_code(), refusal.to_string())
            }
            other => Failure::new(ExitCode::Failure, other.to_string()),
        }
    }
}
