//! What a step asks of the allocator: nothing, on the training thread, once every op has run on its shape and every queue has
//! been waited at, which asks for memory the first time and may come late.
//!
//! Counted are whole steps, from the loader's next slice to the digest, with one compute thread, so that all ops run on the
//! training thread. Not counted:
//! * more compute threads, whose pool takes a block for its queue every few dozen ops;
//! * the loader's thread, which makes a list of labels for each slice that mixes; the memory of the batches themselves goes
//!   round;
//! * the exchange's threads: readers ask for nothing once the pool of `collective/buffer.rs` is filled, engine and writers
//!   ask for no values, but a queue that somebody waits at may grow;
//! * what follows a step: its report to the session is a message, and owns what it says.

#[path = "../../../kernels/tests/cpu/counting.rs"]
mod counting;

use std::num::NonZeroUsize;
use std::thread;

use dataset::Dataset;
use proto::Generation;

use self::counting::allocations;
use super::*;
use crate::collective::{Group, Listener, Peer, Reserve, Solo, TcpExchange, Transport};
use crate::conduct::Mark;
use crate::data::{Share, format};
use crate::memory::Setting;
use crate::model::Geometry;

const PLAIN: &str = "
name = 'digits'
seed = 3
data = { format = 'idx', path = '.', augment = { pad = 1 } }
train = { epochs = 4, batch = 32, slices = 4 }
model = { block = 'basic', blocks = [1, 1], widths = [8, 16], stem = 'cifar' }
optimizer = { learning_rate = 0.01, momentum = 0.9, weight_decay = 0.001 }
exchange = { bucket_mib = 1 }
";

const RICH: &str = "
name = 'digits'
seed = 3
data = { format = 'idx', path = '.', augment = { flip = true, erase = 0.5, mixup = 0.4, cutmix = 1.0 } }
train = { epochs = 4, batch = 32, slices = 4, label_smoothing = 0.1 }
model = { block = 'bottleneck', blocks = [1, 1], widths = [4, 8] }
optimizer = { learning_rate = 0.01, rule = 'lars', clip_norm = 1.0 }
ema = { decay = 0.99 }
";

const JOBS: [&str; 2] = [PLAIN, RICH];

#[test]
fn a_step_of_a_worker_on_its_own_allocates_nothing_on_the_training_thread() {
    for text in JOBS {
        let job = Job::parse(text).unwrap();
        let slices = job.train.slices as u32;
        let counts = counts(text, 0..slices, |lens| Box::new(Solo::new(slices, &lens)));
        assert_quiet(&counts, text);
    }
}

#[test]
fn a_step_of_one_of_two_workers_allocates_nothing_on_the_training_thread() {
    for transport in [Transport::Fastest, Transport::Tcp] {
        for text in JOBS {
            for counts in counts_of_two(text, transport) {
                assert_quiet(&counts, text);
            }
        }
    }
}

#[test]
fn what_is_allocated_is_counted() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

fn assert_quiet(counts: &[usize], job: &str) {
    let quiet = counts.windows(QUIET).any(|counts| counts.iter().all(|count| *count == 0));
    assert!(quiet, "allocations in each step: {counts:?} of {job}");
}

/// Of two workers in this process, one of which has an unaligned run of slices.
fn counts_of_two(text: &str, transport: Transport) -> [Vec<usize>; 2] {
    let listeners = [(); 2].map(|()| Listener::bind("127.0.0.1:0").unwrap());
    let runs = [0..3, 3..4];
    let peer = |rank: usize| Peer {
        name: format!("worker-{rank}"),
        address: listeners[rank].local_address().to_string(),
        first_slice: runs[rank].start,
        slice_count: runs[rank].len() as u32,
    };
    let peers = vec![peer(0), peer(1)];
    let connect = |rank: usize, bucket_lens| {
        let group = Group {
            job: "digits-1".to_owned(),
            generation: 1,
            rank,
            peers: peers.clone(),
            first_step: 1,
            slices: 4,
            key: [5; 32],
            bucket_lens,
            timeout: Duration::from_secs(60),
            transport,
        };
        TcpExchange::connect((&listeners[rank], &mut Reserve::default()), group, Abort::new(), None)
            .unwrap()
    };
    thread::scope(|scope| {
        let connect = &connect;
        let train = |rank: usize| {
            let run = runs[rank].clone();
            scope.spawn(move || counts(text, run, |lens| Box::new(connect(rank, lens))))
        };
        [train(0), train(1)].map(|thread| thread.join().unwrap())
    })
}

/// Allocations in each step.
fn counts(
    text: &str,
    slices: Range<u32>,
    connect: impl FnOnce(Vec<usize>) -> Box<dyn Collective>,
) -> Vec<usize> {
    let (mut run, job) = start(text, slices, connect);
    let mut count = |step: u64| {
        let plan = StepPlan { step, learning_rate: 0.01, votes: Votes::default() };
        let mut digest = None;
        let count = allocations(|| digest = Some(run_step(&mut run, &job, plan).unwrap().digest));
        let (generation, digest) = (GENERATION, digest.unwrap());
        run.held.mark = Some(Mark { generation, step, digest });
        count
    };
    let counts = (1..=STEPS).map(&mut count).collect();
    run.collective.shutdown().unwrap();
    counts
}

fn start(
    text: &str,
    slices: Range<u32>,
    connect: impl FnOnce(Vec<usize>) -> Box<dyn Collective>,
) -> (Run, Job) {
    let job = Job::parse(text).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits");
    let dataset = Arc::new(Dataset::open(format(&job), folder.as_ref()).unwrap());
    let device = Device::cpu(NonZeroUsize::MIN).unwrap();
    let geometry = Geometry {
        slices: 1,
        batch: job.train.slice_len(),
        height: dataset.shape.height,
        width: dataset.shape.width,
        channels: dataset.shape.channels,
        classes: dataset.classes.len(),
    };
    let setting = Setting {
        family: kernels::Family::Cpu,
        job: &job,
        geometry,
        slices: slices.clone(),
        workers: 1,
        decode_threads: 0,
        dataset_bytes: 0,
    };
    let mut held = Held::new(&device, (&"digits-1".parse().unwrap(), text), &setting);
    let Held { model, ema, .. } = &mut held;
    model.initialise(job.seed);
    model.pack();
    if let Some(ema) = ema {
        ema.start(model.params(), model.running());
    }
    held.set_mark(GENERATION, 0).unwrap();
    let buckets = held.model.layout().buckets(BUCKET_LEN_MAX);
    let mut collective = connect(buckets.iter().map(Range::len).collect());
    let gradients = Gradients::new(&device, collective.as_mut(), slices.clone(), 1, buckets);
    let source = Source::new(dataset, &job);
    let share = Share {
        first_step: 1,
        batch: job.train.batch as u64,
        slice_len: job.train.slice_len() as u64,
        slices: u64::from(slices.start)..u64::from(slices.end),
    };
    let run = Run {
        loader: Loader::start(source.clone(), share).unwrap(),
        device,
        held,
        source,
        quarantine: Quarantine::default(),
        collective,
        gradients,
        abort: Abort::new(),
        progress: Arc::default(),
    };
    (run, job)
}

const GENERATION: Generation = Generation(1);
/// So many that two queues which are waited at late leave a quiet stretch.
const STEPS: u64 = 70;
const QUIET: usize = 20;
/// Several buckets of a model of some thousand parameters.
const BUCKET_LEN_MAX: usize = 2000;
