//! From a formation to a state that can train: job, dataset, model, weights, exchange.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataset::{Dataset, DatasetError, Fingerprint, Format};
use proto::Timeline;
use proto::job::{Job, JobError};
use proto::wire::v1::{Form, TroubleKind};

use crate::checkpoint::{CheckpointError, decode_model, decode_optimizer};
use crate::collective::{Collective, CollectiveError, Group, Peer, Solo, TcpExchange};
use crate::data::{Loader, Share, Source};
use crate::layout::Layout;
use crate::model::{Geometry, ResNet};
use crate::optim::Sgd;
use crate::step::{Gradients, Run};
use crate::trainer::{Formation, Machine, peer_or_internal};

/// Ready to train.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) run: Run,
    pub(crate) job: Job,
    pub(crate) timeline: Timeline,
    pub(crate) layout: Arc<Layout>,
}

/// Why this worker can't take part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("read the plan: {0}")]
    Plan(&'static str),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error("{0}; tell this worker where its copy is with `worker join --data DIR`")]
    Dataset(#[from] DatasetError),
    #[error(
        "use the dataset in {folder}: its fingerprint is {ours}, the coordinator's is {theirs}; copy the dataset again"
    )]
    DatasetDiffers { folder: String, ours: Fingerprint, theirs: Fingerprint },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("read the checkpoint of step {0}: the coordinator sent none")]
    NoCheckpoint(u64),
    #[error(transparent)]
    Exchange(#[from] CollectiveError),
    #[error("start the loader thread: {0}")]
    Loader(std::io::Error),
}

impl PrepareError {
    pub(crate) fn kind(&self) -> TroubleKind {
        match self {
            PrepareError::Plan(_) | PrepareError::Job(_) | PrepareError::Loader(_) => {
                TroubleKind::TroubleInternal
            }
            PrepareError::Dataset(_) => TroubleKind::TroubleDatasetUnreadable,
            PrepareError::DatasetDiffers { .. } => TroubleKind::TroubleDatasetDiffers,
            PrepareError::Checkpoint(_) | PrepareError::NoCheckpoint(_) => {
                TroubleKind::TroubleCheckpoint
            }
            PrepareError::Exchange(error) => peer_or_internal(error),
        }
    }
}

/// Takes a worker from a formation to the state after `form.base_step`, connected to its peers.
pub(crate) fn prepare(machine: &Machine, formation: &Formation) -> Result<Prepared, PrepareError> {
    let form = &formation.form;
    let job = Job::parse(&form.job_toml)?;
    let member = form.members.get(form.rank as usize).ok_or(PrepareError::Plan("no such rank"))?;
    let slices = member.first_slice..member.first_slice + member.slice_count;
    if slices.is_empty() || slices.end as usize > job.train.slices {
        return Err(PrepareError::Plan("slices outside the job's"));
    }
    let dataset = Arc::new(open_dataset(machine, form, &job)?);
    let timeline = Timeline::new(&job, dataset.train.len() as u64);
    let model = build_model(machine, &job, &dataset);
    let optimizer = Sgd::new(&machine.device, model.layout(), &job.optimizer);
    let source = Source::new(dataset, &job);
    let share = Share {
        first_step: form.base_step + 1,
        batch: job.train.batch as u64,
        slice_len: job.train.slice_len() as u64,
        slices: u64::from(slices.start)..u64::from(slices.end),
    };
    let loader = Loader::start(source.clone(), share).map_err(PrepareError::Loader)?;
    let bucket_len_max = (job.exchange.bucket_mib as usize) << 18; // 4-byte elements in a MiB
    let gradients = Gradients::new(&machine.device, &model, slices, bucket_len_max);
    let collective = connect(machine, formation, &job, gradients.bucket_lens())?;
    let mut run = Run {
        device: machine.device.clone(),
        model,
        optimizer,
        source,
        loader,
        collective,
        gradients,
        abort: formation.abort.clone(),
        progress: Arc::clone(&machine.progress),
    };
    load_state(&mut run, &job, formation)?;
    let layout = Arc::new(run.model.layout().clone());
    Ok(Prepared { run, job, timeline, layout })
}

fn open_dataset(machine: &Machine, form: &Form, job: &Job) -> Result<Dataset, PrepareError> {
    let folder = machine.data.as_deref().unwrap_or(Path::new(&form.data_path));
    let format: Format =
        job.data.format.as_str().parse().expect("both crates know the same formats");
    let dataset = Dataset::open(format, folder)?;
    let theirs = Fingerprint::from_bytes(&form.dataset_fingerprint);
    let theirs = theirs.ok_or(PrepareError::Plan("a fingerprint has 32 bytes"))?;
    if dataset.fingerprint != theirs {
        let folder = folder.display().to_string();
        return Err(PrepareError::DatasetDiffers { folder, ours: dataset.fingerprint, theirs });
    }
    Ok(dataset)
}

fn build_model(machine: &Machine, job: &Job, dataset: &Dataset) -> ResNet {
    let shape = dataset.shape;
    let geometry = Geometry {
        batch: job.train.slice_len(),
        height: shape.height,
        width: shape.width,
        channels: shape.channels,
        classes: dataset.classes.len(),
    };
    let model = ResNet::new(&machine.device, &job.model, geometry);
    tracing::info!(
        parameters = model.layout().parameters_len(),
        memory_mib = model.memory_bytes() >> 20,
        "model planned"
    );
    model
}

fn load_state(run: &mut Run, job: &Job, formation: &Formation) -> Result<(), PrepareError> {
    let base = formation.form.base_step;
    if base == 0 {
        run.model.initialise(job.seed);
        return Ok(());
    }
    let files = formation.checkpoint.as_ref().ok_or(PrepareError::NoCheckpoint(base))?;
    let layout = run.model.layout().clone();
    let (params, running) = run.model.state_mut();
    let on_host = "the CPU device's memory is host memory";
    let (params, running) = (params.host_mut().expect(on_host), running.host_mut().expect(on_host));
    decode_model(&layout, &files.model, params, running)?;
    let velocity = run.optimizer.velocity_mut().host_mut().expect(on_host);
    decode_optimizer(&layout, &files.optimizer, velocity)?;
    run.model.pack();
    Ok(())
}

fn connect(
    machine: &Machine,
    formation: &Formation,
    job: &Job,
    bucket_lens: Vec<usize>,
) -> Result<Box<dyn Collective>, PrepareError> {
    let form = &formation.form;
    if form.members.len() == 1 {
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
        slices: job.train.slices as u32,
        key: key.map_err(|_| PrepareError::Plan("an exchange key has 32 bytes"))?,
        bucket_lens,
        timeout: Duration::from_secs(u64::from(job.exchange.timeout_s)),
    };
    Ok(Box::new(TcpExchange::connect(&machine.listener, group, formation.abort.clone())?))
}
