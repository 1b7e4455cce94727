//! The two gRPC services: checks what arrives, turns it into the core's language, and hands it to the driver. Every call has
//! passed the token and version check before it comes here. Decides nothing; holds no state of a job.

pub mod convert;
mod transfer;
mod workers;
mod operators;

use std::net::SocketAddr;
use std::time::Duration;

use proto::exit::ExitCode;
use proto::wire::v1::operators_server::OperatorsServer;
use proto::wire::v1::workers_server::WorkersServer;
use proto::wire::{CONCURRENCY_MAX, Guard, MESSAGE_BYTES_MAX, STREAMS_MAX, Token};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

pub(crate) use convert::words;

use crate::driver::Handle;

/// Serves until `stop` resolves; streams that are still open are cut off then.
pub async fn serve(
    listener: TcpListener,
    token: Token,
    handle: Handle,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let guard = Guard::new(token);
    let workers = WorkersServer::new(workers::WorkersService::new(handle.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operators = OperatorsServer::new(operators::OperatorsService::new(handle))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(CONCURRENCY_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_service(InterceptedService::new(workers, guard.clone()))
        .add_service(InterceptedService::new(operators, guard))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::select! {
        served = server => served,
        () = stop => Ok(()),
    }
}

/// Why the address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "listening on {address}: it is reachable from other machines, and connections are not encrypted yet; \
         listen on 127.0.0.1, or add --insecure if everybody who can reach that address may read and control the training"
    )]
    NotLoopback { address: SocketAddr },
    #[error(
        "listening on {address}: the port is taken; stop the program that uses it, or give another one with --listen"
    )]
    Taken { address: SocketAddr },
    #[error("listening on {address}: {source}")]
    Io { address: SocketAddr, source: std::io::Error },
}

/// Opens the listening socket. `insecure` was typed by a person, for this start.
pub async fn listen(address: SocketAddr, insecure: bool) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() {
        if !insecure {
            return Err(ListenError::NotLoopback { address });
        }
        tracing::warn!("--insecure: {address} is open to the network without encryption");
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::Taken { address },
        _ => ListenError::Io { address, source },
    })
}

/// A refusal that tells the caller's program how to exit.
pub(crate) fn refusal(code: Code, exit: ExitCode, text: impl std::fmt::Display) -> Status {
    let mut status = Status::new(code, text.to_string());
    status.metadata_mut().insert(EXIT_CODE, (exit as u8 as u32).into());
    status
}

/// The exit code that came with a refusal.
pub fn exit_code_of(status: &Status) -> Option<u8> {
    status.metadata().get(EXIT_CODE)?.to_str().ok()?.parse().ok()
}

fn ending() -> Status {
    Status::unavailable("the coordinator is ending")
}

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Ours are far smaller; the default is 16 MiB.
const HEADER_BYTES_MAX: u32 = 16 << 10;
const EXIT_CODE: &str = "exit-code";

#[cfg(test)]
mod tests;
