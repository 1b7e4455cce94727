//! The training state in this process's memory. It outlives generations: a worker that goes from one to the next starts
//! where it stands, and hands its state to members that have none.

use kernels::Device;
use proto::{Generation, JobId};

use crate::conduct::Mark;
use crate::memory::{self, Setting};
use crate::model::ResNet;
use crate::optim::{Ema, Sgd};
use crate::step::digest;

/// A job's model and optimizer, and what is in them.
#[derive(Debug)]
pub(crate) struct Held {
    job_id: JobId,
    job_toml: String,
    pub(crate) model: ResNet,
    pub(crate) optimizer: Sgd,
    /// Of a job that averages.
    pub(crate) ema: Option<Ema>,
    /// The model's weights are not those that its passes use yet.
    pub(crate) unpacked: bool,
    /// `None` while the contents mean nothing.
    pub(crate) mark: Option<Mark>,
}

impl Held {
    /// Memory for a job.
    pub(crate) fn new(
        device: &Device,
        (job_id, job_toml): (&JobId, &str),
        setting: &Setting<'_>,
    ) -> Held {
        let Setting { job, geometry, .. } = *setting;
        let model = ResNet::with_room(device, &job.model, geometry, &memory::train_sizes(job));
        let optimizer = Sgd::new(device, model.layout(), &job.optimizer);
        let ema = job.ema.map(|rule| Ema::new(device, model.layout(), rule));
        let (job_id, job_toml) = (job_id.clone(), job_toml.to_owned());
        Held { job_id, job_toml, model, optimizer, ema, unpacked: false, mark: None }
    }

    /// Has the system find all pages now, and not when others wait for them.
    pub(crate) fn touch(&mut self) {
        self.mark = None;
        self.buffers().into_iter().for_each(|buffer| buffer.fill(0.0));
        self.model.touch();
    }

    pub(crate) fn is_of(&self, job_id: &JobId, job_toml: &str) -> bool {
        self.job_id == *job_id && self.job_toml == job_toml
    }

    /// The contents are the state after this step.
    pub(crate) fn set_mark(&mut self, generation: Generation, step: u64) -> Mark {
        let mark = Mark { generation, step, digest: digest(&self.model, self.ema.as_ref()) };
        self.mark = Some(mark);
        mark
    }

    /// Gets ready to compute with what another member handed over.
    pub(crate) fn pack(&mut self) {
        if std::mem::take(&mut self.unpacked) {
            self.model.pack();
        }
    }

    /// Exchanges the trained state with its average, where there is one: it is the average that is evaluated.
    pub(crate) fn swap_average(&mut self) {
        if let Some(ema) = &mut self.ema {
            let (params, running) = self.model.state_mut();
            ema.swap(params, running);
            self.model.pack();
        }
    }

    /// Everything that makes a state, as rows of values in an order that all members share.
    pub(crate) fn buffers(&mut self) -> Vec<&mut [f32]> {
        let (params, running) = self.model.state_mut();
        let velocity = self.optimizer.velocity_mut();
        let averages = self.ema.as_mut().map(Ema::state_mut);
        [params, running, velocity]
            .into_iter()
            .chain(averages.into_iter().flat_map(|(params, running)| [params, running]))
            .map(|buffer| buffer.host_mut().expect("the CPU device's memory is host memory"))
            .collect()
    }
}
