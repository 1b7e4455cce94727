//! What workers and coordinator do besides writing records: who is greeted as what, told what, contributes, is waited for.

use coordinator::core::{Action, Digest, Formation, Plan, Record, SessionId};
use proto::identity::Incarnation;

use super::{Check, Checker, Invariant, ensure};

impl Checker {
    /// The members are told of a generation.
    pub(crate) fn told(&self, formation: &Formation) -> Check {
        let (told, on_record) = (formation.generation.0, self.generation);
        ensure(Invariant::I6, told == on_record, || {
            format!("workers are told of generation {told}, {on_record} is on record")
        })?;
        self.crew.told(formation)?;
        self.owes_no_checkpoint(formation)
    }

    /// A member is told that it need not repeat the reports of steps up to this one.
    pub(crate) fn acknowledged(&self, step: u64) -> Check {
        ensure(Invariant::I4, step <= self.watermark, || {
            format!("step {step} is said to be on record, which is not committed")
        })
    }

    /// A member is told to run.
    pub(crate) fn runs(&mut self, generation: u64) {
        self.running = generation;
    }

    /// A process is greeted as a member of this generation, or, with 0, as none.
    pub(crate) fn admitted(&self, incarnation: Incarnation, generation: u64) -> Check {
        let text = incarnation.to_string();
        let is_member = self.crew.is_member(generation, &text);
        ensure(Invariant::I7, generation == 0 || is_member, || {
            format!("process {text} is greeted as a member of generation {generation}")
        })
    }

    /// A worker said that it holds the base of a generation.
    pub(crate) fn says_ready(&mut self, incarnation: Incarnation, generation: u64) {
        self.ready.insert(incarnation, generation);
    }

    /// A worker promised to contribute no more to a generation.
    pub(crate) fn promises(&mut self, incarnation: Incarnation, generation: u64) {
        self.promised.insert((generation, incarnation));
    }

    /// The coordinator heard that a worker wants to end.
    pub(crate) fn leaves(&mut self, session: SessionId, incarnation: Incarnation) {
        self.crew.leaves(session);
        self.ready.remove(&incarnation);
    }

    /// The coordinator heard that a process can't take part in the job.
    pub(crate) fn refuses(&mut self, incarnation: Incarnation) -> Check {
        self.ready.remove(&incarnation);
        let times = self.refusals.entry(incarnation).or_default();
        *times += 1;
        ensure(Invariant::I9, *times <= REFUSALS_MAX, || {
            format!("process {incarnation} was asked {times} times, and can't take part")
        })
    }

    /// A process contributes to a step of a generation.
    pub(crate) fn contributes(&self, incarnation: Incarnation, generation: u64) -> Check {
        ensure(Invariant::I7, !self.promised.contains(&(generation, incarnation)), || {
            format!(
                "process {incarnation} contributes to generation {generation}, which it gave up"
            )
        })
    }

    /// All members of a generation contributed to a step; each from this state.
    pub(crate) fn reduced(&self, generation: u64, step: u64, from: &[Digest]) -> Check {
        ensure(Invariant::I3, from.windows(2).all(|pair| pair[0] == pair[1]), || {
            format!("members of generation {generation} computed step {step} from different states")
        })
    }

    /// What followed a report of this generation.
    pub(crate) fn caused(&self, generation: u64, actions: &[Action]) -> Check {
        if generation == 0 || generation >= self.generation {
            return Ok(());
        }
        // One that runs may be given up to take in others, at any time.
        let begins = self.running < self.generation;
        let counted = actions.iter().find(|action| match action {
            Action::Publish { .. }
            | Action::Journal(
                Record::Committed { .. } | Record::Evaluated { .. } | Record::Ended { .. },
            ) => true,
            Action::Send { plan: Plan::Seal { .. }, .. } => begins,
            _ => false,
        });
        ensure(Invariant::I7, counted.is_none(), || {
            let newest = self.generation;
            format!("a report of generation {generation} counts in {newest}: {counted:?}")
        })
    }

    /// The coordinator takes the newest state for lost, although this process lives and was heard of `ticks` ticks ago.
    pub(crate) fn given_up(&self, incarnation: Incarnation, ticks: u64) -> Check {
        let holds = self.ready.get(&incarnation).is_some_and(|of| *of == self.generation);
        let holds = holds && self.watermark > self.shelf.newest_on_disk();
        ensure(Invariant::I2, !holds || ticks >= RETURN_TICKS, || {
            let generation = self.generation;
            format!(
                "the job goes back to a checkpoint, but {incarnation} lives, holds the state of generation {generation}, and \
                 was heard of {ticks} ticks ago"
            )
        })
    }
}

/// How often a process may say that it can't take part: while a generation is given up it may be said in vain.
const REFUSALS_MAX: u32 = 4;
/// Members have 15 s to come back, in ticks of 100 ms, less what rounding takes.
const RETURN_TICKS: u64 = 145;
