//! The workers' side: control streams and the handlers of checkpoint transfers.

use std::pin::Pin;
use std::time::Duration;

use proto::wire::v1;
use proto::wire::v1::workers_server::Workers;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{convert, ending, transfer};
use crate::core::{Event, JoinRefusal, SessionId};
use crate::driver::{Handle, PlanSender};

#[derive(Debug)]
pub(super) struct WorkersService {
    handle: Handle,
}

impl WorkersService {
    pub(super) fn new(handle: Handle) -> WorkersService {
        WorkersService { handle }
    }
}

#[tonic::async_trait]
impl Workers for WorkersService {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<v1::Plan, Status>> + Send>>;
    type DownloadCheckpointStream =
        Pin<Box<dyn Stream<Item = Result<v1::CheckpointChunk, Status>> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<v1::Report>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let mut reports = request.into_inner();
        let session = self.handle.new_session();
        let hello = tokio::time::timeout(HELLO_WITHIN, reports.message()).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("no `hello` came"))??;
        let hello = hello.ok_or_else(|| Status::invalid_argument("no `hello` came"))?;
        let candidate = convert::candidate(session, hello)?;
        let (plans, outgoing) = mpsc::channel(PLANS_MAX);
        let (alive, given_up) = oneshot::channel();
        let reader =
            Reader { session, reports, plans: plans.downgrade(), handle: self.handle.clone() };
        let joined = self.handle.join(candidate, plans, alive).await.ok_or_else(ending)?;
        joined.map_err(|refusal| match refusal {
            JoinRefusal::NameTaken { .. } => Status::already_exists(refusal.to_string()),
            JoinRefusal::Full { .. } => Status::resource_exhausted(refusal.to_string()),
        })?;
        tokio::spawn(reader.run(given_up));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn upload_checkpoint(
        &self,
        request: Request<Streaming<v1::CheckpointChunk>>,
    ) -> Result<Response<v1::CheckpointReceipt>, Status> {
        let bytes = transfer::receive(&self.handle, request.into_inner()).await?;
        Ok(Response::new(v1::CheckpointReceipt { bytes }))
    }

    async fn download_checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<Self::DownloadCheckpointStream>, Status> {
        let chunks = transfer::send(&self.handle, request.into_inner()).await?;
        Ok(Response::new(Box::pin(chunks)))
    }
}

/// Turns one stream's reports into events until it ends or is given up.
struct Reader {
    session: SessionId,
    reports: Streaming<v1::Report>,
    /// Weak: the stream of plans ends when the driver lets go of it.
    plans: mpsc::WeakSender<Result<v1::Plan, Status>>,
    handle: Handle,
}

impl Reader {
    async fn run(mut self, mut given_up: oneshot::Receiver<()>) {
        let cause = loop {
            let message = tokio::select! {
                message = self.reports.message() => message,
                _ = &mut given_up => return,
            };
            let report = match message {
                Ok(Some(report)) => report,
                Ok(None) => break "connection closed".to_owned(),
                Err(status) => break broken(&status),
            };
            match convert::report(report) {
                Ok((generation, report)) => {
                    let session = self.session;
                    self.handle.tell(Event::Reported { session, generation, report }).await;
                }
                Err(status) => {
                    let problem = status.message().to_owned();
                    self.refuse(status).await;
                    break format!("its report was refused: {problem}");
                }
            }
        };
        self.handle.tell(Event::StreamEnded { session: self.session, cause }).await;
    }

    async fn refuse(&self, status: Status) {
        let plans: Option<PlanSender> = self.plans.upgrade();
        if let Some(plans) = plans {
            // A worker that reads no plans is cut off without the reason.
            plans.try_send(Err(status)).ok();
        }
    }
}

/// How a stream that broke is described. What the transport says ("h2 protocol error") helps nobody.
fn broken(status: &Status) -> String {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            format!("its report was refused: {}", status.message())
        }
        _ => "connection closed".to_owned(),
    }
}

/// `hello` follows the call at once; who stays silent holds a stream for no longer than this.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Plans are few; a worker that lets these pile up does not read.
const PLANS_MAX: usize = 32;
