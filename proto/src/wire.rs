//! How processes talk: the generated messages of `cluster.v1`, their limits, and the two metadata entries that open every
//! call (token and protocol version). Knows no handler and opens no socket.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

/// Messages and services generated from `proto/cluster/v1/*.proto`, where each is documented.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, reason = "generated")]
#[allow(
    rustdoc::all,
    reason = "the comments are the proto files', which no Rust link or tag is meant in"
)]
pub mod v1 {
    tonic::include_proto!("cluster.v1");
}

/// The join token: 16 random bytes, hex. Debug does not show it, and there is no Display.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is {TOKEN_LEN} hexadecimal digits")]
pub struct TokenError;

impl Token {
    pub fn from_random(bytes: [u8; TOKEN_LEN / 2]) -> Token {
        Token(crate::identity::hex(&bytes))
    }

    /// The secret itself, for the token file.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in a time that does not depend on where the first difference is.
    fn matches(&self, offered: &str) -> bool {
        self.0.as_bytes().ct_eq(offered.as_bytes()).into()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let valid = text.len() == TOKEN_LEN && text.bytes().all(|c| c.is_ascii_hexdigit());
        if valid { Ok(Token(text.to_owned())) } else { Err(TokenError) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Client side: adds token and protocol version to every call.
#[derive(Clone, Debug)]
pub struct Credentials {
    authorization: MetadataValue<Ascii>,
    protocol: MetadataValue<Ascii>,
}

impl Credentials {
    pub fn new(token: &Token) -> Credentials {
        Credentials::speaking(token, PROTOCOL_VERSION)
    }

    /// Credentials of a program that speaks another version: lets tests meet the refusal.
    pub fn speaking(token: &Token, protocol_version: u32) -> Credentials {
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {}", token.reveal()).parse().expect("hex digits are a header value");
        authorization.set_sensitive(true);
        Credentials { authorization, protocol: protocol_version.into() }
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(AUTHORIZATION, self.authorization.clone());
        request.metadata_mut().insert(PROTOCOL, self.protocol.clone());
        Ok(request)
    }
}

/// Server side: refuses calls without the token or with another protocol version.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Token,
}

impl Guard {
    pub fn new(token: Token) -> Guard {
        Guard { token }
    }

    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let offered = text(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if !offered.is_some_and(|offered| self.token.matches(offered)) {
            return Err(Status::unauthenticated("the join token was refused"));
        }
        match text(PROTOCOL).and_then(|value| value.parse::<u32>().ok()) {
            Some(PROTOCOL_VERSION) => Ok(()),
            Some(theirs) => Err(Status::failed_precondition(version_message(theirs))),
            None => Err(Status::failed_precondition(format!("the {PROTOCOL} entry is missing"))),
        }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.check(request.metadata()).map(|()| request)
    }
}

/// Everything but the exchange key.
impl fmt::Debug for v1::Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form")
            .field("job_id", &self.job_id)
            .field("rank", &self.rank)
            .field("members", &self.members)
            .field("base_step", &self.base_step)
            .finish_non_exhaustive()
    }
}

/// The bytes of a checkpoint file of `len` bytes that rank `rank` of `world` uploads.
pub fn checkpoint_part(len: u64, rank: u32, world: u32) -> Range<u64> {
    let bound = |rank: u32| (u128::from(len) * u128::from(rank) / u128::from(world)) as u64;
    bound(rank)..bound(rank + 1)
}

/// The refusal was about the protocol version, not about the state of a job.
pub fn is_version_refusal(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().starts_with(VERSION_REFUSAL)
}

fn version_message(theirs: u32) -> String {
    let upgrade = if theirs < PROTOCOL_VERSION { "the caller" } else { "the coordinator" };
    format!(
        "{VERSION_REFUSAL}: the caller speaks {theirs}, this coordinator {PROTOCOL_VERSION} (release {}); upgrade {upgrade}",
        env!("CARGO_PKG_VERSION")
    )
}

/// Version of the messages in `proto/cluster/v1`. Raised by any change that an older program would misread.
pub const PROTOCOL_VERSION: u32 = 1;
/// Hexadecimal digits of a token: 128 bits.
pub const TOKEN_LEN: usize = 32;
/// Largest message either side decodes. The largest honest one is a `Form` with its job file.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Data bytes of one checkpoint chunk.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Files of one checkpoint.
pub const CHECKPOINT_FILES_MAX: usize = 16;
/// Bytes of one checkpoint: far above any ResNet's.
pub const CHECKPOINT_BYTES_MAX: u64 = 16 << 30;
/// Streams one connection may hold open: control, transfers, and room to spare.
pub const STREAMS_MAX: u32 = 32;
/// Requests of one connection handled at the same time.
pub const CONCURRENCY_MAX: usize = 64;
/// Workers the coordinator admits. Each takes a socket: beyond some hundred, the limit of open files must allow it.
pub const WORKERS_MAX: usize = 16_384;
/// Longest job file, bytes.
pub const JOB_BYTES_MAX: usize = 256 << 10;
/// Images that one report tells of.
pub const QUARANTINED_MAX: usize = 64;
/// What is kept of a worker's own words, bytes.
pub const TEXT_BYTES_MAX: usize = 4096;

const AUTHORIZATION: &str = "authorization";
const PROTOCOL: &str = "cluster-protocol";
const VERSION_REFUSAL: &str = "protocol version mismatch";

#[cfg(test)]
mod tests {
    use super::*;

    fn call(credentials: &mut Credentials, guard: &mut Guard) -> Result<(), Status> {
        guard.call(credentials.call(Request::new(()))?).map(drop)
    }

    #[test]
    fn a_call_needs_the_token_and_the_version() {
        let token = Token::from_random([7; 16]);
        let mut guard = Guard::new(token.clone());
        assert!(call(&mut Credentials::new(&token), &mut guard).is_ok());

        let other = Token::from_random([8; 16]);
        let refused = call(&mut Credentials::new(&other), &mut guard).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(guard.call(Request::new(())).is_err());

        let refused = call(&mut Credentials::speaking(&token, 99), &mut guard).unwrap_err();
        assert!(is_version_refusal(&refused));
        assert!(
            refused.message().contains("speaks 99")
                && refused.message().contains("upgrade the coordinator")
        );
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::from_random([0xab; 16]);
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(format!("{}\n", token.reveal()).parse(), Ok(token));
        assert_eq!("abc".parse::<Token>(), Err(TokenError));
    }
}
