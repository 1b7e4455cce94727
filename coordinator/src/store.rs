//! The thread that does the slow disk work of checkpoints, one task after the other, so that neither the driver nor training
//! waits for it. Answers with events.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use proto::identity::JobId;
use tokio::sync::mpsc;

use crate::checkpoints::{self, Assembly};
use crate::core::{BaseSearch, Event, JobSpec, SealOrder, Shelf};
use crate::driver::Input;

#[derive(Debug)]
pub(crate) enum Task {
    FindBase { job: JobId, spec: Box<JobSpec> },
    Seal { assembly: Arc<Assembly>, order: Box<SealOrder> },
    Retain { job: JobId, shelf: Shelf },
}

/// Ends its thread when dropped, after the tasks that were handed over.
#[derive(Debug)]
pub(crate) struct Store {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// `jobs` is the folder of all jobs.
    pub(crate) fn start(jobs: PathBuf, events: mpsc::Sender<Input>) -> std::io::Result<Store> {
        let (tasks, inbox) = sync_channel(TASKS_MAX);
        let worker = move || serve(&jobs, &inbox, &events);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(worker)?;
        Ok(Store { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Gives the task back when too many are waiting.
    pub(crate) fn hand_over(&self, task: Task) -> Result<(), Task> {
        let Some(tasks) = &self.tasks else { return Err(task) };
        tasks.try_send(task).map_err(|error| match error {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // It ends with its channel; a panic in it has been reported by its own thread.
            thread.join().ok();
        }
    }
}

fn serve(jobs: &Path, inbox: &Receiver<Task>, events: &mpsc::Sender<Input>) {
    for task in inbox {
        let event = match task {
            Task::FindBase { job, spec } => {
                let folder = checkpoints::folder_of(jobs, &job);
                let search = checkpoints::find_base(&folder, &job, &spec);
                let search = with_weights(jobs, &job, &spec, search);
                Event::BaseFound { job, search }
            }
            Task::Seal { assembly, order } => match checkpoints::seal(&assembly, &order) {
                Ok(entry) => Event::CheckpointSealed { job: order.job, entry },
                Err(error) => Event::CheckpointFailed {
                    job: order.job,
                    generation: order.generation,
                    step: order.step,
                    problem: error.to_string(),
                },
            },
            Task::Retain { job, shelf } => {
                let folder = checkpoints::folder_of(jobs, &job);
                if let Err(error) = checkpoints::retain(&folder, &job, &shelf) {
                    tracing::warn!("tidying {}: {error}", folder.display());
                }
                continue;
            }
        };
        // The driver may have ended: then nobody needs the answer.
        if events.blocking_send(Input::Event(event)).is_err() {
            return;
        }
    }
}

/// A job without a checkpoint needs the file of weights that it starts from.
fn with_weights(jobs: &Path, job: &JobId, spec: &JobSpec, search: BaseSearch) -> BaseSearch {
    match (search, spec.init_path(), &spec.weights) {
        (BaseSearch::Nothing { set_aside }, Some(source), Some(facts)) => {
            match checkpoints::keep_copy(jobs, job, source, facts) {
                Ok(()) => BaseSearch::Nothing { set_aside },
                Err(error) => BaseSearch::NoWeights { problem: error.to_string(), set_aside },
            }
        }
        (search, _, _) => search,
    }
}

/// Checkpoints wait here when they come faster than the disk takes them.
const TASKS_MAX: usize = 64;
