//! `worker`: parses the command line, runs one command, turns its error into a line and an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use worker::args::{Cli, Command, LogFormat};
use worker::join::join;

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(cli.log_format);
    let result = match &cli.command {
        Command::Join(args) => join(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code().into()
        }
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
