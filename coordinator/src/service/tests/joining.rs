//! Who gets in, and who does not.

use proto::wire::v1::report::Kind as Report;
use proto::wire::{MESSAGE_BYTES_MAX, QUARANTINED_MAX, is_version_refusal};

use super::fake::{FakeWorker, hello, open, report};
use super::*;

/// The status with which a stream that opens like this is refused.
async fn refused(rig: &Rig, credentials: Credentials, first: v1::Report) -> Status {
    let mut client = rig.workers_client(credentials).await;
    match open(&mut client, first).await {
        Err(status) => status,
        Ok((_, mut plans)) => plans.message().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_worker_that_says_hello_is_welcomed_and_listed() {
    let rig = Rig::start().await;
    let _worker = FakeWorker::join(&rig, "gpu-07").await;
    let status = rig.status().await;
    assert_eq!(status.workers.len(), 1);
    assert_eq!(status.workers[0].worker, "gpu-07");
    assert_eq!(status.workers[0].doing, "idle");
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let rig = Rig::start().await;
    let wrong = Credentials::new(&Token::from_random([1; 16]));
    let status = refused(&rig, wrong, report(0, Report::Hello(hello("w1")))).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(rig.status().await.workers.is_empty());
}

#[tokio::test]
async fn another_protocol_version_is_refused_with_both_versions() {
    let rig = Rig::start().await;
    let other = Credentials::speaking(&rig.token, 99);
    let status = refused(&rig, other, report(0, Report::Hello(hello("w1")))).await;
    assert!(is_version_refusal(&status), "{status:?}");
    assert!(status.message().contains("99"), "{status:?}");
}

#[tokio::test]
async fn a_second_worker_of_a_name_is_refused_with_the_holders_address() {
    let rig = Rig::start().await;
    let _first = FakeWorker::join(&rig, "w1").await;
    let mut second = hello("w1");
    second.exchange_address = "127.0.0.1:10".to_owned();
    let credentials = Credentials::new(&rig.token);
    let status = refused(&rig, credentials, report(0, Report::Hello(second))).await;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("127.0.0.1:9"), "{status:?}");
}

#[tokio::test]
async fn a_stream_that_does_not_open_properly_is_refused() {
    let rig = Rig::start().await;
    let change = |change: fn(&mut v1::Hello)| {
        let mut hello = hello("w1");
        change(&mut hello);
        report(0, Report::Hello(hello))
    };
    for first in [
        report(0, Report::Heartbeat(v1::Heartbeat::default())),
        v1::Report::default(),
        change(|hello| hello.worker = "../etc".to_owned()),
        change(|hello| hello.incarnation = vec![1; 15]),
        change(|hello| hello.exchange_address = "nowhere".to_owned()),
        change(|hello| hello.exchange_address = "a:0".to_owned()),
        change(|hello| hello.device_kind = "line\nbreak".to_owned()),
        change(|hello| hello.software_version = String::new()),
    ] {
        let status = refused(&rig, Credentials::new(&rig.token), first).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test]
async fn a_report_that_says_nothing_ends_the_stream() {
    let rig = Rig::start().await;
    let mut worker = FakeWorker::join(&rig, "w1").await;
    worker.reports.send(v1::Report::default()).await.unwrap();
    let status = worker.plans.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_report_of_too_many_bad_images_or_of_an_unknown_split_ends_the_stream() {
    let rig = Rig::start().await;
    let bad = |images: usize, split: i32| {
        let image = v1::BadImage { split, ..v1::BadImage::default() };
        Report::Quarantined(v1::Quarantined { images: vec![image; images] })
    };
    for (name, kind) in [("w1", bad(QUARANTINED_MAX + 1, 0)), ("w2", bad(1, 7))] {
        let mut worker = FakeWorker::join(&rig, name).await;
        worker.say(0, kind).await;
        let status = worker.plans.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused() {
    let rig = Rig::start().await;
    let mut big = hello("w1");
    big.software_version = "x".repeat(MESSAGE_BYTES_MAX + 1);
    let credentials = Credentials::new(&rig.token);
    let status = refused(&rig, credentials, report(0, Report::Hello(big))).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(rig.status().await.workers.is_empty());
}

#[tokio::test]
async fn a_name_is_free_again_when_its_stream_has_ended() {
    let rig = Rig::start().await;
    let mut worker = FakeWorker::join(&rig, "w1").await;
    let leaving = v1::Leaving { reason: "asked to".to_owned() };
    worker.say(0, Report::Leaving(leaving)).await;
    let plan = worker.plan().await;
    assert!(matches!(plan, Some((0, v1::plan::Kind::Goodbye(_)))), "{plan:?}");
    drop(worker.reports);
    // The coordinator closes its half once it has read ours.
    assert_eq!(worker.plans.message().await.unwrap(), None);
    FakeWorker::join(&rig, "w1").await;
}

#[tokio::test]
async fn only_loopback_is_listened_on_unless_a_person_insists() {
    let any = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = super::super::listen(any, false).await.unwrap_err().to_string();
    assert!(refused.contains("--insecure"), "{refused}");
    super::super::listen(any, true).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let rig = Rig::start().await;
    let refused = super::super::listen(rig.local.address, false).await.unwrap_err().to_string();
    assert!(refused.contains("the port is taken") && refused.contains("--listen"), "{refused}");
}
