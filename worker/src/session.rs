//! The worker's side of the wire: joins the coordinator, hands plans to the training thread and reports back.
//!
//! With its two files the only part of the worker that knows tonic. The training thread outlives a session: when the
//! coordinator comes back within `Options::wait`, the same process joins again.

mod connect;
mod transfer;

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use proto::wire::v1::{self, TroubleKind, plan, report};
use proto::wire::{TEXT_BYTES_MAX, Token};
use proto::{Generation, Name};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tonic::Streaming;

use crate::collective::Abort;
use crate::progress::Progress;
use crate::trainer::{self, Command, Formation, Machine};
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
    pub threads: usize,
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
    let hello = v1::Hello {
        worker: options.name.to_string(),
        incarnation: incarnation.0.to_vec(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        exchange_address: listener.local_address().to_string(),
        device_kind: options.device.kind(),
        threads: options.threads as u32,
    };
    let progress = Arc::new(Progress::default());
    let machine = Machine {
        device: options.device.clone(),
        incarnation,
        listener,
        data: options.data.clone(),
        progress: Arc::clone(&progress),
    };
    let (commands, mut trainer_ended) = start_trainer(machine)?;
    let mut rejoining = false;
    loop {
        let opened = tokio::select! {
            opened = connect::open(&options, &hello, rejoining) => opened?,
            () = terminated.as_mut() => return Ok(()),
        };
        tracing::info!(worker = %options.name, coordinator = %options.coordinator, "joined");
        let session = Session { client: opened.client, commands: &commands, progress: &progress };
        let streams = (opened.reports, opened.plans);
        let heartbeat = Duration::from_millis(u64::from(opened.welcome.heartbeat_ms));
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

/// The training thread's commands, and a channel that closes when it ends.
fn start_trainer(
    machine: Machine,
) -> Result<(SyncSender<Command>, oneshot::Receiver<()>), SessionError> {
    let (commands, receiver) = std::sync::mpsc::sync_channel(COMMAND_QUEUE);
    let (alive, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("trainer".to_owned()).spawn(move || {
        // Dropped when the thread ends, by return or by panic.
        let _alive = alive;
        trainer::run(&machine, &receiver);
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
    commands: &'a SyncSender<Command>,
    progress: &'a Progress,
}

/// The generation that this worker belongs to.
struct Membership {
    generation: Generation,
    abort: Abort,
    /// The checkpoint's way here, before the training thread has it.
    fetching: AbortHandle,
}

impl Session<'_> {
    async fn serve(
        self,
        (reports, mut plans): (Sender<v1::Report>, Streaming<v1::Plan>),
        heartbeat: Duration,
        trainer_ended: &mut oneshot::Receiver<()>,
        mut terminated: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, SessionError> {
        let mut heartbeat = tokio::time::interval(heartbeat.max(HEARTBEAT_MIN));
        let mut membership: Option<Membership> = None;
        let generation = |membership: &Option<Membership>| {
            membership.as_ref().map_or(0, |membership| membership.generation.0)
        };
        let (end, last_word) = loop {
            tokio::select! {
                plan = plans.message() => match plan {
                    Ok(Some(plan)) => match self.follow(plan, &mut membership, &reports) {
                        Ok(false) => {}
                        Ok(true) => break (Ok(End::Leave), None),
                        Err(error) => break (Err(error), None),
                    },
                    Ok(None) => break (Ok(End::Lost("the coordinator ended it".to_owned())), None),
                    Err(status) => break (Ok(End::Lost(connect::cause(&status))), None),
                },
                _ = heartbeat.tick() => self.beat(&reports, generation(&membership)),
                _ = &mut *trainer_ended => {
                    let word = (generation(&membership), trainer_trouble(self.progress));
                    break (Err(SessionError::TrainerPanicked), Some(word));
                }
                () = terminated.as_mut() => {
                    let reason = "asked to terminate".to_owned();
                    let leaving = report::Kind::Leaving(v1::Leaving { reason });
                    break (Ok(End::Leave), Some((0, leaving)));
                }
            }
        };
        // The trainer and the uploader hold clones of `reports`: they let go first.
        if let Some(membership) = membership {
            self.abandon(&membership, "the session with the coordinator ended");
        }
        if let Some((generation, word)) = last_word {
            drain(reports, plans, generation, word).await;
        }
        end
    }

    /// Carries out one plan; true when it was a goodbye.
    fn follow(
        &self,
        plan: v1::Plan,
        membership: &mut Option<Membership>,
        reports: &Sender<v1::Report>,
    ) -> Result<bool, SessionError> {
        let generation = Generation(plan.generation);
        match plan.kind {
            Some(plan::Kind::Form(form)) => {
                if let Some(old) = membership.take() {
                    self.abandon(&old, "a newer generation was formed");
                }
                let abort = Abort::new();
                let fetching = self.form(generation, form, abort.clone(), reports.clone());
                *membership = Some(Membership { generation, abort, fetching });
            }
            Some(plan::Kind::Run(_)) => self.command(Command::Run(generation))?,
            Some(plan::Kind::Stop(_)) => self.command(Command::Stop(generation))?,
            Some(plan::Kind::Abandon(abandon)) => {
                if membership.as_ref().is_some_and(|member| member.generation == generation)
                    && let Some(member) = membership.take()
                {
                    tracing::info!(generation = generation.0, "abandoned: {}", abandon.reason);
                    self.abandon(&member, &abandon.reason);
                }
            }
            Some(plan::Kind::Release(_)) => {
                tracing::info!(generation = generation.0, "job ended");
                membership.take_if(|member| member.generation == generation);
            }
            Some(plan::Kind::Goodbye(goodbye)) => {
                tracing::info!("leaving: {}", goodbye.reason);
                return Ok(true);
            }
            Some(plan::Kind::Welcome(_)) | None => return Err(SessionError::UnknownPlan),
        }
        Ok(false)
    }

    /// Fetches what the generation starts from, then wakes the training thread.
    fn form(
        &self,
        generation: Generation,
        form: v1::Form,
        abort: Abort,
        reports: Sender<v1::Report>,
    ) -> AbortHandle {
        let (client, commands) = (self.client.clone(), self.commands.clone());
        self.progress.applied(form.base_step);
        self.progress.enter(v1::Phase::Prepare);
        let task = tokio::spawn(async move {
            let base = match transfer::download(client.clone(), &form).await {
                Ok(base) => base,
                Err(error) => {
                    let trouble = trouble(TroubleKind::TroubleCheckpoint, error.to_string());
                    return say(&reports, generation.0, trouble).await;
                }
            };
            let uploads = Uploader::new(client, generation, &form, &abort, reports.clone()).start();
            let sender = reports.clone();
            let formation = Formation { generation, form, abort, base, reports: sender, uploads };
            // The training thread drops a formation that was abandoned in the meantime.
            if commands.try_send(Command::Form(Box::new(formation))).is_err() {
                let message = "the training thread takes no commands".to_owned();
                let trouble = trouble(TroubleKind::TroubleInternal, message);
                say(&reports, generation.0, trouble).await;
            }
        });
        task.abort_handle()
    }

    /// Ends a generation at once, wherever it stands.
    fn abandon(&self, membership: &Membership, reason: &str) {
        membership.fetching.abort();
        membership.abort.abort(reason);
        if let Err(error) = self.command(Command::Abandon(membership.generation)) {
            tracing::error!("{error}");
        }
    }

    /// A training thread that has ended is noticed by `serve`.
    fn command(&self, command: Command) -> Result<(), SessionError> {
        match self.commands.try_send(command) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(SessionError::TrainerStuck),
        }
    }

    /// A full queue means that reports are on their way: they are signs of life too.
    fn beat(&self, reports: &Sender<v1::Report>, generation: u64) {
        let heartbeat =
            v1::Heartbeat { step: self.progress.step(), phase: self.progress.phase().into() };
        let kind = Some(report::Kind::Heartbeat(heartbeat));
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
    generation: u64,
    word: report::Kind,
) {
    let read = async {
        say(&reports, generation, word).await;
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

fn trainer_trouble(progress: &Progress) -> report::Kind {
    report::Kind::Trouble(v1::Trouble {
        kind: TroubleKind::TroubleInternal.into(),
        step: progress.current_step(),
        phase: progress.phase().into(),
        culprit: String::new(),
        message: "the training thread panicked; its message is in the worker's log".to_owned(),
    })
}

/// Commands of one generation are four; a thread that leaves this many unread is stuck.
const COMMAND_QUEUE: usize = 32;
/// A coordinator that asks for more heartbeats than this is not obeyed.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// How long the coordinator may take to read our last words.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
