//! The loop around the core: turns requests, reports, timers and disk results into events, and carries the actions out.
//! Decisions are durable before anything else is done about them: all events that wait are applied as one batch, their
//! records are one journal append, and only then are plans sent, metrics published and requests answered.
//!
//! Runs on a thread of its own, so that its disk writes hold nobody up.

mod handle;
pub mod plans;
mod books;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use proto::identity::{Generation, JobId};
use proto::wire::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;

pub use handle::{Ended, Handle, Input, PlanSender, Running, SubmitError, Submitted};

use crate::checkpoints::{self, Uploads};
use crate::core::{
    Action, Answer, Cluster, Event, Formation, JobView, JoinRefusal, Outcome, SessionId, TICK,
    Ticket,
};
use crate::journal::{Journal, JournalError, Opened};
use crate::logs::JobLogs;
use crate::state::StateDir;
use crate::store::{Store, Task};
use books::Books;
use handle::Reply;

/// Everything the loop owns. The inbox is declared first: it closes before the store is waited for.
#[derive(Debug)]
pub(crate) struct Driver {
    inbox: mpsc::Receiver<Input>,
    core: Cluster,
    journal: Journal,
    state: Arc<StateDir>,
    started: Instant,
    sessions: BTreeMap<SessionId, Session>,
    joining: BTreeMap<SessionId, oneshot::Sender<Result<(), JoinRefusal>>>,
    tickets: BTreeMap<Ticket, Reply>,
    next_ticket: u64,
    waiters: BTreeMap<JobId, Vec<oneshot::Sender<Ended>>>,
    books: Books,
    uploads: Arc<Uploads>,
    /// Events that carrying out an action caused; applied with the next batch.
    follow_ups: VecDeque<Event>,
    store: Store,
}

/// The sending half of one control stream.
#[derive(Debug)]
struct Session {
    plans: PlanSender,
    /// Dropped to end the stream's reader.
    _alive: oneshot::Sender<()>,
}

/// Why the coordinator had to end.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error(
        "the journal record {index} makes no sense: {problem}; it was written by another release or is damaged"
    )]
    Replay { index: usize, problem: String },
    #[error(
        "removing incomplete checkpoints below {}: {source}; check the disk, or give another folder with --state",
        path.display()
    )]
    Leftovers { path: PathBuf, source: std::io::Error },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

/// Reads the journal back and starts the loop.
pub fn start(state: Arc<StateDir>) -> Result<Running, DriverError> {
    let Opened { journal, records, torn_bytes } = Journal::open(&state.journal_path())?;
    if let Some(bytes) = torn_bytes {
        tracing::warn!(
            "the journal ended in {bytes} bytes of an incomplete record, which were cut off"
        );
    }
    checkpoints::sweep(&state.jobs_folder())
        .map_err(|source| DriverError::Leftovers { path: state.jobs_folder(), source })?;
    let mut core = Cluster::default();
    for (index, record) in records.iter().enumerate() {
        let replayed = core.replay(record);
        replayed.map_err(|e| DriverError::Replay { index, problem: e.to_string() })?;
    }
    let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
    let (progress, watched) = watch::channel(None);
    let logs = Arc::new(JobLogs::new(state.jobs_folder()));
    let uploads = Arc::new(Uploads::default());
    let store =
        Store::start(state.jobs_folder(), inputs.clone()).map_err(io_error("starting a thread"))?;
    let handle = Handle::new(inputs, uploads.clone(), logs.clone(), state.jobs_folder(), watched);
    let mut driver = Driver {
        inbox,
        core,
        journal,
        started: Instant::now(),
        sessions: BTreeMap::new(),
        joining: BTreeMap::new(),
        tickets: BTreeMap::new(),
        next_ticket: 0,
        waiters: BTreeMap::new(),
        books: Books::new(state.clone(), logs, progress),
        state,
        uploads,
        follow_ups: VecDeque::new(),
        store,
    };
    // The boot record is durable before anybody is served.
    let actions = driver.core.boot();
    driver.perform(actions)?;
    let (done, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(io_error("starting a runtime"))?;
    let thread = std::thread::Builder::new().name("driver".to_owned()).spawn(move || {
        let result = runtime.block_on(driver.run());
        if let Err(error) = &result {
            tracing::error!("the coordinator can't go on: {error}");
        }
        // Nobody may be waiting.
        done.send(result).ok();
    });
    thread.map_err(io_error("starting a thread"))?;
    Ok(Running { handle, ended })
}

impl Driver {
    async fn run(mut self) -> Result<(), DriverError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                biased;
                _ = ticks.tick() => Input::Event(Event::Tick),
                input = self.inbox.recv() => match input {
                    Some(input) => input,
                    None => return Ok(()),
                },
            };
            let mut actions = Vec::new();
            let rest = std::iter::from_fn(|| self.inbox.try_recv().ok()).take(BATCH_MAX);
            let batch: Vec<Input> = std::iter::once(first).chain(rest).collect();
            let mut ending = false;
            for input in batch {
                ending |= matches!(input, Input::Shutdown);
                self.take(input, &mut actions);
            }
            self.perform(actions)?;
            if ending {
                return Ok(());
            }
        }
    }

    /// Applies one input to the core.
    fn take(&mut self, input: Input, actions: &mut Vec<Action>) {
        while let Some(event) = self.follow_ups.pop_front() {
            self.apply(event, actions);
        }
        match input {
            Input::Event(event) => {
                let ended = match &event {
                    Event::StreamEnded { session, .. } => Some(*session),
                    _ => None,
                };
                self.apply(event, actions);
                if let Some(session) = ended {
                    self.sessions.remove(&session);
                }
            }
            Input::Join { candidate, plans, alive, reply } => {
                let session = candidate.session;
                self.sessions.insert(session, Session { plans, _alive: alive });
                self.joining.insert(session, reply);
                self.apply(Event::Joined(candidate), actions);
            }
            Input::Submit { submission, reply } => {
                let ticket = self.ticket(Reply::Submit(reply));
                self.apply(Event::Submitted { ticket, submission }, actions);
            }
            Input::Stop { job, reply } => {
                let ticket = self.ticket(Reply::Stop(reply));
                self.apply(Event::StopRequested { ticket, job }, actions);
            }
            // A question whose asker has gone needs no answer.
            Input::Status { reply } => drop(reply.send(self.status())),
            Input::View { job, reply } => drop(reply.send(self.core.view(&job))),
            Input::Wait { job, reply } => self.wait(job, reply),
            Input::Shutdown => {}
        }
    }

    fn apply(&mut self, event: Event, actions: &mut Vec<Action>) {
        actions.extend(self.core.apply(self.started.elapsed(), event));
    }

    /// Carries out a batch: records first, all at once.
    fn perform(&mut self, actions: Vec<Action>) -> Result<(), DriverError> {
        let (mut records, mut rest) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Journal(record) => records.push(record),
                other => rest.push(other),
            }
        }
        if !records.is_empty() {
            self.journal.append(&records)?;
        }
        for action in rest {
            self.carry_out(action);
        }
        self.books.flush();
        Ok(())
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Journal(_) => unreachable!("records were written before"),
            Action::Admit { session, generation } => {
                self.send(session, Generation(0), plans::welcome(generation));
                if let Some(reply) = self.joining.remove(&session) {
                    // The call may have been given up meanwhile; its stream's end tells.
                    reply.send(Ok(())).ok();
                }
            }
            Action::Refuse { session, refusal } => {
                self.sessions.remove(&session);
                if let Some(reply) = self.joining.remove(&session) {
                    reply.send(Err(refusal)).ok();
                }
            }
            Action::Form(formation) => self.form(&formation),
            Action::Send { session, generation, plan } => {
                self.send(session, generation, plans::plan(plan));
            }
            Action::Disconnect { session, reason } => {
                if let Some(gone) = self.sessions.remove(&session) {
                    // Its stream may be broken already.
                    gone.plans.try_send(Err(Status::aborted(reason))).ok();
                }
            }
            Action::Warm { session, job, spec, workers } => {
                let generation = self.core.generation();
                self.send(session, generation, plans::warm(&job, &spec, workers));
            }
            Action::Answer { ticket, answer } => self.answer(ticket, answer),
            Action::FindBase { job, spec } => {
                let task = Task::FindBase { job, spec };
                if let Err(Task::FindBase { job, .. }) = self.store.hand_over(task) {
                    let problem = BUSY.to_owned();
                    let search = crate::core::BaseSearch::Refused { problem };
                    self.follow_ups.push_back(Event::BaseFound { job, search });
                }
            }
            Action::CutHistory { job, step } => self.books.cut(&job, step),
            Action::Reopen { job, spec, step } => {
                self.books.open(&job, &spec, step);
                let published = self.books.published(&job);
                self.core.published_up_to(published);
            }
            Action::OpenUploads { job, generation, members } => {
                let folder = checkpoints::folder_of(&self.state.jobs_folder(), &job);
                self.uploads.open(job, generation, members, folder);
            }
            Action::CloseUploads { generation } => self.uploads.close(generation),
            Action::Seal(order) => self.seal(order),
            Action::Retain { job, shelf } => {
                // Too busy: what should have gone is removed with the next one, the index is rewritten then.
                self.store.hand_over(Task::Retain { job, shelf }).ok();
            }
            Action::Publish { job, metric } => {
                self.books.publish(self.started.elapsed(), &job, &metric);
            }
            Action::Log { job, level, text } => {
                let over = job.as_ref().is_some_and(|job| self.core.is_over(job));
                self.books.log(job.as_ref(), level, &text, over);
            }
            Action::Finish { job, outcome } => self.finish(&job, outcome),
        }
    }

    fn form(&mut self, formation: &Formation) {
        self.books.open(&formation.job, &formation.spec, formation.base.step);
        let key = crate::state::random();
        for (rank, member) in formation.members.iter().enumerate() {
            let plan = plans::form(formation, rank, &key);
            self.send(member.session, formation.generation, plan);
        }
    }

    fn send(&mut self, session: SessionId, generation: Generation, kind: v1::plan::Kind) {
        let Some(known) = self.sessions.get(&session) else { return };
        let plan = v1::Plan { generation: generation.0, kind: Some(kind) };
        if let Err(mpsc::error::TrySendError::Full(_)) = known.plans.try_send(Ok(plan)) {
            let cause = "it does not read its plans".to_owned();
            self.follow_ups.push_back(Event::StreamEnded { session, cause });
        }
    }

    fn seal(&mut self, order: Box<crate::core::SealOrder>) {
        let (job, generation, step) = (order.job.clone(), order.generation, order.step);
        let problem = match self.uploads.take(generation, step) {
            Some(assembly) => match self.store.hand_over(Task::Seal { assembly, order }) {
                Ok(()) => return,
                Err(_) => BUSY,
            },
            None => "its parts are gone",
        };
        let problem = problem.to_owned();
        let failed = Event::CheckpointFailed { job, generation, step, problem };
        self.follow_ups.push_back(failed);
    }

    fn finish(&mut self, job: &JobId, outcome: Outcome) {
        self.books.close(job);
        let Some(view) = self.core.view(job) else { return };
        for waiter in self.waiters.remove(job).unwrap_or_default() {
            // Whoever waited may have gone.
            waiter.send(Ended { outcome: outcome.clone(), view: view.clone() }).ok();
        }
    }

    fn wait(&mut self, job: JobId, reply: oneshot::Sender<Ended>) {
        match self.core.view(&job) {
            None => {}
            Some(JobView { outcome: None, .. }) => self.waiters.entry(job).or_default().push(reply),
            Some(view) => {
                let outcome = view.outcome.clone().expect("matched above");
                reply.send(Ended { outcome, view }).ok();
            }
        }
    }

    fn ticket(&mut self, reply: Reply) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, reply);
        ticket
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(reply) = self.tickets.remove(&ticket) else { return };
        reply.answer(answer);
    }

    fn status(&self) -> v1::StatusReply {
        let mut jobs = self.core.job_statuses();
        if let Some(progress) = self.books.progress() {
            let running = jobs.iter_mut().find(|job| job.job_id == progress.job.as_str());
            if let Some(job) = running {
                job.images_per_second = progress.images_per_second;
            }
        }
        v1::StatusReply { jobs, workers: self.core.worker_statuses() }
    }
}

fn io_error(what: &'static str) -> impl FnOnce(std::io::Error) -> DriverError {
    move |source| DriverError::Io { what, source }
}

/// Inputs that may wait: a report or two of every worker that the coordinator admits.
const INPUTS_MAX: usize = 4096;
/// Inputs applied between two journal appends.
const BATCH_MAX: usize = 256;
const BUSY: &str = "too many checkpoints are waiting for the disk";
