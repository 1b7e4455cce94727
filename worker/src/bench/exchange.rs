//! The exchange alone: how long an all-reduce of a vector takes between processes of this machine. The members agree on a
//! start by reducing a single value, as benchmarks do by a barrier.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crew::{Connected, Crew, meet};
use super::pace::{Round, paced};
use super::report::{Machine, Spread};
use super::{BenchError, print};
use crate::args::BenchExchange;
use crate::collective::{NodeId, Transport, subtrees};

/// Measures, and writes a table or JSON to `out`.
pub(super) fn run(args: &BenchExchange, out: &mut dyn Write) -> Result<(), BenchError> {
    if let Some(rank) = args.rank {
        return member(rank, args, out);
    }
    let lengths = |workers| args.megabytes.iter().map(move |megabytes| (workers, *megabytes));
    let mut cases = args.workers.iter().flat_map(|workers| lengths(*workers));
    if args.paced {
        let (workers, megabytes) = cases.next().expect("clap gives each list a value");
        let mut crew = start(workers, megabytes, args)?;
        return paced(out, &mut || crew.round());
    }
    let cases: Result<Vec<Case>, BenchError> =
        cases.map(|(workers, megabytes)| measure(workers, megabytes, args)).collect();
    let report = Report {
        machine: Machine::this(),
        transport: transport(args),
        bucket_mib: args.bucket_mib,
        cases: cases?,
    };
    print(out, args.json, &report, || report.json())
}

struct Report {
    machine: Machine,
    transport: Transport,
    bucket_mib: usize,
    cases: Vec<Case>,
}

/// One number of workers and one length.
struct Case {
    workers: usize,
    megabytes: usize,
    rounds: usize,
    wall: Spread,
    /// Of all workers together.
    busy: Spread,
}

fn start(workers: usize, megabytes: usize, args: &BenchExchange) -> Result<Crew, BenchError> {
    let mut arguments = ["bench", "exchange"].map(str::to_owned).to_vec();
    let bucket_mib = args.bucket_mib;
    for (flag, value) in
        [("--workers", workers), ("--megabytes", megabytes), ("--bucket-mib", bucket_mib)]
    {
        arguments.extend([flag.to_owned(), value.to_string()]);
    }
    if args.tcp {
        arguments.push("--tcp".to_owned());
    }
    let mut crew = Crew::start(workers, &arguments)?;
    for _ in 0..WARM_UP {
        crew.round()?;
    }
    Ok(crew)
}

fn measure(workers: usize, megabytes: usize, args: &BenchExchange) -> Result<Case, BenchError> {
    let mut crew = start(workers, megabytes, args)?;
    let since = Instant::now();
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS_MIN || since.elapsed() < Duration::from_secs(args.seconds) {
        rounds.push(crew.round()?);
    }
    Ok(Case {
        workers,
        megabytes,
        rounds: rounds.len(),
        wall: Spread::of(rounds.iter().map(|round| round.wall)),
        busy: Spread::of(rounds.iter().map(|round| round.busy)),
    })
}

/// One of the processes.
fn member(rank: usize, args: &BenchExchange, out: &mut dyn Write) -> Result<(), BenchError> {
    let megabytes = *args.megabytes.first().expect("clap gives each list a value");
    let len = megabytes * 1_000_000 / size_of::<f32>();
    let bucket_len = args.bucket_mib << 18; // 4-byte elements in a MiB
    let starts = (0..len).step_by(bucket_len);
    let buckets = starts.map(|start| start..len.min(start + bucket_len));
    // The first is what they start by.
    let ranges: Vec<Range<usize>> = std::iter::once(0..1).chain(buckets).collect();
    let bucket_lens = ranges.iter().map(Range::len).collect();
    let connected = meet(rank, transport(args), bucket_lens, out)?;
    let Connected { mut exchange, slices, partials } = connected;
    let (nodes, ones) = (subtrees(slices), partials as f32);
    let (own, mut sum) = (vec![1.0; len], vec![0.0; len]);
    let mut step = 0;
    paced(out, &mut || {
        step += 1;
        let one: Vec<(NodeId, &[f32])> = nodes.iter().map(|node| (*node, &own[..1])).collect();
        exchange.reduce(step, 0, &one)?;
        exchange.wait(step, 0, &mut [0.0])?;
        let (round, result) = Round::of(|| {
            // As in training, where one bucket is computed while those before it are reduced.
            for bucket in 1..ranges.len() + AHEAD {
                if let Some(range) = ranges.get(bucket) {
                    let part = &own[range.clone()];
                    let partials: Vec<_> = nodes.iter().map(|node| (*node, part)).collect();
                    exchange.reduce(step, bucket, &partials)?;
                }
                let awaited = bucket.checked_sub(AHEAD).filter(|awaited| *awaited > 0);
                if let Some(range) = awaited.and_then(|awaited| ranges.get(awaited)) {
                    exchange.wait(step, bucket - AHEAD, &mut sum[range.clone()])?;
                }
            }
            Ok::<(), BenchError>(())
        });
        result?;
        // Of the first rounds: the check takes as long as the exchange.
        assert!(step > 3 || sum.iter().all(|value| *value == ones), "the sum of ones counts them");
        Ok(round)
    })
}

fn transport(args: &BenchExchange) -> Transport {
    if args.tcp { Transport::Tcp } else { Transport::Fastest }
}

impl Report {
    fn json(&self) -> Value {
        json!({
            "machine": self.machine.json(),
            "transport": format!("{:?}", self.transport).to_lowercase(),
            "bucket_mib": self.bucket_mib,
            "exchange": self.cases.iter().map(Case::json).collect::<Vec<Value>>(),
        })
    }
}

impl Case {
    /// Of the vector's bytes, in units of 10^9 a second.
    fn rate(&self, wall: Duration) -> f64 {
        self.megabytes as f64 / 1e3 / wall.as_secs_f64()
    }

    fn json(&self) -> Value {
        json!({
            "workers": self.workers,
            "megabytes": self.megabytes,
            "rounds": self.rounds,
            "gb_per_second": self.rate(self.wall.median),
            "wall": self.wall.json(),
            "processor": self.busy.json(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.transport {
            Transport::Fastest => "shared memory between processes of this machine",
            Transport::Tcp => "TCP over loopback",
        };
        let Report { machine, bucket_mib, .. } = self;
        writeln!(f, "{machine}\nall-reduce of fp32 over {way}, buckets of {bucket_mib} MiB\n")?;
        writeln!(
            f,
            "{:>7}{:>7}{:>12}{:>10}{:>10}{:>22}",
            "workers", "MB", "GB/s median", "best", "worst", "processor ms/worker"
        )?;
        for case in &self.cases {
            let Spread { median, min, max } = case.wall;
            writeln!(
                f,
                "{:>7}{:>7}{:>12.2}{:>10.2}{:>10.2}{:>22.1}",
                case.workers,
                case.megabytes,
                case.rate(median),
                case.rate(min),
                case.rate(max),
                case.busy.median.as_secs_f64() * 1e3 / case.workers as f64
            )?;
        }
        Ok(())
    }
}

/// Buckets that are being reduced while one is waited for.
const AHEAD: usize = 2;
const WARM_UP: usize = 3;
const ROUNDS_MIN: usize = 5;
