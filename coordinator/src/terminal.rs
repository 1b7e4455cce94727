//! The person's side of a running program: log lines and a progress bar that share stderr, and interrupts.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::args::LogFormat;
use crate::metrics::Progress;

/// Stderr. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Terminal {
    bar: Arc<OnceLock<ProgressBar>>,
    wants_bar: bool,
}

impl Terminal {
    /// Sets up logging for the whole process. Call it once.
    pub fn set_up(format: LogFormat) -> Terminal {
        let is_terminal = io::stderr().is_terminal();
        let wants_bar = is_terminal && format == LogFormat::Human;
        let terminal = Terminal { bar: Arc::default(), wants_bar };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            // A closed stderr must not end the program, which complaining about it there would.
            .log_internal_errors(false)
            .with_ansi(is_terminal)
            .with_writer(terminal.clone());
        match format {
            // The sentence says it all; the fields are for programs.
            LogFormat::Human => builder.fmt_fields(debug_fn(sentence)).init(),
            LogFormat::Json => builder.json().init(),
        }
        terminal
    }

    /// Shows nothing and leaves logging alone.
    pub fn quiet() -> Terminal {
        Terminal { bar: Arc::default(), wants_bar: false }
    }

    /// Draws progress, on a terminal.
    pub fn show(&self, progress: &Progress) {
        if !self.wants_bar {
            return;
        }
        let bar = self.bar.get_or_init(|| new_bar(progress));
        bar.set_length(progress.total_steps);
        bar.set_position(progress.step);
        bar.set_message(summary(progress));
    }

    /// Removes the bar, for good.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(progress: &Progress) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    let bar = ProgressBar::new(progress.total_steps);
    bar.set_style(style.expect("the template is valid"));
    bar
}

fn summary(progress: &Progress) -> String {
    let Progress { epoch, epochs, loss, images_per_second, .. } = progress;
    let accuracy = progress.evaluation.map_or_else(String::new, |found| {
        let percent = 100.0 * found.correct as f64 / found.samples.max(1) as f64;
        format!("  accuracy {percent:.1} %")
    });
    let left = progress.left.map_or_else(String::new, |left| format!("  {} left", words(left)));
    format!(
        "epoch {epoch:.1}/{epochs}  loss {loss:.4}{accuracy}  {images_per_second:.0} img/s{left}"
    )
}

/// "1 h 02 min", "3 min 04 s", "5 s".
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// Writes one log line, above the bar if there is one.
#[derive(Debug)]
pub struct LineWriter {
    bar: Arc<OnceLock<ProgressBar>>,
    line: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { bar: self.bar.clone(), line: Vec::new() }
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        match self.bar.get() {
            Some(bar) => bar.suspend(|| io::stderr().write_all(&line)),
            None => io::stderr().write_all(&line),
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        // Nowhere left to complain to.
        self.flush().ok();
    }
}

/// Ctrl-C, and the termination signal that service managers send.
#[derive(Debug)]
pub struct Interrupts {
    keyboard: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub fn listen() -> io::Result<Interrupts> {
        Ok(Interrupts {
            keyboard: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.keyboard.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn sentence(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(writer, "{value:?}") } else { Ok(()) }
}
