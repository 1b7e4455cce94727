//! What the rest of the process holds of the driver: a way to ask and tell it things. Cheap to clone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::identity::JobId;
use proto::wire::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::DriverError;
use crate::checkpoints::Uploads;
use crate::core::{
    Answer, Candidate, Event, JobView, JoinRefusal, Outcome, SessionId, StopRefusal, Submission,
    SubmitRefusal,
};
use crate::logs::JobLogs;
use crate::metrics::Progress;

/// What enters the driver's loop.
#[derive(Debug)]
pub enum Input {
    Event(Event),
    Join {
        candidate: Candidate,
        plans: PlanSender,
        alive: oneshot::Sender<()>,
        reply: oneshot::Sender<Result<(), JoinRefusal>>,
    },
    Submit {
        submission: Box<Submission>,
        reply: oneshot::Sender<Result<Submitted, SubmitRefusal>>,
    },
    Stop {
        job: JobId,
        reply: oneshot::Sender<Result<(), StopRefusal>>,
    },
    Status {
        reply: oneshot::Sender<v1::StatusReply>,
    },
    View {
        job: JobId,
        reply: oneshot::Sender<Option<JobView>>,
    },
    /// Answered when the job is over; dropped when there is no such job.
    Wait {
        job: JobId,
        reply: oneshot::Sender<Ended>,
    },
    Shutdown,
}

pub type PlanSender = mpsc::Sender<Result<v1::Plan, Status>>;

/// A driver at work.
#[derive(Debug)]
pub struct Running {
    pub handle: Handle,
    /// Resolves when the loop has ended.
    pub ended: oneshot::Receiver<Result<(), DriverError>>,
}

#[derive(Clone, Debug)]
pub struct Submitted {
    pub job: JobId,
    pub resumed_from_step: u64,
    pub already_finished: bool,
}

/// A job that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub view: JobView,
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("{0}")]
    Refused(#[from] SubmitRefusal),
    #[error("the coordinator is ending")]
    Gone,
}

#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    uploads: Arc<Uploads>,
    logs: Arc<JobLogs>,
    jobs: PathBuf,
    progress: watch::Receiver<Option<Progress>>,
    next_session: Arc<AtomicU64>,
}

/// The answer that a request waits for.
#[derive(Debug)]
pub(super) enum Reply {
    Submit(oneshot::Sender<Result<Submitted, SubmitRefusal>>),
    Stop(oneshot::Sender<Result<(), StopRefusal>>),
}

impl Reply {
    /// The asker may have gone; then nobody needs the answer.
    pub(super) fn answer(self, answer: Answer) {
        match (self, answer) {
            (
                Reply::Submit(reply),
                Answer::Submitted { job, resumed_from_step, already_finished },
            ) => {
                reply.send(Ok(Submitted { job, resumed_from_step, already_finished })).ok();
            }
            (Reply::Submit(reply), Answer::SubmitRefused(refusal)) => {
                reply.send(Err(refusal)).ok();
            }
            (Reply::Stop(reply), Answer::Stopping) => {
                reply.send(Ok(())).ok();
            }
            (Reply::Stop(reply), Answer::StopRefused(refusal)) => {
                reply.send(Err(refusal)).ok();
            }
            (reply, answer) => unreachable!("{answer:?} answers no {reply:?}"),
        }
    }
}

impl Handle {
    pub(super) fn new(
        inputs: mpsc::Sender<Input>,
        uploads: Arc<Uploads>,
        logs: Arc<JobLogs>,
        jobs: PathBuf,
        progress: watch::Receiver<Option<Progress>>,
    ) -> Handle {
        Handle { inputs, uploads, logs, jobs, progress, next_session: Arc::default() }
    }

    /// A number for a new control stream.
    pub fn new_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn tell(&self, event: Event) {
        // The driver may have ended: then there is nobody left to tell.
        self.inputs.send(Input::Event(event)).await.ok();
    }

    /// Joins a worker. `alive` is dropped when the coordinator gives the stream up. `None` when the driver has ended.
    pub async fn join(
        &self,
        candidate: Candidate,
        plans: PlanSender,
        alive: oneshot::Sender<()>,
    ) -> Option<Result<(), JoinRefusal>> {
        self.ask(|reply| Input::Join { candidate, plans, alive, reply }).await
    }

    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let submission = Box::new(submission);
        let answer = self.ask(|reply| Input::Submit { submission, reply }).await;
        Ok(answer.ok_or(SubmitError::Gone)??)
    }

    pub async fn stop(&self, job: JobId) -> Option<Result<(), StopRefusal>> {
        self.ask(|reply| Input::Stop { job, reply }).await
    }

    pub async fn status(&self) -> Option<v1::StatusReply> {
        self.ask(|reply| Input::Status { reply }).await
    }

    /// `None` for an unknown job, or when the driver has ended.
    pub async fn view(&self, job: JobId) -> Option<JobView> {
        self.ask(|reply| Input::View { job, reply }).await.flatten()
    }

    /// Returns when the job is over; `None` for an unknown job, or when the driver has ended.
    pub async fn wait(&self, job: JobId) -> Option<Ended> {
        self.ask(|reply| Input::Wait { job, reply }).await
    }

    pub async fn shut_down(&self) {
        self.inputs.send(Input::Shutdown).await.ok();
    }

    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.clone()
    }

    pub fn uploads(&self) -> &Arc<Uploads> {
        &self.uploads
    }

    pub fn logs(&self) -> &JobLogs {
        &self.logs
    }

    /// Folder of all jobs.
    pub fn jobs_folder(&self) -> &std::path::Path {
        &self.jobs
    }

    /// `None` when the driver has ended.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}
