//! A program that does one round for each line it is sent, and says what the round took. Knows not what a round is.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

#[derive(Debug)]
pub(super) struct Paced {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
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
        let mut paced = Paced { child, input, output, name };
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
        let mut line = String::new();
        let read =
            self.output.read_line(&mut line).with_context(|| format!("read from {}", self.name))?;
        if read == 0 {
            bail!("{} ended early; what it said last is above", self.name);
        }
        Ok(line.trim_end().to_owned())
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
