//! A program that does one round for each line it is sent, and says what the round took. Knows not what a round is.

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Paced {
    child: Child,
    input: ChildStdin,
    /// That it says, as a thread reads them: a pipe can't be read with a deadline.
    lines: Receiver<io::Result<String>>,
    name: String,
}

/// What a round took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    /// Seconds.
    pub(super) wall: f64,
    /// Processor seconds, of all threads and processes.
    pub(super) busy: f64,
    /// Most memory that the program ever had, in bytes.
    pub(super) peak_memory: f64,
}

impl Paced {
    /// Starts it and waits until it is ready.
    pub(super) fn start(mut command: Command) -> Result<Paced> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let input = input.context("its standard input is a pipe")?;
        let output = BufReader::new(output.context("its standard output is a pipe")?);
        let (sender, lines) = sync_channel(1);
        // Ends with the child, whose end of the pipe closes, or with the receiver.
        thread::spawn(move || output.lines().try_for_each(|line| sender.send(line)));
        let mut paced = Paced { child, input, lines, name };
        let line = paced.line()?;
        ensure!(line == "ready", "{} said {line:?} instead of \"ready\"", paced.name);
        Ok(paced)
    }

    pub(super) fn round(&mut self) -> Result<Round> {
        writeln!(self.input).with_context(|| format!("{} ended early", self.name))?;
        self.input.flush()?;
        let line = self.line()?;
        Round::parse(&line)
            .with_context(|| format!("{} said {line:?} instead of three numbers", self.name))
    }

    fn line(&mut self) -> Result<String> {
        let (name, process) = (&self.name, self.child.id());
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => line.with_context(|| format!("read from {name}")),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{name} ended early; what it said last is above")
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("{name} (process {process}) said nothing within {SILENCE_MAX:?}")
            }
        }
    }
}

impl Round {
    fn parse(line: &str) -> Option<Round> {
        let mut numbers = line.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Round { wall: next()?, busy: next()?, peak_memory: next()? })
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // It may be gone already: then there is nothing to end.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// More than several workers of `worker bench` wait for each other: they know better who is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(1200);
