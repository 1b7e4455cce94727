//! The `coordinator` program: parses the command line, runs one command, and ends with its exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use coordinator::args::Cli;
use coordinator::commands;
use coordinator::terminal::Terminal;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::set_up(cli.log_format);
    let ended = commands::run(cli, &terminal).await;
    terminal.clear();
    let code = match ended {
        Ok(code) => code,
        Err(failure) => {
            if failure.code.is_some() {
                eprintln!("error: {failure}");
            }
            failure.code
        }
    };
    code.map_or(ExitCode::SUCCESS, ExitCode::from)
}
