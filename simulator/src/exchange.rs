//! How the members of a generation depend on each other: nobody gets ready before all are connected, no step is applied that
//! not all have contributed to, and an edge that breaks is felt by all.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::core::Digest;

/// The connections of one generation.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Worker and process start, by rank.
    pub(crate) members: Vec<(usize, u64)>,
    pub(crate) connected: BTreeSet<usize>,
    /// By step and rank: the state it was computed from, and what the member was asked to do.
    contributions: BTreeMap<u64, BTreeMap<usize, (Digest, Votes)>>,
    /// The member whose end of an edge broke first.
    pub(crate) broken_by: Option<usize>,
}

/// What all members contributed to a step.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub(crate) from: Vec<Digest>,
    pub(crate) votes: Votes,
}

/// What a member was asked to do behind the step at hand, or one of all was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Votes {
    pub(crate) stop: bool,
    pub(crate) pause: bool,
}

impl Exchange {
    pub(crate) fn new(members: Vec<(usize, u64)>) -> Exchange {
        Exchange {
            members,
            connected: BTreeSet::new(),
            contributions: BTreeMap::new(),
            broken_by: None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.len() == self.members.len()
    }

    /// Returns the reduction once this was the last contribution to it.
    pub(crate) fn contribute(
        &mut self,
        step: u64,
        rank: usize,
        from: Digest,
        votes: Votes,
    ) -> Option<Reduced> {
        let step = self.contributions.entry(step).or_default();
        step.insert(rank, (from, votes));
        if step.len() < self.members.len() {
            return None;
        }
        let from = step.values().map(|(digest, _)| *digest).collect();
        let any = |asked: fn(&Votes) -> bool| step.values().any(|(_, votes)| asked(votes));
        let votes = Votes { stop: any(|votes| votes.stop), pause: any(|votes| votes.pause) };
        Some(Reduced { from, votes })
    }
}
