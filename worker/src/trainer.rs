//! The life of a generation on the training thread: prepare, train step after step, evaluate, hand over checkpoints.
//!
//! This thread owns the device. It knows no socket and no runtime: commands come in through one bounded channel, reports
//! and snapshots leave through two.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use proto::Generation;
use proto::wire::v1::{self, Phase, TroubleKind, report};
use tokio::sync::mpsc::Sender;

use crate::checkpoint::Snapshot;
use crate::collective::{Abort, CollectiveError, Listener};
use crate::evaluate::{evaluate, share};
use crate::optim::learning_rate;
use crate::prepare::{PrepareError, Prepared, prepare};
use crate::progress::Progress;
use crate::step::{StepError, StepPlan, StepReport, digest, run_step};

/// What the training thread needs for its whole life.
#[derive(Debug)]
pub struct Machine {
    pub device: kernels::Device,
    pub listener: Listener,
    /// Where this machine keeps the dataset, when it is not where the job says.
    pub data: Option<PathBuf>,
    pub progress: Arc<Progress>,
}

/// What the session asks of the training thread.
#[derive(Debug)]
pub enum Command {
    Form(Box<Formation>),
    Run(Generation),
    Stop(Generation),
    Abandon(Generation),
}

/// A generation to become a member of.
#[derive(Debug)]
pub struct Formation {
    pub generation: Generation,
    pub form: v1::Form,
    pub abort: Abort,
    /// The state after `form.base_step`; `None` when that is 0.
    pub checkpoint: Option<CheckpointFiles>,
    pub reports: Sender<v1::Report>,
    pub uploads: Sender<Upload>,
}

/// The files of a checkpoint, as downloaded.
#[derive(Debug)]
pub struct CheckpointFiles {
    pub model: Vec<u8>,
    pub optimizer: Vec<u8>,
}

/// What goes to the uploader, in this order.
#[derive(Debug)]
pub enum Upload {
    Checkpoint(Box<Snapshot>),
    /// Report `finished` once everything before is uploaded.
    Finished {
        step: u64,
    },
}

/// Why a generation ended early.
#[derive(Debug, thiserror::Error)]
enum GenerationError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Step(#[from] StepError),
    /// Somebody else ended it; nothing to tell.
    #[error("the generation was abandoned")]
    Abandoned,
    #[error("the session ended")]
    SessionEnded,
}

/// Runs until the session drops its end of `commands`.
pub fn run(machine: &Machine, commands: &Receiver<Command>) {
    // An order that ends one generation may be the next one's formation.
    let mut next = commands.recv().ok();
    while let Some(command) = next.take() {
        if let Command::Form(formation) = command {
            next = member(machine, &formation, commands);
            machine.progress.enter(Phase::Idle);
        }
        next = next.or_else(|| commands.recv().ok());
    }
}

/// One generation, from formation to its end. Returns a command that belongs to what follows.
fn member(
    machine: &Machine,
    formation: &Formation,
    commands: &Receiver<Command>,
) -> Option<Command> {
    let mut orders = Orders { commands, generation: formation.generation, stop: false, next: None };
    let result = train_generation(machine, formation, &mut orders);
    if let Err(error) = result
        && let Some(trouble) = describe(&error, &machine.progress)
    {
        tracing::warn!(generation = formation.generation.0, "{}", trouble.message);
        formation.report(report::Kind::Trouble(trouble));
    }
    orders.next
}

fn train_generation(
    machine: &Machine,
    formation: &Formation,
    orders: &mut Orders<'_>,
) -> Result<(), GenerationError> {
    let progress = &machine.progress;
    progress.applied(formation.form.base_step);
    progress.enter(Phase::Prepare);
    let Prepared { mut run, job, timeline, layout } = prepare(machine, formation)?;
    let base = formation.form.base_step;
    let digest = digest(&run.model).to_vec();
    formation.report(report::Kind::Ready(v1::Ready { step: base, digest }));
    orders.wait_for_run()?;

    let world = formation.form.members.len();
    let rank = formation.form.rank as usize;
    let mut step = base;
    while step < timeline.total_steps() {
        step += 1;
        orders.poll()?;
        progress.enter(Phase::Compute);
        let learning_rate = learning_rate(&job, &timeline, step);
        let report =
            run_step(&mut run, &job, StepPlan { step, learning_rate, stop_vote: orders.stop })?;
        progress.applied(step);
        formation.report(step_done(&report));
        if timeline.evaluates_after(step) {
            progress.enter(Phase::Evaluate);
            let samples = share(run.source.dataset().test.len(), rank, world);
            let counts = evaluate(&mut run.model, &run.source, samples);
            formation.report(report::Kind::Evaluated(v1::Evaluated {
                step,
                samples: counts.samples,
                correct: counts.correct,
                correct_top5: counts.correct_top5,
                loss_fixed: counts.loss_fixed,
            }));
        }
        if timeline.checkpoints_after(step) || report.stop {
            progress.enter(Phase::Checkpoint);
            formation.upload(Upload::Checkpoint(Box::new(Snapshot {
                step,
                layout: Arc::clone(&layout),
                params: host(run.model.params()),
                running: host(run.model.running()),
                velocity: host(run.optimizer.velocity()),
            })));
        }
        if report.stop {
            break;
        }
    }
    run.collective.shutdown().map_err(StepError::from)?;
    formation.upload(Upload::Finished { step });
    Ok(())
}

/// Commands as seen from inside one generation.
struct Orders<'a> {
    commands: &'a Receiver<Command>,
    generation: Generation,
    stop: bool,
    next: Option<Command>,
}

impl Orders<'_> {
    fn wait_for_run(&mut self) -> Result<(), GenerationError> {
        loop {
            let command = self.commands.recv().map_err(|_| GenerationError::SessionEnded)?;
            match command {
                Command::Run(generation) if generation == self.generation => return Ok(()),
                other => self.obey(other)?,
            }
        }
    }

    fn poll(&mut self) -> Result<(), GenerationError> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(GenerationError::SessionEnded),
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), GenerationError> {
        match command {
            Command::Stop(generation) if generation == self.generation => self.stop = true,
            Command::Abandon(generation) if generation == self.generation => {
                return Err(GenerationError::Abandoned);
            }
            Command::Form(formation) => {
                self.next = Some(Command::Form(formation));
                return Err(GenerationError::Abandoned);
            }
            // Of another generation: late.
            Command::Run(_) | Command::Stop(_) | Command::Abandon(_) => {}
        }
        Ok(())
    }
}

impl Formation {
    /// A session that is gone has its own end to deal with; there is nobody to tell.
    fn report(&self, kind: report::Kind) {
        let report = v1::Report { generation: self.generation.0, kind: Some(kind) };
        if self.reports.blocking_send(report).is_err() {
            tracing::debug!("a report found no session");
        }
    }

    /// Waits while an earlier checkpoint is still on its way: snapshots in memory are bounded.
    fn upload(&self, upload: Upload) {
        if self.uploads.blocking_send(upload).is_err() {
            tracing::debug!("a checkpoint found no session");
        }
    }
}

/// The trouble that the coordinator is told of; `None` when it knows already.
fn describe(error: &GenerationError, progress: &Progress) -> Option<v1::Trouble> {
    let kind = match error {
        GenerationError::Abandoned | GenerationError::SessionEnded => return None,
        GenerationError::Step(StepError::Abandoned { .. })
        | GenerationError::Step(StepError::Exchange(CollectiveError::Aborted { .. }))
        | GenerationError::Prepare(PrepareError::Exchange(CollectiveError::Aborted { .. })) => {
            return None;
        }
        GenerationError::Prepare(error) => error.kind(),
        GenerationError::Step(StepError::Exchange(error)) => peer_or_internal(error),
        GenerationError::Step(StepError::NotFinite { .. }) => TroubleKind::TroubleNotFinite,
        GenerationError::Step(StepError::Data(_)) => TroubleKind::TroubleInternal,
    };
    let culprit = match error {
        GenerationError::Prepare(PrepareError::Exchange(error))
        | GenerationError::Step(StepError::Exchange(error)) => error.culprit(),
        _ => None,
    };
    let phase = progress.phase();
    let step = if phase == Phase::Prepare { 0 } else { progress.step() + 1 };
    let culprit = culprit.unwrap_or_default().to_owned();
    let message = error.to_string();
    Some(v1::Trouble { kind: kind.into(), step, phase: phase.into(), culprit, message })
}

/// An edge that broke has a culprit; a failure without one is this worker's own.
pub(crate) fn peer_or_internal(error: &CollectiveError) -> TroubleKind {
    if error.culprit().is_some() { TroubleKind::TroublePeer } else { TroubleKind::TroubleInternal }
}

fn step_done(report: &StepReport) -> report::Kind {
    let ns = |time: std::time::Duration| time.as_nanos() as u64;
    let times = report.times;
    report::Kind::StepDone(v1::StepDone {
        step: report.step,
        digest: report.digest.to_vec(),
        loss: report.loss,
        correct: report.correct,
        times: Some(v1::PhaseTimes {
            data_ns: ns(times.data),
            forward_ns: ns(times.forward),
            backward_ns: ns(times.backward),
            exchange_wait_ns: ns(times.exchange_wait),
            update_ns: ns(times.update),
        }),
    })
}

fn host(buffer: &kernels::Buffer) -> Vec<f32> {
    let mut copy = vec![0.0; buffer.len()];
    buffer.read(buffer.span(), &mut copy);
    copy
}
