//! What must not go on silently: steps that nobody could apply since something was not finite, members whose states differ,
//! and members that hold the others up.

use proto::identity::{Incarnation, JobId, Name};

use super::action::Level;
use super::event::Digest;
use super::job::{Mark, Shortage};
use super::membership::{Agreed, Membership, Party, Progress, Seat, joined};
use super::roster::Worker;
use super::{Cause, Cluster, DISPUTES_MAX, PACE_AFTER, SKIPPED_IN_A_ROW_MAX, STRAGGLER_FROM};

/// Members held different states after this step, and nobody could say which was right.
#[derive(Clone, Debug)]
pub(crate) struct Dispute {
    step: u64,
    states: Vec<(Incarnation, Name, Digest)>,
    /// What it led to when it was computed again.
    outcome: Option<Digest>,
}

impl Cluster {
    /// A step was committed that no member applied. Where that happens again and again, the job ends with what it has.
    pub(super) fn note_skipped(&mut self, id: &JobId, agreed: &Agreed) {
        let (Some(whose), Some(job)) = (&agreed.skipped, self.job(id)) else { return };
        let (step, count) = (agreed.step, job.skipped_in_a_row);
        let line = format!("step {step} skipped by all: {whose} is not finite");
        if count < SKIPPED_IN_A_ROW_MAX {
            let text = format!("{line}; {count} in a row, {SKIPPED_IN_A_ROW_MAX} stop the job");
            return self.log(Some(id), Level::Warn, text);
        }
        let Some(job) = self.job_mut(id) else { return };
        if job.halted.is_some() {
            return;
        }
        let reason = format!(
            "{line}, the last of {count} in a row; lower the learning rate or lengthen the warm-up, and begin with --fresh"
        );
        job.halted = Some(reason.clone());
        self.log(Some(id), Level::Error, format!("{reason}; stopping with the state before them"));
        self.stop_generation(id);
    }

    /// Among members that promised to do no more, those who hold another state of the newest step than the rest are left
    /// out. False when the generation is over: a member that differs after a step may have computed its share of it from
    /// wrong weights, and then what all others hold is wrong, too. It is not committed, so that it is computed again, from
    /// the newest checkpoint.
    pub(super) fn settle_divergence(&mut self) -> bool {
        let Some(membership) = &self.membership else { return true };
        let Some(job) = self.job(&membership.job) else { return true };
        let parties = membership.parties(|seat| self.stays(job, seat));
        if parties.len() < 2 {
            return true;
        }
        let Some(right) = majority(&parties, job.watermark) else {
            self.dispute(&parties);
            return false;
        };
        let (right, id) = (right.clone(), job.id.clone());
        let committed = right.state == job.watermark;
        let holders = names(membership, &right);
        for party in parties.iter().filter(|party| party.state != right.state) {
            for &rank in &party.members {
                let Some(membership) = &self.membership else { return true };
                let (name, state) = (membership.name(rank), words(party.state));
                let line = format!(
                    "worker {name} evicted: it holds {state}, but {holders} {}",
                    words(right.state)
                );
                self.exclude(rank, Cause::Worker, line);
            }
        }
        if !committed {
            let step = right.state.step;
            let line = format!("step {step} may hold a share that was computed from wrong weights");
            self.compute_again(&id, &line);
        }
        committed
    }

    /// Gives the generation up; what followed the newest checkpoint is computed again, for this reason.
    fn compute_again(&mut self, id: &JobId, line: &str) {
        let Some(job) = self.job(id) else { return };
        let newest = job.newest_checkpoint_words();
        let text = format!("{line}; computing again what followed the newest checkpoint; {newest}");
        self.log(Some(id), Level::Warn, text);
        self.dissolve(line);
        self.go_back(id);
    }

    /// No state has a majority: the steps since the newest checkpoint are computed again, which shows who was right.
    fn dispute(&mut self, parties: &[Party]) {
        let Some(membership) = &self.membership else { return };
        let Some(job) = self.job(&membership.job) else { return };
        let (id, step) = (job.id.clone(), parties[0].state.step);
        let states = parties.iter().flat_map(|party| {
            let digest = party.state.digest;
            party.members.iter().filter_map(move |&rank| Some((rank, digest?)))
        });
        let states: Vec<_> = states
            .map(|(rank, digest)| {
                let member = &membership.seats[rank].member;
                (member.incarnation, member.name.clone(), digest)
            })
            .collect();
        let held = joined(
            parties
                .iter()
                .map(|party| format!("{} {}", names(membership, party), words(party.state))),
        );
        let line = format!("the members' states after step {step} differ: {held}");
        let crew = self.roster.crew(job.device_kind.as_deref(), &job.excluded).len();
        let too_few = job.shortage == Shortage::Fail && crew < job.workers as usize;
        if job.disputes >= DISPUTES_MAX || too_few {
            return self.fail(Cause::Worker, line);
        }
        let Some(job) = self.job_mut(&id) else { return };
        job.disputes += 1;
        job.dispute = Some(Dispute { step, states, outcome: None });
        self.compute_again(&id, &line);
    }

    /// What the step led to that members once disagreed about, if it is this one.
    pub(super) fn note_outcome(&mut self, id: &JobId, agreed: &Agreed) {
        let dispute = self.job_mut(id).and_then(|job| job.dispute.as_mut());
        if let Some(dispute) = dispute.filter(|dispute| dispute.step == agreed.step) {
            dispute.outcome = Some(agreed.digest);
        }
    }

    /// The step that members once disagreed about is committed: who was wrong then is left out.
    pub(super) fn settle_dispute(&mut self, id: &JobId, agreed: &Agreed) {
        self.note_outcome(id, agreed);
        let settled = |dispute: &mut Dispute| dispute.outcome.is_some();
        let Some(dispute) = self.job_mut(id).and_then(|job| job.dispute.take_if(settled)) else {
            return;
        };
        let Dispute { step, states, outcome } = dispute;
        let was_right = |digest: &Digest| Some(*digest) == outcome;
        let right = states.iter().filter(|(_, _, digest)| was_right(digest));
        let right = joined(right.map(|(_, name, _)| name.to_string()));
        if right.is_empty() {
            let text = format!("nobody held the state that step {step} has now led to");
            return self.log(Some(id), Level::Warn, text);
        }
        for (incarnation, name, _) in states.iter().filter(|(_, _, digest)| !was_right(digest)) {
            let Some(membership) = &self.membership else { return };
            let seat = |seat: &Seat| seat.member.incarnation == *incarnation;
            let Some(rank) = membership.seats.iter().position(seat) else { continue };
            let line = format!(
                "worker {name} evicted: computed again, step {step} led to what {right} had held before"
            );
            self.exclude(rank, Cause::Worker, line);
        }
    }

    /// Names members that need much longer for a slice than the median, once in a generation.
    pub(super) fn name_stragglers(&mut self, id: &JobId) {
        let Some(membership) = &mut self.membership else { return };
        let Progress::Running { since } = membership.progress else { return };
        let due = self.now.saturating_sub(since) >= PACE_AFTER;
        if !due || std::mem::replace(&mut membership.named_stragglers, true) {
            return;
        }
        let members = membership.seats.iter().map(|seat| seat.member.session);
        let workers: Vec<&Worker> = members.filter_map(|one| self.roster.get(one)).collect();
        let slow: Vec<String> = by_pace(&workers)
            .into_iter()
            .filter(|(_, times)| *times >= STRAGGLER_FROM)
            .map(|(worker, times)| {
                let name = &worker.name;
                format!("worker {name} takes {times:.1} times as long for a slice as the median")
            })
            .collect();
        for line in slow {
            let text = format!("{line}; the next generation gives it fewer");
            self.log(Some(id), Level::Warn, text);
        }
    }
}

/// Workers whose pace is known, slowest first, with the multiple of the median that they need for a slice. Of two medians
/// the lower one counts, so that of two workers the slower one stands out.
pub(crate) fn by_pace<'a>(workers: &[&'a Worker]) -> Vec<(&'a Worker, f64)> {
    let mut known: Vec<(&Worker, u64)> =
        workers.iter().filter_map(|worker| Some((*worker, worker.pace_ns?))).collect();
    known.sort_by_key(|(_, pace)| *pace);
    let Some(&(_, median)) = known.get(known.len().saturating_sub(1) / 2) else {
        return Vec::new();
    };
    let times = |pace: u64| pace as f64 / median.max(1) as f64;
    known.into_iter().rev().map(|(worker, pace)| (worker, times(pace))).collect()
}

/// The party whose state is committed; for a step that is not, the one with more than half of the members.
fn majority(parties: &[Party], watermark: Mark) -> Option<&Party> {
    if let Some(committed) = parties.iter().find(|party| party.state == watermark) {
        return Some(committed);
    }
    let all: usize = parties.iter().map(|party| party.members.len()).sum();
    parties.iter().find(|party| 2 * party.members.len() > all && party.state.step > watermark.step)
}

fn names(membership: &Membership, party: &Party) -> String {
    joined(party.members.iter().map(|&rank| membership.name(rank).to_string()))
}

/// "state ab.. of step 7".
fn words(state: Mark) -> String {
    let digest = state.digest.map_or_else(|| "unknown".to_owned(), |digest| digest.to_string());
    format!("state {digest} of step {}", state.step)
}
