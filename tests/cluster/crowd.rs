//! Far more workers than a job needs come at once.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster_tests::{ControlPlane, JobFile, Train, verified};
use proto::wire::v1::report::Kind;
use proto::wire::v1::workers_client::WorkersClient;
use proto::wire::{Credentials, Token, v1};
use rustix::process::{Resource, getrlimit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::bits::model_sha256;
use crate::operators::follow;

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_that_join_at_once_are_admitted_and_a_run_does_not_notice() {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < FILES {
        let line = format!("skipped: {FILES} open files are needed, {files} are allowed\n");
        std::io::stderr().write_all(line.as_bytes()).ok();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 60").write(folder.path());
    let undisturbed = Train::new(&job, &folder.path().join("whole")).spawn().finish(LIMIT);
    let mut plane = ControlPlane::start(&folder.path().join("state"));
    let _crew = [plane.worker("w1"), plane.worker("w2")];
    plane.submit(&job, 2);
    plane.running.wait_for(&["epoch 1 of 60"], LIMIT);

    let began = Instant::now();
    let (address, token) = (plane.address.clone(), token_of(&plane.state));
    let joining: JoinSet<_> =
        (0..CROWD).map(|number| join(address.clone(), token.clone(), number)).collect();
    let answers = joining.join_all().await;
    let line = format!("{CROWD} registrations took {:.2} s\n", began.elapsed().as_secs_f64());
    std::io::stderr().write_all(line.as_bytes()).ok();
    let refused: Vec<&Status> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(plane.says(&["status"]).contains("crowd-1999"));
    // They stay for the rest of the run.
    let followed = follow(&plane, "digits-1");
    assert!(followed.stdout.trim_end().ends_with(&model_sha256(&undisturbed)));
    assert!(verified(&plane.state, "digits-1").contains("0 losses, 0 joins; final weights"));
}

/// Registers over a connection of its own, and keeps its session alive as long as the test runs.
async fn join(address: String, token: Token, number: usize) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut client = WorkersClient::with_interceptor(channel, Credentials::new(&token));
    let (reports, outgoing) = mpsc::channel(4);
    let hello = v1::Hello {
        worker: format!("crowd-{number}"),
        incarnation: (number as u128 + 1).to_be_bytes().to_vec(),
        software_version: "0.1.0".to_owned(),
        exchange_address: "127.0.0.1:9".to_owned(),
        // The job wants none of its kind.
        device_kind: "other".to_owned(),
        threads: 1,
        generation: 0,
    };
    let report = |kind| v1::Report { generation: 0, kind: Some(kind) };
    reports.send(report(Kind::Hello(hello))).await.unwrap();
    let mut plans = client.join(ReceiverStream::new(outgoing)).await?.into_inner();
    let welcome = plans.message().await?;
    assert!(welcome.is_some(), "a session begins with a welcome");
    tokio::spawn(async move {
        let beat = || report(Kind::Heartbeat(v1::Heartbeat::default()));
        while reports.send(beat()).await.is_ok() {
            tokio::time::sleep(BEAT).await;
        }
        drop(plans);
    });
    Ok(())
}

fn token_of(state: &Path) -> Token {
    std::fs::read_to_string(state.join("token")).unwrap().parse().unwrap()
}

const CROWD: usize = 2000;
/// A connection of each, and room for the test's own.
const FILES: u64 = 2500;
const BEAT: Duration = Duration::from_millis(500);
/// Such a run takes some ten seconds; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(240);
