//! One round for each line of standard input: how programs are measured in turn, so that whatever else the machine does
//! meets all of them. Both sides of it; what a round is, others know.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use kernels::profile::processor_time;

use super::BenchError;

/// What a round took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Round {
    pub(super) wall: Duration,
    /// Processor time, of all threads together.
    pub(super) busy: Duration,
    /// Most memory that the process ever had, in bytes.
    pub(super) peak_memory: u64,
}

/// Says that it is ready, then answers every line with a round until there are no more.
pub(super) fn paced(
    out: &mut dyn Write,
    round: &mut dyn FnMut() -> Result<Round, BenchError>,
) -> Result<(), BenchError> {
    writeln!(out, "{READY}")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", round()?)?;
        out.flush()?;
    }
    Ok(())
}

impl Round {
    /// Times what `work` does.
    pub(super) fn of<T>(work: impl FnOnce() -> T) -> (Round, T) {
        let (since, busy) = (Instant::now(), processor_time());
        let result = work();
        let (wall, busy) = (since.elapsed(), processor_time().saturating_sub(busy));
        (Round { wall, busy, peak_memory: peak_memory() }, result)
    }

    /// Reads what `Display` wrote.
    pub(super) fn parse(line: &str) -> Option<Round> {
        let mut fields = line.split(' ');
        let mut seconds = || Duration::try_from_secs_f64(fields.next()?.parse().ok()?).ok();
        let (wall, busy) = (seconds()?, seconds()?);
        Some(Round { wall, busy, peak_memory: fields.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Round { wall, busy, peak_memory } = self;
        write!(f, "{:.6} {:.6} {peak_memory}", wall.as_secs_f64(), busy.as_secs_f64())
    }
}

/// Largest resident set of this process so far, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}

pub(super) const READY: &str = "ready";
