//! The worker's side of the wire: joins the coordinator, hands plans to the training thread and reports back.
//!
//! With its two files the only part of the worker that knows tonic. The training thread outlives a session: when the
//! coordinator comes back within `Options::wait`, the same process joins again as a new incarnation.

mod connect;
mod transfer;

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use proto::wire::v1::{self, TroubleKind, plan, report};
use proto::wire::{TEXT_BYTES_MAX, Token};
use proto::{Generation, Name};
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::oneshot;
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
    let mut client = connect::find(&options).await?;
    let listener = connect::listen(&options).await?;
    let exchange_address = listener.local_address().to_string();
    let progress = Arc::new(Progress::default());
    let machine = Machine {
        device: options.device.clone(),
        listener,
        data: options.data.clone(),
        progress: Arc::clone(&progress),
    };
    let (commands, receiver) = std::sync::mpsc::sync_channel(COMMAND_QUEUE);
    let (alive, mut trainer_ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("trainer".to_owned()).spawn(move || {
        // Dropped when the thread ends, by return or by panic.
        let _alive = alive;
        trainer::run(&machine, &receiver);
    });
    thread.map_err(SessionError::Thread)?;
    let mut terminated = Box::pin(connect::termination()?);
    loop {
        let session =
            Session { options: &options, client, commands: &commands, progress: &progress };
        match session.serve(&exchange_address, &mut trainer_ended, terminated.as_mut()).await? {
            End::Leave => return Ok(()),
            End::Lost(cause) if options.wait.is_zero() => return Err(SessionError::Lost { cause }),
            End::Lost(cause) => {
                tracing::warn!("coordinator lost: {cause}; looking for it for {:?}", options.wait);
            }
        }
        client = connect::find(&options).await?;
    }
}

/// How a session ended without an error.
enum End {
    /// The coordinator said goodbye, or this process was asked to end.
    Leave,
    /// The control stream broke.
    Lost(String),
}

/// One control stream, from `hello` to its end.
struct Session<'a> {
    options: &'a Options,
    client: Client,
    commands: &'a SyncSender<Command>,
    progress: &'a Progress,
}

/// The generation that this worker belongs to.
struct Membership {
    generation: Generation,
    abort: Abort,
}

impl Session<'_> {
    async fn serve(
        mut self,
        exchange_address: &str,
        trainer_ended: &mut oneshot::Receiver<()>,
        mut terminated: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<End, SessionError> {
        let (reports, outgoing) = mpsc::channel(REPORT_QUEUE);
        say(&reports, 0, report::Kind::Hello(self.hello(exchange_address)?)).await;
        let (welcome, mut plans) = connect::open(&mut self.client, outgoing).await?;
        tracing::info!(
            worker = %self.options.name,
            coordinator = %self.options.coordinator,
            exchange = exchange_address,
            "joined"
        );
        let period = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(HEARTBEAT_MS_MIN)));
        let mut heartbeat = tokio::time::interval(period);
        let mut membership = None;
        let end = loop {
            tokio::select! {
                plan = plans.message() => match plan {
                    Ok(Some(plan)) => {
                        if self.follow(plan, &mut membership, &reports)? {
                            break Ok(End::Leave);
                        }
                    }
                    Ok(None) => break Ok(End::Lost("it closed the connection".to_owned())),
                    Err(status) => break Ok(End::Lost(connect::cause(&status))),
                },
                _ = heartbeat.tick() => self.beat(&reports, membership.as_ref()),
                _ = &mut *trainer_ended => {
                    let trouble = trainer_trouble(self.progress);
                    let generation = membership.as_ref().map_or(0, |m: &Membership| m.generation.0);
                    say(&reports, generation, report::Kind::Trouble(trouble)).await;
                    drain(reports, plans).await;
                    break Err(SessionError::TrainerPanicked);
                }
                () = terminated.as_mut() => {
                    let reason = "asked to terminate".to_owned();
                    say(&reports, 0, report::Kind::Leaving(v1::Leaving { reason })).await;
                    drain(reports, plans).await;
                    break Ok(End::Leave);
                }
            }
        };
        if let Some(membership) = membership {
            self.abandon(&membership, "the session with the coordinator ended")?;
        }
        end
    }

    fn hello(&self, exchange_address: &str) -> Result<v1::Hello, SessionError> {
        Ok(v1::Hello {
            worker: self.options.name.to_string(),
            incarnation: connect::incarnation()?.0.to_vec(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            exchange_address: exchange_address.to_owned(),
            device_kind: self.options.device.kind(),
            threads: self.options.threads as u32,
        })
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
                    self.abandon(&old, "a newer generation was formed")?;
                }
                let abort = Abort::new();
                *membership = Some(Membership { generation, abort: abort.clone() });
                self.form(generation, form, abort, reports.clone());
            }
            Some(plan::Kind::Run(_)) => self.command(Command::Run(generation))?,
            Some(plan::Kind::Stop(_)) => self.command(Command::Stop(generation))?,
            Some(plan::Kind::Abandon(abandon)) => {
                if membership.as_ref().is_some_and(|member| member.generation == generation)
                    && let Some(member) = membership.take()
                {
                    tracing::info!(generation = generation.0, "abandoned: {}", abandon.reason);
                    self.abandon(&member, &abandon.reason)?;
                }
            }
            Some(plan::Kind::Release(_)) => {
                tracing::info!(generation = generation.0, "job ended");
                *membership = None;
            }
            Some(plan::Kind::Goodbye(goodbye)) => {
                tracing::info!("leaving: {}", goodbye.reason);
                return Ok(true);
            }
            Some(plan::Kind::Welcome(_)) | None => return Err(SessionError::UnknownPlan),
        }
        Ok(false)
    }

    /// Fetches the checkpoint, if the generation starts from one, then wakes the training thread.
    fn form(
        &self,
        generation: Generation,
        form: v1::Form,
        abort: Abort,
        reports: Sender<v1::Report>,
    ) {
        let (client, commands) = (self.client.clone(), self.commands.clone());
        tokio::spawn(async move {
            let checkpoint = match transfer::download(client.clone(), &form).await {
                Ok(checkpoint) => checkpoint,
                Err(error) => {
                    let trouble = v1::Trouble {
                        kind: TroubleKind::TroubleCheckpoint.into(),
                        phase: v1::Phase::Prepare.into(),
                        message: error.to_string(),
                        ..v1::Trouble::default()
                    };
                    return say(&reports, generation.0, report::Kind::Trouble(trouble)).await;
                }
            };
            if abort.is_aborted() {
                return;
            }
            let uploader = Uploader::new(client, generation, &form, reports.clone());
            let uploads = uploader.start();
            let formation = Formation { generation, form, abort, checkpoint, reports, uploads };
            if commands.try_send(Command::Form(Box::new(formation))).is_err() {
                tracing::error!(generation = generation.0, "the training thread takes no commands");
            }
        });
    }

    fn abandon(&self, membership: &Membership, reason: &str) -> Result<(), SessionError> {
        membership.abort.abort(reason);
        self.command(Command::Abandon(membership.generation))
    }

    fn command(&self, command: Command) -> Result<(), SessionError> {
        self.commands.try_send(command).map_err(|_| SessionError::TrainerStuck)
    }

    /// A full queue means that reports are on their way: they are signs of life too.
    fn beat(&self, reports: &Sender<v1::Report>, membership: Option<&Membership>) {
        let generation = membership.map_or(0, |membership| membership.generation.0);
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

/// Ends our half of the stream and gives the coordinator a moment to read what is queued.
async fn drain(reports: Sender<v1::Report>, mut plans: Streaming<v1::Plan>) {
    drop(reports);
    let read = async { while let Ok(Some(_)) = plans.message().await {} };
    if tokio::time::timeout(DRAIN_LIMIT, read).await.is_err() {
        tracing::debug!("the coordinator did not close the stream in time");
    }
}

fn trainer_trouble(progress: &Progress) -> v1::Trouble {
    v1::Trouble {
        kind: TroubleKind::TroubleInternal.into(),
        step: progress.step() + 1,
        phase: progress.phase().into(),
        culprit: String::new(),
        message: "the training thread panicked; its message is in the worker's log".to_owned(),
    }
}

/// Commands of one generation are four; a thread that leaves this many unread is stuck.
const COMMAND_QUEUE: usize = 32;
/// Reports waiting for the wire: seconds of steps, so that a slow coordinator is felt only when it is gone.
const REPORT_QUEUE: usize = 256;
/// A coordinator that asks for more heartbeats than this is not obeyed.
const HEARTBEAT_MS_MIN: u32 = 10;
/// How long the coordinator may take to read our last words.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
