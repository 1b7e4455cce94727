//! The operators' side: jobs come in, questions are answered, logs are read out.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::pin::Pin;

use proto::exit::ExitCode;
use proto::identity::JobId;
use proto::wire::v1;
use proto::wire::v1::operators_server::Operators;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{ending, refusal};
use crate::checkpoints;
use crate::core::{Policy, Shortage, StopRefusal, Submission, SubmitRefusal};
use crate::driver::{Handle, SubmitError};
use crate::intake;
use crate::logs::{Line, Reading};

#[derive(Debug)]
pub(super) struct OperatorsService {
    handle: Handle,
}

impl OperatorsService {
    pub(super) fn new(handle: Handle) -> OperatorsService {
        OperatorsService { handle }
    }

    fn known(&self, job: &str) -> Result<JobId, Status> {
        job.parse().map_err(|error| refusal(Code::InvalidArgument, ExitCode::Usage, error))
    }

    fn unknown(&self, job: &JobId) -> Status {
        let text = format!("there is no job {job}; `coordinator jobs` lists them");
        refusal(Code::NotFound, ExitCode::Usage, text)
    }
}

#[tonic::async_trait]
impl Operators for OperatorsService {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogLine, Status>> + Send>>;

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitReply>, Status> {
        let request = request.into_inner();
        let policy = Policy {
            on_loss: request.on_loss().into(),
            min_workers: request.min_workers.max(1),
            max_workers: if request.max_workers == 0 { u32::MAX } else { request.max_workers },
        };
        let v1::SubmitRequest { job_toml, base_folder, workers, fresh, .. } = request;
        let read = tokio::task::spawn_blocking(move || {
            intake::read_job(&job_toml, &PathBuf::from(base_folder))
        });
        let spec = read.await.map_err(|_| Status::internal("reading the job panicked"))?;
        let spec =
            spec.map_err(|error| refusal(Code::InvalidArgument, error.exit_code(), error))?;
        let shortage = Shortage::Wait;
        let submission = Submission { spec, workers, policy, fresh, shortage };
        match self.handle.submit(submission).await {
            Ok(submitted) => Ok(Response::new(v1::SubmitReply {
                job_id: submitted.job.to_string(),
                resumed_from_step: submitted.resumed_from_step,
                already_finished: submitted.already_finished,
            })),
            Err(SubmitError::Gone) => Err(ending()),
            Err(SubmitError::Refused(problem)) => Err(submit_refusal(&problem)),
        }
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        self.handle.status().await.map(Response::new).ok_or_else(ending)
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let v1::LogsRequest { job_id, follow } = request.into_inner();
        let job = self.known(&job_id)?;
        if self.handle.view(job.clone()).await.is_none() {
            return Err(self.unknown(&job));
        }
        let mut reading = self.handle.logs().read(&job);
        if !follow {
            reading.live = None;
        }
        let (lines, outgoing) = mpsc::channel(LINES_AHEAD);
        tokio::spawn(read_out(reading, lines));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::StopReply>, Status> {
        let job = self.known(&request.into_inner().job_id)?;
        match self.handle.stop(job).await.ok_or_else(ending)? {
            Ok(()) => Ok(Response::new(v1::StopReply {})),
            Err(StopRefusal::Unknown { job }) => Err(self.unknown(&job)),
            Err(ended) => Err(refusal(Code::FailedPrecondition, ExitCode::Failure, ended)),
        }
    }

    async fn checkpoints(
        &self,
        request: Request<v1::CheckpointsRequest>,
    ) -> Result<Response<v1::CheckpointsReply>, Status> {
        let job = self.known(&request.into_inner().job_id)?;
        let view = self.handle.view(job.clone()).await.ok_or_else(|| self.unknown(&job))?;
        let folder = checkpoints::folder_of(self.handle.jobs_folder(), &job);
        let checkpoints = view.checkpoint_statuses(&folder);
        Ok(Response::new(v1::CheckpointsReply { checkpoints }))
    }
}

fn submit_refusal(problem: &SubmitRefusal) -> Status {
    let code = match problem {
        SubmitRefusal::Name { .. }
        | SubmitRefusal::TooManyWorkers { .. }
        | SubmitRefusal::WeightsMissing { .. } => Code::InvalidArgument,
        SubmitRefusal::Differs { .. } | SubmitRefusal::Busy { .. } => Code::AlreadyExists,
        SubmitRefusal::OtherData { .. } | SubmitRefusal::OtherWeights { .. } => {
            Code::FailedPrecondition
        }
        SubmitRefusal::QueueFull { .. } => Code::ResourceExhausted,
        SubmitRefusal::NoBase { .. } | SubmitRefusal::NoWeights { .. } => Code::DataLoss,
        SubmitRefusal::Stopped { .. } => Code::Aborted,
    };
    refusal(code, problem.exit_code(), problem)
}

/// Sends the lines on disk, then those that come. Waits for the reader only while reading the file.
async fn read_out(reading: Reading, lines: mpsc::Sender<Result<v1::LogLine, Status>>) {
    let Reading { path, len, live } = reading;
    let from_file = lines.clone();
    let read = tokio::task::spawn_blocking(move || {
        let Ok(file) = std::fs::File::open(path) else { return };
        for line in BufReader::new(file.take(len)).lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
            if from_file.blocking_send(Ok(wire(line))).is_err() {
                return;
            }
        }
    });
    let Some(mut live) = live.filter(|_| !lines.is_closed()) else { return };
    if read.await.is_err() {
        return;
    }
    loop {
        let line = match live.recv().await {
            Ok(line) => wire(line),
            Err(RecvError::Closed) => return,
            Err(RecvError::Lagged(count)) => v1::LogLine {
                unix_ms: 0,
                level: "WARN".to_owned(),
                text: format!("{count} lines left out here: they came faster than they were read"),
            },
        };
        if lines.send(Ok(line)).await.is_err() {
            return;
        }
    }
}

fn wire(line: Line) -> v1::LogLine {
    v1::LogLine { unix_ms: line.unix_ms, level: line.level, text: line.text }
}

/// Log lines on their way to a reader.
const LINES_AHEAD: usize = 64;
