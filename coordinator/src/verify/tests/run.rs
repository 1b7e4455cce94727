//! The files of a run of 20 steps, in five epochs of four by at most two workers: made by the real core, journal and manifest.

use std::path::PathBuf;
use std::time::Duration;

use proto::identity::{Generation, Incarnation, JobId, Name, hex};
use proto::manifest::{FORMAT, FileEntry, MANIFEST_FILE, MODEL_FILE, Manifest, folder_name};
use proto::wire::v1::PhaseTimes;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::core::{
    Action, BaseSearch, Candidate, CheckpointEntry, Cluster, Digest, Event, Held, Policy, Record,
    Report, SessionId, Shortage, StepDone, Submission, Ticket,
};
use crate::fixtures::{TOTAL_STEPS, entry, spec};
use crate::journal::Journal;
use crate::verify::{Account, VerifyError, verify};

pub(super) const LAST: u64 = TOTAL_STEPS;

pub(super) struct Run {
    pub(super) state: TempDir,
    pub(super) records: Vec<Record>,
    pub(super) metrics: Vec<String>,
}

impl Run {
    /// Two workers; one is lost in step 7, another comes after step 10, the coordinator dies after step 14, and the run goes on
    /// from the checkpoint of step 8.
    pub(super) fn new() -> Run {
        let mut script = Script { core: Cluster::default(), now: Duration::ZERO, records: vec![] };
        script.boot();
        script.submit();
        let [w1, w2] = [script.join("w1", 1), script.join("w2", 2)];
        script.ready(&[w1, w2], 0);
        script.train(&[w1, w2], 1..=6);
        script.tell(Event::StreamEnded { session: w2, cause: "connection closed".to_owned() });
        script.seal(&[w1], 6);
        script.ready(&[w1], 6);
        script.train(&[w1], 7..=8);
        script.keep(8);
        script.train(&[w1], 9..=9);
        let w3 = script.join("w3", 3);
        script.report(w3, Report::Warm { job: job() });
        script.now += Duration::from_secs(1);
        script.tell(Event::Tick);
        script.apply(w1, 10, true);
        script.seal(&[w1], 10);
        script.ready(&[w1, w3], 10);
        script.train(&[w1, w3], 11..=14);

        let mut core = Cluster::default();
        script.records.iter().for_each(|record| core.replay(record).unwrap());
        script.core = core;
        script.boot();
        script.submit();
        let search = BaseSearch::Found { entries: vec![sealed(8)], set_aside: Vec::new() };
        script.tell(Event::BaseFound { job: job(), search });
        let crew = [script.join("w1", 4), script.join("w3", 5)];
        script.ready(&crew, 8);
        script.train(&crew, 9..=LAST);
        script.keep(LAST);
        for session in crew {
            let model_sha256 = model_sha256(LAST);
            script.report(session, Report::Finished { step: LAST, model_sha256 });
        }

        let metrics = (1..=LAST).map(|step| format!("{{\"step\":{step},\"loss\":0.5}}")).collect();
        let state = tempfile::tempdir().unwrap();
        let run = Run { state, records: script.records, metrics };
        [8, LAST].into_iter().for_each(|step| run.write_checkpoint(step));
        run.write_journal();
        run.write_metrics();
        run
    }

    pub(super) fn verify(&self) -> Result<Account, VerifyError> {
        verify(self.state.path(), &job())
    }

    pub(super) fn newest_generation(records: &[Record]) -> u64 {
        let of = |record: &Record| match record {
            Record::Formed { generation, .. } => Some(*generation),
            _ => None,
        };
        records.iter().filter_map(of).max().unwrap()
    }

    /// As a journal that was never damaged.
    pub(super) fn write_journal(&self) {
        let path = self.state.path().join("journal");
        std::fs::remove_file(&path).ok();
        let mut journal = Journal::open(&path).unwrap().journal;
        self.records
            .iter()
            .for_each(|record| journal.append(std::slice::from_ref(record)).unwrap());
    }

    pub(super) fn write_metrics(&self) {
        let text: String = self.metrics.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.folder().join("metrics.jsonl"), text).unwrap();
    }

    pub(super) fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder().join("checkpoints").join(folder_name(step))
    }

    pub(super) fn remove_checkpoint(&self, step: u64) {
        std::fs::remove_dir_all(self.checkpoint(step)).unwrap();
    }

    pub(super) fn change_manifest(&self, step: u64, change: impl FnOnce(&mut Manifest)) {
        let path = self.checkpoint(step).join(MANIFEST_FILE);
        let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.state.path().join("jobs").join(job().as_str())
    }

    fn write_checkpoint(&self, step: u64) {
        let (folder, spec) = (self.checkpoint(step), spec());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(MODEL_FILE), model(step)).unwrap();
        let file = FileEntry { len: model(step).len() as u64, sha256: model_sha256(step) };
        let manifest = Manifest {
            format: FORMAT,
            job_id: job().to_string(),
            step,
            total_steps: LAST,
            epoch: step / 4,
            state_digest: digest(step).to_string(),
            job: spec.toml,
            dataset_fingerprint: spec.dataset.fingerprint,
            init_sha256: None,
            classes: spec.dataset.classes,
            input: spec.dataset.input,
            evaluation: None,
            software_version: String::new(),
            device_kind: "cpu".to_owned(),
            files: [(MODEL_FILE.to_owned(), file)].into(),
        };
        std::fs::write(folder.join(MANIFEST_FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
    }
}

/// Events for the core, and what it records.
struct Script {
    core: Cluster,
    now: Duration,
    records: Vec<Record>,
}

impl Script {
    fn boot(&mut self) {
        let actions = self.core.boot();
        self.write(actions);
    }

    fn tell(&mut self, event: Event) {
        let actions = self.core.apply(self.now, event);
        self.write(actions);
    }

    fn write(&mut self, actions: Vec<Action>) {
        let records = actions.into_iter().filter_map(|action| match action {
            Action::Journal(record) => Some(record),
            _ => None,
        });
        self.records.extend(records);
    }

    fn submit(&mut self) {
        let (policy, shortage) = (Policy::default(), Shortage::Fail);
        let submission = Submission { spec: spec(), workers: 2, policy, fresh: false, shortage };
        self.tell(Event::Submitted { ticket: Ticket(0), submission: Box::new(submission) });
    }

    fn join(&mut self, worker: &str, number: u64) -> SessionId {
        let session = SessionId(number);
        self.tell(Event::Joined(Candidate {
            session,
            name: worker.parse::<Name>().unwrap(),
            incarnation: Incarnation([number as u8; 16]),
            generation: Generation(0),
            address: format!("10.0.0.{number}:9"),
            device_kind: "cpu".to_owned(),
            threads: 1,
            software_version: "0".to_owned(),
        }));
        session
    }

    fn report(&mut self, session: SessionId, report: Report) {
        let newest = self.records.iter().rev().find_map(|record| match record {
            Record::Formed { generation, .. } => Some(*generation),
            _ => None,
        });
        let generation = Generation(newest.unwrap_or(0));
        self.tell(Event::Reported { session, generation, report });
    }

    fn seal(&mut self, sessions: &[SessionId], step: u64) {
        let attempt = self.core.generation();
        for &session in sessions {
            let generation = Generation(Run::newest_generation(&self.records));
            let held = Some(Held { generation, step, digest: digest(step) });
            self.report(session, Report::Sealed { attempt, held });
        }
    }

    fn ready(&mut self, sessions: &[SessionId], step: u64) {
        for &session in sessions {
            self.report(session, Report::Ready { step, digest: digest(step) });
        }
    }

    fn train(&mut self, sessions: &[SessionId], steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            for &session in sessions {
                self.apply(session, step, false);
            }
        }
    }

    fn apply(&mut self, session: SessionId, step: u64, paused: bool) {
        let done = StepDone {
            step,
            digest: digest(step),
            loss: 0.5,
            correct: 9,
            gradient_norm: 1.5,
            skipped: None,
            paused,
            times: PhaseTimes::default(),
        };
        self.report(session, Report::StepDone(done));
    }

    fn keep(&mut self, step: u64) {
        self.tell(Event::CheckpointSealed { job: job(), entry: sealed(step) });
    }
}

fn job() -> JobId {
    "digits-1".parse().unwrap()
}

fn digest(step: u64) -> Digest {
    Digest(u128::from(step).to_be_bytes())
}

fn sealed(step: u64) -> CheckpointEntry {
    CheckpointEntry { model_sha256: model_sha256(step), ..entry(step, None) }
}

fn model(step: u64) -> Vec<u8> {
    vec![step as u8; 100]
}

fn model_sha256(step: u64) -> String {
    hex(&Sha256::digest(model(step)))
}
