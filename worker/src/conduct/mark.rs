//! Which training state a worker holds, and whether a generation can start from it.

use proto::Generation;
use proto::wire::v1;

/// Which state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// In which it was last taken over or changed.
    pub generation: Generation,
    /// Newest applied step.
    pub step: u64,
    pub digest: [u8; 16],
}

impl Mark {
    pub fn on_wire(self) -> v1::HeldState {
        v1::HeldState {
            generation: self.generation.0,
            step: self.step,
            digest: self.digest.to_vec(),
        }
    }
}

/// Where a member's state comes from. But for `Own`, what it holds is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It stands there already.
    Own,
    /// Other members hand it over.
    Peers,
    /// The checkpoint of the base step, or, at step 0, what the job says.
    Store,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("follow the coordinator's plan: it counts on a state that this worker does not hold")]
pub struct NotHeld;

impl Origin {
    /// Of the member at `form.rank`, which holds this.
    pub fn of(form: &v1::Form, held: Option<Mark>) -> Result<Origin, NotHeld> {
        if form.holders.is_empty() {
            return Ok(Origin::Store);
        }
        if !form.holders.contains(&form.rank) {
            return Ok(Origin::Peers);
        }
        let stands =
            |mark: Mark| mark.step == form.base_step && mark.digest[..] == form.base_digest;
        if held.is_some_and(stands) { Ok(Origin::Own) } else { Err(NotHeld) }
    }
}
