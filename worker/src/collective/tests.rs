//! What the tests of the exchange share: generations of several ranks in one process, over real loopback sockets, and
//! the sum they must give, computed the plain way.

mod tree;
mod exchange;
mod memory;
mod forming;
mod faults;

use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kernels::Span;

use super::layout::Layout;
use super::mesh::{self, Limits};
use super::*;

/// Far beyond what a loaded machine needs; only the tests about silence use less.
const LONG: Duration = Duration::from_secs(60);

/// The members of one generation, before they connect.
struct Cluster {
    listeners: Vec<Listener>,
    groups: Vec<Group>,
    aborts: Vec<Abort>,
}

impl Cluster {
    /// `counts`: slices of each rank.
    fn new(counts: &[u32], bucket_lens: &[usize]) -> Cluster {
        let listeners: Vec<Listener> =
            counts.iter().map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
        let mut first_slice = 0;
        let mut peers = Vec::new();
        for (rank, (listener, &slice_count)) in listeners.iter().zip(counts).enumerate() {
            let address = listener.local_address().to_string();
            peers.push(Peer { name: format!("gpu-{rank}"), address, first_slice, slice_count });
            first_slice += slice_count;
        }
        let group = |rank| Group {
            job: "digits-1".to_owned(),
            generation: 3,
            rank,
            peers: peers.clone(),
            first_step: 1,
            slices: first_slice,
            key: [9; 32],
            bucket_lens: bucket_lens.to_vec(),
            timeout: LONG,
            transport: Transport::Fastest,
        };
        let groups = (0..counts.len()).map(group).collect();
        Cluster { listeners, groups, aborts: counts.iter().map(|_| Abort::new()).collect() }
    }

    fn with_first_step(mut self, step: u64) -> Cluster {
        self.groups.iter_mut().for_each(|group| group.first_step = step);
        self
    }

    fn by(mut self, transport: Transport) -> Cluster {
        self.groups.iter_mut().for_each(|group| group.transport = transport);
        self
    }

    /// Has a rank listen at another address of this machine: to those who connect to it, it is on another machine.
    fn listening_afar(mut self, rank: usize) -> Cluster {
        self.listeners[rank] = Listener::bind("127.0.0.2:0").unwrap();
        let address = self.listeners[rank].local_address().to_string();
        self.groups.iter_mut().for_each(|group| group.peers[rank].address.clone_from(&address));
        self
    }

    fn with_timeout(mut self, timeout: Duration) -> Cluster {
        self.groups.iter_mut().for_each(|group| group.timeout = timeout);
        self
    }

    /// Connects all ranks; those in `ghosts` get bare sockets instead of an exchange.
    fn connect(&self, ghosts: &[usize]) -> Vec<Member> {
        thread::scope(|scope| {
            let connect = |rank: usize| {
                let (listener, group) = (&self.listeners[rank], self.groups[rank].clone());
                let abort = self.aborts[rank].clone();
                let ghost = ghosts.contains(&rank);
                scope.spawn(move || {
                    let layout = Arc::new(Layout::new(&group).unwrap());
                    if ghost {
                        let sockets = mesh::form(listener, &group, &abort, Limits::STANDARD);
                        return Member::Ghost(Ghost { layout, sockets: sockets.unwrap() });
                    }
                    let exchange = TcpExchange::connect(
                        (listener, &mut Reserve::default()),
                        group,
                        abort,
                        None,
                    );
                    Member::Real(Box::new(Trainer::new(rank, exchange.unwrap())))
                })
            };
            let threads: Vec<_> = (0..self.groups.len()).map(connect).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn connect_all(&self) -> Vec<Trainer> {
        let member = |member| match member {
            Member::Real(trainer) => *trainer,
            Member::Ghost(_) => unreachable!("no ghost was asked for"),
        };
        self.connect(&[]).into_iter().map(member).collect()
    }

    /// Connects all ranks, one of them as a ghost.
    fn connect_with_ghost(&self, rank: usize) -> (Vec<Trainer>, Ghost) {
        let mut ghost = None;
        let mut trainers = Vec::new();
        for member in self.connect(&[rank]) {
            match member {
                Member::Real(trainer) => trainers.push(*trainer),
                Member::Ghost(member) => ghost = Some(member),
            }
        }
        (trainers, ghost.unwrap())
    }

    fn name(&self, rank: usize) -> Option<&str> {
        Some(&self.groups[0].peers[rank].name)
    }
}

enum Member {
    Real(Box<Trainer>),
    Ghost(Ghost),
}

/// A rank that trains, apart from the training.
#[derive(Debug)]
struct Trainer<E = TcpExchange> {
    rank: usize,
    slots: Vec<Buffer>,
    exchange: E,
}

impl<E: Collective> Trainer<E> {
    fn new(rank: usize, mut exchange: E) -> Trainer<E> {
        Trainer { rank, slots: exchange.slots(), exchange }
    }

    fn shutdown(&mut self) -> Result<(), CollectiveError> {
        self.exchange.shutdown()
    }
}

/// A rank that proved itself and then does what a test wants.
struct Ghost {
    layout: Arc<Layout>,
    sockets: Vec<Option<TcpStream>>,
}

impl Ghost {
    fn socket(&self, rank: usize) -> &TcpStream {
        self.sockets[rank].as_ref().unwrap()
    }
}

/// A slice's gradient: values of very different sizes, so that another order of additions gives other bits.
fn gradient(slice: u32, step: u64, bucket: usize, len: usize) -> Vec<f32> {
    let mut state = (u64::from(slice) << 40) ^ (step << 20) ^ bucket as u64 ^ 0x9e37_79b9;
    let mut value = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bits = (state >> 33) as u32;
        (bits as f32 / 2f32.powi(31) - 0.5) * 2f32.powi((bits % 23) as i32 - 11)
    };
    (0..len).map(|_| value()).collect()
}

/// value(node) = value(left) + value(right), as the definition has it.
fn tree_sum(slices: Range<u32>, leaf: &dyn Fn(u32) -> Vec<f32>) -> Vec<f32> {
    if slices.len() == 1 {
        return leaf(slices.start);
    }
    let middle = slices.start + slices.len() as u32 / 2;
    let left = tree_sum(slices.start..middle, leaf);
    let right = tree_sum(middle..slices.end, leaf);
    left.iter().zip(&right).map(|(left, right)| left + right).collect()
}

/// What a worker's trainer does with its slices.
fn partials(run: Range<u32>, leaf: &dyn Fn(u32) -> Vec<f32>) -> Vec<(NodeId, Vec<f32>)> {
    let plan = SlicePlan::new(run);
    let mut slots = vec![Vec::new(); plan.slots()];
    for step in plan.steps() {
        slots[step.slot] = leaf(step.slices.start);
        for Merge { into, from } in &step.merges {
            let right = std::mem::take(&mut slots[*from]);
            accumulate(&mut slots[*into], &right);
        }
    }
    plan.partials().iter().map(|(node, slot)| (*node, slots[*slot].clone())).collect()
}

/// Contributes a rank's slices of one bucket.
fn reduce(
    trainer: &mut Trainer<impl Collective>,
    group: &Group,
    step: u64,
    bucket: usize,
) -> Result<(), CollectiveError> {
    let Peer { first_slice, slice_count, .. } = group.peers[group.rank];
    let len = group.bucket_lens[bucket];
    let own = partials(first_slice..first_slice + slice_count, &|slice| {
        gradient(slice, step, bucket, len)
    });
    let start = group.bucket_lens[..bucket].iter().sum();
    for (slot, (_, values)) in trainer.slots.iter_mut().zip(&own) {
        slot.write(Span::new(start, len), values);
    }
    trainer.exchange.reduce(step, bucket)
}

/// One whole step; `Ok` only if every sum has exactly the bits of the tree.
fn run_step(
    trainer: &mut Trainer<impl Collective>,
    group: &Group,
    step: u64,
) -> Result<(), CollectiveError> {
    for bucket in 0..group.bucket_lens.len() {
        reduce(trainer, group, step, bucket)?;
    }
    let mut sums = Vec::new();
    for bucket in 0..group.bucket_lens.len() {
        sums.extend(wait(trainer, group, step, bucket)?);
    }
    assert_eq!(bits(trainer.exchange.sum().host().unwrap()), bits(&sums), "step {step}");
    Ok(())
}

/// Waits for a bucket's sum, checks its bits, and returns it.
fn wait(
    trainer: &mut Trainer<impl Collective>,
    group: &Group,
    step: u64,
    bucket: usize,
) -> Result<Vec<f32>, CollectiveError> {
    let sum = trainer.exchange.wait(step, bucket)?.to_vec();
    let len = group.bucket_lens[bucket];
    let expected = tree_sum(0..group.slices, &|slice| gradient(slice, step, bucket, len));
    assert_eq!(bits(&sum), bits(&expected), "bucket {bucket} of step {step}");
    Ok(sum)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Runs one function per rank at the same time and gives what each returned.
fn together<T: Send>(
    cluster: &Cluster,
    trainers: Vec<Trainer>,
    run: impl Fn(Trainer, &Group) -> T + Sync,
) -> Vec<T> {
    let run = &run;
    thread::scope(|scope| {
        let start = |trainer: Trainer| {
            let group = &cluster.groups[trainer.rank];
            scope.spawn(move || run(trainer, group))
        };
        let threads: Vec<_> = trainers.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
