//! `train --chaos`: a cluster of processes on this machine that trains while faults are done to it, and what it made of them.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::exit::ExitCode;
use proto::wire::v1;

use super::connect::{client, refused};
use super::output::line;
use super::verify::conclusion;
use super::{Exit, Failure};
use crate::args::{Connection, TrainArgs};
use crate::chaos::{
    Blow, Cast, CastError, Fault, Injected, Plan, Programs, Recoveries, Report, Schedule, Seen,
    Spell, Standing, Summary, Watch,
};
use crate::intake;
use crate::state::token_path;
use crate::terminal::Interrupts;
use crate::verify::{End, verify};

/// A run and what is being done to it.
struct Storm {
    cast: Cast,
    watch: Watch,
    recoveries: Recoveries,
    schedule: Peekable<Schedule>,
    /// What ends faults, by its time and a number that keeps equal times apart.
    agenda: BTreeMap<(Duration, u64), Due>,
    begun: Instant,
    /// The first step on record: when, and how many steps were on record.
    first: Option<(Duration, u64)>,
    /// The faults begin.
    storm: Option<(Duration, u64)>,
    last_commit: Duration,
    unasked_ends: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    Join(usize),
    Wake(usize),
    Coordinator,
}

pub(super) async fn train(args: &TrainArgs, plan: &Plan, threads: u32) -> Result<Exit, Failure> {
    let (text, folder) = intake::read_job_file(&args.job)?;
    let job = proto::Job::parse(&text)
        .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
    let state = args.state.clone().unwrap_or_else(|| Path::new("runs").join(job.name.as_str()));
    let coordinator = std::env::current_exe()?;
    let programs = Programs { coordinator, worker: crate::local::worker_program()? };
    let mut interrupts = Interrupts::listen()?;
    let mut cast = Cast::new(&state, programs, args.workers, threads)?;
    cast.start_coordinator()?;
    let v1::SubmitReply { job_id, already_finished, .. } =
        submit(&mut cast, args, text, &folder).await?;
    if already_finished {
        cast.end(END_WITHIN).await;
        line("this job has finished already; start over with --fresh")?;
        return prove(cast.state(), &job_id).and_then(|proof| Ok(line(&proof).map(|()| None)?));
    }
    let mut storm = Storm::new(cast, job_id.clone(), Schedule::new(plan, args.chaos_seed))?;
    let interrupted = tokio::select! {
        result = storm.run() => { result?; false }
        () = interrupts.next() => true,
    };
    if interrupted {
        tracing::info!(
            "stopping: the job writes a checkpoint first; interrupt again to stop at once"
        );
        let stopping = async {
            if !storm.cast.coordinator_runs() {
                storm.cast.start_coordinator()?;
            }
            storm.cast.end(STOP_WITHIN).await;
            Ok::<(), Failure>(())
        };
        tokio::select! {
            stopped = stopping => stopped?,
            () = interrupts.next() => {}
        }
        return Ok(Some(ExitCode::Interrupted));
    }
    storm.cast.end(END_WITHIN).await;
    storm.conclude(args, plan, &job_id)
}

async fn submit(
    cast: &mut Cast,
    args: &TrainArgs,
    job_toml: String,
    folder: &Path,
) -> Result<v1::SubmitReply, Failure> {
    let connection = Connection {
        coordinator: Some(cast.address().to_string()),
        state: cast.state().to_owned(),
        token_file: Some(token_path(cast.state())),
    };
    let deadline = Instant::now() + START_WITHIN;
    let mut client = loop {
        match client(&connection).await {
            Ok(client) => break client,
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Err(_) if !cast.coordinator_runs() => {
                let log = cast.state().join("coordinator.log");
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                return Err(Failure::new(
                    ExitCode::State,
                    format!("the coordinator ended: {last}"),
                ));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let request = v1::SubmitRequest {
        job_toml,
        base_folder: folder.to_string_lossy().into_owned(),
        workers: args.workers,
        fresh: args.fresh,
        on_loss: args.policy.on_loss.on_wire().into(),
        min_workers: args.policy.min_workers,
        max_workers: args.policy.max_workers.unwrap_or(0),
    };
    let reply = client.submit(request).await;
    let tried = format!("submitting {}", args.job.display());
    Ok(reply.map_err(|status| refused(&tried, &status))?.into_inner())
}

impl Storm {
    fn new(mut cast: Cast, job: String, schedule: Schedule) -> Result<Storm, Failure> {
        let mut watch = Watch::new(cast.state().join("journal"), job);
        // What was before.
        while watch.news().map_err(unreadable)?.is_some() {}
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
            first: None,
            storm: None,
            last_commit: Duration::ZERO,
            unasked_ends: 0,
            end: None,
        })
    }

    /// Until the job is over.
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            self.read_news()?;
            if self.end.is_some() {
                return Ok(());
            }
            let now = self.begun.elapsed();
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
                let due = entry.remove();
                self.carry_out(due)?;
            }
            if let Some((since, _)) = self.storm {
                let is_due = |blow: &Blow| since + blow.at <= now;
                if let Some(blow) = self.schedule.peek().copied().filter(is_due)
                    && self.inject(blow)?
                {
                    self.schedule.next();
                }
            }
            self.replace_ended();
            if now.saturating_sub(self.last_commit) > STALLED_AFTER {
                let text = format!(
                    "no step was committed for {} s after step {}; what was said lies in {}",
                    STALLED_AFTER.as_secs(),
                    self.watch.step,
                    self.cast.state().display()
                );
                return Err(Failure::new(ExitCode::RunStopped, text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn read_news(&mut self) -> Result<(), Failure> {
        let before = self.watch.commits;
        while let Some(seen) = self.watch.news().map_err(unreadable)? {
            let now = self.begun.elapsed();
            self.recoveries.take(now, &seen);
            if let Seen::Ended(end) = seen {
                self.end = Some(end);
            }
        }
        let (now, commits) = (self.begun.elapsed(), self.watch.commits);
        if commits > before {
            self.last_commit = now;
            let (first, _) = *self.first.get_or_insert((now, commits));
            if self.storm.is_none() && now >= first + CALM {
                self.storm = Some((now, commits));
            }
        }
        Ok(())
    }

    /// Does one fault; false when it has to wait: the last worker that holds the state is spared, and nobody is hit twice.
    fn inject(&mut self, blow: Blow) -> Result<bool, Failure> {
        let Blow { fault, pick, length, .. } = blow;
        let away = !self.cast.coordinator_runs();
        let settled = !away && self.cast.workers.iter().all(|actor| !actor.paused);
        let victim = match fault {
            Fault::Coordinator if away => return Ok(false),
            Fault::Coordinator => None,
            Fault::Kill | Fault::Pause | Fault::Leave => {
                let targets = self.targets();
                if targets.is_empty() {
                    return Ok(false);
                }
                Some(targets[(pick % targets.len() as u64) as usize])
            }
        };
        let name = victim.map(|index| self.cast.workers[index].name.clone());
        let now = self.begun.elapsed();
        let due = match (fault, victim) {
            (Fault::Kill, Some(index)) => {
                self.cast.kill_worker(index);
                Due::Join(index)
            }
            (Fault::Leave, Some(index)) => {
                self.cast.ask_to_leave(index);
                Due::Join(index)
            }
            (Fault::Pause, Some(index)) => {
                self.cast.pause(index);
                Due::Wake(index)
            }
            (Fault::Coordinator, _) | (_, None) => {
                self.cast.kill_coordinator();
                Due::Coordinator
            }
        };
        // What was on record before the fault had its effect.
        self.read_news()?;
        let is_needed = |name: &String| self.watch.members.contains(name);
        let member = name.as_ref().is_none_or(is_needed);
        if let Some(name) = &name {
            self.watch.holders.remove(name);
        }
        self.agenda.insert((now + length, pick), due);
        let since = self.storm.map_or(Duration::ZERO, |(since, _)| since);
        let at = now.saturating_sub(since);
        let whom = name.as_deref().unwrap_or("the coordinator");
        let (step, milliseconds) = (self.watch.step, length.as_millis());
        tracing::info!(
            "chaos after {:.1} s: {fault} hits {whom} at step {step}, for {milliseconds} ms",
            at.as_secs_f64()
        );
        let injected = Injected {
            fault,
            at_ms: at.as_millis() as u64,
            victim: name,
            length_ms: milliseconds as u64,
            member,
            alone: true,
            recovery_ms: None,
        };
        let generation = self.watch.generation;
        self.recoveries.inject(Standing { now, generation, step }, injected, settled);
        Ok(true)
    }

    /// The workers that may be hit now.
    fn targets(&mut self) -> Vec<usize> {
        let holders = &self.watch.holders;
        let spare = holders.len() > 1;
        let mut targets = Vec::new();
        for (index, actor) in self.cast.workers.iter_mut().enumerate() {
            let leaving =
                self.agenda.values().any(|due| matches!(due, Due::Join(of) if *of == index));
            let free = !actor.paused && !leaving && actor.runs();
            if free && (spare || !holders.contains(&actor.name)) {
                targets.push(index);
            }
        }
        targets
    }

    /// The end of a fault.
    fn carry_out(&mut self, due: Due) -> Result<(), Failure> {
        match due {
            Due::Wake(index) => {
                self.cast.wake(index);
                // As before, unless it was waited for too long: then the next generation tells.
                let name = self.cast.workers[index].name.clone();
                if self.watch.members.contains(&name) {
                    self.watch.holders.insert(name);
                }
            }
            Due::Coordinator => self.cast.start_coordinator()?,
            Due::Join(index) if self.cast.workers[index].runs() => {
                // It is still leaving.
                let again = self.begun.elapsed() + LEAVING;
                self.agenda.insert((again, index as u64), due);
            }
            Due::Join(index) => self.cast.start_worker(index)?,
        }
        Ok(())
    }

    /// Starts again what ended by itself.
    fn replace_ended(&mut self) {
        for index in 0..self.cast.workers.len() {
            let expected =
                self.agenda.values().any(|due| matches!(due, Due::Join(of) if *of == index));
            if expected {
                continue;
            }
            let actor = &mut self.cast.workers[index];
            if let Some(status) = actor.ended() {
                tracing::warn!(
                    "worker {} ended by itself: {status}; it is started again",
                    actor.name
                );
                self.unasked_ends += 1;
                self.agenda
                    .insert((self.begun.elapsed() + LEAVING, index as u64), Due::Join(index));
            }
        }
    }

    fn conclude(self, args: &TrainArgs, plan: &Plan, job: &str) -> Result<Exit, Failure> {
        let model_sha256 = match self.end {
            Some(End::Finished { model_sha256 }) => model_sha256,
            Some(End::Failed { reason }) => {
                let text = format!("training {job}: {reason}");
                return Err(Failure::new(ExitCode::RunStopped, text));
            }
            Some(End::Stopped) | None => {
                return Err(Failure::new(ExitCode::RunStopped, format!("job {job} was stopped")));
            }
        };
        let proof = prove(self.cast.state(), job)?;
        let (first, first_step) = self.first.unwrap_or_default();
        let (since, storm_step) = self.storm.unwrap_or((self.last_commit, self.watch.commits));
        let undisturbed = Spell::new(storm_step - first_step, since.saturating_sub(first));
        let time = self.last_commit.saturating_sub(since);
        let storm = Spell::new(self.watch.commits - storm_step, time);
        let report = Report {
            job: job.to_owned(),
            faults_asked: plan.to_string(),
            seed: args.chaos_seed,
            workers: args.workers,
            undisturbed,
            storm,
            goodput: if storm.seconds > 0.0 { storm.rate() / undisturbed.rate() } else { 1.0 },
            unasked_ends: self.unasked_ends,
            summaries: Summary::of(&self.recoveries.faults),
            faults: self.recoveries.faults,
            model_sha256,
            proof,
        };
        let path = report_path(self.cast.state(), job);
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n";
        crate::files::write_atomically(&path, text.as_bytes())?;
        show(&report)?;
        Ok(None)
    }
}

fn show(report: &Report) -> std::io::Result<()> {
    line(&format!("job {} finished, {} faults", report.job, report.faults.len()))?;
    for summary in &report.summaries {
        line(&summary.line())?;
    }
    line(&format!(
        "goodput {:.1} %: {:.1} steps/s, before the first fault {:.1}",
        100.0 * report.goodput,
        report.storm.rate(),
        report.undisturbed.rate()
    ))?;
    line(&format!("model sha256 {}", report.model_sha256))?;
    line(&report.proof)
}

/// Proves the run from its files, and says so in one line.
fn prove(state: &Path, job: &str) -> Result<String, Failure> {
    let id = job.parse().map_err(|_| Failure::new(ExitCode::State, format!("{job} is no job")))?;
    Ok(conclusion(&verify(state, &id)?))
}

fn report_path(state: &Path, job: &str) -> PathBuf {
    state.join("jobs").join(job).join("chaos.json")
}

fn unreadable(error: crate::verify::FrameError) -> Failure {
    Failure::new(ExitCode::State, error.to_string())
}

impl From<CastError> for Failure {
    fn from(error: CastError) -> Failure {
        Failure::new(ExitCode::Failure, error.to_string())
    }
}

/// How exactly times are taken.
const POLL: Duration = Duration::from_millis(2);
/// Steps are counted for this long before the first fault.
const CALM: Duration = Duration::from_secs(2);
/// How often it is looked whether a worker that leaves has gone, or how long one that ended stays away.
const LEAVING: Duration = Duration::from_millis(100);
const START_WITHIN: Duration = Duration::from_secs(30);
/// A coordinator without jobs.
const END_WITHIN: Duration = Duration::from_secs(5);
/// A coordinator that has its job write a checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// Far longer than any recovery.
const STALLED_AFTER: Duration = Duration::from_secs(180);
