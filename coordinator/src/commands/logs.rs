//! `logs`: a job's log lines on stdout.

use proto::exit::ExitCode;
use proto::wire::v1;

use super::connect::{Source, refused, source};
use super::output::line;
use super::{Exit, Failure};
use crate::args::LogsArgs;

pub(super) async fn logs(args: &LogsArgs) -> Result<Exit, Failure> {
    let mut client = match source(&args.connection).await? {
        Source::AtRest(rest) => {
            rest.logs(&args.job, |entry| line(&shown(&entry)))?;
            return Ok(None);
        }
        Source::Running(client) => client,
    };
    let tried = format!("reading the log of {}", args.job);
    let request = v1::LogsRequest { job_id: args.job.clone(), follow: args.follow };
    let reply = client.logs(request).await.map_err(|status| refused(&tried, &status))?;
    let mut lines = reply.into_inner();
    // The coordinator sends lines until it ends them in good order: an error is the connection's.
    let broken = |_| {
        let text = format!("{tried}: the connection to the coordinator broke; is it running?");
        Failure::new(ExitCode::Network, text)
    };
    while let Some(entry) = lines.message().await.map_err(broken)? {
        line(&shown(&entry))?;
    }
    Ok(None)
}

/// "2026-03-01 12:03:55 INFO  text", in UTC.
fn shown(entry: &v1::LogLine) -> String {
    format!("{} {:<5} {}", utc(entry.unix_ms), entry.level, entry.text)
}

/// Days to a date after Howard Hinnant's `civil_from_days`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_shown_as_utc_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_772_323_200, "2026-03-01 00:00:00"),
            (4_102_444_799, "2099-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds * 1000), expected);
        }
    }
}
