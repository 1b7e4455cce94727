//! The training state in this process's memory. It outlives generations: a worker that goes from one to the next starts
//! where it stands, and hands its state to members that have none.

use kernels::{Buffer, Device, DeviceError, ops};
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
    /// The most slices that it has room to compute at once.
    pub(crate) at_once: usize,
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
        let at_once = geometry.slices;
        Held { job_id, job_toml, model, at_once, optimizer, ema, unpacked: false, mark: None }
    }

    /// Has the system find all pages now, and not when others wait for them.
    pub(crate) fn touch(&mut self) {
        self.mark = None;
        let device = self.model.device().clone();
        for buffer in self.buffers() {
            ops::fill(&device, buffer.view_mut(buffer.span()), 0.0);
        }
        self.model.touch();
    }

    pub(crate) fn is_of(&self, job_id: &JobId, job_toml: &str) -> bool {
        self.job_id == *job_id && self.job_toml == job_toml
    }

    /// The contents are the state after this step.
    pub(crate) fn set_mark(
        &mut self,
        generation: Generation,
        step: u64,
    ) -> Result<Mark, DeviceError> {
        let mark = Mark { generation, step, digest: digest(&self.model, self.ema.as_ref())? };
        self.mark = Some(mark);
        Ok(mark)
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

    /// Has `act` see everything that makes a state, as rows of values in main memory, in an order that all members share: in
    /// place, or copied out of a GPU and, where it `changes` them, back.
    pub(crate) fn on_host<T>(
        &mut self,
        changes: bool,
        act: impl FnOnce(Vec<&mut [f32]>) -> T,
    ) -> Result<T, DeviceError> {
        let mut buffers = self.buffers();
        if buffers.iter().all(|buffer| buffer.host().is_some()) {
            return Ok(act(buffers.into_iter().filter_map(Buffer::host_mut).collect()));
        }
        let mut copies = Vec::new();
        for buffer in &buffers {
            let mut copy = vec![0.0; buffer.len()];
            buffer.read(buffer.span(), &mut copy)?;
            copies.push(copy);
        }
        let result = act(copies.iter_mut().map(Vec::as_mut_slice).collect());
        if changes {
            for (buffer, copy) in buffers.iter_mut().zip(&copies) {
                buffer.write(buffer.span(), copy);
            }
        }
        Ok(result)
    }

    fn buffers(&mut self) -> Vec<&mut Buffer> {
        let (params, running) = self.model.state_mut();
        let velocity = self.optimizer.velocity_mut();
        let averages = self.ema.as_mut().map(Ema::state_mut);
        let averages = averages.into_iter().flat_map(|(params, running)| [params, running]);
        [params, running, velocity].into_iter().chain(averages).collect()
    }
}
