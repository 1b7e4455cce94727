//! One optimizer step: the sentence that the rest of the worker spells out. `passage`: how gradients get from the device to the
//! exchange and back. `classes`: the labels of a pass.
//!
//! Slices are computed one after another, each on all compute threads; their gradients are added over the fixed tree as
//! they appear, and a bucket enters the exchange while backward of the last slice still goes on.

mod classes;
mod passage;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::{Buffer, Device, DeviceError, Span, ops};
use proto::Job;
use proto::wire::v1::Phase;

use crate::collective::{Abort, Collective, CollectiveError, SlicePlan, SliceStep};
use crate::data::{Loader, LoaderError, Part, Quarantine, Source};
use crate::guard::{self, NotFinite};
use crate::held::Held;
use crate::layout::{STATE_WORDS, TOTALS, Total};
use crate::model::{ResNet, Targets};
use crate::optim::Ema;
use crate::progress::Progress;
use crate::step::classes::Classes;
use crate::step::passage::Passage;

/// Everything that one step reads and changes.
#[derive(Debug)]
pub struct Run {
    pub device: Device,
    pub(crate) held: Held,
    pub source: Source,
    pub loader: Loader,
    pub quarantine: Quarantine,
    pub collective: Box<dyn Collective>,
    pub gradients: Gradients,
    pub abort: Abort,
    pub progress: Arc<Progress>,
}

/// Gradient vectors and how they are added.
#[derive(Debug)]
pub struct Gradients {
    plan: SlicePlan,
    slots: Vec<Buffer>, // each a gradient vector, see `Layout`
    buckets: Vec<Range<usize>>,
    passage: Passage,
    classes: Classes,
}

/// What a step needs to know besides the state.
#[derive(Clone, Copy, Debug)]
pub struct StepPlan {
    /// Counted from 1.
    pub step: u64,
    pub learning_rate: f32,
    pub votes: Votes,
}

/// What one worker was asked to do after a step; in the report, whether any of them was: then all do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Votes {
    /// End.
    pub stop: bool,
    /// Wait for a while, since the members are about to change.
    pub pause: bool,
}

/// What a step gave; the same on every member, but for the times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    pub step: u64,
    /// Mean over the global batch.
    pub loss: f64,
    /// Samples of the global batch whose largest logit was the label; of two mixed labels, the one of the larger weight.
    pub correct: u32,
    /// L2 norm of all parameters' gradients together, before clipping.
    pub gradient_norm: f64,
    pub votes: Votes,
    /// Nobody applied it: the state is that of the step before.
    pub skipped: Option<NotFinite>,
    /// Digest of the state after the step.
    pub digest: [u8; 16],
    pub times: PhaseTimes,
}

/// Where a step's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes {
    pub data: Duration,
    pub forward: Duration,
    pub backward: Duration,
    pub exchange_wait: Duration,
    pub update: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Exchange(#[from] CollectiveError),
    #[error(transparent)]
    Data(#[from] LoaderError),
    #[error("train step {step}: the members of the generation do not all hold the same state")]
    Diverged { step: u64 },
    #[error("train step {step}: the generation was abandoned")]
    Abandoned { step: u64 },
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Gradients {
    /// `slices`: the contiguous run that this worker computes, `at_once` of them at most in one pass; `buckets`: parts of the
    /// gradient vector.
    pub fn new(
        device: &Device,
        collective: &mut dyn Collective,
        slices: Range<u32>,
        at_once: usize,
        buckets: Vec<Range<usize>>,
    ) -> Gradients {
        let plan = SlicePlan::at_once(slices, at_once as u32);
        let (slots, passage) = Passage::open(device, &plan, collective);
        Gradients { plan, slots, buckets, passage, classes: Classes::default() }
    }
}

/// Runs one optimizer step. On an error the state is that of the step before, unless the update had begun: then nothing
/// can fail any more.
pub fn run_step(run: &mut Run, job: &Job, plan: StepPlan) -> Result<StepReport, StepError> {
    let mut timer = PhaseTimer::start();
    let state = run.held.mark.expect("who trains holds a state").digest;
    for index in 0..run.gradients.plan.steps().len() {
        if run.abort.is_aborted() {
            return Err(StepError::Abandoned { step: plan.step });
        }
        load(run, plan.step, index, &mut timer)?;
        run.held.model.forward();
        let slot = run.gradients.plan.steps()[index].slot;
        let slice = &mut run.gradients.slots[slot];
        let targets = Targets {
            labels: run.gradients.classes.labels(),
            label_smoothing: job.train.label_smoothing,
            grad_scale: 1.0 / job.train.batch as f32,
        };
        run.held.model.loss(&targets, slice);
        sign(&run.held.model, slice, plan.votes, &state);
        timer.mark(|times| &mut times.forward);
        backward(run, plan.step, index)?;
        timer.mark(|times| &mut times.backward);
    }
    let Gradients { plan: slices, slots, buckets, passage, .. } = &mut run.gradients;
    passage.leave(&slots[..slices.partials().len()])?;
    timer.mark(|times| &mut times.backward);
    run.progress.enter(Phase::Exchange);
    passage.enter(plan.step, buckets, &mut *run.collective)?;
    for bucket in 0..run.gradients.buckets.len() {
        run.collective.wait(plan.step, bucket)?;
    }
    run.gradients.passage.arrive(&*run.collective);
    timer.mark(|times| &mut times.exchange_wait);
    let sum = run.gradients.passage.sum(&*run.collective);
    let totals = totals(&run.held.model, sum)?;
    if !guard::is_of_one_state(&totals, &state, job.train.slices) {
        return Err(StepError::Diverged { step: plan.step });
    }
    let norm = run.held.optimizer.measure(sum)?;
    let skipped = not_finite(run, norm)?;
    let digest = if skipped.is_some() { state } else { update(run, job, plan)? };
    timer.mark(|times| &mut times.update);
    Ok(StepReport {
        step: plan.step,
        loss: f64::from(totals[Total::Loss as usize]) / job.train.batch as f64,
        correct: totals[Total::Correct as usize] as u32,
        gradient_norm: norm,
        votes: Votes {
            stop: totals[Total::StopVotes as usize] > 0.0,
            pause: totals[Total::PauseVotes as usize] > 0.0,
        },
        skipped,
        digest,
        times: timer.times,
    })
}

/// Data for the `index`-th pass: as many slices as it computes at once.
fn load(run: &mut Run, step: u64, index: usize, timer: &mut PhaseTimer) -> Result<(), LoaderError> {
    let Run { held: Held { model, .. }, source, loader, quarantine, gradients, .. } = run;
    let slices = gradients.plan.steps()[index].slices.len();
    let shape = source.train_shape(step);
    model.resize(slices, shape.height, shape.width);
    gradients.classes.clear();
    for slice in 0..slices {
        let batch = loader.next_batch()?;
        quarantine.add(Part::Train, std::mem::take(&mut batch.quarantined));
        timer.mark(|times| &mut times.data);
        model.load(slice, &batch.pixels, &batch.crops, source.mean(), source.std());
        model.erase(slice, &batch.erased);
        if let Some(mixed) = &batch.mixed {
            model.mix(slice, mixed.how);
        }
        gradients.classes.push(&batch.classes());
        timer.mark(|times| &mut times.forward);
    }
    Ok(())
}

/// Why this step can't be applied, if so.
fn not_finite(run: &Run, norm: f64) -> Result<Option<NotFinite>, DeviceError> {
    let (gradients, layout) = (&run.gradients, run.held.model.layout());
    let sum = gradients.passage.sum(&*run.collective);
    let Some(sum) = guard::first_non_finite(&run.device, layout, sum, norm)? else {
        return Ok(None);
    };
    for &(_, slot) in gradients.plan.partials() {
        let partial = &gradients.slots[slot];
        let own = ops::first_non_finite(&run.device, partial.view(partial.span()))?;
        if own.is_some() {
            return Ok(Some(NotFinite { sum, own }));
        }
    }
    Ok(Some(NotFinite { sum, own: None }))
}

/// Applies the reduced gradient; returns the digest of the new state.
fn update(run: &mut Run, job: &Job, plan: StepPlan) -> Result<[u8; 16], DeviceError> {
    let sum = run.gradients.passage.sum(&*run.collective);
    let Held { model, optimizer, ema, .. } = &mut run.held;
    let (params, _) = model.state_mut();
    optimizer.update(params, sum, plan.learning_rate)?;
    model.update_running(sum, job.train.slices);
    model.pack();
    if let Some(ema) = ema {
        ema.update(plan.step, model.params(), model.running());
    }
    digest(model, ema.as_ref())
}

/// The digest of weights and running statistics, and of their averages: what members compare after every step. The velocity
/// is not looked at: a difference in it shows in the weights soon.
pub fn digest(model: &ResNet, ema: Option<&Ema>) -> Result<[u8; 16], DeviceError> {
    let averages = ema.map(|ema| [ema.params(), ema.running()]);
    let state = [model.params(), model.running()].into_iter().chain(averages.into_iter().flatten());
    ops::digest(model.device(), state)
}

/// Backward of the `index`-th slice of this worker, with the merges that the tree asks for after it; with the last slice
/// each complete bucket enters the exchange.
fn backward(run: &mut Run, step: u64, index: usize) -> Result<(), CollectiveError> {
    let Run { device, held: Held { model, .. }, collective, gradients, .. } = run;
    let Gradients { plan, slots, buckets, passage, .. } = gradients;
    let early = passage.is_open_during_backward();
    let SliceStep { slot: top, merges, .. } = &plan.steps()[index];
    let (top, last) = (*top, index + 1 == plan.steps().len());
    let (below, rest) = slots.split_at_mut(top);
    let mut result = Ok(());
    model.backward(&mut rest[0], buckets, &mut |bucket, slice| {
        let range = buckets[bucket].clone();
        let span = Span { start: range.start, len: range.len() };
        for merge in merges {
            if merge.from == top {
                ops::add(device, below[merge.into].view_mut(span), slice.view(span));
            } else {
                let (into, from) = below.split_at_mut(merge.from);
                ops::add(device, into[merge.into].view_mut(span), from[0].view(span));
            }
        }
        if early && last && result.is_ok() {
            result = collective.reduce(step, bucket);
        }
    });
    result
}

/// Adds to the totals of the slices of a pass what their worker has to say: its votes, and from which state it computed.
fn sign(model: &ResNet, slice: &mut Buffer, votes: Votes, state: &[u8; 16]) {
    // The sum over slices that say the same: exact, since their number is a power of two.
    let slices = model.geometry().slices as f32;
    let start = model.layout().totals().start + Total::StopVotes as usize;
    let votes = [votes.stop, votes.pause].map(|vote| if vote { slices } else { 0.0 });
    slice.write(Span { start, len: votes.len() }, &votes);
    let start = model.layout().totals().start + Total::State as usize;
    let words = guard::state_words(state).map(|word| word * slices);
    slice.write(Span { start, len: STATE_WORDS }, &words);
}

fn totals(model: &ResNet, sum: &Buffer) -> Result<[f32; TOTALS], DeviceError> {
    let mut totals = [0.0; TOTALS];
    sum.read(model.layout().totals(), &mut totals)?;
    Ok(totals)
}

/// Adds up wall time by phase.
struct PhaseTimer {
    times: PhaseTimes,
    since: Instant,
}

impl PhaseTimer {
    fn start() -> PhaseTimer {
        PhaseTimer { times: PhaseTimes::default(), since: Instant::now() }
    }

    /// The time since the last mark belongs to this phase.
    fn mark(&mut self, phase: impl FnOnce(&mut PhaseTimes) -> &mut Duration) {
        let now = Instant::now();
        *phase(&mut self.times) += now - self.since;
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
