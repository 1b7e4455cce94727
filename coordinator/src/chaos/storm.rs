//! A run and what is done to it: faults when they are due, their ends, and the news of the job, in one loop until the job is
//! over.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cast::{Cast, CastError};
use super::plan::{Blow, Fault, Schedule};
use super::recovery::{Injected, Recoveries, Standing};
use super::spells::{Spells, Stretch};
use super::watch::{Seen, Watch};
use crate::verify::{End, FrameError};

#[derive(Debug)]
pub struct Storm {
    pub cast: Cast,
    pub recoveries: Recoveries,
    /// Workers that ended by themselves and were started again.
    pub unasked_ends: u64,
    watch: Watch,
    schedule: Peekable<Schedule>,
    /// What ends faults, by its time and a number that keeps equal times apart.
    agenda: BTreeMap<(Duration, u64), Due>,
    begun: Instant,
    spells: Spells,
    /// Members of the largest generation.
    full: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Join(usize),
    /// `held`: it had the state when it was stopped.
    Wake {
        index: usize,
        held: bool,
    },
    Coordinator,
}

#[derive(Debug, thiserror::Error)]
pub enum StormError {
    #[error("{0}")]
    Cast(#[from] CastError),
    #[error("{0}")]
    Watch(#[from] FrameError),
    #[error(
        "no step was committed for {} s after step {step}; what was said lies in {}",
        STALLED_AFTER.as_secs(),
        logs.display()
    )]
    Stalled { step: u64, logs: PathBuf },
}

impl Storm {
    /// The coordinator runs and has the job; its workers are started now.
    pub fn new(
        mut cast: Cast,
        job: String,
        schedule: Schedule,
        spells: Spells,
    ) -> Result<Storm, StormError> {
        let mut watch = Watch::new(cast.state().join("journal"), job);
        // What was before.
        while watch.news()?.is_some() {}
        for index in 0..cast.workers.len() {
            cast.start_worker(index)?;
        }
        Ok(Storm {
            cast,
            watch,
            recoveries: Recoveries::default(),
            schedule: schedule.peekable(),
            agenda: BTreeMap::new(),
            begun: Instant::now(),
            spells,
            full: 0,
            unasked_ends: 0,
            end: None,
        })
    }

    /// Until the job is over; how it ended.
    pub async fn run(&mut self) -> Result<End, StormError> {
        loop {
            self.read_news()?;
            if let Some(end) = self.end.take() {
                return Ok(end);
            }
            let now = self.begun.elapsed();
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
                let due = entry.remove();
                self.carry_out(due)?;
            }
            if let Some(at) = self.spells.storm_time(now) {
                let is_due = |blow: &Blow| blow.at <= at;
                if let Some(blow) = self.schedule.peek().copied().filter(is_due)
                    && self.strike(at, blow)?
                {
                    self.schedule.next();
                }
            }
            self.replace_ended();
            let all_here = self.watch.members.len() >= self.full;
            if !(all_here && self.agenda.is_empty() && self.recoveries.is_settled()) {
                self.spells.trouble(now);
            }
            if now.saturating_sub(self.spells.last_commit()) > STALLED_AFTER {
                let logs = self.cast.state().to_owned();
                return Err(StormError::Stalled { step: self.watch.step, logs });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What was done with and without faults.
    pub fn spells(&self) -> Vec<Stretch> {
        self.spells.all()
    }

    fn read_news(&mut self) -> Result<(), StormError> {
        let before = self.watch.commits;
        while let Some(seen) = self.watch.news()? {
            self.recoveries.take(self.begun.elapsed(), &seen);
            if let Seen::Ended(end) = seen {
                self.end = Some(end);
            }
        }
        if self.watch.commits > before {
            self.spells.commit(self.begun.elapsed(), self.watch.commits);
            self.full = self.full.max(self.watch.members.len());
        }
        Ok(())
    }

    /// Does one fault; false when it has to wait: the last worker that holds the state is spared, and nobody is hit twice.
    fn strike(&mut self, at: Duration, blow: Blow) -> Result<bool, StormError> {
        let away = !self.cast.coordinator_runs();
        let settled = !away && self.cast.workers.iter().all(|actor| !actor.paused);
        let now = self.begun.elapsed();
        let (victim, due) = if blow.fault == Fault::Coordinator {
            if away {
                return Ok(false);
            }
            self.cast.kill_coordinator();
            (None, Due::Coordinator)
        } else {
            let targets = self.targets();
            let Some(pick) = blow.pick.checked_rem(targets.len() as u64) else { return Ok(false) };
            let index = targets[pick as usize];
            (Some(self.cast.workers[index].name.clone()), self.hit(blow.fault, index))
        };
        self.agenda.insert((now + blow.length, blow.pick), due);
        // What was on record before the fault had its effect.
        self.read_news()?;
        if let Some(name) = &victim {
            self.watch.strike(name);
        }
        self.tell(at, blow, victim.as_deref());
        let member = victim.as_ref().is_none_or(|name| self.watch.members.contains(name));
        let injected = Injected {
            fault: blow.fault,
            at_ms: at.as_millis() as u64,
            victim,
            length_ms: blow.length.as_millis() as u64,
            member,
            alone: true,
            recovery_ms: None,
        };
        let (generation, step) = (self.watch.generation, self.watch.step);
        self.recoveries.inject(Standing { now, generation, step }, injected, settled);
        Ok(true)
    }

    /// Does a fault to a worker; what ends it.
    fn hit(&mut self, fault: Fault, index: usize) -> Due {
        match fault {
            Fault::Pause => {
                self.cast.pause(index);
                let held = self.watch.holders.contains(&self.cast.workers[index].name);
                return Due::Wake { index, held };
            }
            Fault::Leave => self.cast.ask_to_leave(index),
            Fault::Kill | Fault::Coordinator => self.cast.kill_worker(index),
        }
        Due::Join(index)
    }

    fn tell(&self, at: Duration, blow: Blow, victim: Option<&str>) {
        let name = victim.unwrap_or_default();
        let what = match blow.fault {
            Fault::Kill => format!("worker {name} killed"),
            Fault::Pause => format!("worker {name} stopped"),
            Fault::Leave => format!("worker {name} told to end"),
            Fault::Coordinator => "coordinator killed".to_owned(),
        };
        let (seconds, step, length) = (at.as_secs_f64(), self.watch.step, blow.length.as_millis());
        tracing::info!("chaos after {seconds:.1} s, at step {step}: {what}, for {length} ms");
    }

    /// The workers that may be hit now.
    fn targets(&mut self) -> Vec<usize> {
        let holders = &self.watch.holders;
        let spare = holders.len() > 1;
        let mut targets = Vec::new();
        for (index, actor) in self.cast.workers.iter_mut().enumerate() {
            let free = !actor.paused && !expected(&self.agenda, index) && actor.runs();
            if free && (spare || !holders.contains(&actor.name)) {
                targets.push(index);
            }
        }
        targets
    }

    /// The end of a fault.
    fn carry_out(&mut self, due: Due) -> Result<(), StormError> {
        match due {
            Due::Wake { index, held } => {
                self.cast.wake(index);
                // As before, unless it was waited for too long: then the next generation tells.
                let name = self.cast.workers[index].name.clone();
                if held && self.watch.members.contains(&name) {
                    self.watch.holders.insert(name);
                }
            }
            Due::Coordinator => self.cast.start_coordinator()?,
            // It is still leaving.
            Due::Join(index) if self.cast.workers[index].runs() => self.join_soon(index),
            Due::Join(index) => self.cast.start_worker(index)?,
        }
        Ok(())
    }

    fn join_soon(&mut self, index: usize) {
        self.agenda.insert((self.begun.elapsed() + SOON, index as u64), Due::Join(index));
    }

    /// Starts again what ended by itself.
    fn replace_ended(&mut self) {
        for index in 0..self.cast.workers.len() {
            if expected(&self.agenda, index) {
                continue;
            }
            let actor = &mut self.cast.workers[index];
            if let Some(status) = actor.ended() {
                let name = &actor.name;
                tracing::warn!("worker {name} ended by itself: {status}; it is started again");
                self.unasked_ends += 1;
                self.join_soon(index);
            }
        }
    }
}

/// The worker is away, and will be started again.
fn expected(agenda: &BTreeMap<(Duration, u64), Due>, index: usize) -> bool {
    agenda.values().any(|due| matches!(due, Due::Join(of) if *of == index))
}

/// How exactly times are taken.
const POLL: Duration = Duration::from_millis(2);
/// How often it is looked whether a worker that leaves has gone, and how long one that ended stays away.
const SOON: Duration = Duration::from_millis(100);
/// Far longer than any recovery.
const STALLED_AFTER: Duration = Duration::from_secs(180);
