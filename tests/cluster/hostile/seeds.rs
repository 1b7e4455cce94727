//! Good inputs of each fuzz target, made by the code that makes them in earnest where there is some.

use coordinator::core::Record;
use coordinator::journal::Journal;
use prost::Message;
use proto::manifest::{Evaluation, FORMAT, FileEntry, Input, MODEL_FILE, Manifest};
use proto::wire::v1;
use proto::wire::v1::report::Kind as Report;
use worker::collective::NodeId;
use worker::collective::frame::{Header, Kind, Verdict};
use worker::collective::handshake::HELLO_LEN;

type Seed = (&'static str, Vec<u8>);

pub(crate) fn of(target: &str) -> Vec<Seed> {
    match target {
        "frame" => frames(),
        "handshake" => vec![("hello", hello())],
        "report" => reports(),
        "upload" => vec![("header", upload())],
        "journal" => journals(),
        "manifest" => vec![("whole", manifest())],
        "weights" => vec![("two-tensors", weights())],
        "job" => jobs(),
        "idx" => vec![("two-images", idx())],
        "cifar" => vec![("one-image", vec![0; 3075]), ("names", names())],
        // Files of other programs, see `dataset/tests/fixtures`.
        _ => Vec::new(),
    }
}

fn frames() -> Vec<Seed> {
    let payload = [1, 2, 3, 4, 5, 6, 7, 8];
    let node = NodeId { level: 1, index: 2 };
    let (kind, generation, step, bucket, offset, len) = (Kind::Partial, 3, 4, 5, 6, 8);
    let partial = Header { kind, generation, step, bucket, node, offset, len, kept: false };
    let kept = Header { kept: true, ..partial };
    let cause = "silent for 2 s".to_owned();
    let verdict = Verdict { accuser: 0, culprit: 1, cause }.encode();
    let poison = Header::control(Kind::Poison, 3, verdict.len() as u32);
    vec![
        ("partial", [&partial.encode(&payload)[..], &payload].concat()),
        ("kept", kept.encode(&[]).to_vec()),
        ("poison", [&poison.encode(&verdict)[..], &verdict].concat()),
        ("bye", Header::control(Kind::Bye, 3, 0).encode(&[]).to_vec()),
    ]
}

fn hello() -> Vec<u8> {
    let mut bytes = b"rxchange".to_vec();
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.resize(HELLO_LEN, 9);
    bytes
}

fn stream(kinds: Vec<Report>) -> Vec<u8> {
    let hello = v1::Hello {
        worker: "w1".to_owned(),
        incarnation: vec![1; 16],
        software_version: "0.1.0".to_owned(),
        exchange_address: "10.0.0.1:9".to_owned(),
        device_kind: "cpu".to_owned(),
        threads: 2,
        generation: 0,
    };
    let all = std::iter::once(Report::Hello(hello)).chain(kinds);
    let report = |kind| v1::Report { generation: 0, kind: Some(kind) };
    all.flat_map(|kind| report(kind).encode_length_delimited_to_vec()).collect()
}

fn done(step: u64) -> Report {
    let times = Some(v1::PhaseTimes { data_ns: 5, forward_ns: 6, ..v1::PhaseTimes::default() });
    let digest = vec![step as u8; 16];
    let (loss, correct, gradient_norm) = (0.5, 3, 1.5);
    let (sum, own) = ("the gradient of fc.weight".to_owned(), String::new());
    let skipped = step.is_multiple_of(2).then_some(v1::NotFinite { sum, own });
    let paused = step == 3;
    let done = v1::StepDone { step, digest, loss, correct, times, gradient_norm, skipped, paused };
    Report::StepDone(done)
}

fn reports() -> Vec<Seed> {
    let ready = Report::Ready(v1::Ready { step: 0, digest: vec![0; 16] });
    let trained: Vec<Report> = std::iter::once(ready.clone()).chain((1..=4).map(done)).collect();
    let evaluated =
        v1::Evaluated { step: 4, samples: 40, correct: 30, correct_top5: 40, loss_fixed: 1 << 20 };
    let trouble = v1::Trouble {
        kind: v1::TroubleKind::TroublePeer as i32,
        step: 1,
        phase: v1::Phase::Exchange as i32,
        culprit: "w2".to_owned(),
        message: "connection reset".to_owned(),
    };
    let image = v1::BadImage {
        split: v1::Split::Train as i32,
        index: 7,
        path: "/data/train/a/7.jpg".to_owned(),
        cause: "ends early".to_owned(),
    };
    let held = Some(v1::HeldState { generation: 1, step: 2, digest: vec![2; 16] });
    vec![
        ("training", stream([trained.clone(), vec![Report::Evaluated(evaluated)]].concat())),
        ("trouble", stream(vec![ready.clone(), done(1), Report::Trouble(trouble)])),
        (
            "bad-images",
            stream(vec![ready, Report::Quarantined(v1::Quarantined { images: vec![image] })]),
        ),
        ("sealed", stream(vec![done(2), Report::Sealed(v1::Sealed { attempt: 2, held })])),
        (
            "finished",
            stream(vec![
                Report::Heartbeat(v1::Heartbeat { step: 3, phase: v1::Phase::Compute as i32 }),
                Report::Warmed(v1::Warmed { job_id: "fuzz-1".to_owned() }),
                Report::Finished(v1::Finished { step: 20, model_sha256: vec![4; 32] }),
                Report::Leaving(v1::Leaving { reason: "asked to".to_owned() }),
            ]),
        ),
    ]
}

fn upload() -> Vec<u8> {
    let file =
        |name: &str, len| v1::CheckpointFile { name: name.to_owned(), len, sha256: vec![7; 32] };
    let files = vec![file("model.safetensors", 1000), file("optimizer.safetensors", 301)];
    let header = v1::CheckpointHeader {
        job_id: "fuzz-1".to_owned(),
        generation: 1,
        step: 4,
        rank: 0,
        files,
    };
    let kind = Some(v1::checkpoint_chunk::Kind::Header(header));
    v1::CheckpointChunk { kind }.encode_to_vec()
}

/// One that a crash has torn, too. Without most of the reserve.
fn journals() -> Vec<Seed> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    for step in 1..=3 {
        let (job, digest, chain) = ("digits-1".to_owned(), "ab".repeat(16), "cd".repeat(16));
        let skipped = None;
        let committed = Record::Committed { job, generation: 1, step, digest, chain, skipped };
        journal.append(&[Record::Booted { boot: step, generation: step }, committed]).unwrap();
    }
    let mut whole = std::fs::read(&path).unwrap();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    whole.truncate(end + 16);
    vec![("torn", whole[..end - 9].to_vec()), ("three-frames", whole)]
}

fn manifest() -> Vec<u8> {
    let file = FileEntry { len: 1000, sha256: "cd".repeat(32) };
    let manifest = Manifest {
        format: FORMAT,
        job_id: "digits-1".to_owned(),
        step: 8,
        total_steps: 20,
        epoch: 2,
        state_digest: "ab".repeat(16),
        job: "name = \"digits\"".to_owned(),
        dataset_fingerprint: "ef".repeat(32),
        init_sha256: None,
        classes: vec!["zero".to_owned(), "one".to_owned()],
        input: Input { channels: 1, height: 8, width: 8, mean: vec![0.3], std: vec![0.4] },
        evaluation: Some(Evaluation { samples: 40, correct: 30, correct_top5: 40, loss: 0.1 }),
        software_version: "0.1.0".to_owned(),
        device_kind: "cpu".to_owned(),
        files: [(MODEL_FILE.to_owned(), file)].into(),
    };
    serde_json::to_vec_pretty(&manifest).unwrap()
}

fn weights() -> Vec<u8> {
    let header = br#"{"fc.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"fc.bias":{"dtype":"F16","shape":[2],"data_offsets":[24,28]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &[0; 28]].concat()
}

fn jobs() -> Vec<Seed> {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let read = |name: &str| std::fs::read(examples.join(name)).unwrap();
    vec![
        ("digits", read("digits/job.toml")),
        ("imagenet", read("imagenet/resnet50-90.toml")),
        ("configurable", read("models/configurable.toml")),
    ]
}

fn idx() -> Vec<u8> {
    let images = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 3, 4];
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 0, 1];
    [&[0, images.len() as u8][..], &images, &labels].concat()
}

fn names() -> Vec<u8> {
    let names: String = (0..100).map(|class| format!("class{class}\n")).collect();
    [&[1], names.as_bytes()].concat()
}
