//! Parts of checkpoints on their way to the coordinator.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::core::{Digest, Event};
use proto::identity::{Generation, JobId, unhex};
use proto::wire::v1::{self, report::Kind};

use crate::checker::Check;
use crate::job::sha256;
use crate::world::{Happening, World};

/// What the coordinator has received of one generation.
#[derive(Debug)]
pub(crate) struct Uploads {
    pub(crate) generation: Generation,
    pub(crate) job: JobId,
    pub(crate) members: usize,
    pub(crate) parts: BTreeMap<u64, BTreeSet<usize>>,
}

impl World {
    pub(crate) fn upload(&mut self, worker: usize, step: u64, digest: Digest, last: bool) {
        let life = self.workers[worker].life;
        let generation = self.workers[worker].generation();
        let delay = 10 + self.draws.below(200);
        let upload = Happening::Upload { worker, life, generation, step, digest, last };
        self.agenda.after(delay, upload);
    }

    pub(crate) fn uploaded(
        &mut self,
        index: usize,
        generation: Generation,
        step: u64,
        digest: Digest,
        last: bool,
    ) -> Check {
        let life = self.workers[index].life;
        if self.core.is_none() {
            let upload = Happening::Upload { worker: index, life, generation, step, digest, last };
            self.agenda.after(500, upload);
            return Ok(());
        }
        let rank = match &self.workers[index].member {
            Some(member) if self.workers[index].generation() == generation => member.rank,
            _ => return Ok(()),
        };
        let open = self.uploads.iter_mut().find(|uploads| uploads.generation == generation);
        let mut assembled = None;
        if let Some(uploads) = open {
            let parts = uploads.parts.entry(step).or_default();
            let new = parts.insert(rank);
            if new && parts.len() == uploads.members {
                let job = uploads.job.clone();
                assembled = Some(Event::CheckpointAssembled { job, generation, step });
            }
        }
        if last {
            let model_sha256 = unhex(&sha256(step)).expect("it is written in hex");
            self.say(index, Kind::Finished(v1::Finished { step, model_sha256 }));
        }
        match assembled {
            Some(event) => self.tell(event),
            None => Ok(()),
        }
    }
}
