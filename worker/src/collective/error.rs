//! Everything that can end a generation's exchange, each with the worker to blame. Knows no policy: what follows from a
//! loss is the coordinator's decision.

use std::time::Duration;

/// Why an exchange can't go on. Every later call on the same exchange returns the same error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// Step 0 stands for the time before the first step.
    #[error("worker {peer} lost in step {step} during exchange of bucket {bucket}: {cause}")]
    PeerLost { peer: String, step: u64, bucket: usize, cause: String },

    #[error(
        "exchange of bucket {bucket} in step {step}: worker {peer} silent for {silence:?}, limit {limit:?}"
    )]
    PeerSilent { peer: String, step: u64, bucket: usize, silence: Duration, limit: Duration },

    #[error("worker {peer} sent a frame that can't be used: {what}")]
    BadFrame { peer: String, what: String },

    #[error("can't connect to worker {peer} at {address}: {cause}")]
    Connect { peer: String, address: String, cause: String },

    #[error("worker {peer} at {address} does not belong to this generation: {cause}")]
    Refused { peer: String, address: String, cause: String },

    #[error("generation given up: {reason}")]
    Aborted { reason: String },

    #[error("can't listen for other workers on {address}: {cause}")]
    Listen { address: String, cause: String },

    #[error("the plan of the generation is inconsistent: {what}")]
    BadGroup { what: String },

    #[error("can't start the threads of the exchange: {cause}")]
    Threads { cause: String },
}

impl CollectiveError {
    /// The worker at the other end of the broken edge; `None` when nobody else is to blame.
    pub fn culprit(&self) -> Option<&str> {
        match self {
            CollectiveError::PeerLost { peer, .. }
            | CollectiveError::PeerSilent { peer, .. }
            | CollectiveError::BadFrame { peer, .. }
            | CollectiveError::Connect { peer, .. }
            | CollectiveError::Refused { peer, .. } => Some(peer),
            CollectiveError::Aborted { .. }
            | CollectiveError::Listen { .. }
            | CollectiveError::BadGroup { .. }
            | CollectiveError::Threads { .. } => None,
        }
    }
}
