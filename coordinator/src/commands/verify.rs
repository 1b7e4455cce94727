//! `verify`: what a job did, proved from its state directory.

use proto::exit::ExitCode;
use serde_json::json;

use super::output::line;
use super::{Exit, Failure};
use crate::args::VerifyArgs;
use crate::core::Parting;
use crate::verify::{Account, Metrics, VerifyError, verify};

pub(super) async fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let job = args.job.parse().map_err(|error| {
        let text = format!("{:?} names no job: {error}; `coordinator jobs` lists them", args.job);
        Failure::new(ExitCode::Usage, text)
    })?;
    let state = args.state.clone();
    let verified = tokio::task::spawn_blocking(move || verify(&state, &job)).await;
    let verified = verified.map_err(|error| Failure::new(ExitCode::Failure, error.to_string()))?;
    if args.json {
        let value = match &verified {
            Ok(account) => json!({ "holds": true, "account": account }),
            Err(error) => json!({ "holds": false, "problem": error.to_string() }),
        };
        line(&value.to_string())?;
    }
    let account = verified?;
    if !args.json {
        show(&account)?;
    }
    Ok(None)
}

fn show(account: &Account) -> std::io::Result<()> {
    let Account { job, steps, total_steps, generations, epochs, .. } = account;
    line(&format!("job {job}: {steps} of {total_steps} steps, by {generations} generations"))?;
    let (whole, begun) = (epochs.whole, epochs.begun);
    line(&format!("samples: {whole} whole epochs, and {begun} samples of the next"))?;
    for departure in &account.departures {
        line(&format!("  generation {}: {}", departure.generation, departure.line))?;
    }
    for arrival in &account.arrivals {
        let (worker, generation, step) = (&arrival.worker, arrival.generation, arrival.step);
        line(&format!("  generation {generation}: worker {worker} takes part after step {step}"))?;
    }
    for step in &account.returns {
        line(&format!("  went back to the checkpoint of step {step}"))?;
    }
    for kept in &account.checkpoints {
        line(&format!("checkpoint of step {}: its digest and every file as sealed", kept.step))?;
    }
    line(&match account.metrics {
        Metrics { newest: 0, .. } => "metrics: none yet".to_owned(),
        Metrics { newest, missing: 0 } => format!("metrics: steps 1 to {newest}, each once"),
        Metrics { newest, missing } => {
            format!(
                "metrics: up to step {newest}, but {missing} steps are lost; weights don't hang on them"
            )
        }
    })?;
    if account.torn_bytes > 0 {
        let bytes = account.torn_bytes;
        line(&format!("the journal ends in {bytes} bytes of a record that was not completed"))?;
    }
    line(&conclusion(account))
}

/// "1437/1437 samples per epoch, each once; 3 losses, 2 joins; final weights sha256 ...".
pub(super) fn conclusion(account: &Account) -> String {
    let Account { train_len, epochs, .. } = account;
    let mut parts = vec![match epochs.whole {
        0 => format!("{}/{train_len} samples of the first epoch, each once", epochs.begun),
        _ => format!("{train_len}/{train_len} samples per epoch, each once"),
    }];
    let left = account.departures.iter().filter(|gone| gone.parting == Parting::Left).count();
    let lost = account.departures.len() - left;
    let mut comings = vec![counted(lost, "loss", "losses")];
    comings.extend((left > 0).then(|| counted(left, "leave", "leaves")));
    comings.push(counted(account.arrivals.len(), "join", "joins"));
    parts.push(comings.join(", "));
    let more = [
        (account.skipped, "skipped step", "skipped steps"),
        (account.replaced, "replaced image", "replaced images"),
    ];
    let more = more.into_iter().filter(|(count, ..)| *count > 0);
    parts.extend(more.map(|(count, one, many)| counted(count as usize, one, many)));
    parts.push(match &account.model_sha256 {
        Some(sha256) => format!("final weights sha256 {sha256}"),
        None => format!("not finished, at step {} of {}", account.steps, account.total_steps),
    });
    parts.join("; ")
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Failure {
        let code = match error {
            VerifyError::NoSuchJob { .. } => ExitCode::Usage,
            VerifyError::Journal(_) | VerifyError::Violated { .. } => ExitCode::State,
        };
        Failure::new(code, error.to_string())
    }
}
