//! `worker join`: from the command line to a running session.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kernels::{Device, DeviceError, Precision};
use proto::Name;
use proto::exit::ExitCode;
use proto::wire::{Token, TokenError};

use crate::args::Join;
use crate::devices::{self, Chosen};
use crate::node::{self, NodeError};
use crate::session::{self, Options, SessionError};

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("read the join token in {}: {source}; copy the coordinator's token there, or name its place with --token-file", .path.display())]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("read the join token in {place}: {source}; copy the coordinator's token there")]
    Token { place: String, source: TokenError },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("end with the process that started this one: {0}")]
    Parent(std::io::Error),
    #[error("start the runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl JoinError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            JoinError::TokenFile { .. } | JoinError::Token { .. } => ExitCode::Token,
            JoinError::Device(_) | JoinError::Parent(_) | JoinError::Runtime(_) => {
                ExitCode::Failure
            }
            JoinError::Session(error) => error.exit_code(),
            JoinError::Node(error) => error.exit_code(),
        }
    }
}

/// Joins and works until told to leave.
pub fn join(args: &Join) -> Result<(), JoinError> {
    if let Some(parent) = args.die_with_parent {
        proto::parent::die_with(parent).map_err(JoinError::Parent)?;
    }
    let token = find_token(args)?;
    let threads = args.threads.unwrap_or_else(all_cores);
    // Jobs say in which precision they compute.
    let open = |gpu| devices::open_gpu(gpu, Precision::Bf16);
    let device = match devices::choose(&args.devices, kernels::gpus)? {
        Chosen::Cpu => Device::cpu(threads)?,
        Chosen::Gpus(gpus) => match args.share {
            Some(share) => open(gpus[share % gpus.len()])?,
            None if gpus.len() == 1 => open(gpus[0])?,
            None => return Ok(node::run(args, &gpus)?),
        },
    };
    tracing::info!("computing on {}", device.describe());
    let options = Options {
        coordinator: args.coordinator.clone(),
        token,
        name: args.name.clone().unwrap_or_else(default_name),
        device,
        threads,
        data: args.data.clone(),
        exchange_ip: args.exchange_ip,
        wait: args.wait,
    };
    // The control stream and the uploads are all it runs; the cores belong to the kernels. One thread, since each message that
    // goes from one to another costs a wake-up.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(JoinError::Runtime)?;
    let result = runtime.block_on(session::run(options));
    // The training thread may be deep in a step: the process does not wait for it.
    runtime.shutdown_background();
    Ok(result?)
}

/// `--token-file`, then the environment, then the state directory of a coordinator on this machine.
fn find_token(args: &Join) -> Result<Token, JoinError> {
    let parse = |text: &str, place: String| {
        text.parse().map_err(|source| JoinError::Token { place, source })
    };
    let path = match (&args.token_file, std::env::var(TOKEN_VARIABLE)) {
        (Some(path), _) => path.clone(),
        (None, Ok(text)) => return parse(&text, TOKEN_VARIABLE.to_owned()),
        (None, Err(_)) => args.state.join("token"),
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|source| JoinError::TokenFile { path: path.clone(), source })?;
    parse(&text, path.display().to_string())
}

pub(crate) fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Host name and process number: unique enough, and tells a person where to look.
pub(crate) fn default_name() -> Name {
    let host = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    let host = host.trim().to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let host = host.trim_start_matches('-');
    let name = format!("{}-{}", &host[..host.len().min(64)], std::process::id());
    name.parse().unwrap_or_else(|_| {
        let plain = format!("worker-{}", std::process::id());
        plain.parse().expect("letters, a hyphen and digits are a valid name")
    })
}

const TOKEN_VARIABLE: &str = "CLUSTER_TOKEN";
