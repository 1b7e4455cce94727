//! `worker`: parses the command line, runs one command, turns its error into a line and an exit code.

use std::error::Error;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use worker::args::{Cli, Command, LogFormat};
use worker::bench::bench;
use worker::describe::{DescribeError, describe};
use worker::devices::devices;
use worker::evaluate::command::{self as evaluate, EvaluateError};
use worker::export::{ExportError, export};
use worker::join::join;
use worker::predict::{PredictError, predict};

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(cli.log_format);
    let result = match &cli.command {
        Command::Join(args) => join(args).map_err(|error| (error.exit_code(), error.to_string())),
        Command::Bench(args) => bench(args, &mut std::io::stdout())
            .map_err(|error| (error.exit_code(), error.to_string())),
        Command::Devices(args) => show(devices(args), |_| proto::exit::ExitCode::Failure),
        Command::Describe(args) => show(describe(args), DescribeError::exit_code),
        Command::Predict(args) => {
            let coded = |error: PredictError| (error.exit_code(), error.to_string());
            predict(args).map_err(coded).and_then(|(text, end)| {
                show(Ok(text), PredictError::exit_code)?;
                end.map_err(coded)
            })
        }
        Command::Export(args) => show(export(args), ExportError::exit_code),
        Command::Evaluate(args) => show(evaluate::run(args), EvaluateError::exit_code),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            tracing::error!("{error}");
            code.into()
        }
    }
}

/// Prints what a command gave. A reader that has seen enough (`| head`) is no failure.
fn show<E: Error>(
    result: Result<String, E>,
    exit_code: fn(&E) -> proto::exit::ExitCode,
) -> Result<(), (proto::exit::ExitCode, String)> {
    let text = result.map_err(|error| (exit_code(&error), error.to_string()))?;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err((proto::exit::ExitCode::Failure, format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Log lines go to standard error; `RUST_LOG` chooses more or fewer.
fn init_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A closed or full standard error must not end a worker that trains.
        .log_internal_errors(false);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Human => {
            log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init()
        }
    }
}
