//! Whole runs over a real socket, with workers that only pretend to compute.

use proto::exit::ExitCode;
use proto::manifest::{MODEL_FILE, folder_name};
use tokio::task::JoinHandle;

use super::fake::FakeWorker;
use super::*;
use crate::checkpoints;
use crate::core::{Outcome, Policy};
use crate::driver::Ended;
use crate::service::exit_code_of;

/// Two workers that take part in one generation.
async fn two_workers(rig: &Rig, pause_after: Option<u64>) -> Vec<JoinHandle<()>> {
    let mut training = Vec::new();
    for name in ["w1", "w2"] {
        let mut worker = FakeWorker::join(rig, name).await;
        worker.pause_after = pause_after;
        training.push(tokio::spawn(async move { worker.train().await }));
    }
    training
}

async fn end(rig: &Rig, job: &str, training: Vec<JoinHandle<()>>) -> Ended {
    for worker in training {
        worker.await.unwrap();
    }
    rig.local.handle.wait(job.parse().unwrap()).await.unwrap()
}

/// Steps in `metrics.jsonl`, evaluations left out.
fn metric_steps(rig: &Rig) -> Vec<u64> {
    let path = rig.folder.path().join("jobs/digits-1/metrics.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line.get("loss").is_some())
        .filter_map(|line| line["step"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_job_trains_to_its_end_and_leaves_checkpoint_metrics_and_log() {
    let rig = Rig::start().await;
    let submitted = rig.local.submit(spec(), 2, Policy::default(), false).await.unwrap();
    assert_eq!(submitted.job.as_str(), "digits-1");
    let training = two_workers(&rig, None).await;
    let ended = end(&rig, "digits-1", training).await;
    let Outcome::Finished { model_sha256 } = &ended.outcome else { panic!("{ended:?}") };
    assert_eq!(ended.view.evaluation.unwrap().1.correct, 358);
    assert_eq!(metric_steps(&rig), [1, 2, 3]);

    let mut operators = rig.operators_client().await;
    let request = v1::CheckpointsRequest { job_id: "digits-1".to_owned() };
    let listed = operators.checkpoints(request).await.unwrap().into_inner().checkpoints;
    let newest = listed.last().unwrap();
    assert_eq!((newest.step, newest.best, newest.evaluated_correct), (3, true, 358));
    let whole = checkpoints::verify(Path::new(&newest.folder)).unwrap();
    assert_eq!(whole.manifest.files[MODEL_FILE].sha256, *model_sha256);
    let follow = v1::LogsRequest { job_id: "digits-1".to_owned(), follow: true };
    let mut lines = operators.logs(follow).await.unwrap().into_inner();
    let mut texts = Vec::new();
    while let Some(line) = lines.message().await.unwrap() {
        texts.push(line.text);
    }
    assert_eq!(texts.iter().filter(|text| text.contains("job digits-1 submitted")).count(), 1);
    assert!(
        texts.iter().any(|text| text.contains("test accuracy 99.4 % (358 of 360)")),
        "{texts:?}"
    );
    assert!(texts.last().unwrap().contains(model_sha256), "{texts:?}");
}

#[tokio::test]
async fn a_stopped_job_goes_on_from_its_checkpoint_after_a_restart() {
    let mut rig = Rig::start().await;
    rig.local.submit(spec(), 2, Policy::default(), false).await.unwrap();
    let training = two_workers(&rig, Some(2)).await;
    let mut progress = rig.local.handle.progress();
    progress.wait_for(|now| now.as_ref().is_some_and(|now| now.step == 2)).await.unwrap();
    rig.local.handle.stop("digits-1".parse().unwrap()).await.unwrap().unwrap();
    let ended = end(&rig, "digits-1", training).await;
    assert_eq!((ended.outcome, ended.view.step), (Outcome::Stopped, 2));

    rig = rig.restart().await;
    let submitted = rig.local.submit(spec(), 1, Policy::default(), false).await.unwrap();
    assert_eq!((submitted.job.as_str(), submitted.resumed_from_step), ("digits-1", 2));
    let mut worker = FakeWorker::join(&rig, "w9").await;
    worker.train().await;
    let ended = end(&rig, "digits-1", Vec::new()).await;
    assert!(matches!(ended.outcome, Outcome::Finished { .. }), "{ended:?}");
    assert_eq!(metric_steps(&rig), [1, 2, 3]);

    rig = rig.restart().await;
    let submitted = rig.local.submit(spec(), 1, Policy::default(), false).await.unwrap();
    assert!(submitted.already_finished);
    let fresh = rig.local.submit(spec(), 1, Policy::default(), true).await.unwrap();
    assert_eq!(fresh.job.as_str(), "digits-2");
}

#[tokio::test]
async fn a_worker_whose_connection_breaks_is_named_and_the_other_goes_on() {
    let rig = Rig::start().await;
    rig.local.submit(spec(), 2, Policy::default(), false).await.unwrap();
    let mut survivor = FakeWorker::join(&rig, "w1").await;
    let mut victim = FakeWorker::join(&rig, "w2").await;
    let (generation, _) = survivor.form().await.unwrap();
    victim.form().await.unwrap();
    assert!(matches!(survivor.plan().await, Some((_, v1::plan::Kind::Run(_)))));
    for worker in [&survivor, &victim] {
        worker.apply(generation, 1).await;
    }
    let mut progress = rig.local.handle.progress();
    progress.wait_for(|now| now.as_ref().is_some_and(|now| now.step == 1)).await.unwrap();
    drop(victim);
    let plan = survivor.plan().await;
    let Some((sealed, v1::plan::Kind::Seal(v1::Seal { attempt }))) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(sealed, generation);
    let digest = super::fake::digest(1);
    let held = Some(v1::HeldState { generation, step: 1, digest });
    survivor.say(generation, v1::report::Kind::Sealed(v1::Sealed { attempt, held })).await;
    let (next, form) = survivor.form().await.unwrap();
    assert_eq!((next, form.base_step, form.holders), (attempt, 1, vec![0]));
    assert!(matches!(survivor.plan().await, Some((_, v1::plan::Kind::Run(_)))));
    drop(survivor);
    let ended = end(&rig, "digits-1", Vec::new()).await;
    let Outcome::Failed { reason, .. } = ended.outcome else { panic!("{ended:?}") };
    assert_eq!(reason, "worker w1 lost in step 2 during computation: connection closed");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_neither_sent_nor_resumed_from() {
    let mut rig = Rig::start().await;
    rig.local.submit(spec(), 1, Policy::default(), false).await.unwrap();
    let mut worker = FakeWorker::join(&rig, "w1").await;
    let (generation, form) = worker.form().await.unwrap();
    worker.apply(generation, 1).await;
    worker.upload(generation, &form, 1).await.unwrap();
    worker.apply(generation, 2).await;
    let stop = v1::Leaving { reason: "asked to".to_owned() };
    worker.say(generation, v1::report::Kind::Leaving(stop)).await;
    end(&rig, "digits-1", Vec::new()).await;
    let folder =
        checkpoints::folder_of(rig.local.handle.jobs_folder(), &"digits-1".parse().unwrap());
    let model = folder.join(folder_name(1)).join(MODEL_FILE);
    let mut bytes = std::fs::read(&model).unwrap();
    bytes[77] ^= 4;
    std::fs::write(&model, bytes).unwrap();
    let request = |step| v1::CheckpointRequest { job_id: "digits-1".to_owned(), step };
    let status = worker.client.download_checkpoint(request(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains(MODEL_FILE), "{status:?}");
    let status = worker.client.download_checkpoint(request(99)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    drop(worker);
    rig = rig.restart().await;
    let refused =
        rig.local.submit(spec(), 1, Policy::default(), false).await.unwrap_err().to_string();
    assert!(
        refused.contains("none of them can be used") && refused.contains("--fresh"),
        "{refused}"
    );
    assert!(folder.join("damaged-step-00000001").is_dir());
}

#[tokio::test]
async fn operators_get_their_refusals_with_an_exit_code() {
    let rig = Rig::start().await;
    let mut operators = rig.operators_client().await;
    let submit = |job_toml: String, base_folder: String| v1::SubmitRequest {
        job_toml,
        base_folder,
        workers: 2,
        ..v1::SubmitRequest::default()
    };
    let digits = digits().display().to_string();
    let empty = rig.folder.path().display().to_string();
    let cases = [
        (
            submit(job_toml("digits").replace("batch", "bach"), digits.clone()),
            ExitCode::Usage,
            "bach",
        ),
        (submit(job_toml("digits"), "relative".to_owned()), ExitCode::Usage, "absolute"),
        (submit(job_toml("digits"), empty), ExitCode::Data, "train-images"),
    ];
    for (request, exit, part) in cases {
        let status = operators.submit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(exit_code_of(&status), Some(exit as u8));
        assert!(status.message().contains(part), "{status:?}");
    }
    operators.submit(submit(job_toml("digits"), digits)).await.unwrap();
    let stop = |job: &str| v1::StopRequest { job_id: job.to_owned() };
    assert_eq!(operators.stop(stop("nope-1")).await.unwrap_err().code(), Code::NotFound);
    operators.stop(stop("digits-1")).await.unwrap();
    let status = operators.stop(stop("digits-1")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}
