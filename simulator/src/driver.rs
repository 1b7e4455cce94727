//! The coordinator's process: its core is the real one, its driver and its disk are simulated. It dies and comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::core::{
    Action, BaseSearch, CheckpointEntry, Cluster, Event, Formation, Metric, Plan, Record, SessionId,
};
use coordinator::driver::plans;
use proto::identity::Generation;
use proto::mutant::{Mutant, active};

use crate::checker::{Check, Invariant, Violation, ensure};
use crate::exchange::Exchange;
use crate::job::sha256;
use crate::uploads::Uploads;
use crate::world::{Happening, World};

impl World {
    pub(crate) fn start_coordinator(&mut self) -> Check {
        if self.core.is_some() {
            return Ok(());
        }
        self.life += 1;
        let mut core = Cluster::default();
        for record in &self.disk.journal {
            core.replay(record).map_err(|error| Violation {
                invariant: Invariant::I10,
                at: self.now(),
                what: format!("the journal can't be read back: {error}"),
            })?;
        }
        let actions = core.boot();
        // It may have ended between writing down the job's end and telling of it.
        self.outcome = core.view(&self.job).and_then(|view| view.outcome);
        self.core = Some(core);
        self.uploads.clear();
        self.perform(actions)?;
        let life = self.life;
        self.agenda.after(1, Happening::Tick { life });
        Ok(())
    }

    pub(crate) fn crash_coordinator(&mut self) {
        self.tell_of(|| "-- the coordinator dies".to_owned());
        self.core = None;
        (self.doomed, self.doomed_at_seal) = (false, false);
        self.uploads.clear();
        for session in 0..self.streams.len() {
            self.end_stream(session as u64);
        }
        let delay = 20 + self.draws.below(4000);
        self.agenda.after(delay, Happening::StartCoordinator);
    }

    pub(crate) fn tell(&mut self, event: Event) -> Check {
        let now = Duration::from_millis(self.now());
        let Some(core) = &mut self.core else { return Ok(()) };
        let of = match &event {
            Event::Reported { generation, .. } => generation.0,
            _ => 0,
        };
        let actions = core.apply(now, event);
        self.checker.caused(of, &actions)?;
        self.perform(actions)
    }

    /// As the driver does: all records become durable at once, and only then is anything else done.
    fn perform(&mut self, actions: Vec<Action>) -> Check {
        let (mut records, mut rest) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Journal(record) => records.push(record),
                other => rest.push(other),
            }
        }
        let dies = self.doomed && !records.is_empty();
        // 0: before the write; otherwise after this many of the other actions.
        let survives = if dies { self.draws.below(rest.len() as u64 + 2) } else { u64::MAX };
        if survives == 0 {
            self.crash_coordinator();
            return Ok(());
        }
        if !active(Mutant::ToldBeforeRecorded) {
            self.write(std::mem::take(&mut records))?;
        }
        let mut unflushed = Vec::new();
        for (done, action) in rest.into_iter().enumerate() {
            if done as u64 + 1 >= survives {
                self.crash_coordinator();
                return Ok(());
            }
            self.carry_out(action, &mut unflushed)?;
            if self.core.is_none() {
                return Ok(());
            }
        }
        self.write(records)?;
        for step in unflushed {
            self.checker.published(step)?;
            self.disk.metrics.push(step);
        }
        Ok(())
    }

    fn write(&mut self, records: Vec<Record>) -> Check {
        let before = self.checker.watermark();
        self.checker.journaled(&records)?;
        if self.checker.watermark() != before {
            self.advanced_at = self.now();
        }
        self.disk.journal.extend(records);
        Ok(())
    }

    // long: one arm for each kind of action
    fn carry_out(&mut self, action: Action, unflushed: &mut Vec<u64>) -> Check {
        match action {
            Action::Admit { session, generation } => {
                self.admitted += 1;
                let incarnation = self.incarnation_at(session.0);
                self.checker.admitted(incarnation, generation.0)?;
                self.send_down(session, Generation(0), plans::welcome(generation));
            }
            Action::Refuse { session, .. } | Action::Disconnect { session, .. } => {
                self.end_stream(session.0);
            }
            Action::Form(formation) => {
                self.checker.told(&formation)?;
                self.form_exchange(&formation);
            }
            Action::Send { session, generation, plan } => {
                match plan {
                    Plan::Committed { step } => self.checker.acknowledged(step)?,
                    Plan::Run => self.checker.runs(generation.0),
                    _ => {}
                }
                self.send_down(session, generation, plans::plan(plan));
            }
            Action::Warm { session, job, spec, workers } => {
                self.send_down(session, Generation(0), plans::warm(&job, &spec, workers));
            }
            Action::FindBase { job, .. } => {
                for worker in self.workers.iter().filter(|worker| worker.alive) {
                    self.checker.given_up(worker.incarnation(), self.ticks - worker.heard_at)?;
                }
                let entries = self.disk.checkpoints.clone();
                let set_aside = Vec::new();
                let search = match entries.is_empty() {
                    true => BaseSearch::Nothing { set_aside },
                    false => BaseSearch::Found { entries, set_aside },
                };
                let (life, delay) = (self.life, 20 + self.draws.below(300));
                let event = Event::BaseFound { job, search };
                self.agenda.after(delay, Happening::Stored { life, event });
            }
            Action::CutHistory { step, .. } => self.disk.cut_metrics(step),
            Action::Reopen { .. } => {
                let published = self.disk.last_metric();
                if let Some(core) = &mut self.core {
                    core.published_up_to(published);
                }
            }
            Action::OpenUploads { job, generation, members } => {
                let (members, parts) = (members as usize, BTreeMap::new());
                self.uploads.push(Uploads { generation, job, members, parts });
                ensure(Invariant::I9, self.uploads.len() == 1, || {
                    format!("uploads of {} generations are open", self.uploads.len())
                })?;
            }
            Action::CloseUploads { generation } => {
                self.uploads.retain(|uploads| uploads.generation != generation);
            }
            Action::Seal(order) => {
                self.checker.ordered(&order)?;
                if self.doomed_at_seal {
                    self.crash_coordinator();
                    return Ok(());
                }
                let entry = CheckpointEntry {
                    step: order.step,
                    bytes: 1,
                    digest: order.digest.to_string(),
                    model_sha256: sha256(order.step),
                    evaluation: order.evaluation,
                };
                self.disk.keep_checkpoint(entry.clone());
                self.checker.sealed(&entry)?;
                let event = Event::CheckpointSealed { job: order.job, entry };
                let (life, delay) = (self.life, 10 + self.draws.below(300));
                self.agenda.after(delay, Happening::Stored { life, event });
            }
            Action::Retain { shelf, .. } => {
                let kept: Vec<u64> = shelf.entries.iter().map(|entry| entry.step).collect();
                let newest = kept.iter().max().copied().unwrap_or(0);
                let stays =
                    |entry: &CheckpointEntry| entry.step > newest || kept.contains(&entry.step);
                self.disk.checkpoints.retain(stays);
                self.checker.retained(&kept)?;
            }
            Action::Publish { metric: Metric::Step { step, .. }, .. } => unflushed.push(step),
            Action::Finish { outcome, .. } => self.outcome = Some(outcome),
            Action::Log { text, .. } => self.tell_of(|| text),
            Action::Publish { .. } | Action::Answer { .. } => {}
            Action::Journal(_) => unreachable!("records were written before"),
        }
        Ok(())
    }

    fn form_exchange(&mut self, formation: &Formation) {
        let index = |session: SessionId| self.streams.get(session.0 as usize);
        let members = formation.members.iter().map(|member| {
            index(member.session)
                .map_or((0, u64::MAX), |stream| (stream.worker, stream.worker_life))
        });
        let exchange = Exchange::new(members.collect());
        self.exchanges.insert(formation.generation, exchange);
        for (rank, member) in formation.members.iter().enumerate() {
            let plan = plans::form(formation, rank, &[0; 32]);
            self.send_down(member.session, formation.generation, plan);
        }
    }
}
