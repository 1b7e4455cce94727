//! What a person types, one module each. A command returns how the program ends; only `main` ends it.

mod connect;
mod output;
mod show;
mod start;
mod submit;
mod logs;
mod stop;
mod verify;
mod train;
mod chaos;

use proto::exit::ExitCode;

use crate::args::{Cli, Command};
use crate::driver::DriverError;
use crate::intake::IntakeError;
use crate::service::ListenError;
use crate::state::StateError;
use crate::terminal::Terminal;

/// `None` is success.
pub type Exit = Option<ExitCode>;

/// Why a command failed: one line, and how the program ends.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// `None` when whoever read the output has closed it, which is no failure.
    pub code: Exit,
    pub text: String,
}

impl Failure {
    pub fn new(code: ExitCode, text: impl Into<String>) -> Failure {
        Failure { code: Some(code), text: text.into() }
    }
}

pub async fn run(cli: Cli, terminal: &Terminal) -> Result<Exit, Failure> {
    match cli.command {
        Command::Train(args) => train::train(&args, terminal).await,
        Command::Start(args) => start::start(&args).await,
        Command::Submit(args) => submit::submit(&args).await,
        Command::Jobs(connection) => show::jobs(&connection).await,
        Command::Status(args) => show::status(&args).await,
        Command::Logs(args) => logs::logs(&args).await,
        Command::Stop(args) => stop::stop(&args).await,
        Command::Checkpoints(args) => show::checkpoints(&args).await,
        Command::Verify(args) => verify::run(&args).await,
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::new(ExitCode::State, error.to_string())
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        Failure::new(ExitCode::State, error.to_string())
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Failure {
        Failure::new(ExitCode::Network, error.to_string())
    }
}

impl From<IntakeError> for Failure {
    fn from(error: IntakeError) -> Failure {
        Failure::new(error.exit_code(), error.to_string())
    }
}

/// From writing results.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        let code = if closed { None } else { Some(ExitCode::Failure) };
        Failure { code, text: format!("writing the output: {error}") }
    }
}
