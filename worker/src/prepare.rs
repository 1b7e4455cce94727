//! From a formation to a state that can train: job, dataset, model, weights, exchange.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataset::{Dataset, DatasetError, Fingerprint, Format};
use kernels::{Buffer, Device, DeviceError, Family, Precision};
use proto::job::{self, Job, JobError, Normalisation};
use proto::wire::v1::{self, Form, TroubleKind};
use proto::{JobId, Timeline};

use crate::checkpoint::{
    CheckpointError, InitialError, decode_ema, decode_initial, decode_model, decode_optimizer,
};
use crate::collective::{
    Collective, CollectiveError, Group, Handover, Peer, Reserve, Solo, TcpExchange, Transport,
};
use crate::conduct::{NotHeld, Origin};
use crate::data::{Loader, Quarantine, Share, Source, format};
use crate::held::Held;
use crate::layout::Layout;
use crate::memory::{self, MemoryError, Setting};
use crate::model::Geometry;
use crate::step::{Gradients, Run};
use crate::trainer::{Base, Formation, Machine, peer_or_internal};

/// Ready to train: everything of a generation, but for the state that outlives it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) run: Run,
    pub(crate) job: Job,
    pub(crate) timeline: Timeline,
    pub(crate) layout: Arc<Layout>,
}

/// What a worker keeps from one generation to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    datasets: Datasets,
    pub(crate) held: Option<Held>,
    /// Of the exchanges.
    reserve: Reserve,
}

impl Memory {
    /// Lets go of what belongs to a job.
    pub(crate) fn forget(&mut self) {
        self.held = None;
        self.reserve.clear();
    }

    /// A state of another job, or of an older form of this one, is of no use any more.
    fn keep_only(&mut self, job_id: &JobId, job_toml: &str) {
        if self.held.as_ref().is_some_and(|held| !held.is_of(job_id, job_toml)) {
            self.forget();
        }
    }
}

/// Why this worker can't take part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("follow the coordinator's plan: {0}")]
    Plan(&'static str),
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error("{0}; if this worker keeps its copy elsewhere, join with `--data DIR`")]
    Dataset(#[from] DatasetError),
    #[error(
        "use the dataset in {folder}: its fingerprint is {ours}, the coordinator's is {theirs}; copy the dataset again"
    )]
    DatasetDiffers { folder: String, ours: Fingerprint, theirs: Fingerprint },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Initial(#[from] InitialError),
    #[error(transparent)]
    Exchange(#[from] CollectiveError),
    #[error("start the loader thread: {0}")]
    Loader(std::io::Error),
    #[error(
        "take over the state after step {step}: what arrived has another digest than what was committed"
    )]
    OtherState { step: u64 },
    #[error(
        "compute in bf16, as train.precision asks: this worker computes on the CPU, which has fp32 only; set it to \"auto\""
    )]
    Precision,
    #[error("the generation was abandoned")]
    Abandoned,
}

impl PrepareError {
    pub(crate) fn kind(&self) -> TroubleKind {
        match self {
            PrepareError::Plan(_)
            | PrepareError::NotHeld(_)
            | PrepareError::Job(_)
            | PrepareError::Memory(_)
            | PrepareError::Device(_)
            | PrepareError::Loader(_)
            | PrepareError::OtherState { .. }
            | PrepareError::Precision
            | PrepareError::Abandoned => TroubleKind::TroubleInternal,
            PrepareError::Dataset(_) => TroubleKind::TroubleDatasetUnreadable,
            PrepareError::DatasetDiffers { .. } => TroubleKind::TroubleDatasetDiffers,
            PrepareError::Checkpoint(_) | PrepareError::Initial(_) => {
                TroubleKind::TroubleCheckpoint
            }
            PrepareError::Exchange(error) => peer_or_internal(error),
        }
    }
}

/// The dataset read last: generations of one job share it.
#[derive(Debug, Default)]
struct Datasets {
    last: Option<(PathBuf, Format, Arc<Dataset>)>,
}

impl Datasets {
    /// The dataset in `folder`, if its fingerprint is the wanted one.
    fn open(
        &mut self,
        folder: &Path,
        format: Format,
        wanted: Fingerprint,
    ) -> Result<Arc<Dataset>, PrepareError> {
        if let Some((path, known, dataset)) = &self.last
            && (path.as_path(), *known, dataset.fingerprint) == (folder, format, wanted)
        {
            return Ok(Arc::clone(dataset));
        }
        self.last = None;
        let dataset = Arc::new(Dataset::open(format, folder)?);
        if dataset.fingerprint != wanted {
            let (folder, ours) = (folder.display().to_string(), dataset.fingerprint);
            return Err(PrepareError::DatasetDiffers { folder, ours, theirs: wanted });
        }
        self.last = Some((folder.to_owned(), format, Arc::clone(&dataset)));
        Ok(dataset)
    }
}

/// Reads a job's dataset and sets up memory for its state, so that a formation finds both.
pub(crate) fn warm(
    machine: &Machine,
    memory: &mut Memory,
    warm: &v1::Warm,
) -> Result<JobId, PrepareError> {
    let job_id: JobId =
        warm.job_id.parse().map_err(|_| PrepareError::Plan("a job id is no name"))?;
    let job = Job::parse(&warm.job_toml)?;
    let place = (warm.data_path.as_str(), warm.dataset_fingerprint.as_slice());
    let dataset = open_dataset(machine, &mut memory.datasets, &job, place)?;
    let job_text = (&job_id, warm.job_toml.as_str());
    memory.keep_only(&job_id, &warm.job_toml);
    if memory.held.is_none() {
        // A guess: how many slices it will be is known when the members are.
        let workers = (warm.workers as usize).clamp(2, job.train.slices.max(2));
        let slices = 0..job.train.slices.div_ceil(workers) as u32;
        let device = device_for(machine, &job)?;
        let setting = setting((machine, &device), &job, &dataset, (&slices, workers));
        memory::require_for_training(&setting)?;
        let held = memory.held.insert(Held::new(&device, job_text, &setting));
        held.touch();
        memory.reserve.warm(slices, held.model.layout().gradient_len());
    }
    Ok(job_id)
}

/// Takes a worker from a formation to the state after `form.base_step`, connected to its peers. Whatever goes wrong, what it
/// holds stays in `memory`, marked for what it is.
pub(crate) fn prepare(
    machine: &Machine,
    memory: &mut Memory,
    formation: &mut Formation,
) -> Result<Prepared, PrepareError> {
    // Downloaded files are gone once the state is filled: a generation may last for days.
    let base = std::mem::replace(&mut formation.base, Base::Members);
    let formation = &*formation;
    let form = &formation.form;
    let job_id: JobId =
        form.job_id.parse().map_err(|_| PrepareError::Plan("a job id is no name"))?;
    let job = Job::parse(&form.job_toml)?;
    let slices = check_members(machine, form, &job)?;
    let place = (form.data_path.as_str(), form.dataset_fingerprint.as_slice());
    let dataset = open_dataset(machine, &mut memory.datasets, &job, place)?;
    let timeline = timeline(&job, &dataset, form)?;
    continue_unless_abandoned(formation)?;

    memory.keep_only(&job_id, &form.job_toml);
    // What was planned for the state that is kept was for other slices, or other members.
    let device = device_for(machine, &job)?;
    let setting = setting((machine, &device), &job, &dataset, (&slices, form.members.len()));
    let need = memory::require_for_training(&setting)?;
    let job_text = (&job_id, form.job_toml.as_str());
    let held = memory.held.take();
    let mut held = held.unwrap_or_else(|| Held::new(&device, job_text, &setting));
    let layout = Arc::new(held.model.layout().clone());
    let parameters = layout.parameters_len();
    tracing::info!(parameters, memory_mib = need >> 20, "model planned");
    let bucket_len_max = (job.exchange.bucket_mib as usize) << 18; // 4-byte elements in a MiB
    let buckets = layout.buckets(bucket_len_max);
    let bucket_lens = buckets.iter().map(Range::len).collect();
    let place = (machine, &mut memory.reserve);
    let ready = fill(place, &mut held, &job, (formation, base), bucket_lens);
    let mut collective = match ready {
        Ok(collective) => collective,
        Err(error) => {
            memory.held = Some(held);
            return Err(error);
        }
    };
    let source = Source::new(dataset, &job).with_decode_threads(machine.decode_threads);
    let share = Share {
        first_step: form.base_step + 1,
        batch: job.train.batch as u64,
        slice_len: job.train.slice_len() as u64,
        slices: u64::from(slices.start)..u64::from(slices.end),
    };
    let loader = match Loader::start(source.clone(), share) {
        Ok(loader) => loader,
        Err(error) => {
            memory.held = Some(held);
            return Err(PrepareError::Loader(error));
        }
    };
    let exchange = collective.as_mut();
    let run = Run {
        gradients: Gradients::new(&device, exchange, slices, held.at_once, buckets),
        device,
        held,
        source,
        loader,
        quarantine: Quarantine::default(),
        collective,
        abort: formation.abort.clone(),
        progress: Arc::clone(&machine.progress),
    };
    Ok(Prepared { run, job, timeline, layout })
}

/// The job's, which the base step must lie in unless there is a state to hand over.
fn timeline(job: &Job, dataset: &Dataset, form: &Form) -> Result<Timeline, PrepareError> {
    let timeline = Timeline::new(job, dataset.train.len() as u64);
    if form.base_step >= timeline.total_steps() && form.holders.is_empty() {
        return Err(PrepareError::Plan("the base step is not before the job's end"));
    }
    Ok(timeline)
}

/// Brings the base state into `held` and connects to the peers.
fn fill(
    place: (&Machine, &mut Reserve),
    held: &mut Held,
    job: &Job,
    (formation, base): (&Formation, Base),
    bucket_lens: Vec<usize>,
) -> Result<Box<dyn Collective>, PrepareError> {
    let form = &formation.form;
    let origin = Origin::of(form, held.mark)?;
    if origin != Origin::Own {
        held.mark = None;
    }
    if origin == Origin::Store {
        load_state(held, job, base)?;
    }
    continue_unless_abandoned(formation)?;
    // Last, since the peers wait for it: what can fail for one worker alone has been tried.
    let collective = connect(place, formation, job, bucket_lens, held)?;
    held.unpacked |= origin == Origin::Peers;
    let mark = held.set_mark(formation.generation, form.base_step)?;
    if !form.base_digest.is_empty() && mark.digest.as_slice() != form.base_digest {
        held.mark = None;
        return Err(PrepareError::OtherState { step: form.base_step });
    }
    tracing::debug!("the state is checked");
    Ok(collective)
}

fn open_dataset(
    machine: &Machine,
    datasets: &mut Datasets,
    job: &Job,
    (path, fingerprint): (&str, &[u8]),
) -> Result<Arc<Dataset>, PrepareError> {
    let fingerprint = Fingerprint::from_bytes(fingerprint);
    let fingerprint = fingerprint.ok_or(PrepareError::Plan("a fingerprint has 32 bytes"))?;
    let folder = machine.data.as_deref().unwrap_or(Path::new(path));
    let dataset = datasets.open(folder, format(job), fingerprint)?;
    check_channels(job, dataset.shape.channels)?;
    Ok(dataset)
}

fn setting<'a>(
    (machine, device): (&Machine, &Device),
    job: &'a Job,
    dataset: &Dataset,
    (slices, workers): (&Range<u32>, usize),
) -> Setting<'a> {
    let shape = dataset.shape;
    let slice = Geometry {
        slices: 1,
        batch: job.train.slice_len(),
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        classes: dataset.classes.len(),
    };
    let geometry = Geometry { slices: memory::slices_at_once(device, job, slice), ..slice };
    let decode_threads = match dataset.train.path(0) {
        Some(_) => machine.decode_threads.get(),
        None => 0,
    };
    Setting {
        job,
        family: device.family(),
        geometry,
        slices: slices.clone(),
        workers,
        decode_threads,
        dataset_bytes: dataset.train.bytes() + dataset.test.bytes(),
    }
}

/// The members' slices cover the job's, in rank order, and this process start is the member at its rank. Returns its
/// slices.
fn check_members(machine: &Machine, form: &Form, job: &Job) -> Result<Range<u32>, PrepareError> {
    let mut end = 0u32;
    for member in &form.members {
        if member.first_slice != end || member.slice_count == 0 {
            return Err(PrepareError::Plan("the members' slices are not contiguous"));
        }
        end = end.checked_add(member.slice_count).ok_or(PrepareError::Plan("too many slices"))?;
    }
    if end as usize != job.train.slices {
        return Err(PrepareError::Plan("the members' slices are not the job's"));
    }
    let own = form.members.get(form.rank as usize);
    let own = own.ok_or(PrepareError::Plan("there is no member at this worker's rank"))?;
    if own.incarnation != machine.incarnation.0 {
        return Err(PrepareError::Plan("the member at this worker's rank is another process"));
    }
    let rising = form.holders.windows(2).all(|pair| pair[0] < pair[1]);
    let world = form.members.len() as u32;
    if !rising || form.holders.last().is_some_and(|&last| last >= world) {
        return Err(PrepareError::Plan("the ranks that hold the state are not rising ranks"));
    }
    Ok(own.first_slice..own.first_slice + own.slice_count)
}

/// The machine's device in the precision that a job asks for.
fn device_for(machine: &Machine, job: &Job) -> Result<Device, PrepareError> {
    let device = &machine.device;
    let precision = match (job.train.precision, device.family()) {
        (job::Precision::Fp32, _) | (job::Precision::Auto, Family::Cpu) => Precision::Fp32,
        (job::Precision::Bf16, _) | (job::Precision::Auto, Family::Cuda) => Precision::Bf16,
    };
    device.with_precision(precision).ok_or(PrepareError::Precision)
}

fn check_channels(job: &Job, channels: usize) -> Result<(), PrepareError> {
    match &job.data.normalisation {
        Normalisation::Given { mean, .. } if mean.len() != channels => {
            Err(PrepareError::Plan("data.mean needs one value for each channel of the images"))
        }
        _ => Ok(()),
    }
}

fn continue_unless_abandoned(formation: &Formation) -> Result<(), PrepareError> {
    if formation.abort.is_aborted() { Err(PrepareError::Abandoned) } else { Ok(()) }
}

/// From the job's seed, from weights, or from the checkpoint that came with the formation.
fn load_state(held: &mut Held, job: &Job, base: Base) -> Result<(), PrepareError> {
    let Held { model, optimizer, ema, .. } = held;
    let layout = model.layout().clone();
    match &base {
        Base::Members => {
            return Err(PrepareError::Plan("nobody holds the state that members should hold"));
        }
        Base::Seed => {
            model.initialise(job.seed);
            optimizer.reset();
        }
        Base::Weights(file) => {
            model.initialise(job.seed);
            optimizer.reset();
            let fit = Buffer::edit(model.state_mut().into(), |[params, running]| {
                decode_initial(&layout, file, params, running)
            })??;
            tracing::info!("the first weights are those of model.init: {fit:?}");
        }
        Base::Checkpoint(files) => {
            Buffer::edit(model.state_mut().into(), |[params, running]| {
                decode_model(&layout, &files.model, params, running)
            })??;
            Buffer::edit([optimizer.velocity_mut()], |[velocity]| {
                decode_optimizer(&layout, &files.optimizer, velocity)
            })??;
        }
    }
    model.pack();
    match (ema, &base) {
        (None, _) | (_, Base::Members) => {}
        (Some(ema), Base::Seed | Base::Weights(_)) => ema.start(model.params(), model.running()),
        (Some(ema), Base::Checkpoint(files)) => {
            let bytes = files.ema.as_ref();
            let bytes =
                bytes.ok_or(PrepareError::Plan("the base step's checkpoint has no average"))?;
            Buffer::edit(ema.state_mut().into(), |[params, running]| {
                decode_ema(&layout, bytes, params, running)
            })??;
        }
    }
    Ok(())
}

fn connect(
    (machine, reserve): (&Machine, &mut Reserve),
    formation: &Formation,
    job: &Job,
    bucket_lens: Vec<usize>,
    held: &mut Held,
) -> Result<Box<dyn Collective>, PrepareError> {
    let form = &formation.form;
    if form.members.len() == 1 {
        reserve.clear();
        return Ok(Box::new(Solo::new(job.train.slices as u32, &bucket_lens)));
    }
    let peers = form.members.iter().map(|member| Peer {
        name: member.worker.clone(),
        address: member.exchange_address.clone(),
        first_slice: member.first_slice,
        slice_count: member.slice_count,
    });
    let key = form.exchange_key.as_slice().try_into();
    let group = Group {
        job: form.job_id.clone(),
        generation: formation.generation.0,
        rank: form.rank as usize,
        peers: peers.collect(),
        first_step: form.base_step + 1,
        slices: job.train.slices as u32,
        key: key.map_err(|_| PrepareError::Plan("an exchange key has 32 bytes"))?,
        bucket_lens,
        timeout: Duration::from_secs(u64::from(job.exchange.timeout_s)),
        transport: Transport::Fastest,
    };
    let holders = &form.holders[..];
    let abort = formation.abort.clone();
    let place = (&machine.listener, reserve);
    let exchange = if holders.is_empty() {
        TcpExchange::connect(place, group, abort, None)?
    } else {
        let receives = !holders.contains(&form.rank);
        held.on_host(receives, |buffers| {
            TcpExchange::connect(place, group, abort, Some(Handover { holders, buffers }))
        })??
    };
    Ok(Box::new(exchange))
}
