//! What a job leaves behind for people: its job file, metrics, log, and the progress they watch. Nothing here is needed to go
//! on, so a disk that fails costs a warning, not the run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::identity::JobId;
use tokio::sync::watch;

use super::plans::evaluation_line;
use crate::core::{JobSpec, Level, Metric};
use crate::disk;
use crate::files::write_atomically;
use crate::logs::JobLogs;
use crate::metrics::{self, Meter, Progress};
use crate::state::StateDir;

#[derive(Debug)]
pub(super) struct Books {
    state: Arc<StateDir>,
    logs: Arc<JobLogs>,
    /// Of the job that runs.
    meter: Option<Meter>,
    watched: watch::Sender<Option<Progress>>,
}

impl Books {
    pub(super) fn new(
        state: Arc<StateDir>,
        logs: Arc<JobLogs>,
        watched: watch::Sender<Option<Progress>>,
    ) -> Books {
        Books { state, logs, meter: None, watched }
    }

    /// A generation begins.
    pub(super) fn open(&mut self, job: &JobId, spec: &JobSpec, step: u64) {
        self.flush();
        let goes_on = |progress: &Progress| progress.job == *job && progress.step == step;
        if step > 0 && self.progress().is_some_and(goes_on) {
            return;
        }
        let folder = self.state.job_folder(job);
        let path = folder.join("job.toml");
        let written = disk::create_folders(&folder)
            .and_then(|()| write_atomically(&path, spec.toml.as_bytes()));
        if let Err(error) = written {
            tracing::warn!("writing {}: {error}; training goes on", path.display());
        }
        self.meter = match Meter::open(&folder, job.clone(), spec, step) {
            Ok(meter) => Some(meter),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!("opening the metrics in {folder}: {error}; none are written");
                None
            }
        };
        self.show();
    }

    /// Newest step with a metric on disk; 0 without any.
    pub(super) fn published(&self, job: &JobId) -> u64 {
        let folder = self.state.job_folder(job);
        metrics::last_step(&folder).unwrap_or_else(|error| {
            let folder = folder.display();
            tracing::warn!("reading the metrics in {folder}: {error}; some may be missing");
            u64::MAX
        })
    }

    pub(super) fn publish(&mut self, now: Duration, job: &JobId, metric: &Metric) {
        let meter = self.meter.as_mut().filter(|meter| meter.progress().job == *job);
        let Some(meter) = meter else { return };
        meter.take(now, metric);
        if let Metric::Evaluation { step, evaluation } = metric {
            let text = evaluation_line(*step, evaluation, meter.progress());
            self.log(Some(job), Level::Info, &text, false);
        }
        self.show();
    }

    /// `over` says that the job has ended.
    pub(super) fn log(&self, job: Option<&JobId>, level: Level, text: &str, over: bool) {
        let job_field = job.map(JobId::as_str);
        match level {
            Level::Info => tracing::info!(job = job_field, "{text}"),
            Level::Warn => tracing::warn!(job = job_field, "{text}"),
            Level::Error => tracing::error!(job = job_field, "{text}"),
        }
        let Some(job) = job else { return };
        if let Err(error) = self.logs.append(job, level, text, over) {
            tracing::warn!("writing the log of job {job}: {error}; its lines wait in memory");
        }
    }

    /// Steps after `step` are computed again.
    pub(super) fn cut(&mut self, job: &JobId, step: u64) {
        self.flush();
        self.meter.take_if(|meter| meter.progress().job == *job);
        let folder = self.state.job_folder(job);
        if let Err(error) = metrics::cut(&folder, step) {
            let folder = folder.display();
            tracing::warn!("cutting the metrics in {folder} at step {step}: {error}");
        }
    }

    /// Writes what was published.
    pub(super) fn flush(&mut self) {
        let Some(meter) = &mut self.meter else { return };
        if let Err(error) = meter.flush() {
            let path = meter.path().display();
            tracing::warn!("writing {path}: {error}; its lines wait in memory, training goes on");
        }
    }

    /// The job is over.
    pub(super) fn close(&mut self, job: &JobId) {
        self.flush();
        let of_job = |meter: &mut Meter| meter.progress().job == *job;
        if let Some(meter) = self.meter.take_if(of_job) {
            warn_of_missing(meter.missing(), meter.path());
            self.show();
        }
        let missing = self.logs.close(job);
        warn_of_missing(missing, &self.state.job_folder(job).join("log.jsonl"));
    }

    pub(super) fn progress(&self) -> Option<&Progress> {
        self.meter.as_ref().map(Meter::progress)
    }

    fn show(&self) {
        self.watched.send_replace(self.progress().cloned());
    }
}

fn warn_of_missing(lines: u64, path: &Path) {
    if lines > 0 {
        tracing::warn!("{} lacks {lines} lines that could not be written", path.display());
    }
}
