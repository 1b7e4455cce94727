//! Finding the coordinator, opening the control stream, and what its refusals mean.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kernels::DeviceError;
use proto::Incarnation;
use proto::exit::ExitCode;
use proto::wire::v1::workers_client::WorkersClient;
use proto::wire::v1::{Hello, Plan, Report, Welcome, plan, report};
use proto::wire::{Credentials, MESSAGE_BYTES_MAX, is_version_refusal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::Options;
use crate::collective::{CollectiveError, Listener};
use crate::conduct::UnknownPlan;

pub(super) type Client = WorkersClient<InterceptedService<Channel, Credentials>>;

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{address:?} is no address of a coordinator; give host:port, such as 127.0.0.1:7070")]
    Address { address: String },
    #[error("reach the coordinator at {address}: {cause}; is `coordinator start` running there?")]
    Unreachable { address: String, cause: String },
    #[error(
        "join the coordinator: {0}; give the token of its state directory with --token-file or CLUSTER_TOKEN"
    )]
    Token(String),
    #[error("join the coordinator: {0}")]
    Version(String),
    #[error("join the coordinator: {0}")]
    NameTaken(String),
    #[error("join the coordinator: refused: {0}")]
    Refused(String),
    #[error("the coordinator was lost: {cause}")]
    Lost { cause: String },
    #[error(transparent)]
    UnknownPlan(#[from] UnknownPlan),
    #[error("start the training thread: {0}")]
    Thread(std::io::Error),
    #[error("the training thread takes no commands")]
    TrainerStuck,
    #[error("the training thread panicked; its message is above")]
    TrainerPanicked,
    #[error("{0}; this process can't use the device any more: start the worker again")]
    Device(DeviceError),
    #[error(transparent)]
    Exchange(#[from] CollectiveError),
    #[error("draw random bytes: {0}")]
    Random(String),
    #[error("listen for signals: {0}")]
    Signal(std::io::Error),
}

impl SessionError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            SessionError::Address { .. } | SessionError::NameTaken(_) => ExitCode::Usage,
            SessionError::Unreachable { .. }
            | SessionError::Refused(_)
            | SessionError::Lost { .. }
            | SessionError::Exchange(_) => ExitCode::Network,
            SessionError::Token(_) => ExitCode::Token,
            SessionError::Version(_) => ExitCode::Version,
            SessionError::UnknownPlan(_)
            | SessionError::Thread(_)
            | SessionError::TrainerStuck
            | SessionError::TrainerPanicked
            | SessionError::Device(_)
            | SessionError::Random(_)
            | SessionError::Signal(_) => ExitCode::Failure,
        }
    }
}

/// A control stream that stands.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) reports: Sender<Report>,
    pub(super) plans: Streaming<Plan>,
    pub(super) welcome: Welcome,
}

/// Connects and joins, trying again with growing pauses until `options.wait` has passed. When this process has been here
/// before, the coordinator may still hold its old stream: then even a taken name is worth another try.
pub(super) async fn open(
    options: &Options,
    hello: &Hello,
    rejoining: bool,
) -> Result<Opened, SessionError> {
    let endpoint = Endpoint::from_shared(format!("http://{}", options.coordinator))
        .map_err(|_| SessionError::Address { address: options.coordinator.clone() })?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_LIMIT)
        .keep_alive_while_idle(true);
    let since = Instant::now();
    let mut pause = PAUSE_MIN;
    if rejoining {
        // A session that ends as soon as it begins must not make this a busy loop.
        tokio::time::sleep(pause).await;
    }
    loop {
        let error = match try_open(&endpoint, options, hello).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let passing = match &error {
            SessionError::Unreachable { .. } => true,
            SessionError::NameTaken(_) => rejoining,
            _ => false,
        };
        if !passing || since.elapsed() + pause > options.wait {
            return Err(error);
        }
        if pause == PAUSE_MIN {
            tracing::info!("not joined yet: {error}; trying for {:?}", options.wait);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn try_open(
    endpoint: &Endpoint,
    options: &Options,
    hello: &Hello,
) -> Result<Opened, SessionError> {
    let unreachable =
        |cause: String| SessionError::Unreachable { address: options.coordinator.clone(), cause };
    let channel = endpoint.connect().await.map_err(|error| unreachable(root_cause(&error)))?;
    let client = WorkersClient::with_interceptor(channel, Credentials::new(&options.token));
    let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (reports, outgoing) = mpsc::channel(REPORT_QUEUE);
    let kind = Some(report::Kind::Hello(hello.clone()));
    reports.try_send(Report { generation: 0, kind }).expect("a new queue has room");
    let opening = async {
        let mut plans = client.join(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = plans.message().await?;
        Ok((first.and_then(|plan| plan.kind), plans))
    };
    let opened: Result<_, Status> = match tokio::time::timeout(WELCOME_LIMIT, opening).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {WELCOME_LIMIT:?}"))),
    };
    match opened {
        Ok((Some(plan::Kind::Welcome(welcome)), plans)) => {
            Ok(Opened { client, reports, plans, welcome })
        }
        Ok((Some(_), _)) => Err(UnknownPlan.into()),
        Ok((None, _)) => Err(unreachable("it closed the stream without a word".to_owned())),
        Err(status) => Err(refusal(&status, unreachable)),
    }
}

fn refusal(status: &Status, unreachable: impl Fn(String) -> SessionError) -> SessionError {
    let message = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => SessionError::Token(message),
        Code::AlreadyExists => SessionError::NameTaken(message),
        _ if is_version_refusal(status) => SessionError::Version(message),
        Code::Unavailable | Code::DeadlineExceeded => unreachable(cause(status)),
        // Not the coordinator's words: the connection broke before it answered.
        _ if std::error::Error::source(status).is_some() => unreachable(cause(status)),
        _ => SessionError::Refused(message),
    }
}

/// Binds the exchange's socket where other workers reach it.
pub(super) async fn listen(options: &Options) -> Result<Listener, SessionError> {
    let ip = match options.exchange_ip {
        Some(ip) => ip,
        None => own_ip(&options.coordinator).await.map_err(|error| SessionError::Unreachable {
            address: options.coordinator.clone(),
            cause: error.to_string(),
        })?,
    };
    Ok(Listener::bind(&SocketAddr::new(ip, 0).to_string())?)
}

/// The address of the interface that leads to the coordinator: connecting a datagram socket asks the routing table and
/// sends nothing.
async fn own_ip(coordinator: &str) -> std::io::Result<IpAddr> {
    let target = tokio::net::lookup_host(coordinator).await?.next();
    let target = target.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// A new identity for a new session.
pub(super) fn incarnation() -> Result<Incarnation, SessionError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| SessionError::Random(error.to_string()))?;
    Ok(Incarnation(bytes))
}

/// Ends when this process is asked to terminate.
pub(super) fn termination() -> Result<impl Future<Output = ()>, SessionError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(SessionError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SessionError::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What a broken stream tells, without the library's wrapping.
pub(super) fn cause(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => root_cause(source),
        None => status.message().to_owned(),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// Reports waiting for the wire: seconds of steps, so that a slow coordinator is felt only when it is gone.
const REPORT_QUEUE: usize = 256;
/// One try to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// From opening the stream to the coordinator's welcome.
const WELCOME_LIMIT: Duration = Duration::from_secs(5);
/// A coordinator whose machine vanished without a word is noticed after these two together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
