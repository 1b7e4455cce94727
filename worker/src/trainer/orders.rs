//! Commands as a generation on the training thread sees them: which ask something of it, which end it, and which are late.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use proto::Generation;

use super::{Command, GenerationError};
use crate::step::Votes;

/// Commands as seen from inside one generation.
pub(super) struct Orders<'a> {
    pub(super) commands: &'a Receiver<Command>,
    pub(super) generation: Generation,
    /// What it was asked to do after a step.
    pub(super) votes: Votes,
    /// A command that belongs to what follows.
    pub(super) next: Option<Command>,
}

impl Orders<'_> {
    pub(super) fn wait_for_run(&mut self) -> Result<(), GenerationError> {
        loop {
            let command = self.commands.recv().map_err(|_| GenerationError::SessionEnded)?;
            match command {
                Command::Run(generation) if generation == self.generation => return Ok(()),
                other => self.obey(other)?,
            }
        }
    }

    pub(super) fn poll(&mut self) -> Result<(), GenerationError> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(GenerationError::SessionEnded),
            }
        }
    }

    /// Waits for the generation's end, but not for long: whoever asked may be gone, and training on is always safe.
    pub(super) fn pause(&mut self) -> Result<(), GenerationError> {
        self.votes.pause = false;
        let until = Instant::now() + PAUSE_MAX;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(left) {
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(GenerationError::SessionEnded),
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), GenerationError> {
        match command {
            Command::Stop(generation) if generation == self.generation => self.votes.stop = true,
            Command::Pause(generation) if generation == self.generation => self.votes.pause = true,
            ending @ (Command::Abandon(generation) | Command::Seal { generation, .. })
                if generation == self.generation =>
            {
                self.next = Some(ending);
                return Err(GenerationError::Abandoned);
            }
            Command::Form(formation)
                if formation.generation > self.generation && !formation.abort.is_aborted() =>
            {
                self.next = Some(Command::Form(formation));
                return Err(GenerationError::Abandoned);
            }
            // Of another generation: late.
            Command::Form(_)
            | Command::Run(_)
            | Command::Stop(_)
            | Command::Pause(_)
            | Command::Seal { .. }
            | Command::Abandon(_) => {}
            // A member is not asked to get ready.
            Command::Warm { .. } => {}
        }
        Ok(())
    }
}

/// The coordinator seals a generation that pauses as soon as all have said so, within milliseconds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
