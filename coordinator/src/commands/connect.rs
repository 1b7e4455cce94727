//! Finds a coordinator: over the network, or, when none is running, in the state directory that one left behind.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::exit::ExitCode;
use proto::identity::JobId;
use proto::wire::v1::operators_client::OperatorsClient;
use proto::wire::{Credentials, MESSAGE_BYTES_MAX, Token, is_version_refusal, v1};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Failure;
use crate::args::Connection;
use crate::checkpoints;
use crate::core::Cluster;
use crate::journal::Journal;
use crate::logs::Line;
use crate::service::exit_code_of;
use crate::state::{address_path, read_token, token_path};

pub(super) type Client = OperatorsClient<InterceptedService<Channel, Credentials>>;

/// Where answers come from.
#[allow(clippy::large_enum_variant, reason = "there is one of it, on the stack of one command")]
pub(super) enum Source {
    Running(Client),
    /// No coordinator runs: what its journal says.
    AtRest(Box<AtRest>),
}

pub(super) struct AtRest {
    core: Cluster,
    jobs: PathBuf,
}

/// A running coordinator, or the state directory of one that has ended.
pub(super) async fn source(connection: &Connection) -> Result<Source, Failure> {
    let journal = connection.state.join("journal");
    let has_rest = connection.coordinator.is_none() && journal.exists();
    if !has_rest || address_path(&connection.state).exists() {
        match client(connection).await {
            Ok(client) => return Ok(Source::Running(client)),
            // A coordinator that was killed leaves its address behind.
            Err(failure) if has_rest && failure.code == Some(ExitCode::Network) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(Source::AtRest(Box::new(AtRest::open(&connection.state, &journal)?)))
}

/// A running coordinator.
pub(super) async fn client(connection: &Connection) -> Result<Client, Failure> {
    let address = match &connection.coordinator {
        Some(address) => address.clone(),
        None => published_address(&connection.state)?,
    };
    let token = token(connection)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok();
    let endpoint =
        endpoint.filter(|endpoint| endpoint.uri().port().is_some()).ok_or_else(|| {
            let text = format!("connecting to {address}: give host:port, such as 127.0.0.1:7070");
            Failure::new(ExitCode::Usage, text)
        })?;
    let endpoint = endpoint.connect_timeout(CONNECT_WITHIN).tcp_nodelay(true);
    let channel = endpoint.connect().await.map_err(|error| {
        let text = format!(
            "connecting to the coordinator at {address}: {}; start it with `coordinator start`",
            innermost(&error)
        );
        Failure::new(ExitCode::Network, text)
    })?;
    let credentials = Credentials::new(&token);
    let client = OperatorsClient::with_interceptor(channel, credentials);
    Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn published_address(state: &Path) -> Result<String, Failure> {
    let path = address_path(state);
    let text = std::fs::read_to_string(&path).map_err(|_| {
        let text = format!(
            "looking for a coordinator: no address in {}; start one with `coordinator start`, or say where it is \
             with --coordinator HOST:PORT or --state DIR",
            state.display()
        );
        Failure::new(ExitCode::Network, text)
    })?;
    Ok(text.trim().to_owned())
}

fn token(connection: &Connection) -> Result<Token, Failure> {
    if let Some(path) = &connection.token_file {
        let read = read_token(path);
        return read.map_err(|error| Failure::new(ExitCode::Token, error.to_string()));
    }
    match std::env::var(TOKEN_VARIABLE) {
        Ok(text) => text.parse().map_err(|error| {
            Failure::new(ExitCode::Token, format!("reading {TOKEN_VARIABLE}: {error}"))
        }),
        Err(_) => read_token(&token_path(&connection.state)).map_err(|error| {
            let text = format!("{error}, or give the token with --token-file or {TOKEN_VARIABLE}");
            Failure::new(ExitCode::Token, text)
        }),
    }
}

/// Turns a refusal into one line.
pub(super) fn refused(tried: &str, status: &Status) -> Failure {
    let text = status.message();
    if is_version_refusal(status) {
        return Failure::new(ExitCode::Version, format!("{tried}: {text}"));
    }
    if let Some(code) = exit_code_of(status).and_then(exit_code) {
        return Failure::new(code, format!("{tried}: {text}"));
    }
    match status.code() {
        Code::Unauthenticated => {
            let hint =
                "use the token of the coordinator's state directory, with --state or --token-file";
            Failure::new(ExitCode::Token, format!("{tried}: {text}; {hint}"))
        }
        Code::Unavailable => {
            let text =
                format!("{tried}: the coordinator can't be reached ({text}); is it running?");
            Failure::new(ExitCode::Network, text)
        }
        _ => Failure::new(ExitCode::Failure, format!("{tried}: {text}")),
    }
}

fn exit_code(code: u8) -> Option<ExitCode> {
    let all = [
        ExitCode::Failure,
        ExitCode::Usage,
        ExitCode::Data,
        ExitCode::RunStopped,
        ExitCode::State,
        ExitCode::Network,
        ExitCode::Version,
        ExitCode::Token,
        ExitCode::Interrupted,
    ];
    all.into_iter().find(|known| *known as u8 == code)
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl Source {
    pub(super) async fn status(&mut self) -> Result<v1::StatusReply, Failure> {
        match self {
            Source::Running(client) => {
                let reply = client.status(v1::StatusRequest {}).await;
                reply
                    .map(|r| r.into_inner())
                    .map_err(|status| refused("asking for the status", &status))
            }
            Source::AtRest(rest) => {
                Ok(v1::StatusReply { jobs: rest.core.job_statuses(), workers: Vec::new() })
            }
        }
    }

    pub(super) async fn checkpoints(
        &mut self,
        job: &str,
    ) -> Result<Vec<v1::CheckpointStatus>, Failure> {
        match self {
            Source::Running(client) => {
                let request = v1::CheckpointsRequest { job_id: job.to_owned() };
                let reply = client.checkpoints(request).await;
                let tried = format!("listing the checkpoints of {job}");
                reply.map(|r| r.into_inner().checkpoints).map_err(|s| refused(&tried, &s))
            }
            Source::AtRest(rest) => rest.checkpoints(job),
        }
    }
}

impl AtRest {
    fn open(state: &Path, journal: &Path) -> Result<AtRest, Failure> {
        let records = Journal::read(journal)
            .map_err(|error| Failure::new(ExitCode::State, error.to_string()))?;
        let mut core = Cluster::default();
        for record in &records {
            core.replay(record).map_err(|error| {
                let text =
                    format!("reading {}: a record makes no sense: {error}", journal.display());
                Failure::new(ExitCode::State, text)
            })?;
        }
        // Jobs that were cut off are shown as what they are. Nothing is written.
        core.boot();
        Ok(AtRest { core, jobs: state.join("jobs") })
    }

    fn known(&self, job: &str) -> Result<JobId, Failure> {
        let id: Option<JobId> = job.parse().ok();
        let id = id.filter(|id| self.core.view(id).is_some());
        id.ok_or_else(|| {
            let text = format!("there is no job {job}; `coordinator jobs` lists them");
            Failure::new(ExitCode::Usage, text)
        })
    }

    fn checkpoints(&self, job: &str) -> Result<Vec<v1::CheckpointStatus>, Failure> {
        let id = self.known(job)?;
        let folder = checkpoints::folder_of(&self.jobs, &id);
        let folder = folder.canonicalize().unwrap_or(folder);
        let view = self.core.view(&id).expect("`known` found it");
        Ok(view.checkpoint_statuses(&folder))
    }

    /// Calls `each` with the job's log lines.
    pub(super) fn logs(
        &self,
        job: &str,
        mut each: impl FnMut(v1::LogLine) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let path = self.jobs.join(self.known(job)?.as_str()).join("log.jsonl");
        let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            let Ok(Line { unix_ms, level, text }) = serde_json::from_str(&line) else { continue };
            each(v1::LogLine { unix_ms, level, text })?;
        }
        Ok(())
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const TOKEN_VARIABLE: &str = "CLUSTER_TOKEN";
