//! Who may take part in a generation: as many as the job's policy allows, each process once, all slices in one piece each.

use std::collections::BTreeSet;

use coordinator::core::{Formation, MemberRecord, OnLoss, SessionId, Submission};

use super::{Check, Invariant, ensure};

#[derive(Debug, Default)]
pub(super) struct Crew {
    generation: u64,
    /// Incarnations of the newest generation, as on record.
    members: BTreeSet<String>,
    /// The generation that ended with the batch at hand, and its members.
    before: Option<(u64, BTreeSet<String>)>,
    /// Streams on which a worker said that it wants to end.
    leaving: BTreeSet<SessionId>,
}

impl Crew {
    /// What workers said on their streams is not on record.
    pub(super) fn booted(&mut self) {
        self.leaving.clear();
    }

    pub(super) fn leaves(&mut self, session: SessionId) {
        self.leaving.insert(session);
    }

    /// Another batch of decisions begins.
    pub(super) fn goes_on(&mut self) {
        self.before = None;
    }

    /// One may come back and be told of the next generation in the same breath.
    pub(super) fn is_member(&self, generation: u64, incarnation: &str) -> bool {
        let ended = self.before.as_ref().is_some_and(|(before, members)| {
            *before == generation && members.contains(incarnation)
        });
        ended || self.generation == generation && self.members.contains(incarnation)
    }

    pub(super) fn formed(
        &mut self,
        submission: &Submission,
        generation: u64,
        carried: bool,
        members: &[MemberRecord],
    ) -> Check {
        let first = self.generation == 0;
        let incarnations = members.iter().map(|member| member.incarnation.clone()).collect();
        let before = std::mem::replace(&mut self.members, incarnations);
        self.before = Some((std::mem::replace(&mut self.generation, generation), before));
        let count = members.len() as u32;
        ensure(Invariant::I7, self.members.len() == members.len(), || {
            format!("a process has two seats in generation {generation}")
        })?;
        let (least, most) = bounds(submission, carried, first);
        ensure(Invariant::I9, least <= count && count <= most, || {
            format!("generation {generation} has {count} members, not {least} to {most}")
        })?;
        let mut next = 0;
        for member in members {
            let first = member.first_slice;
            ensure(Invariant::I5, first == next && member.slice_count > 0, || {
                let worker = &member.worker;
                format!(
                    "in generation {generation} the slices of {worker} begin with {first}, not {next}"
                )
            })?;
            next = first + member.slice_count;
        }
        let slices = submission.spec.job.train.slices as u32;
        ensure(Invariant::I5, next == slices, || {
            format!("generation {generation} shares {next} of {slices} slices")
        })
    }

    pub(super) fn told(&self, formation: &Formation) -> Check {
        let leaver = formation.members.iter().find(|one| self.leaving.contains(&one.session));
        ensure(Invariant::I7, leaver.is_none(), || {
            let name = leaver.map(|member| member.name.to_string());
            format!("generation {} takes in {name:?}, which leaves", formation.generation)
        })
    }
}

/// Least and most members. The first generation has as many as were asked for, and so may one that begins again from a
/// checkpoint.
fn bounds(submission: &Submission, carried: bool, first: bool) -> (u32, u32) {
    let policy = submission.policy;
    let most = match policy.on_loss {
        OnLoss::Shrink => policy.max_workers.min(submission.spec.job.train.slices as u32),
        OnLoss::Wait | OnLoss::Spare => submission.workers,
    };
    let least = match policy.on_loss {
        OnLoss::Wait => submission.workers,
        OnLoss::Shrink | OnLoss::Spare if carried => policy.min_workers,
        OnLoss::Shrink | OnLoss::Spare if first => submission.workers,
        OnLoss::Shrink | OnLoss::Spare => policy.min_workers.min(submission.workers),
    };
    (least.min(most), most)
}
