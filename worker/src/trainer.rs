//! The life of a generation on the training thread: prepare, train step after step, evaluate, hand over checkpoints.
//!
//! This thread owns the device. It knows no socket and no runtime: commands come in through one bounded channel, reports
//! and snapshots leave through two.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use proto::wire::v1::{self, Phase, TroubleKind, report};
use proto::wire::{QUARANTINED_MAX, TEXT_BYTES_MAX};
use proto::{Generation, Incarnation};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::checkpoint::{Average, Snapshot};
use crate::collective::{Abort, CollectiveError, Listener};
use crate::data::{Found, LoaderError, Part};
use crate::evaluate::{EvaluationError, evaluate, share};
use crate::optim::learning_rate;
use crate::prepare::{Datasets, PrepareError, Prepared, prepare};
use crate::progress::Progress;
use crate::step::{StepError, StepPlan, StepReport, digest, run_step};

/// What the training thread needs for its whole life.
#[derive(Debug)]
pub struct Machine {
    pub device: kernels::Device,
    pub incarnation: Incarnation,
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
    /// The state after `form.base_step`.
    pub base: Base,
    pub reports: Sender<v1::Report>,
    pub uploads: Sender<Upload>,
}

/// What a generation starts from.
#[derive(Debug)]
pub enum Base {
    /// The job's seed alone.
    Seed,
    /// A file of weights that the job names (`model.init`), as downloaded.
    Weights(Vec<u8>),
    Checkpoint(CheckpointFiles),
}

/// The files of a checkpoint, as downloaded.
#[derive(Debug)]
pub struct CheckpointFiles {
    pub model: Vec<u8>,
    pub optimizer: Vec<u8>,
    /// Of a job that averages.
    pub ema: Option<Vec<u8>>,
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
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// Somebody else ended it; nothing to tell.
    #[error("the generation was abandoned")]
    Abandoned,
    #[error("the session ended")]
    SessionEnded,
}

/// Runs until the session drops its end of `commands`.
pub fn run(machine: &Machine, commands: &Receiver<Command>) {
    let mut datasets = Datasets::default();
    // A command that ends one generation may be the next one's formation.
    let mut next = commands.recv().ok();
    while let Some(command) = next.take() {
        // A formation that was abandoned while it waited here is over before it began.
        if let Command::Form(formation) = command
            && !formation.abort.is_aborted()
        {
            next = member(machine, &mut datasets, &formation, commands);
            machine.progress.enter(Phase::Idle);
        }
        next = next.or_else(|| commands.recv().ok());
    }
}

/// One generation, from formation to its end. Returns a command that belongs to what follows.
fn member(
    machine: &Machine,
    datasets: &mut Datasets,
    formation: &Formation,
    commands: &Receiver<Command>,
) -> Option<Command> {
    let mut orders = Orders { commands, generation: formation.generation, stop: false, next: None };
    machine.progress.applied(formation.form.base_step);
    machine.progress.enter(Phase::Prepare);
    let result = prepare(machine, datasets, formation)
        .map_err(GenerationError::from)
        .and_then(|prepared| train(machine, formation, prepared, &mut orders));
    if let Err(error) = result
        && let Some(trouble) = describe(&error, &machine.progress)
    {
        tracing::warn!(generation = formation.generation.0, "{}", trouble.message);
        formation.report(report::Kind::Trouble(trouble));
    }
    orders.next
}

fn train(
    machine: &Machine,
    formation: &Formation,
    prepared: Prepared,
    orders: &mut Orders<'_>,
) -> Result<(), GenerationError> {
    let progress = &machine.progress;
    let Prepared { mut run, job, timeline, layout } = prepared;
    let base = formation.form.base_step;
    let digest = digest(&run.model, run.ema.as_ref()).to_vec();
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
        formation.tell_of(run.quarantine.take());
        formation.report(step_done(&report));
        if timeline.evaluates_after(step) {
            progress.enter(Phase::Evaluate);
            let samples = share(run.source.dataset().test.len(), rank, world);
            run.swap_average();
            let evaluated = evaluate(&mut run.model, &run.source, samples, &run.abort);
            run.swap_average();
            let (counts, bad) = evaluated?;
            run.quarantine.add(Part::Test, bad);
            formation.tell_of(run.quarantine.take());
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
            let snapshot = Upload::Checkpoint(Box::new(Snapshot {
                step,
                layout: Arc::clone(&layout),
                params: host(run.model.params()),
                running: host(run.model.running()),
                velocity: host(run.optimizer.velocity()),
                average: run.ema.as_ref().map(|ema| Average {
                    params: host(ema.params()),
                    running: host(ema.running()),
                }),
            }));
            if report.stop || step == timeline.total_steps() {
                // Every sum has arrived: a goodbye that goes wrong costs nothing any more.
                if let Err(error) = run.collective.shutdown() {
                    tracing::warn!("closing the exchange: {error}");
                }
                formation.upload(snapshot, None)?;
                formation.upload(Upload::Finished { step }, None)?;
                return Ok(());
            }
            formation.upload(snapshot, Some(UPLOAD_PATIENCE))?;
        }
    }
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
            Command::Form(formation)
                if formation.generation > self.generation && !formation.abort.is_aborted() =>
            {
                self.next = Some(Command::Form(formation));
                return Err(GenerationError::Abandoned);
            }
            // Of another generation: late.
            Command::Form(_) | Command::Run(_) | Command::Stop(_) | Command::Abandon(_) => {}
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

    /// Tells of images that can't be decoded, a bounded number at a time.
    fn tell_of(&self, found: Vec<Found>) {
        for images in found.chunks(QUARANTINED_MAX) {
            let images = images.iter().map(bad_image).collect();
            self.report(report::Kind::Quarantined(v1::Quarantined { images }));
        }
    }

    /// Hands a snapshot to the uploader. While earlier ones are still on their way it waits, for `patience` or until the
    /// generation is abandoned; then the checkpoint is given up, since the peers wait in the next step's exchange.
    fn upload(&self, upload: Upload, patience: Option<Duration>) -> Result<(), GenerationError> {
        let since = Instant::now();
        let mut upload = upload;
        loop {
            upload = match self.uploads.try_send(upload) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(GenerationError::SessionEnded),
                Err(TrySendError::Full(upload)) => upload,
            };
            if self.abort.is_aborted() {
                return Err(GenerationError::Abandoned);
            }
            if patience.is_some_and(|patience| since.elapsed() > patience) {
                tracing::warn!("earlier checkpoints are still on their way: this one is skipped");
                return Ok(());
            }
            std::thread::sleep(UPLOAD_POLL);
        }
    }
}

/// The trouble that the coordinator is told of; `None` when it knows already.
fn describe(error: &GenerationError, progress: &Progress) -> Option<v1::Trouble> {
    let kind = match error {
        GenerationError::Abandoned
        | GenerationError::SessionEnded
        | GenerationError::Evaluation(EvaluationError::Abandoned) => return None,
        GenerationError::Step(StepError::Abandoned { .. })
        | GenerationError::Step(StepError::Exchange(CollectiveError::Aborted { .. }))
        | GenerationError::Prepare(
            PrepareError::Abandoned | PrepareError::Exchange(CollectiveError::Aborted { .. }),
        ) => return None,
        GenerationError::Prepare(error) => error.kind(),
        GenerationError::Step(StepError::Exchange(error)) => peer_or_internal(error),
        GenerationError::Step(StepError::NotFinite { .. }) => TroubleKind::TroubleNotFinite,
        GenerationError::Step(StepError::Data(LoaderError::Ended)) => TroubleKind::TroubleInternal,
        GenerationError::Step(StepError::Data(LoaderError::Unreadable { .. }))
        | GenerationError::Evaluation(EvaluationError::Unreadable { .. }) => {
            TroubleKind::TroubleDatasetUnreadable
        }
    };
    let culprit = match error {
        GenerationError::Prepare(PrepareError::Exchange(error))
        | GenerationError::Step(StepError::Exchange(error)) => error.culprit(),
        _ => None,
    };
    let (phase, step) = (progress.phase(), progress.current_step());
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
        gradient_norm: report.gradient_norm,
        times: Some(v1::PhaseTimes {
            data_ns: ns(times.data),
            forward_ns: ns(times.forward),
            backward_ns: ns(times.backward),
            exchange_wait_ns: ns(times.exchange_wait),
            update_ns: ns(times.update),
        }),
    })
}

fn bad_image(found: &Found) -> v1::BadImage {
    let Found { part, image } = found;
    let split = match part {
        Part::Train => v1::Split::Train,
        Part::Test => v1::Split::Test,
    };
    let kept = |text: String| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
    v1::BadImage {
        split: split.into(),
        index: image.index as u64,
        path: kept(image.path.display().to_string()),
        cause: kept(image.cause.clone()),
    }
}

fn host(buffer: &kernels::Buffer) -> Vec<f32> {
    let mut copy = vec![0.0; buffer.len()];
    buffer.read(buffer.span(), &mut copy);
    copy
}

/// How long the training thread waits for room in the uploader's queue: far less than peers wait for this worker.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(5);
const UPLOAD_POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;
