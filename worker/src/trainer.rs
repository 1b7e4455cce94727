//! The life of a generation on the training thread: prepare, train step after step, evaluate, hand over checkpoints. What the
//! worker holds outlives it.
//!
//! This thread owns the device. It knows no socket and no runtime: commands come in through one bounded channel, reports
//! and snapshots leave through two.

mod orders;
mod uploads;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kernels::DeviceError;
use proto::wire::v1::{self, Phase, TroubleKind, report};
use proto::wire::{QUARANTINED_MAX, TEXT_BYTES_MAX};
use proto::{Generation, Incarnation};
use tokio::sync::mpsc::Sender;

use crate::checkpoint::{Average, Snapshot};
use crate::collective::{Abort, CollectiveError, Listener};
use crate::conduct::Mark;
use crate::data::{Found, LoaderError, Part};
use crate::evaluate::{EvaluationError, evaluate, share};
use crate::guard::NotFinite;
use crate::layout::Layout;
use crate::optim::learning_rate;
use crate::prepare::{Memory, PrepareError, Prepared, prepare, warm};
use crate::progress::Progress;
use crate::step::{StepError, StepPlan, StepReport, Votes, run_step};
use orders::Orders;

pub use uploads::{Stall, Upload, Uploads};

/// What the training thread needs for its whole life.
#[derive(Debug)]
pub struct Machine {
    pub device: kernels::Device,
    pub decode_threads: NonZeroUsize,
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
    /// Wait behind the current step for what comes next.
    Pause(Generation),
    /// Give up the generation, of which `Abort` was used, and say what is held.
    Seal {
        generation: Generation,
        attempt: u64,
        reports: Sender<v1::Report>,
    },
    /// Give up the generation and what is held.
    Abandon(Generation),
    /// Get ready for a job.
    Warm {
        warm: v1::Warm,
        reports: Sender<v1::Report>,
    },
}

/// A generation to become a member of.
#[derive(Debug)]
pub struct Formation {
    pub generation: Generation,
    pub form: v1::Form,
    pub abort: Abort,
    /// The state after `form.base_step`; `Members` once it was taken over.
    pub base: Base,
    pub reports: Sender<v1::Report>,
    pub uploads: Uploads,
}

/// What a generation starts from.
#[derive(Debug)]
pub enum Base {
    /// Members hold it in memory.
    Members,
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

/// Why a generation ended early.
#[derive(Debug, thiserror::Error)]
enum GenerationError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Somebody else ended it; nothing to tell.
    #[error("the generation was abandoned")]
    Abandoned,
    #[error("the session ended")]
    SessionEnded,
}

/// Runs until the session drops its end of `commands`, or the device is of no use any more: then it says why, and the session
/// tells of it.
pub fn run(machine: &Machine, commands: &Receiver<Command>) -> Option<DeviceError> {
    let mut memory = Memory::default();
    // A command that ends one generation may belong to what follows it.
    let mut next = commands.recv().ok();
    while let Some(command) = next.take() {
        match command {
            // A formation that was given up while it waited here is over before it began.
            Command::Form(formation) if formation.abort.is_aborted() => {}
            Command::Form(mut formation) => {
                next = member(machine, &mut memory, &mut formation, commands);
            }
            Command::Seal { generation, attempt, reports } => {
                let mark = memory.held.as_ref().and_then(|held| held.mark);
                let sealed = v1::Sealed { attempt, held: mark.map(Mark::on_wire) };
                tracing::debug!(?mark, "sealed");
                say(&reports, generation, report::Kind::Sealed(sealed));
            }
            Command::Abandon(_) => memory.forget(),
            Command::Warm { warm, reports } => get_warm(machine, &mut memory, &warm, &reports),
            // Of a generation that is over.
            Command::Run(_) | Command::Stop(_) | Command::Pause(_) => {}
        }
        if let Some(fault) = machine.device.fault() {
            return Some(fault);
        }
        machine.progress.enter(Phase::Idle);
        next = next.or_else(|| commands.recv().ok());
    }
    None
}

fn get_warm(
    machine: &Machine,
    memory: &mut Memory,
    order: &v1::Warm,
    reports: &Sender<v1::Report>,
) {
    let kind = match warm(machine, memory, order) {
        Ok(job_id) => report::Kind::Warmed(v1::Warmed { job_id: job_id.to_string() }),
        Err(error) => {
            let (kind, phase) = (error.kind().into(), Phase::Prepare.into());
            let message = error.to_string();
            tracing::warn!("{message}");
            report::Kind::Trouble(v1::Trouble { kind, phase, message, ..v1::Trouble::default() })
        }
    };
    say(reports, Generation(0), kind);
}

/// One generation, from formation to its end. Returns a command that belongs to what follows.
fn member(
    machine: &Machine,
    memory: &mut Memory,
    formation: &mut Formation,
    commands: &Receiver<Command>,
) -> Option<Command> {
    let generation = formation.generation;
    let mut orders = Orders { commands, generation, votes: Votes::default(), next: None };
    machine.progress.applied(formation.form.base_step);
    machine.progress.enter(Phase::Prepare);
    tracing::debug!(generation = formation.generation.0, "prepares");
    let result = prepare(machine, memory, formation).map_err(GenerationError::from).and_then(
        |mut prepared| {
            let result = train(machine, formation, &mut prepared, &mut orders);
            memory.held = Some(prepared.run.held);
            result
        },
    );
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
    prepared: &mut Prepared,
    orders: &mut Orders<'_>,
) -> Result<(), GenerationError> {
    let base = formation.form.base_step;
    let total = prepared.timeline.total_steps();
    let digest = prepared.run.held.mark.map(|mark| mark.digest.to_vec()).unwrap_or_default();
    formation.report(report::Kind::Ready(v1::Ready { step: base, digest }));
    // The others begin meanwhile.
    prepared.run.held.pack();
    orders.wait_for_run()?;
    tracing::debug!("runs");
    // What an earlier generation left undone.
    let end = base == total;
    let due = Due {
        evaluation: formation.form.evaluate_base,
        checkpoint: formation.form.checkpoint_base || end,
        end,
    };
    follow_up(machine, formation, prepared, base, due)?;

    let mut step = base;
    while step < total {
        step += 1;
        orders.poll()?;
        machine.progress.enter(Phase::Compute);
        let Prepared { run, job, timeline, layout, .. } = &mut *prepared;
        let learning_rate = learning_rate(job, timeline, step);
        let plan = StepPlan { step, learning_rate, votes: orders.votes };
        let report = run_step(run, job, plan)?;
        tracing::debug!(step, times = ?report.times, "applied");
        let (generation, digest) = (formation.generation, report.digest);
        run.held.mark = Some(Mark { generation, step, digest });
        machine.progress.applied(step);
        formation.tell_of(run.quarantine.take());
        let end = report.votes.stop || step == total;
        let pauses = report.votes.pause && !end;
        formation.report(step_done(&report, pauses, layout));
        let due = Due {
            evaluation: timeline.evaluates_after(step),
            checkpoint: timeline.checkpoints_after(step) || end,
            end,
        };
        follow_up(machine, formation, prepared, step, due)?;
        if end {
            return Ok(());
        }
        if pauses {
            orders.pause()?;
        }
    }
    Ok(())
}

/// What comes after a step.
#[derive(Clone, Copy, Debug)]
struct Due {
    evaluation: bool,
    checkpoint: bool,
    /// It was the last one.
    end: bool,
}

fn follow_up(
    machine: &Machine,
    formation: &Formation,
    prepared: &mut Prepared,
    step: u64,
    due: Due,
) -> Result<(), GenerationError> {
    let progress = &machine.progress;
    let Prepared { run, layout, .. } = prepared;
    if due.evaluation {
        progress.enter(Phase::Evaluate);
        let (rank, world) = (formation.form.rank as usize, formation.form.members.len());
        let samples = share(run.source.dataset().test.len(), rank, world);
        run.held.swap_average();
        let evaluated = evaluate(&mut run.held.model, &run.source, samples, &run.abort);
        run.held.swap_average();
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
    if !due.checkpoint {
        return Ok(());
    }
    progress.enter(Phase::Checkpoint);
    // Every sum has arrived: a goodbye that goes wrong costs nothing any more.
    if due.end
        && let Err(error) = run.collective.shutdown()
    {
        tracing::warn!("closing the exchange: {error}");
    }
    let Some(room) = formation.uploads.room(&formation.abort, due.end)? else { return Ok(()) };
    let snapshot = Box::new(Snapshot {
        step,
        layout: Arc::clone(layout),
        params: host(run.held.model.params())?,
        running: host(run.held.model.running())?,
        velocity: host(run.held.optimizer.velocity())?,
        average: match &run.held.ema {
            None => None,
            Some(ema) => {
                Some(Average { params: host(ema.params())?, running: host(ema.running())? })
            }
        },
    });
    room.send(Upload::Checkpoint { snapshot, last: due.end });
    if due.end
        && let Some(room) = formation.uploads.room(&formation.abort, true)?
    {
        room.send(Upload::Finished { step });
    }
    Ok(())
}

impl Formation {
    fn report(&self, kind: report::Kind) {
        say(&self.reports, self.generation, kind);
    }

    /// Tells of images that can't be decoded, a bounded number at a time.
    fn tell_of(&self, found: Vec<Found>) {
        for images in found.chunks(QUARANTINED_MAX) {
            let images = images.iter().map(bad_image).collect();
            self.report(report::Kind::Quarantined(v1::Quarantined { images }));
        }
    }
}

/// A session that is gone has its own end to deal with; there is nobody to tell.
fn say(reports: &Sender<v1::Report>, generation: Generation, kind: report::Kind) {
    let report = v1::Report { generation: generation.0, kind: Some(kind) };
    if reports.blocking_send(report).is_err() {
        tracing::debug!("a report found no session");
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
        GenerationError::Step(StepError::Exchange(error)) => peer_or_internal(error),
        GenerationError::Step(StepError::Diverged { .. }) => TroubleKind::TroubleDiverged,
        // The session tells of it, since this thread ends.
        GenerationError::Step(StepError::Device(_))
        | GenerationError::Evaluation(EvaluationError::Device(_))
        | GenerationError::Prepare(PrepareError::Device(_))
        | GenerationError::Device(_) => return None,
        GenerationError::Step(StepError::Data(LoaderError::Ended)) => TroubleKind::TroubleInternal,
        GenerationError::Prepare(error) => error.kind(),
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

fn step_done(report: &StepReport, paused: bool, layout: &Layout) -> report::Kind {
    let ns = |time: std::time::Duration| time.as_nanos() as u64;
    let times = report.times;
    let named = |index| layout.name_of_gradient(index);
    let skipped = report.skipped.map(|NotFinite { sum, own }| v1::NotFinite {
        sum: named(sum),
        own: own.map(named).unwrap_or_default(),
    });
    report::Kind::StepDone(v1::StepDone {
        step: report.step,
        digest: report.digest.to_vec(),
        loss: report.loss,
        correct: report.correct,
        gradient_norm: report.gradient_norm,
        skipped,
        paused,
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

fn host(buffer: &kernels::Buffer) -> Result<Vec<f32>, DeviceError> {
    let mut copy = vec![0.0; buffer.len()];
    buffer.read(buffer.span(), &mut copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests;
