//! The training thread as its session sees it: commands in, reports and snapshots out. A world of one.

use std::num::NonZeroUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use dataset::{Dataset, Format};
use proto::wire::v1::report::Kind;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;

const JOB: &str = "
name = 'digits'
[data]
format = 'idx'
path = '.'
[model]
block = 'basic'
blocks = [1]
widths = [4]
stem = 'cifar'
[train]
epochs = 1
batch = 128
slices = 2
[optimizer]
learning_rate = 0.1
";

/// A training thread and its session's ends of the channels.
struct Harness {
    commands: SyncSender<Command>,
    thread: JoinHandle<Option<DeviceError>>,
    reports: Receiver<v1::Report>,
    uploads: Receiver<Upload>,
    formation: Option<Formation>,
}

impl Harness {
    fn new(job: &str) -> Harness {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits");
        let dataset = Dataset::open(Format::Idx, folder.as_ref()).unwrap();
        let incarnation = Incarnation([3; 16]);
        let machine = Machine {
            device: kernels::Device::cpu(NonZeroUsize::MIN).unwrap(),
            decode_threads: NonZeroUsize::MIN,
            incarnation,
            listener: Listener::bind("127.0.0.1:0").unwrap(),
            data: None,
            progress: Arc::default(),
        };
        let (commands, receiver) = sync_channel(8);
        let thread = std::thread::spawn(move || run(&machine, &receiver));
        let (reports_in, reports) = channel(64);
        let (uploads_in, uploads) = Uploads::new(Stall::default());
        let member = v1::Member {
            worker: "w1".to_owned(),
            incarnation: incarnation.0.to_vec(),
            exchange_address: "127.0.0.1:1".to_owned(),
            first_slice: 0,
            slice_count: 2,
        };
        let form = v1::Form {
            job_id: "digits-1".to_owned(),
            job_toml: job.to_owned(),
            data_path: folder.to_owned(),
            dataset_fingerprint: dataset.fingerprint.as_bytes().to_vec(),
            rank: 0,
            members: vec![member],
            exchange_key: vec![0; 32],
            ..v1::Form::default()
        };
        let formation = Formation {
            generation: Generation(1),
            form,
            abort: Abort::new(),
            base: Base::Seed,
            reports: reports_in,
            uploads: uploads_in,
        };
        Harness { commands, thread, reports, uploads, formation: Some(formation) }
    }

    fn form(&mut self, change: impl FnOnce(&mut Formation)) {
        let mut formation = self.formation.take().unwrap();
        change(&mut formation);
        self.commands.send(Command::Form(Box::new(formation))).unwrap();
    }

    fn send(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    /// The next report; `None` when the generation has let go of its session.
    fn next(&mut self) -> Option<Kind> {
        self.reports.blocking_recv().map(|report| {
            assert_eq!(report.generation, 1);
            report.kind.unwrap()
        })
    }

    fn trouble(&mut self) -> v1::Trouble {
        match self.next() {
            Some(Kind::Trouble(trouble)) => trouble,
            other => panic!("{other:?}"),
        }
    }

    fn end(self) {
        drop(self.commands);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_generation_reports_every_step_then_its_evaluation_then_hands_over_its_state() {
    let mut harness = Harness::new(JOB);
    harness.form(|_| {});
    assert!(matches!(harness.next(), Some(Kind::Ready(v1::Ready { step: 0, .. }))));
    harness.send(Command::Run(Generation(1)));
    for step in 1..=12 {
        let Some(Kind::StepDone(done)) = harness.next() else { panic!("no step {step}") };
        assert_eq!((done.step, done.digest.len()), (step, 16));
        assert!(done.loss.is_finite() && done.gradient_norm > 0.0);
    }
    let Some(Kind::Evaluated(evaluated)) = harness.next() else { panic!("no evaluation") };
    assert_eq!((evaluated.step, evaluated.samples), (12, 360));
    let Some(Upload::Checkpoint { snapshot, .. }) = harness.uploads.blocking_recv() else {
        panic!()
    };
    assert_eq!(snapshot.step, 12);
    let finished = harness.uploads.blocking_recv();
    assert!(matches!(finished, Some(Upload::Finished { step: 12 })));
    assert!(harness.next().is_none());
    harness.end();
}

#[test]
fn a_stop_ends_after_a_whole_step_with_its_state_handed_over() {
    let mut harness = Harness::new(&JOB.replace("epochs = 1", "epochs = 1000"));
    harness.form(|_| {});
    harness.next();
    harness.send(Command::Stop(Generation(1)));
    harness.send(Command::Run(Generation(1)));
    assert!(matches!(harness.next(), Some(Kind::StepDone(v1::StepDone { step: 1, .. }))));
    let upload = harness.uploads.blocking_recv();
    assert!(matches!(upload, Some(Upload::Checkpoint { snapshot, .. }) if snapshot.step == 1));
    assert!(matches!(harness.uploads.blocking_recv(), Some(Upload::Finished { step: 1 })));
    assert!(harness.next().is_none());
    harness.end();
}

#[test]
fn a_pause_lasts_until_a_seal_and_no_step_is_begun_in_it() {
    let mut harness = Harness::new(&JOB.replace("epochs = 1", "epochs = 1000"));
    let reports = harness.formation.as_ref().unwrap().reports.clone();
    harness.form(|_| {});
    harness.next();
    harness.send(Command::Run(Generation(1)));
    harness.send(Command::Pause(Generation(1)));
    let paused = loop {
        match harness.next() {
            Some(Kind::StepDone(done)) if done.paused => break done,
            Some(Kind::StepDone(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    let generation = Generation(1);
    harness.send(Command::Seal { generation, attempt: 2, reports });
    let Some(Kind::Sealed(v1::Sealed { held, .. })) = harness.next() else { panic!("no answer") };
    let held = held.unwrap();
    assert_eq!((held.step, held.digest), (paused.step, paused.digest));
    harness.end();
}

#[test]
fn a_pause_that_nothing_follows_ends_by_itself() {
    let mut harness = Harness::new(&JOB.replace("epochs = 1", "epochs = 1000"));
    harness.form(|_| {});
    harness.next();
    harness.send(Command::Pause(Generation(1)));
    harness.send(Command::Run(Generation(1)));
    for (step, pauses) in [(1, true), (2, false)] {
        let Some(Kind::StepDone(done)) = harness.next() else { panic!("no step {step}") };
        assert_eq!((done.step, done.paused), (step, pauses));
    }
    harness.send(Command::Abandon(Generation(1)));
    harness.end();
}

#[test]
fn a_formation_that_was_abandoned_while_it_waited_is_dropped_without_a_word() {
    let mut harness = Harness::new(JOB);
    harness.send(Command::Abandon(Generation(1)));
    harness.form(|formation| formation.abort.abort("a newer one was formed"));
    assert!(harness.next().is_none());
    harness.end();
}

#[test]
fn an_older_formation_does_not_end_a_newer_generation() {
    let (mut newer, mut older) = (Harness::new(JOB), Harness::new(JOB));
    newer.form(|_| {});
    newer.next();
    let mut late = older.formation.take().unwrap();
    late.generation = Generation(0);
    newer.send(Command::Form(Box::new(late)));
    newer.send(Command::Run(Generation(1)));
    assert!(matches!(newer.next(), Some(Kind::StepDone(_))));
    newer.end();
    older.end();
}

#[test]
fn an_abandoned_generation_says_nothing_more() {
    let mut harness = Harness::new(JOB);
    harness.form(|_| {});
    harness.next();
    harness.send(Command::Abandon(Generation(1)));
    assert!(harness.next().is_none());
    harness.end();
}

#[test]
fn plans_that_can_not_be_followed_are_answered_with_the_reason() {
    type Change = fn(&mut v1::Form);
    let cases: [(Change, TroubleKind, &str); 7] = [
        (|form| form.members[0].slice_count = 1, TroubleKind::TroubleInternal, "slices"),
        (
            |form| form.members[0].incarnation[0] = 0,
            TroubleKind::TroubleInternal,
            "another process",
        ),
        (|form| form.rank = 1, TroubleKind::TroubleInternal, "no member at this worker's rank"),
        (|form| form.base_step = 12, TroubleKind::TroubleInternal, "base step"),
        (|form| form.job_toml.push_str("x = 1"), TroubleKind::TroubleInternal, "unknown key `x`"),
        (
            |form| form.dataset_fingerprint[0] ^= 1,
            TroubleKind::TroubleDatasetDiffers,
            "copy the dataset again",
        ),
        (
            |form| form.data_path.push_str("-elsewhere"),
            TroubleKind::TroubleDatasetUnreadable,
            "--data DIR",
        ),
    ];
    for (change, kind, words) in cases {
        let mut harness = Harness::new(JOB);
        harness.form(|formation| change(&mut formation.form));
        let trouble = harness.trouble();
        assert_eq!(trouble.kind(), kind, "{trouble:?}");
        assert!(trouble.message.contains(words), "{trouble:?}");
        assert_eq!((trouble.step, trouble.phase()), (0, Phase::Prepare));
        harness.end();
    }
}

#[test]
fn a_step_whose_gradient_is_not_finite_changes_nothing_and_names_the_tensor() {
    let mut harness = Harness::new(&JOB.replace("learning_rate = 0.1", "learning_rate = 1e37"));
    harness.form(|_| {});
    harness.next();
    harness.send(Command::Run(Generation(1)));
    let mut before = Vec::new();
    let skipped = loop {
        let Some(Kind::StepDone(done)) = harness.next() else { panic!("no step was skipped") };
        let Some(skipped) = done.skipped else {
            before = done.digest;
            continue;
        };
        assert_eq!(done.digest, before, "the state is that of the step before");
        break skipped;
    };
    assert!(skipped.own.starts_with("the gradient of "), "{skipped:?}");
    assert!(skipped.sum.starts_with("the gradient of "), "{skipped:?}");
    // The next one begins from the same state, and so comes to the same end.
    let Some(Kind::StepDone(next)) = harness.next() else { panic!("it ended") };
    assert_eq!((next.digest, next.skipped.is_some()), (before, true));
    harness.end();
}
