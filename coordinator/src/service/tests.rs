//! A real coordinator on a loopback socket, with workers that compute nothing but keep the protocol.

mod disk;
mod fake;
mod joining;
mod runs;

use std::path::{Path, PathBuf};

use proto::wire::v1::operators_client::OperatorsClient;
use proto::wire::v1::workers_client::WorkersClient;
use proto::wire::{Credentials, Token, v1};
use tempfile::TempDir;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::core::JobSpec;
use crate::intake;
use crate::local::Local;

type Credentialed = InterceptedService<Channel, Credentials>;

/// A coordinator and its state directory.
struct Rig {
    local: Local,
    token: Token,
    folder: TempDir,
}

impl Rig {
    async fn start() -> Rig {
        Rig::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: TempDir) -> Rig {
        let local = Local::start(folder.path()).await.unwrap();
        let token = local.state.token().unwrap();
        Rig { local, token, folder }
    }

    /// Ends the coordinator in good order and starts another one on the same state.
    async fn restart(self) -> Rig {
        self.local.shut_down().await.unwrap();
        Rig::start_in(self.folder).await
    }

    async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.local.address);
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    async fn workers_client(&self, credentials: Credentials) -> WorkersClient<Credentialed> {
        WorkersClient::with_interceptor(self.channel().await, credentials)
    }

    async fn operators_client(&self) -> OperatorsClient<Credentialed> {
        OperatorsClient::with_interceptor(self.channel().await, Credentials::new(&self.token))
    }

    async fn status(&self) -> v1::StatusReply {
        self.local.handle.status().await.unwrap()
    }
}

/// A job of three steps (batches of 1,024) on the example's real digits.
fn job_toml(name: &str) -> String {
    format!(
        "name = \"{name}\"\n[data]\nformat = \"idx\"\npath = \".\"\n[model]\narch = \"resnet18\"\n\
         [train]\nepochs = 2\nbatch = 1024\n[optimizer]\nlearning_rate = 0.1\n"
    )
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits").canonicalize().unwrap()
}

fn spec() -> JobSpec {
    intake::read_job(&job_toml("digits"), &digits()).unwrap()
}
