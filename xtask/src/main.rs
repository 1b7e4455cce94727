//! Developer commands that need no shell: `cargo xtask tidy`, `kernels`, `sanitize`, `bench`, `chaos`, `overhead`,
//! `gpu-check` and `simulate`. Knows the arguments and the exit code; each command is a module.

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;

mod bench;
mod chaos;
mod gpu_check;
mod kernels;
mod overhead;
mod programs;
mod sanitize;
mod tidy;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // One line, without the trace that a failing command has no use for.
        writeln!(std::io::stderr(), "error: {error:#}").ok();
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => run_tidy(),
        ["kernels"] => run_kernels(),
        ["sanitize"] => run_sanitizers(),
        ["bench", "--help" | "-h"] => {
            writeln!(std::io::stdout(), "{}", bench::USAGE)?;
            Ok(ExitCode::SUCCESS)
        }
        ["bench", ref options @ ..] => run_bench(options),
        ["chaos", "--help" | "-h"] => {
            writeln!(std::io::stdout(), "{}", chaos::USAGE)?;
            Ok(ExitCode::SUCCESS)
        }
        ["chaos", ref options @ ..] => run_chaos(options),
        ["overhead"] => run_overhead(),
        ["gpu-check", ref options @ ..] => {
            let root =
                Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
            gpu_check::run(root, options, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        ["simulate", ref options @ ..] => run_simulator(options),
        _ => bail!(
            "unknown command {arguments:?}; usage: cargo xtask tidy, kernels, sanitize, bench PYTHON, chaos, overhead, gpu-check, or simulate"
        ),
    }
}

fn run_kernels() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let is_sound = kernels::run(root, &mut std::io::stdout())?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_sanitizers() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let is_sound = sanitize::run(root, &mut std::io::stdout())?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_bench(options: &[&str]) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    bench::run(root, &bench::Options::parse(options)?, &mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn run_chaos(options: &[&str]) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    chaos::run(root, &chaos::Options::parse(options)?, &mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

fn run_overhead() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    overhead::run(root, &mut std::io::stdout())?;
    Ok(ExitCode::SUCCESS)
}

/// Built for speed: a hundred thousand seeds take minutes.
fn run_simulator(options: &[&str]) -> Result<ExitCode> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .args(["run", "--release", "--locked", "--quiet", "--package", "simulator", "--"])
        .args(options)
        .status()
        .context("run the simulator")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_tidy() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let report = tidy::check(root)?;
    write!(std::io::stdout(), "{report}")?;
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
