//! The exchange alone: how long an all-reduce of a vector takes between processes of this machine. The members agree on a
//! start by reducing a single value, as benchmarks do by a barrier.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crew::{Connected, Crew, meet};
use super::pace::{Round, paced};
use super::report::{Machine, Spread};
use super::{BenchError, print};
use crate::args::BenchExchange;
use crate::collective::Transport;

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
    // Behind them is what the members start by.
    let bucket_lens: Vec<usize> = buckets.map(|range| range.len()).chain([1]).collect();
    let buckets = bucket_lens.len() - 1;
    let connected = meet(rank, transport(args), bucket_lens, out)?;
    let Connected { mut exchange, partials, .. } = connected;
    let mut slots = exchange.slots();
    let mut step = 0;
    paced(out, &mut || {
        step += 1;
        // As backward leaves them, and other values than in the step before.
        let one = (1 + step % 7) as f32;
        for slot in &mut slots {
            slot.host_mut().expect(ON_HOST).fill(one);
        }
        exchange.reduce(step, buckets)?;
        exchange.wait(step, buckets)?;
        let (round, result) = Round::of(|| {
            // As in training, where one bucket is computed while those before it are reduced.
            for bucket in 0..buckets + AHEAD {
                if bucket < buckets {
                    exchange.reduce(step, bucket)?;
                }
                if let Some(awaited) = bucket.checked_sub(AHEAD) {
                    exchange.wait(step, awaited)?;
                }
            }
            Ok::<(), BenchError>(())
        });
        result?;
        let sum = exchange.sum().host().expect(ON_HOST);
        let all = one * partials as f32;
        assert!(sum.iter().all(|value| *value == all), "the sum of equal values counts them");
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

const ON_HOST: &str = "the CPU device's memory is host memory";
/// Buckets that are being reduced while one is waited for.
const AHEAD: usize = 2;
const WARM_UP: usize = 3;
const ROUNDS_MIN: usize = 5;
