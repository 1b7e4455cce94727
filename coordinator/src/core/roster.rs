//! The live workers: who has joined, who was heard when, what each is doing. Knows no job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::identity::{Incarnation, JobId, Name};
use proto::mutant::{Mutant, active};
use proto::wire::WORKERS_MAX;
use proto::wire::v1::Phase;

use super::action::JoinRefusal;
use super::event::{Candidate, SessionId};

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) session: SessionId,
    pub(crate) name: Name,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) device_kind: String,
    pub(crate) threads: u32,
    /// On the core's lenient clock.
    pub(crate) last_heard: Duration,
    /// Newest step it says it has applied.
    pub(crate) step: u64,
    pub(crate) phase: Phase,
    /// It was told to end: the end of its stream is no loss.
    pub(crate) dismissed: bool,
    /// It wants to end, and waits to be let go.
    pub(crate) leaving: bool,
    pub(crate) warmth: Warmth,
    /// Smoothed time that it computes a slice in, nanoseconds.
    pub(crate) pace_ns: Option<u64>,
}

/// Whether a worker has what it needs to become a member quickly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Warmth {
    Cold,
    /// Since, on the lenient clock.
    Asked(JobId, Duration),
    Warm(JobId),
}

impl Warmth {
    pub(crate) fn is_about(&self, job: &JobId) -> bool {
        matches!(self, Warmth::Asked(of, _) | Warmth::Warm(of) if of == job)
    }
}

impl Worker {
    /// Takes in the time of one slice. One step in ten counts: pauses of the machine come and go.
    pub(crate) fn measure(&mut self, slice_ns: u64) {
        self.pace_ns = Some(match self.pace_ns {
            Some(pace) => pace - pace / 10 + slice_ns / 10,
            None => slice_ns,
        });
    }
}

#[derive(Debug, Default)]
pub(crate) struct Roster {
    workers: BTreeMap<SessionId, Worker>,
    /// A name that is in use, and by which stream.
    names: BTreeMap<Name, SessionId>,
}

impl Roster {
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        candidate: &Candidate,
    ) -> Result<(), JoinRefusal> {
        let own = |session: &&SessionId| {
            self.workers.get(session).is_some_and(|old| old.incarnation == candidate.incarnation)
                || active(Mutant::NameTakenOver)
        };
        if let Some(&old) = self.names.get(&candidate.name).filter(own) {
            // The same process on a new stream: the end of the old one is still on its way.
            self.remove(old);
        }
        if let Some(holder) = self.names.get(&candidate.name).and_then(|held| self.get(*held)) {
            let (name, holder) = (candidate.name.clone(), holder.address.clone());
            return Err(JoinRefusal::NameTaken { name, holder });
        }
        if self.workers.len() >= WORKERS_MAX {
            return Err(JoinRefusal::Full { limit: WORKERS_MAX });
        }
        let worker = Worker {
            session: candidate.session,
            name: candidate.name.clone(),
            incarnation: candidate.incarnation,
            address: candidate.address.clone(),
            device_kind: candidate.device_kind.clone(),
            threads: candidate.threads,
            last_heard: now,
            step: 0,
            phase: Phase::Idle,
            dismissed: false,
            leaving: false,
            warmth: Warmth::Cold,
            pace_ns: None,
        };
        self.names.insert(candidate.name.clone(), candidate.session);
        self.workers.insert(candidate.session, worker);
        Ok(())
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<&Worker> {
        self.workers.get(&session)
    }

    pub(crate) fn get_mut(&mut self, session: SessionId) -> Option<&mut Worker> {
        self.workers.get_mut(&session)
    }

    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Worker> {
        let worker = self.workers.remove(&session)?;
        self.names.remove(&worker.name);
        Some(worker)
    }

    pub(crate) fn is_here(&self, name: &Name) -> bool {
        self.names.contains_key(name)
    }

    /// By name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.names.values().filter_map(|session| self.workers.get(session))
    }

    /// Workers that were silent for longer than `limit`.
    pub(crate) fn silent(&self, now: Duration, limit: Duration) -> Vec<SessionId> {
        let late = |worker: &&Worker| now.saturating_sub(worker.last_heard) > limit;
        self.iter().filter(late).map(|worker| worker.session).collect()
    }

    /// Those who could work on a job, by name: of `kind` if that is fixed, else of the kind with the most of them.
    pub(crate) fn crew(
        &self,
        kind: Option<&str>,
        excluded: &BTreeSet<Incarnation>,
    ) -> Vec<&Worker> {
        let mut kinds: BTreeMap<&str, Vec<&Worker>> = BTreeMap::new();
        let fits = |worker: &&Worker| {
            !worker.dismissed
                && (!worker.leaving || active(Mutant::LeavingTakenAgain))
                && (!excluded.contains(&worker.incarnation) || active(Mutant::ExcludedTakenAgain))
                && kind.is_none_or(|kind| kind == worker.device_kind)
        };
        for worker in self.iter().filter(fits) {
            kinds.entry(&worker.device_kind).or_default().push(worker);
        }
        kinds.into_values().max_by_key(Vec::len).unwrap_or_default()
    }
}
