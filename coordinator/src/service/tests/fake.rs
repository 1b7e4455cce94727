//! A worker that computes nothing: its states are made of the step's number.

use proto::manifest::{MODEL_FILE, OPTIMIZER_FILE};
use proto::wire::v1::checkpoint_chunk::Kind as Chunk;
use proto::wire::v1::plan::Kind as Plan;
use proto::wire::v1::report::Kind as Report;
use proto::{Job, Timeline};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

pub(super) struct FakeWorker {
    pub(super) client: WorkersClient<Credentialed>,
    pub(super) reports: mpsc::Sender<v1::Report>,
    pub(super) plans: Streaming<v1::Plan>,
    /// Waits for the plan to stop after this step.
    pub(super) pause_after: Option<u64>,
}

pub(super) fn hello(worker: &str) -> v1::Hello {
    v1::Hello {
        worker: worker.to_owned(),
        incarnation: crate::state::random::<16>().to_vec(),
        software_version: "0.1.0".to_owned(),
        exchange_address: "127.0.0.1:9".to_owned(),
        device_kind: "cpu".to_owned(),
        threads: 1,
        generation: 0,
    }
}

pub(super) fn report(generation: u64, kind: Report) -> v1::Report {
    v1::Report { generation, kind: Some(kind) }
}

/// Opens a control stream with any first report.
pub(super) async fn open(
    client: &mut WorkersClient<Credentialed>,
    first: v1::Report,
) -> Result<(mpsc::Sender<v1::Report>, Streaming<v1::Plan>), Status> {
    let (reports, outgoing) = mpsc::channel(64);
    reports.send(first).await.unwrap();
    let plans = client.join(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((reports, plans))
}

impl FakeWorker {
    pub(super) async fn join(rig: &Rig, worker: &str) -> FakeWorker {
        let mut client = rig.workers_client(Credentials::new(&rig.token)).await;
        let first = report(0, Report::Hello(hello(worker)));
        let (reports, mut plans) = open(&mut client, first).await.unwrap();
        let welcome = plans.message().await.unwrap().unwrap();
        assert!(matches!(welcome.kind, Some(Plan::Welcome(_))));
        FakeWorker { client, reports, plans, pause_after: None }
    }

    pub(super) async fn say(&self, generation: u64, kind: Report) {
        self.reports.send(report(generation, kind)).await.unwrap();
    }

    /// The next plan that asks for something; `None` when the stream has ended in good order.
    pub(super) async fn plan(&mut self) -> Option<(u64, Plan)> {
        loop {
            let plan = self.plans.message().await.unwrap()?;
            // Said on a tick, which may come at any time.
            match plan.kind.unwrap() {
                Plan::Committed(_) => {}
                kind => return Some((plan.generation, kind)),
            }
        }
    }

    /// Becomes a member: fetches the checkpoint if there is one, and waits until all are ready.
    pub(super) async fn form(&mut self) -> Option<(u64, v1::Form)> {
        let Some((generation, Plan::Form(form))) = self.plan().await else { return None };
        let step = form.base_step;
        if step > 0 && form.holders.is_empty() {
            self.fetch(&form.job_id, step).await;
        }
        self.say(generation, Report::Ready(v1::Ready { step, digest: digest(step) })).await;
        Some((generation, form))
    }

    /// Takes part in one generation, from `form` to its end.
    pub(super) async fn train(&mut self) {
        let (generation, form) = self.form().await.unwrap();
        assert!(matches!(self.plan().await, Some((_, Plan::Run(_)))));
        let job = Job::parse(&form.job_toml).unwrap();
        let timeline = Timeline::new(&job, 1437);
        let mut step = form.base_step;
        while step < timeline.total_steps() && Some(step) != self.pause_after {
            step += 1;
            self.apply(generation, step).await;
            if timeline.evaluates_after(step) {
                self.evaluate(generation, &form, step).await;
            }
            if timeline.checkpoints_after(step) {
                self.upload(generation, &form, step).await.unwrap();
            }
        }
        if Some(step) == self.pause_after {
            assert!(matches!(self.plan().await, Some((_, Plan::Stop(_)))));
            if !timeline.checkpoints_after(step) {
                self.upload(generation, &form, step).await.unwrap();
            }
        }
        let model_sha256 = Sha256::digest(&files(step)[0]).to_vec();
        self.say(generation, Report::Finished(v1::Finished { step, model_sha256 })).await;
        assert!(matches!(self.plan().await, Some((_, Plan::Release(_)))));
    }

    pub(super) async fn apply(&self, generation: u64, step: u64) {
        let times = Some(v1::PhaseTimes::default());
        let (digest, gradient_norm) = (digest(step), 1.5);
        let done = v1::StepDone {
            step,
            digest,
            loss: 0.5,
            correct: 3,
            times,
            gradient_norm,
            skipped: None,
            paused: false,
        };
        self.say(generation, Report::StepDone(done)).await;
    }

    async fn evaluate(&self, generation: u64, form: &v1::Form, step: u64) {
        // The digits have 360 test images.
        let samples = 360 / form.members.len() as u64;
        let evaluated = v1::Evaluated {
            step,
            samples,
            correct: samples - 1,
            correct_top5: samples,
            loss_fixed: 1 << 20,
        };
        self.say(generation, Report::Evaluated(evaluated)).await;
    }

    pub(super) async fn upload(
        &mut self,
        generation: u64,
        form: &v1::Form,
        step: u64,
    ) -> Result<u64, Status> {
        let files = files(step);
        let header = Chunk::Header(v1::CheckpointHeader {
            job_id: form.job_id.clone(),
            generation,
            step,
            rank: form.rank,
            files: described(&files),
        });
        let mut chunks = vec![v1::CheckpointChunk { kind: Some(header) }];
        for (index, bytes) in files.iter().enumerate() {
            let members = form.members.len() as u32;
            let range = proto::wire::checkpoint_part(bytes.len() as u64, form.rank, members);
            let mut offset = range.start;
            for data in bytes[range.start as usize..range.end as usize].chunks(1 << 20) {
                let (file, crc32, data) = (index as u32, crc32fast::hash(data), data.to_vec());
                let len = data.len() as u64;
                let data = Chunk::Data(v1::CheckpointData { file, offset, data, crc32 });
                chunks.push(v1::CheckpointChunk { kind: Some(data) });
                offset += len;
            }
        }
        let receipt = self.client.upload_checkpoint(tokio_stream::iter(chunks)).await?;
        Ok(receipt.into_inner().bytes)
    }

    async fn fetch(&mut self, job: &str, step: u64) {
        let request = v1::CheckpointRequest { job_id: job.to_owned(), step };
        let mut chunks = self.client.download_checkpoint(request).await.unwrap().into_inner();
        let first = chunks.message().await.unwrap().unwrap();
        let Some(Chunk::Header(header)) = first.kind else { panic!("{first:?}") };
        assert_eq!(header.files, described(&files(step)));
        let mut found = vec![Vec::new(), Vec::new()];
        while let Some(chunk) = chunks.message().await.unwrap() {
            let Some(Chunk::Data(data)) = chunk.kind else { panic!("{chunk:?}") };
            assert_eq!(data.crc32, crc32fast::hash(&data.data));
            assert_eq!(data.offset, found[data.file as usize].len() as u64);
            found[data.file as usize].extend(data.data);
        }
        assert_eq!(found, files(step));
    }
}

pub(super) fn digest(step: u64) -> Vec<u8> {
    u128::from(step).to_be_bytes().to_vec()
}

/// Model and optimizer; more than two chunks long.
fn files(step: u64) -> Vec<Vec<u8>> {
    let bytes = |len: u64, salt: u64| (0..len).map(|i| (i * salt + step) as u8).collect();
    vec![bytes(1_500_000, 3), bytes(1000, 5)]
}

fn described(files: &[Vec<u8>]) -> Vec<v1::CheckpointFile> {
    let names = [MODEL_FILE, OPTIMIZER_FILE];
    let file = |(bytes, name): (&Vec<u8>, &str)| v1::CheckpointFile {
        name: name.to_owned(),
        len: bytes.len() as u64,
        sha256: Sha256::digest(bytes).to_vec(),
    };
    files.iter().zip(names).map(file).collect()
}
