//! Reports on their way to the coordinator, kept until it is known to have them: a session may break at any moment, and the
//! next one repeats what the old one may not have delivered.

use std::collections::VecDeque;

use proto::Generation;
use proto::mutant::{Mutant, active};
use proto::wire::v1::{self, report};

/// Reports in order, of one generation at a time but for those that belong to none.
#[derive(Debug, Default)]
pub struct Outbox {
    kept: VecDeque<v1::Report>,
    /// How many of the front were handed to the current stream.
    sent: usize,
}

impl Outbox {
    /// It goes out when its turn comes.
    pub fn push(&mut self, report: v1::Report) {
        self.kept.push_back(report);
    }

    /// Too much waits: whoever reports must wait, too.
    pub fn is_full(&self) -> bool {
        self.kept.len() >= KEPT_MAX
    }

    /// `next` has something for the current stream.
    pub fn has_unsent(&self) -> bool {
        self.sent < self.kept.len()
    }

    /// The next report for the current stream, which now has it.
    #[expect(clippy::should_implement_trait, reason = "what is pushed later comes, too")]
    pub fn next(&mut self) -> Option<v1::Report> {
        let report = self.kept.get(self.sent)?.clone();
        if is_repeated(&report) {
            self.sent += 1;
        } else {
            self.kept.remove(self.sent);
        }
        Some(report)
    }

    /// A new stream begins: everything that is kept goes again.
    pub(super) fn rewind(&mut self) {
        if !active(Mutant::OutboxForgotten) {
            self.sent = 0;
        }
    }

    /// The coordinator has the steps up to this one on record.
    pub(super) fn acknowledge(&mut self, generation: Generation, step: u64) {
        self.forget(|report| match &report.kind {
            Some(report::Kind::StepDone(done)) => {
                report.generation == generation.0 && done.step <= step
            }
            _ => active(Mutant::AcknowledgementForgetsAll),
        });
    }

    /// Nothing of generations before this one matters any more.
    pub(super) fn forget_before(&mut self, generation: Generation) {
        self.forget(|report| report.generation < generation.0);
    }

    /// Nothing that is kept matters any more.
    pub(super) fn forget_all(&mut self) {
        self.forget(|_| true);
    }

    fn forget(&mut self, is_over: impl Fn(&v1::Report) -> bool) {
        let sent = self.kept.iter().take(self.sent).filter(|report| !is_over(report)).count();
        self.kept.retain(|report| !is_over(report));
        self.sent = sent;
    }
}

/// What a coordinator that was away needs to hear again.
fn is_repeated(report: &v1::Report) -> bool {
    match &report.kind {
        Some(
            report::Kind::Ready(_)
            | report::Kind::StepDone(_)
            | report::Kind::Evaluated(_)
            | report::Kind::Quarantined(_)
            | report::Kind::Trouble(_)
            | report::Kind::Finished(_)
            | report::Kind::Sealed(_),
        ) => report.generation > 0,
        _ => false,
    }
}

/// Hours of steps; a report takes about 150 bytes.
const KEPT_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> v1::Report {
        let done = v1::StepDone { step, ..v1::StepDone::default() };
        v1::Report { generation: 3, kind: Some(report::Kind::StepDone(done)) }
    }

    fn steps(outbox: &mut Outbox) -> Vec<u64> {
        let sent = std::iter::from_fn(|| outbox.next()).filter_map(|report| match report.kind {
            Some(report::Kind::StepDone(done)) => Some(done.step),
            _ => None,
        });
        sent.collect()
    }

    #[test]
    fn what_is_not_acknowledged_goes_again_over_the_next_stream() {
        let mut outbox = Outbox::default();
        (1..=4).for_each(|number| outbox.push(step(number)));
        assert_eq!(steps(&mut outbox), [1, 2, 3, 4]);
        outbox.acknowledge(Generation(3), 2);
        outbox.push(step(5));
        assert_eq!(steps(&mut outbox), [5]);
        outbox.rewind();
        assert_eq!(steps(&mut outbox), [3, 4, 5]);
        outbox.acknowledge(Generation(2), 9);
        outbox.rewind();
        assert_eq!(steps(&mut outbox), [3, 4, 5], "of another generation");
        outbox.forget_before(Generation(4));
        outbox.rewind();
        assert!(!outbox.has_unsent());
    }

    #[test]
    fn a_greeting_is_said_once() {
        let mut outbox = Outbox::default();
        let leaving = report::Kind::Leaving(v1::Leaving { reason: String::new() });
        outbox.push(v1::Report { generation: 0, kind: Some(leaving) });
        outbox.push(step(1));
        assert!(outbox.next().is_some() && outbox.next().is_some() && outbox.next().is_none());
        outbox.rewind();
        assert_eq!(steps(&mut outbox), [1]);
    }
}
