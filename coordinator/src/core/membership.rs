//! One generation: its members, their slices, and what they have agreed on so far. Pure bookkeeping: decides when a step is
//! committed and when reports contradict each other, but not what follows from that. Knows no job beyond its id.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use proto::identity::{Generation, JobId, Name};
use proto::wire::v1::PhaseTimes;

use super::action::Member;
use super::event::{Digest, SessionId, StepDone, Tally, Trouble};

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) generation: Generation,
    pub(crate) job: JobId,
    pub(crate) base_step: u64,
    pub(crate) base_digest: Option<Digest>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) progress: Progress,
    /// The members were asked to stop.
    pub(crate) stopping: bool,
    pub(crate) complaints: Vec<Complaint>,
    /// When a member last got on with its work, on the lenient clock.
    pub(crate) last_progress: Duration,
    steps: BTreeMap<u64, Vec<Option<StepDone>>>,
    tallies: BTreeMap<u64, Vec<Option<Tally>>>,
}

/// A member and what it has reported.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) member: Member,
    pub(crate) ready: Option<(u64, Digest)>,
    pub(crate) applied: u64,
    /// Last step and hash of the model file.
    pub(crate) finished: Option<(u64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Since, on the lenient clock.
    Forming { since: Duration },
    /// Since, on the caller's clock.
    Running { since: Duration },
}

/// "My edge to that worker broke": perhaps a cause, perhaps a consequence.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) from: usize,
    pub(crate) trouble: Trouble,
    /// On the lenient clock.
    pub(crate) at: Duration,
}

/// A step that all members agree on.
#[derive(Debug, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) step: u64,
    pub(crate) digest: Digest,
    pub(crate) loss: f64,
    pub(crate) correct: u32,
    pub(crate) gradient_norm: f64,
    pub(crate) times: Vec<(Name, PhaseTimes)>,
}

/// Members contradict each other or the protocol; the text names them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Contradiction(pub(crate) String);

impl Membership {
    pub(crate) fn new(
        generation: Generation,
        job: JobId,
        base: (u64, Option<Digest>),
        members: Vec<Member>,
        since: Duration,
    ) -> Membership {
        let (base_step, base_digest) = base;
        let seat = |member| Seat { member, ready: None, applied: base_step, finished: None };
        Membership {
            generation,
            job,
            base_step,
            base_digest,
            seats: members.into_iter().map(seat).collect(),
            progress: Progress::Forming { since },
            stopping: false,
            complaints: Vec::new(),
            last_progress: since,
            steps: BTreeMap::new(),
            tallies: BTreeMap::new(),
        }
    }

    pub(crate) fn rank_of(&self, session: SessionId) -> Option<usize> {
        self.seats.iter().position(|seat| seat.member.session == session)
    }

    pub(crate) fn name(&self, rank: usize) -> &Name {
        &self.seats[rank].member.name
    }

    pub(crate) fn is_forming(&self) -> bool {
        matches!(self.progress, Progress::Forming { .. })
    }

    /// Names of those who are not ready yet.
    pub(crate) fn unready(&self) -> String {
        let waiting = self.seats.iter().filter(|seat| seat.ready.is_none());
        joined(waiting.map(|seat| seat.member.name.to_string()))
    }

    /// Of those who have not finished: the lowest step that one has applied, and the names of those who stand there.
    pub(crate) fn hindmost(&self) -> (u64, String) {
        let waiting = || self.seats.iter().filter(|seat| seat.finished.is_none());
        let lowest = waiting().map(|seat| seat.applied).min().unwrap_or(self.base_step);
        let there = waiting().filter(|seat| seat.applied == lowest);
        (lowest, joined(there.map(|seat| seat.member.name.to_string())))
    }

    /// Returns the digest of the base once all members hold it.
    pub(crate) fn take_ready(
        &mut self,
        rank: usize,
        step: u64,
        digest: Digest,
    ) -> Result<Option<Digest>, Contradiction> {
        if !self.is_forming() || step != self.base_step {
            let (name, base) = (self.name(rank), self.base_step);
            return Err(Contradiction(format!(
                "worker {name} is ready at step {step} where step {base} was asked for"
            )));
        }
        self.seats[rank].ready = Some((step, digest));
        if self.seats.iter().any(|seat| seat.ready.is_none()) {
            return Ok(None);
        }
        let digests = self.seats.iter().filter_map(|seat| seat.ready.map(|(_, digest)| digest));
        let agreed = self.agree(&format!("state at step {step}"), digests.collect())?;
        if self.base_digest.is_some_and(|expected| expected != agreed) {
            let expected = self.base_digest.unwrap_or(agreed);
            return Err(Contradiction(format!(
                "all workers hold digest {agreed} at step {step}, but {expected} was committed"
            )));
        }
        self.base_digest = Some(agreed);
        Ok(Some(agreed))
    }

    /// Returns the step once all members have reported it.
    pub(crate) fn take_step(
        &mut self,
        rank: usize,
        report: StepDone,
    ) -> Result<Option<Agreed>, Contradiction> {
        let seat = &mut self.seats[rank];
        if report.step != seat.applied + 1 || seat.finished.is_some() {
            let (name, applied) = (&seat.member.name, seat.applied);
            let step = report.step;
            return Err(Contradiction(format!(
                "worker {name} reported step {step} after step {applied}"
            )));
        }
        seat.applied = report.step;
        if self.steps.len() > STEPS_AHEAD_MAX {
            let name = self.name(rank);
            return Err(Contradiction(format!(
                "worker {name} reported step {} while others are {STEPS_AHEAD_MAX} steps behind",
                report.step
            )));
        }
        let Some(reports) = collect(&mut self.steps, self.seats.len(), report.step, rank, report)
        else {
            return Ok(None);
        };
        let digests = reports.iter().map(|report| report.digest).collect();
        let digest = self.agree(&format!("state after step {}", report.step), digests)?;
        let names = self.seats.iter().map(|seat| seat.member.name.clone());
        let times = names.zip(reports.iter().map(|report| report.times)).collect();
        let first = reports[0];
        Ok(Some(Agreed {
            step: first.step,
            digest,
            loss: first.loss,
            correct: first.correct,
            gradient_norm: first.gradient_norm,
            times,
        }))
    }

    /// Returns the sum once all members have reported their share.
    pub(crate) fn take_tally(
        &mut self,
        rank: usize,
        step: u64,
        tally: Tally,
    ) -> Result<Option<Tally>, Contradiction> {
        let seat = &self.seats[rank];
        if step != seat.applied {
            let (name, applied) = (&seat.member.name, seat.applied);
            return Err(Contradiction(format!(
                "worker {name} evaluated step {step} after step {applied}"
            )));
        }
        let Some(tallies) = collect(&mut self.tallies, self.seats.len(), step, rank, tally) else {
            return Ok(None);
        };
        let sum = tallies.into_iter().try_fold(Tally::default(), Tally::plus);
        let overflow = || Contradiction(format!("the evaluation of step {step} overflows"));
        sum.map(Some).ok_or_else(overflow)
    }

    /// Returns last step and model hash once all members have finished.
    pub(crate) fn take_finished(
        &mut self,
        rank: usize,
        step: u64,
        model_sha256: String,
    ) -> Result<Option<(u64, String)>, Contradiction> {
        let seat = &mut self.seats[rank];
        if step != seat.applied {
            let (name, applied) = (&seat.member.name, seat.applied);
            return Err(Contradiction(format!(
                "worker {name} finished with step {step} after step {applied}"
            )));
        }
        seat.finished = Some((step, model_sha256));
        let finished: Option<Vec<_>> = self.seats.iter().map(|s| s.finished.clone()).collect();
        let Some(finished) = finished else { return Ok(None) };
        if finished.iter().any(|other| *other != finished[0]) {
            let words = self.seats.iter().zip(&finished);
            let words = words.map(|(seat, (step, hash))| {
                format!("{}: step {step}, model sha256 {hash}", seat.member.name)
            });
            return Err(Contradiction(format!("workers finished differently: {}", joined(words))));
        }
        Ok(Some(finished[0].clone()))
    }

    fn agree(&self, what: &str, digests: Vec<Digest>) -> Result<Digest, Contradiction> {
        if digests.iter().all(|digest| *digest == digests[0]) {
            return Ok(digests[0]);
        }
        let words = self.seats.iter().zip(&digests);
        let words = words.map(|(seat, digest)| format!("{} has {digest}", seat.member.name));
        Err(Contradiction(format!("workers disagree about the {what}: {}", joined(words))))
    }
}

/// Puts one member's report beside the others'; returns all of them, by rank, when it was the last.
fn collect<T: Copy>(
    pending: &mut BTreeMap<u64, Vec<Option<T>>>,
    members: usize,
    step: u64,
    rank: usize,
    report: T,
) -> Option<Vec<T>> {
    let reports = pending.entry(step).or_insert_with(|| vec![None; members]);
    reports[rank] = Some(report);
    let complete: Option<Vec<T>> = reports.iter().copied().collect();
    if complete.is_some() {
        pending.remove(&step);
    }
    complete
}

/// Cuts `slices` into `members` contiguous runs in rank order, as even as possible, the longer ones first.
pub fn share_slices(slices: u32, members: u32) -> Vec<Range<u32>> {
    assert!(members >= 1 && members <= slices, "every member needs a slice");
    let (each, longer) = (slices / members, slices % members);
    let start = |rank: u32| rank * each + rank.min(longer);
    (0..members).map(|rank| start(rank)..start(rank + 1)).collect()
}

/// Steps that some members may have reported and others not: an exchange keeps them within one step, reports are
/// delivered a little apart.
const STEPS_AHEAD_MAX: usize = 64;

/// "a, b, c".
pub(crate) fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
