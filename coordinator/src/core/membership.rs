//! One generation: its members, their slices, and what they have agreed on so far. Pure bookkeeping: decides when a step is
//! committed and when reports contradict each other, but not what follows from that. Knows no job beyond its id.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use proto::identity::{Generation, JobId, Name};
use proto::mutant::{Mutant, active};
use proto::wire::v1::PhaseTimes;

use super::action::Member;
use super::event::{Digest, Held, SessionId, StepDone, Tally, Trouble};
use super::job::Mark;
use super::roster::Worker;

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) generation: Generation,
    pub(crate) job: JobId,
    pub(crate) base_step: u64,
    pub(crate) base_digest: Option<Digest>,
    /// Members held the base when it was formed. Otherwise it came from a checkpoint, or from the job's seed.
    pub(crate) carried: bool,
    /// It was formed in an earlier life of the coordinator.
    pub(crate) remembered: bool,
    pub(crate) seats: Vec<Seat>,
    pub(crate) progress: Progress,
    /// The members were asked to stop.
    pub(crate) stopping: bool,
    /// They were asked to pause; since, on the lenient clock.
    pub(crate) pausing: Option<Duration>,
    pub(crate) complaints: Vec<Complaint>,
    /// All have finished, with this step and model; since, on the lenient clock.
    pub(crate) ended: Option<(u64, String, Duration)>,
    /// Newest step whose metric was published.
    pub(crate) published: u64,
    /// Of a remembered one: steps up to this one were committed in that life.
    pub(crate) committed: u64,
    /// Members were told that steps up to this one are on record.
    pub(crate) acknowledged: u64,
    /// When they last may have been told, on the lenient clock.
    pub(crate) acknowledged_at: Duration,
    /// When a member last got on with its work, on the lenient clock.
    pub(crate) last_progress: Duration,
    /// Slow members were named in the log.
    pub(crate) named_stragglers: bool,
    /// Since when nobody who holds its state is within reach, on the lenient clock.
    pub(crate) orphaned_since: Option<Duration>,
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
    pub(crate) standing: Standing,
    /// Its stream has ended; it may come back.
    pub(crate) away: Option<Away>,
}

/// A member without a stream.
#[derive(Clone, Debug)]
pub(crate) struct Away {
    /// It is lost when it has not come back until then, on the lenient clock.
    pub(crate) until: Duration,
    pub(crate) cause: String,
    /// As it was when it was last heard of.
    pub(crate) worker: Worker,
}

/// How a member takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    Active,
    /// It promised to do nothing more in this generation; what it holds, if anything.
    Sealed(Option<Held>),
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Since, on the lenient clock.
    Forming { since: Duration },
    /// Since, on the caller's clock.
    Running { since: Duration },
    /// The members were told to give up this generation, under the number of the next. Since, on the lenient clock.
    Sealing { attempt: Generation, since: Duration },
}

/// "My edge to that worker broke": perhaps a cause, perhaps a consequence.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) from: usize,
    pub(crate) trouble: Trouble,
}

/// A step that all members agree on.
#[derive(Debug, PartialEq)]
pub(crate) struct Agreed {
    pub(crate) step: u64,
    pub(crate) digest: Digest,
    pub(crate) loss: f64,
    pub(crate) correct: u32,
    pub(crate) gradient_norm: f64,
    /// Nobody applied it; whose contribution of what was not finite.
    pub(crate) skipped: Option<String>,
    /// All members wait behind it.
    pub(crate) paused: bool,
    pub(crate) times: Vec<(Name, PhaseTimes)>,
}

impl Agreed {
    /// A step of which no more is known than where it led.
    pub(crate) fn unreported(step: u64, digest: Digest) -> Agreed {
        let (loss, correct, gradient_norm) = (f64::NAN, 0, f64::NAN);
        let (skipped, paused, times) = (None, false, Vec::new());
        Agreed { step, digest, loss, correct, gradient_norm, skipped, paused, times }
    }
}

/// What members who were to hold the same state say of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken<T> {
    /// Some have not said anything yet, or it was said before.
    Partly,
    Agreed(T),
    /// Their states differ.
    Diverged,
}

/// A state that some members sealed with, when others of them sealed with another one of the same step.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) state: Mark,
    /// By rank.
    pub(crate) members: Vec<usize>,
}

/// Members contradict each other or the protocol; the text names them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Contradiction(pub(crate) String);

impl Membership {
    pub(crate) fn new(
        generation: Generation,
        job: JobId,
        base: Mark,
        carried: bool,
        members: Vec<Member>,
        since: Duration,
    ) -> Membership {
        let Mark { step: base_step, digest: base_digest } = base;
        let seat = |member| Seat {
            member,
            ready: None,
            applied: base_step,
            finished: None,
            standing: Standing::Active,
            away: None,
        };
        Membership {
            generation,
            job,
            base_step,
            base_digest,
            carried,
            remembered: false,
            seats: members.into_iter().map(seat).collect(),
            progress: Progress::Forming { since },
            stopping: false,
            pausing: None,
            complaints: Vec::new(),
            ended: None,
            published: base_step,
            committed: base_step,
            acknowledged: base_step,
            acknowledged_at: since,
            last_progress: since,
            named_stragglers: false,
            orphaned_since: None,
            steps: BTreeMap::new(),
            tallies: BTreeMap::new(),
        }
    }

    pub(crate) fn rank_of(&self, session: SessionId) -> Option<usize> {
        let here = |seat: &Seat| {
            seat.member.session == session && seat.standing != Standing::Lost && seat.away.is_none()
        };
        self.seats.iter().position(here)
    }

    /// Members that are not lost.
    pub(crate) fn here(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.standing != Standing::Lost)
    }

    pub(crate) fn sealing(&self) -> Option<Generation> {
        match self.progress {
            Progress::Sealing { attempt, .. } => Some(attempt),
            Progress::Forming { .. } | Progress::Running { .. } => None,
        }
    }

    /// Every member has sealed or is lost: nothing more can happen in this generation.
    pub(crate) fn is_sealed(&self) -> bool {
        let over = |seat: &Seat| !matches!(seat.standing, Standing::Active);
        self.sealing().is_some() && self.seats.iter().all(over)
    }

    /// The state that a member sealed with, if a new generation may start from it: it belongs to this generation's history
    /// at or after its base. One that never took the base over is left behind.
    pub(crate) fn usable(&self, seat: &Seat) -> Option<Mark> {
        let Standing::Sealed(Some(held)) = seat.standing else { return None };
        let is_base = held.step == self.base_step && Some(held.digest) == self.base_digest;
        let extends_base = held.generation == self.generation && held.step >= self.base_step;
        (is_base || extends_base).then_some(Mark { step: held.step, digest: Some(held.digest) })
    }

    /// The newest state among members that pass, and the streams of those who hold it.
    pub(crate) fn newest_state(
        &self,
        passes: impl Fn(&Seat) -> bool,
    ) -> Option<(Mark, Vec<SessionId>)> {
        let states: Vec<(Mark, SessionId)> = self
            .seats
            .iter()
            .filter(|seat| passes(seat))
            .filter_map(|seat| Some((self.usable(seat)?, seat.member.session)))
            .collect();
        let mut newest = states.iter().map(|(mark, _)| *mark).max_by_key(|mark| mark.step)?;
        if active(Mutant::BaseOfLastGeneration) {
            newest = Mark { step: self.base_step, digest: self.base_digest };
        }
        let holders =
            states.iter().filter(|(mark, _)| *mark == newest || active(Mutant::HoldersNotAtBase));
        Some((newest, holders.map(|(_, session)| *session).collect()))
    }

    /// The different states of the newest step among members that pass; one party when all hold the same.
    pub(crate) fn parties(&self, passes: impl Fn(&Seat) -> bool) -> Vec<Party> {
        let states = self.seats.iter().enumerate().filter(|(_, seat)| passes(seat));
        let states: Vec<(usize, Mark)> =
            states.filter_map(|(rank, seat)| Some((rank, self.usable(seat)?))).collect();
        let newest = states.iter().map(|(_, state)| state.step).max();
        let mut parties: Vec<Party> = Vec::new();
        for (rank, state) in states.into_iter().filter(|(_, state)| Some(state.step) == newest) {
            match parties.iter_mut().find(|party| party.state == state) {
                Some(party) => party.members.push(rank),
                None => parties.push(Party { state, members: vec![rank] }),
            }
        }
        parties
    }

    /// A step that some members have applied, as one of them reported it; of those who came to `digest`, if that is given.
    pub(crate) fn reported(&self, step: u64, digest: Option<Digest>) -> Option<&StepDone> {
        let mut reports = self.steps.get(&step)?.iter().flatten();
        reports.find(|report| digest.is_none_or(|digest| digest == report.digest))
    }

    /// What one member reported, as if all had: they will.
    pub(crate) fn as_if_agreed(&self, report: &StepDone) -> Agreed {
        let StepDone { step, digest, loss, correct, gradient_norm, skipped, paused, .. } =
            report.clone();
        let (skipped, times) = (skipped.map(|not_finite| not_finite.sum), Vec::new());
        Agreed { step, digest, loss, correct, gradient_norm, skipped, paused, times }
    }

    /// "worker w2: the gradient of conv1.weight", of those who contributed what is not finite.
    pub(crate) fn whose(&self, reports: &[StepDone]) -> Option<String> {
        let first = reports.first()?.skipped.as_ref()?;
        let owners = self.seats.iter().zip(reports).filter_map(|(seat, report)| {
            let own = report.skipped.as_ref()?.own.as_ref()?;
            Some(format!("{own} of worker {}", seat.member.name))
        });
        let owners = joined(owners);
        Some(if owners.is_empty() {
            format!("{} summed over all workers", first.sum)
        } else {
            owners
        })
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
    ) -> Result<Taken<Digest>, Contradiction> {
        if step == self.base_step && !self.is_forming() {
            // Repeated after a break of its stream, or said before the generation was given up.
            return Ok(Taken::Partly);
        }
        if !self.is_forming() || step != self.base_step {
            let (name, base) = (self.name(rank), self.base_step);
            return Err(Contradiction(format!(
                "worker {name} is ready at step {step} where step {base} was asked for"
            )));
        }
        self.seats[rank].ready = Some((step, digest));
        let digests: Option<Vec<Digest>> =
            self.seats.iter().map(|seat| seat.ready.map(|(_, digest)| digest)).collect();
        let Some(digests) = digests else { return Ok(Taken::Partly) };
        let agreed = digests[0];
        if digests.iter().any(|digest| *digest != agreed) {
            return Ok(Taken::Diverged);
        }
        if let Some(expected) = self.base_digest.filter(|expected| *expected != agreed) {
            return Err(Contradiction(format!(
                "all workers hold digest {agreed} at step {step}, but {expected} was committed"
            )));
        }
        self.base_digest = Some(agreed);
        Ok(Taken::Agreed(agreed))
    }

    /// Returns the step once all members have reported it.
    pub(crate) fn take_step(
        &mut self,
        rank: usize,
        report: StepDone,
    ) -> Result<Taken<Agreed>, Contradiction> {
        let seat = &mut self.seats[rank];
        let step = report.step;
        if step <= seat.applied {
            // Repeated after a break of its stream.
            return Ok(Taken::Partly);
        }
        if self.remembered && step <= self.committed + 1 && seat.finished.is_none() {
            // Metrics of what is committed may be lost with the machine, and nobody has the reports any more.
            seat.applied = step - 1;
        }
        if step != seat.applied + 1 || seat.finished.is_some() {
            let (name, applied) = (&seat.member.name, seat.applied);
            return Err(Contradiction(format!(
                "worker {name} reported step {step} after step {applied}"
            )));
        }
        seat.applied = step;
        if self.steps.len() > STEPS_AHEAD_MAX {
            let name = self.name(rank);
            return Err(Contradiction(format!(
                "worker {name} reported step {step} while others are {STEPS_AHEAD_MAX} steps behind"
            )));
        }
        let members = self.seats.len();
        let needed = if active(Mutant::CommittedByMajority) { members / 2 + 1 } else { members };
        let reports = collect(&mut self.steps, (members, needed), step, rank, report);
        let Some(reports) = reports else { return Ok(Taken::Partly) };
        if reports.iter().any(|report| report.digest != reports[0].digest) {
            // Some of them are right; the step may count yet.
            self.steps.insert(step, reports.into_iter().map(Some).collect());
            return Ok(Taken::Diverged);
        }
        let skipped = self.whose(&reports);
        let names = self.seats.iter().map(|seat| seat.member.name.clone());
        let times = names.zip(reports.iter().map(|report| report.times)).collect();
        let StepDone { digest, loss, correct, gradient_norm, paused, .. } = reports[0];
        let agreed = Agreed { step, digest, loss, correct, gradient_norm, skipped, paused, times };
        Ok(Taken::Agreed(agreed))
    }

    /// A promise under an older number is late.
    pub(crate) fn take_sealed(&mut self, rank: usize, attempt: Generation, held: Option<Held>) {
        if self.sealing() == Some(attempt) {
            self.seats[rank].standing = Standing::Sealed(held);
        }
    }

    /// Returns the sum once all members have reported their share.
    pub(crate) fn take_tally(
        &mut self,
        rank: usize,
        step: u64,
        tally: Tally,
    ) -> Result<Option<Tally>, Contradiction> {
        let seat = &self.seats[rank];
        if step > seat.applied {
            let (name, applied) = (&seat.member.name, seat.applied);
            return Err(Contradiction(format!(
                "worker {name} evaluated step {step} after step {applied}"
            )));
        }
        let earlier = self.tallies.get(&step).and_then(|tallies| tallies[rank]);
        let earlier = earlier.filter(|_| active(Mutant::ShareCountedTwice));
        let tally = earlier.and_then(|earlier| earlier.plus(tally)).unwrap_or(tally);
        let all = (self.seats.len(), self.seats.len());
        let Some(tallies) = collect(&mut self.tallies, all, step, rank, tally) else {
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
}

/// Puts one member's report beside the others'; returns all of them, by rank, when it was the last that is needed.
fn collect<T: Clone>(
    pending: &mut BTreeMap<u64, Vec<Option<T>>>,
    (members, needed): (usize, usize),
    step: u64,
    rank: usize,
    report: T,
) -> Option<Vec<T>> {
    let reports = pending.entry(step).or_insert_with(|| vec![None; members]);
    reports[rank] = Some(report);
    let here: Vec<T> = reports.iter().flatten().cloned().collect();
    if here.len() < needed {
        return None;
    }
    pending.remove(&step);
    Some(here)
}

/// Cuts `slices` into contiguous runs in rank order, so that the member that needs longest is done as early as possible.
/// `paces`: time that each member needs for a slice, nanoseconds; one that is not known is taken as the mean of the others.
/// Members of the same pace get runs that differ by one at most, the longer ones first.
pub fn share_slices(slices: u32, paces: &[Option<u64>]) -> Vec<Range<u32>> {
    assert!(!paces.is_empty() && paces.len() <= slices as usize, "every member needs a slice");
    let known: Vec<u64> = paces.iter().flatten().copied().collect();
    let mean = known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or(1).max(1);
    let pace = |rank: usize| u128::from(paces[rank].unwrap_or(mean).max(1));
    // Everybody gets one; each further slice goes to who would be done with it first.
    let mut counts = vec![1u32; paces.len()];
    for _ in paces.len() as u32..slices {
        let done = |rank: &usize| pace(*rank) * u128::from(counts[*rank] + 1);
        let first = (0..paces.len()).min_by_key(done).expect("there are members");
        counts[first] += 1;
    }
    let mut start = 0;
    let run = |count| {
        start += count;
        let more = active(Mutant::SlicesOverlap) && start < slices;
        let fewer = active(Mutant::SliceForgotten) && start == slices && slices > count;
        start - count..start + u32::from(more) - u32::from(fewer)
    };
    counts.into_iter().map(run).collect()
}

/// Steps that some members may have reported and others not: an exchange keeps them within one step, but reports are
/// delivered apart, and those of a member whose stream broke come when it is back. More than a worker keeps.
const STEPS_AHEAD_MAX: usize = 300_000;

/// "a, b, c".
pub(crate) fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
