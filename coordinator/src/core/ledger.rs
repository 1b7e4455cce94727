//! The ledger: from the journal's records anyone can prove which samples each committed step used, and who computed it. Each
//! committed step carries a link of a chain over the job's submission, generations, returns to checkpoints and steps, so
//! that one of these that was left out, altered or moved shows in the next step, whoever wrote the file. Other records are
//! covered by the journal's own chain alone. `verify` reads it.
//!
//! The first link is made of "JOB FINGERPRINT\nTOML", each further one of "LINK resumed STEP",
//! "LINK formed GENERATION BASE_STEP WORKER=FIRST_SLICE+COUNT ..." or "LINK committed GENERATION STEP DIGEST", with
//! " skipped WHAT" behind it for a step that nobody applied: the first 16 bytes of the text's SHA-256, in hex.

use proto::identity::{Generation, JobId, hex};
use sha2::{Digest as _, Sha256};

use super::job::JobSpec;
use super::membership::Agreed;
use super::record::{MemberRecord, Parting, Record};
use super::{Action, Cluster};

/// The newest link of a job's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain(String);

impl Chain {
    pub(crate) fn begin(job: &JobId, spec: &JobSpec) -> Chain {
        Chain::of(&format!("{job} {}\n{}", spec.dataset.fingerprint, spec.toml))
    }

    pub(super) fn resume(&mut self, step: u64) {
        self.extend(&format!("resumed {step}"));
    }

    pub(super) fn form(&mut self, generation: u64, base_step: u64, members: &[MemberRecord]) {
        let member = |m: &MemberRecord| format!("{}={}+{}", m.worker, m.first_slice, m.slice_count);
        let members: Vec<String> = members.iter().map(member).collect();
        self.extend(&format!("formed {generation} {base_step} {}", members.join(" ")));
    }

    pub(super) fn commit(
        &mut self,
        generation: Generation,
        step: u64,
        digest: &str,
        skipped: Option<&str>,
    ) {
        let skipped = skipped.map_or_else(String::new, |what| format!(" skipped {what}"));
        self.extend(&format!("committed {generation} {step} {digest}{skipped}"));
    }

    pub(super) fn read(&mut self, link: &str) {
        link.clone_into(&mut self.0);
    }

    fn extend(&mut self, line: &str) {
        *self = Chain::of(&format!("{} {line}", self.0));
    }

    fn of(text: &str) -> Chain {
        Chain(hex(&Sha256::digest(text.as_bytes())[..16]))
    }
}

impl Cluster {
    /// The step counts from now on.
    pub(super) fn commit(&mut self, id: &JobId, generation: Generation, agreed: &Agreed) {
        let Some(job) = self.job_mut(id) else { return };
        let Agreed { step, digest, skipped, .. } = agreed;
        job.commit(*step, *digest, skipped.is_some());
        job.trained_steps += 1;
        job.loss = Some(agreed.loss).filter(|loss| loss.is_finite()).or(job.loss);
        let digest = digest.to_string();
        job.chain.commit(generation, *step, &digest, skipped.as_deref());
        let (step, skipped, chain) = (*step, skipped.clone(), job.chain.0.clone());
        let (job, generation) = (id.to_string(), generation.0);
        let record = Record::Committed { job, generation, step, digest, chain, skipped };
        self.push(Action::Journal(record));
    }

    /// A member of the generation at hand is gone, or is about to go.
    pub(super) fn record_parting(&mut self, rank: usize, parting: Parting, line: &str) {
        let Some(membership) = &self.membership else { return };
        let member = &membership.seats[rank].member;
        self.push(Action::Journal(Record::Parted {
            job: membership.job.to_string(),
            generation: membership.generation.0,
            worker: member.name.to_string(),
            incarnation: member.incarnation.to_string(),
            parting,
            line: line.to_owned(),
        }));
    }
}
