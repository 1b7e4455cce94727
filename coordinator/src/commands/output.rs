//! Results on stdout. Logs and progress go to stderr, so that results can be piped.

use std::io::{self, Write};

/// Writes one line.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes rows in columns; the first row is the heading. The last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// "99.2 % (357 of 360)", or "-" when nothing was evaluated.
pub(super) fn accuracy(correct: u64, samples: u64) -> String {
    if samples == 0 {
        return "-".to_owned();
    }
    let percent = 100.0 * correct as f64 / samples as f64;
    format!("{percent:.1} % ({correct} of {samples})")
}
