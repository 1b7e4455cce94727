//! What strangers can send, and what can be wrong on a disk: each reader as a function of bytes. It must not panic, must not
//! take memory by what the bytes claim, must say something about what it refuses, and must read back what it writes.
//!
//! `cargo fuzz` runs these on bytes it finds, `tests/cluster/hostile.rs` on the corpus and simple changes of it. They go
//! through the same doors as the programs do: files where those read files.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coordinator::checkpoints;
use coordinator::core::{
    BaseSearch, Cluster, DatasetFacts, Event, JobSpec, OnLoss, Policy, SessionId, Shortage,
    Submission, Ticket,
};
use coordinator::journal::{Journal, Opened};
use coordinator::service::convert;
use dataset::{Dataset, Draws, Format, ImageFault, Preparation, Preparer};
use prost::Message;
use proto::Job;
use proto::identity::Generation;
use proto::manifest::{Input, MANIFEST_FILE, Manifest};
use proto::weights::WeightsHeader;
use proto::wire::v1;
use tempfile::TempDir;
use worker::collective::frame::{HEADER_LEN, Header, Verdict};
use worker::collective::handshake::Hello;

pub type Target = fn(&[u8]);

/// By the name of their corpus.
pub const TARGETS: [(&str, Target); 12] = [
    ("frame", frame),
    ("handshake", handshake),
    ("report", report),
    ("upload", upload),
    ("journal", journal),
    ("manifest", manifest),
    ("weights", weights),
    ("job", job),
    ("idx", idx),
    ("cifar", cifar),
    ("jpeg", image),
    ("png", image),
];

/// A frame of the exchange: its header, also with the checksum that fits it, and the payload that tells of an end.
pub fn frame(data: &[u8]) {
    let Some((header, payload)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let mut fitting = *header;
    let crc = crc32fast::hash(&header[..HEADER_LEN - 4]);
    fitting[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    for bytes in [header, &fitting] {
        match Header::decode(bytes) {
            Ok((header, _)) if header.kept || header.len as usize == payload.len() => {
                let follows = if header.kept { &[][..] } else { payload };
                let again = Header::decode(&header.encode(follows));
                assert_eq!(again, Ok((header, crc32fast::hash(follows))));
            }
            Ok(_) => {}
            Err(error) => said(&error),
        }
    }
    if let Some(verdict) = Verdict::decode(payload) {
        assert!(!verdict.cause.contains(char::is_control));
        let again = Verdict::decode(&verdict.encode()).expect("what was encoded");
        assert_eq!((again.accuser, again.culprit), (verdict.accuser, verdict.culprit));
        assert!(verdict.cause.starts_with(&again.cause), "it may be cut");
    }
}

/// A dialer's first words.
pub fn handshake(data: &[u8]) {
    let Some(bytes) = data.first_chunk() else { return };
    match Hello::decode(bytes) {
        Ok(hello) => assert_eq!(&hello.encode(), bytes),
        Err(error) => said(&error),
    }
}

/// A worker's stream of reports, each behind its length, into a core that has a job for it.
pub fn report(mut data: &[u8]) {
    let mut core = Cluster::default();
    core.boot();
    let (ticket, session) = (Ticket(1), SessionId(1));
    let spec = spec();
    let policy = Policy { on_loss: OnLoss::Shrink, min_workers: 1, max_workers: u32::MAX };
    let submission =
        Submission { spec, workers: 1, policy, fresh: false, shortage: Shortage::Wait };
    let submission = Box::new(submission);
    core.apply(Duration::ZERO, Event::Submitted { ticket, submission });
    let job = "fuzz-1".parse().expect("a valid id");
    let search = BaseSearch::Nothing { set_aside: Vec::new() };
    core.apply(Duration::ZERO, Event::BaseFound { job, search });
    let mut joined = false;
    for count in 0..REPORTS_MAX {
        let now = Duration::from_millis(100 * count);
        let Ok(report) = v1::Report::decode_length_delimited(&mut data) else { return };
        let event = if joined {
            match convert::report(report) {
                // So that it need not guess the number.
                Ok((Generation(0), report)) => {
                    Event::Reported { session, generation: core.generation(), report }
                }
                Ok((generation, report)) => Event::Reported { session, generation, report },
                Err(status) => return said(&status.message()),
            }
        } else {
            match convert::candidate(session, report) {
                Ok(candidate) => Event::Joined(candidate),
                Err(status) => return said(&status.message()),
            }
        };
        joined = true;
        core.apply(now, event);
        core.apply(now, Event::Tick);
    }
}

/// The header of a checkpoint's part.
pub fn upload(data: &[u8]) {
    let Ok(chunk) = v1::CheckpointChunk::decode(data) else { return };
    let Some(v1::checkpoint_chunk::Kind::Header(header)) = chunk.kind else { return };
    if let Err(status) = convert::files(header.files) {
        said(&status.message());
    }
}

/// A journal, which goes on if it is whole.
pub fn journal(data: &[u8]) {
    let path = scratch(|scratch| scratch.file("journal", data));
    let before = match Journal::read(&path) {
        Ok(records) => records,
        Err(error) => return said(&error),
    };
    let Opened { mut journal, records, .. } = Journal::open(&path).expect("it was read");
    assert_eq!(records, before);
    journal.append(&records).expect("there is room");
    let after = Journal::read(&path).expect("it was appended to");
    assert_eq!(after, [&before[..], &before].concat());
}

/// A checkpoint's manifest.
pub fn manifest(data: &[u8]) {
    let path = scratch(|scratch| scratch.file(MANIFEST_FILE, data));
    match checkpoints::read_manifest(path.parent().expect("it lies in a folder")) {
        Ok(manifest) => {
            let text = serde_json::to_vec(&manifest).expect("a manifest is plain data");
            let again: Manifest = serde_json::from_slice(&text).expect("what was written");
            assert_eq!(again, manifest);
        }
        Err(error) => said(&error),
    }
}

/// A file of weights, and one whose header is all that came.
pub fn weights(data: &[u8]) {
    for len in [data.len() as u64, 1 << 30, u64::MAX] {
        if let Err(error) = WeightsHeader::read(&mut &data[..], len) {
            said(&error);
        }
    }
}

/// A job file.
pub fn job(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Job::parse(text) {
        Ok(job) => {
            let text = job.to_toml();
            let again = Job::parse(&text).expect("what was written");
            assert_eq!((again.to_toml(), again), (text, job));
        }
        Err(error) => said(&error),
    }
}

/// The training split of an IDX dataset: behind the length of the file of images, that file, then the one of labels.
pub fn idx(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk() else { return };
    let (images, labels) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
    let folder = scratch(|scratch| {
        scratch
            .file("t10k-images-idx3-ubyte", &[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9]);
        scratch.file("t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 0]);
        scratch.file("train-images-idx3-ubyte", images);
        scratch.file("train-labels-idx1-ubyte", labels);
        scratch.0.path().to_owned()
    });
    open(Format::Idx, &folder);
}

/// A file of CIFAR-100; behind an odd byte, that of its class names.
pub fn cifar(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let record = [0; 2 + 3 * 1024];
    let (train, names) = if which % 2 == 0 { (data, &[][..]) } else { (&record[..], data) };
    let folder = scratch(|scratch| {
        scratch.file("test.bin", &record);
        scratch.file("train.bin", train);
        let names = scratch.file("fine_label_names.txt", names);
        if which % 2 == 0 {
            std::fs::remove_file(names).expect("it was just written");
        }
        scratch.0.path().to_owned()
    });
    open(Format::Cifar100, &folder);
}

fn open(format: Format, folder: &Path) {
    match Dataset::open(format, folder) {
        Ok(dataset) => {
            for i in 0..dataset.train.len() {
                assert!((dataset.train.label(i) as usize) < dataset.classes.len());
                let pixels = dataset.train.pixels(i).expect("it is in memory");
                assert_eq!(pixels.len(), dataset.shape.len());
            }
        }
        Err(error) => said(&error),
    }
}

/// An image file on its way to a sample.
pub fn image(data: &[u8]) {
    let path = scratch(|scratch| scratch.file("image", data));
    let mut preparer = Preparer::new(Preparation::ResizeCentreCrop { resize: 8, size: 8 });
    let mut sample = [0; 8 * 8 * 3];
    if let Err(error) = preparer.sample(&path, &mut Draws::new(1, 1), &mut sample) {
        assert!(error.fault.is_in_content(), "{error}");
        assert!(!matches!(error.fault, ImageFault::Panicked { .. }), "{error}");
        said(&error);
    }
}

/// An error has words, and not too many of them for a log.
fn said(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty());
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}

fn spec() -> JobSpec {
    let toml = "name = \"fuzz\"\n[data]\nformat = \"idx\"\npath = \"/data\"\n[model]\narch = \"resnet18\"\n\
        [train]\nepochs = 5\nbatch = 16\n[optimizer]\nlearning_rate = 0.1\n";
    let job = Job::parse(toml).expect("the job is right");
    let input = Input { channels: 1, height: 8, width: 8, mean: vec![0.3], std: vec![0.4] };
    let dataset = DatasetFacts {
        fingerprint: "ab".repeat(32),
        train_len: 64,
        test_len: 40,
        classes: vec!["zero".to_owned(), "one".to_owned()],
        input,
    };
    JobSpec { toml: job.to_toml(), job, dataset, weights: None }
}

/// A folder of this thread, in memory where there is one.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Scratch {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Scratch(tempfile::tempdir_in(place).expect("a folder for this test"))
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("a file for this test");
        path
    }
}

fn scratch<T>(act: impl FnOnce(&Scratch) -> T) -> T {
    thread_local! {
        static SCRATCH: OnceCell<Scratch> = const { OnceCell::new() };
    }
    SCRATCH.with(|scratch| act(scratch.get_or_init(Scratch::new)))
}

/// A stream goes on for as long as it likes, a test does not.
const REPORTS_MAX: u64 = 1000;
