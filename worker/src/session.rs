//! The worker's side of the wire: joins the coordinator, hands plans to the training thread and reports back.
//!
//! With its files the only part of the worker that knows tonic. The training thread outlives a session, and so does the
//! generation: while the coordinator is away its reports wait in the outbox, and when it comes back within `Options::wait`
//! the same process joins again and repeats them.

mod connect;
mod transfer;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use kernels::DeviceError;
use proto::wire::v1::{self, TroubleKind, report};
use proto::wire::{TEXT_BYTES_MAX, Token};
use proto::{Generation, Name};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tonic::Streaming;

use crate::collective::Abort;
use crate::conduct::{Action, Conduct};
use crate::progress::Progress;
use crate::trainer::{self, Command, Formation, Machine, Uploads};
use connect::Client;
use transfer::Uploader;

pub use connect::SessionError;

/// How to join.
#[derive(Debug)]
pub struct Options {
    /// host:port
    pub coordinator: String,
    pub token: Token,
    pub name: Name,
    pub device: kernels::Device,
    /// Of the CPU device, and of the loader: decoding takes turns with the kernels on their cores, and a core that waits for
    /// data could as well have made it. A GPU leaves them all to the loader.
    pub threads: NonZeroUsize,
    /// Where this machine keeps the dataset, when it is not where the job says.
    pub data: Option<PathBuf>,
    /// Where other workers reach this one; the address that reaches the coordinator when absent.
    pub exchange_ip: Option<IpAddr>,
    /// How long to look for the coordinator before giving up, at the start and after a loss.
    pub wait: Duration,
}

/// Joins, works, and joins again after a loss, until told to leave.
pub async fn run(options: Options) -> Result<(), SessionError> {
    let mut terminated = Box::pin(connect::termination()?);
    let incarnation = connect::incarnation()?;
    let listener = connect::listen(&options).await?;
    let mut hello = v1::Hello {
        worker: options.name.to_string(),
        incarnation: incarnation.0.to_vec(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        exchange_address: listener.local_address().to_string(),
        device_kind: options.device.kind(),
        threads: options.threads.get() as u32,
        generation: 0,
    };
    let progress = Arc::new(Progress::default());
    let machine = Machine {
        device: options.device.clone(),
        decode_threads: options.threads,
        incarnation,
        listener,
        data: options.data.clone(),
        progress: Arc::clone(&progress),
    };
    let (commands, mut trainer_ended) = start_trainer(machine)?;
    let mut standing = Standing::new(commands, progress);
    let mut rejoining = false;
    loop {
        hello.generation = standing.conduct.hello().0;
        let opened = tokio::select! {
            opened = connect::open(&options, &hello, rejoining) => opened?,
            never = standing.collect() => match never {},
            () = terminated.as_mut() => return Ok(()),
        };
        tracing::info!(worker = %options.name, coordinator = %options.coordinator, "joined");
        let heartbeat = Duration::from_millis(u64::from(opened.welcome.heartbeat_ms));
        let mut session = Session { client: opened.client, standing: &mut standing };
        session.welcome(Generation(opened.welcome.generation))?;
        let streams = (opened.reports, opened.plans);
        match session.serve(streams, heartbeat, &mut trainer_ended, terminated.as_mut()).await? {
            End::Leave => return Ok(()),
            End::Lost(cause) if options.wait.is_zero() => return Err(SessionError::Lost { cause }),
            End::Lost(cause) => {
                tracing::warn!("session ended: {cause}; joining again within {:?}", options.wait);
            }
        }
        rejoining = true;
    }
}

/// What outlives a session.
struct Standing {
    commands: SyncSender<Command>,
    progress: Arc<Progress>,
    conduct: Conduct,
    membership: Option<Membership>,
    /// What the training thread and the uploader report goes through here.
    reports: Sender<v1::Report>,
    reported: Receiver<v1::Report>,
}

impl Standing {
    fn new(commands: SyncSender<Command>, progress: Arc<Progress>) -> Standing {
        let (reports, reported) = mpsc::channel(REPORT_QUEUE);
        let conduct = Conduct::default();
        Standing { commands, progress, conduct, membership: None, reports, reported }
    }

    /// Takes reports in while nobody listens.
    async fn collect(&mut self) -> std::convert::Infallible {
        let outbox = &mut self.conduct.outbox;
        while !outbox.is_full() {
            // This side holds a sender, too: the queue never ends.
            if let Some(report) = self.reported.recv().await {
                outbox.push(report);
            }
        }
        std::future::pending().await
    }

    /// A training thread that has ended is noticed by `serve`.
    fn command(&self, command: Command) -> Result<(), SessionError> {
        match self.commands.try_send(command) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(SessionError::TrainerStuck),
        }
    }
}

/// The training thread's commands, and a channel that closes when it ends.
fn start_trainer(
    machine: Machine,
) -> Result<(SyncSender<Command>, oneshot::Receiver<DeviceError>), SessionError> {
    let (commands, receiver) = std::sync::mpsc::sync_channel(COMMAND_QUEUE);
    let (alive, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("trainer".to_owned()).spawn(move || {
        // Dropped when the thread panics.
        if let Some(fault) = trainer::run(&machine, &receiver) {
            drop(alive.send(fault));
        }
    });
    thread.map_err(SessionError::Thread)?;
    Ok((commands, ended))
}

/// How a session ended without an error.
enum End {
    /// The coordinator said goodbye, or this process was asked to end.
    Leave,
    /// The control stream broke.
    Lost(String),
}

/// One control stream, from the welcome to its end.
struct Session<'a> {
    client: Client,
    standing: &'a mut Standing,
}

/// What runs for the generation that this worker is a member of.
struct Membership {
    abort: Abort,
    /// The checkpoint's way here, before the training thread has it.
    fetching: AbortHandle,
    uploads: Uploads,
}

impl Membership {
    /// Ends its exchange and every wait; what the worker holds stays.
    fn give_up(&self, reason: &str) {
        self.fetching.abort();
        self.abort.abort(reason);
    }
}

impl Session<'_> {
    async fn serve(
        mut self,
        (reports, mut plans): (Sender<v1::Report>, Streaming<v1::Plan>),
        heartbeat: Duration,
        trainer_ended: &mut oneshot::Receiver<DeviceError>,
        mut terminated: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, SessionError> {
        let mut heartbeat = tokio::time::interval(heartbeat.max(HEARTBEAT_MIN));
        // Set once this process was asked to end.
        let mut leaving = None;
        let end = loop {
            let Standing { reported, conduct, .. } = &mut *self.standing;
            let outbox = &mut conduct.outbox;
            tokio::select! {
                plan = plans.message() => match plan {
                    Ok(Some(plan)) => match self.follow(plan) {
                        Ok(false) => {}
                        Ok(true) => break Ok(End::Leave),
                        Err(error) => break Err(error),
                    },
                    Ok(None) => break Ok(End::Lost("the coordinator ended it".to_owned())),
                    Err(status) => break Ok(End::Lost(connect::cause(&status))),
                },
                Some(report) = reported.recv(), if !outbox.is_full() => outbox.push(report),
                Ok(room) = reports.reserve(), if outbox.has_unsent() => {
                    if let Some(report) = outbox.next() {
                        room.send(report);
                        // As good a sign of life.
                        heartbeat.reset();
                    }
                }
                _ = heartbeat.tick() => self.beat(&reports),
                fault = &mut *trainer_ended => break Err(match fault {
                    Ok(fault) => SessionError::Device(fault),
                    Err(_) => SessionError::TrainerPanicked,
                }),
                () = terminated.as_mut(), if leaving.is_none() => {
                    let reason = "asked to terminate".to_owned();
                    let word = report::Kind::Leaving(v1::Leaving { reason });
                    outbox.push(v1::Report { generation: 0, kind: Some(word) });
                    leaving = Some(Box::pin(tokio::time::sleep(LEAVE_WITHIN)));
                }
                () = async { leaving.as_mut().expect("checked").await }, if leaving.is_some() => {
                    tracing::warn!("nobody let this worker go within {LEAVE_WITHIN:?}: it leaves");
                    break Ok(End::Leave);
                }
            }
        };
        let last_word = match &end {
            Err(SessionError::TrainerPanicked) => Some(TRAINER_PANICKED.to_owned()),
            Err(SessionError::Device(fault)) => Some(fault.to_string()),
            _ => None,
        };
        if let Some(message) = last_word {
            let word = trainer_trouble(&self.standing.progress, message);
            drain(reports, plans, self.standing, word).await;
        }
        if leaving.is_some() { end.map(|_| End::Leave) } else { end }
    }

    /// A stream begins; in this generation the worker still counts.
    fn welcome(&mut self, generation: Generation) -> Result<(), SessionError> {
        for action in self.standing.conduct.welcome(generation) {
            self.carry_out(action)?;
        }
        Ok(())
    }

    /// Carries out one plan; true when it was a goodbye.
    fn follow(&mut self, plan: v1::Plan) -> Result<bool, SessionError> {
        let mut leaves = false;
        for action in self.standing.conduct.follow(plan)? {
            leaves |= matches!(action, Action::Leave { .. });
            self.carry_out(action)?;
        }
        Ok(leaves)
    }

    fn carry_out(&mut self, action: Action) -> Result<(), SessionError> {
        let standing = &mut *self.standing;
        match action {
            Action::GiveUp { reason } => {
                if let Some(membership) = &standing.membership {
                    membership.give_up(&reason);
                }
            }
            Action::Part { generation, cause } => {
                tracing::info!(generation = generation.0, "{cause}");
                standing.membership = None;
            }
            Action::Form { generation, form } => self.form(generation, *form),
            Action::Run(generation) => standing.command(Command::Run(generation))?,
            Action::Stop(generation) => standing.command(Command::Stop(generation))?,
            Action::Pause(generation) => standing.command(Command::Pause(generation))?,
            Action::Seal { generation, attempt } => {
                let reports = standing.reports.clone();
                standing.command(Command::Seal { generation, attempt, reports })?;
            }
            Action::Forget(generation) => standing.command(Command::Abandon(generation))?,
            Action::UploadAgain => {
                if let Some(membership) = &standing.membership {
                    membership.uploads.again();
                }
            }
            Action::Warm(warm) => {
                standing.progress.enter(v1::Phase::Prepare);
                let reports = standing.reports.clone();
                standing.command(Command::Warm { warm, reports })?;
            }
            Action::Leave { reason } => tracing::info!("leaving: {reason}"),
        }
        Ok(())
    }

    /// Fetches what the generation starts from, then wakes the training thread.
    fn form(&mut self, generation: Generation, form: v1::Form) {
        let Standing { commands, progress, reports, .. } = &*self.standing;
        let (client, commands, reports) = (self.client.clone(), commands.clone(), reports.clone());
        let abort = Abort::new();
        progress.applied(form.base_step);
        progress.enter(v1::Phase::Prepare);
        let uploader =
            Uploader::new(client.clone(), generation, &form, &abort, reports.clone()).start();
        let (uploads, given_up) = (uploader.clone(), abort.clone());
        let task = tokio::spawn(async move {
            let base = match transfer::download(client, &form).await {
                Ok(base) => base,
                Err(error) => {
                    let trouble = trouble(TroubleKind::TroubleCheckpoint, error.to_string());
                    return say(&reports, generation.0, trouble).await;
                }
            };
            let (abort, sender) = (given_up, reports.clone());
            let formation = Formation { generation, form, abort, base, reports: sender, uploads };
            // The training thread drops a formation that was given up in the meantime.
            if commands.try_send(Command::Form(Box::new(formation))).is_err() {
                let message = "the training thread takes no commands".to_owned();
                let trouble = trouble(TroubleKind::TroubleInternal, message);
                say(&reports, generation.0, trouble).await;
            }
        });
        let (fetching, uploads) = (task.abort_handle(), uploader);
        self.standing.membership = Some(Membership { abort, fetching, uploads });
    }

    /// A full queue means that reports are on their way: they are signs of life too.
    fn beat(&self, reports: &Sender<v1::Report>) {
        let Standing { progress, .. } = &*self.standing;
        let heartbeat = v1::Heartbeat { step: progress.step(), phase: progress.phase().into() };
        let kind = Some(report::Kind::Heartbeat(heartbeat));
        let generation = self.standing.conduct.generation().0;
        if reports.try_send(v1::Report { generation, kind }).is_err() {
            tracing::debug!("no room for a heartbeat");
        }
    }
}

/// Queues a report. A closed queue means that the stream has ended, which its reader notices.
async fn say(reports: &Sender<v1::Report>, generation: u64, mut kind: report::Kind) {
    if let report::Kind::Trouble(trouble) = &mut kind {
        let end = trouble.message.floor_char_boundary(TEXT_BYTES_MAX);
        trouble.message.truncate(end);
    }
    if reports.send(v1::Report { generation, kind: Some(kind) }).await.is_err() {
        tracing::debug!("a report found the stream closed");
    }
}

/// Says the last word, ends our half of the stream, and gives the coordinator a moment to read what is queued.
async fn drain(
    reports: Sender<v1::Report>,
    mut plans: Streaming<v1::Plan>,
    standing: &mut Standing,
    word: report::Kind,
) {
    let read = async {
        while let Some(report) = standing.conduct.outbox.next() {
            drop(reports.send(report).await);
        }
        say(&reports, standing.conduct.generation().0, word).await;
        drop(reports);
        while let Ok(Some(_)) = plans.message().await {}
    };
    if tokio::time::timeout(DRAIN_LIMIT, read).await.is_err() {
        tracing::debug!("the coordinator did not close the stream in time");
    }
}

/// Trouble while preparing.
fn trouble(kind: TroubleKind, message: String) -> report::Kind {
    let (kind, phase) = (kind.into(), v1::Phase::Prepare.into());
    report::Kind::Trouble(v1::Trouble { kind, phase, message, ..v1::Trouble::default() })
}

fn trainer_trouble(progress: &Progress, message: String) -> report::Kind {
    report::Kind::Trouble(v1::Trouble {
        kind: TroubleKind::TroubleInternal.into(),
        step: progress.current_step(),
        phase: progress.phase().into(),
        culprit: String::new(),
        message,
    })
}

const TRAINER_PANICKED: &str = "the training thread panicked; its message is in the worker's log";

/// Reports on their way from the training thread to the outbox.
const REPORT_QUEUE: usize = 256;
/// Commands of one generation are few; a thread that leaves this many unread is stuck.
const COMMAND_QUEUE: usize = 32;
/// A coordinator that asks for more heartbeats than this is not obeyed.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// How long a worker that was asked to end waits until the others can do without it.
const LEAVE_WITHIN: Duration = Duration::from_millis(1800);
/// How long the coordinator may take to read our last words.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
