//! What a training thread does of a generation, in pieces that take time: it prepares, connects, takes the base over, trains.

use coordinator::core::Digest;
use proto::identity::Generation;
use proto::mutant::{Mutant, active};
use proto::wire::v1::{self, Phase, TroubleKind, report::Kind};
use worker::conduct::Mark;

use super::{Stage, Then, Work, unreadable};
use crate::checker::{Check, Invariant, digest_after, ensure, first_digest, next_digest};
use crate::exchange::Votes;
use crate::time::Millis;
use crate::world::World;

impl World {
    /// A piece of work is done; of the generation that it belongs to.
    pub(crate) fn worked(&mut self, index: usize, generation: Generation, work: Work) -> Check {
        let worker = &mut self.workers[index];
        if worker.generation() != generation {
            return Ok(());
        }
        let Some(member) = worker.member.as_mut() else { return Ok(()) };
        let rank = member.rank;
        match (work, member.stage) {
            (Work::Prepared, Stage::Preparing) if worker.unreadable => {
                member.stage = Stage::Broken;
                self.say(index, unreadable());
            }
            (Work::Prepared, Stage::Preparing) => self.connect(index, generation),
            (Work::HandedOver, Stage::Preparing) => return self.take_over(index),
            (Work::Computed { step }, Stage::Training(current)) if step == current => {
                let votes = member.votes;
                let Some(held) = worker.held else { return Ok(()) };
                self.checker.contributes(worker.incarnation(), generation.0)?;
                let Some(exchange) = self.exchanges.get_mut(&generation) else { return Ok(()) };
                let reduced = exchange.contribute(step, rank, Digest(held.digest), votes);
                let members = exchange.members.clone();
                if let Some(reduced) = reduced {
                    self.checker.reduced(generation.0, step, &reduced.from)?;
                    for (other, life) in members {
                        if self.workers[other].life == life {
                            let (delay, votes) = (1 + self.draws.below(15), reduced.votes);
                            self.work_of(other, generation, delay, Work::Apply { step, votes });
                        }
                    }
                }
            }
            (Work::Apply { step, votes }, Stage::Training(current)) if step == current => {
                self.apply(index, generation, step, votes);
            }
            (Work::FollowUp { step, evaluation, checkpoint, then }, Stage::Training(_)) => {
                self.follow_up(index, step, (evaluation, checkpoint), then);
            }
            (Work::EdgeBroke, Stage::Preparing | Stage::Ready | Stage::Training(_)) => {
                member.stage = Stage::Broken;
                let culprit = self.exchanges.get(&generation).and_then(|e| e.broken_by);
                let culprit = culprit.map(|rank| member.form.members[rank].worker.clone());
                let culprit = culprit.filter(|name| name != worker.name.as_str());
                let trouble = v1::Trouble {
                    kind: TroubleKind::TroublePeer.into(),
                    step: worker.step + 1,
                    phase: Phase::Exchange.into(),
                    culprit: culprit.unwrap_or_default(),
                    message: "connection closed".to_owned(),
                };
                self.say(index, Kind::Trouble(trouble));
            }
            (Work::AnswerSeal { attempt }, _) => {
                let held = worker.held.filter(|_| !active(Mutant::SealedWithoutState));
                self.checker.promises(worker.incarnation(), generation.0);
                let held = held.map(Mark::on_wire);
                self.say(index, Kind::Sealed(v1::Sealed { attempt, held }));
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, generation: Generation) {
        let Some(member) = &self.workers[index].member else { return };
        let (rank, world) = (member.rank, member.form.members.len());
        let Some(exchange) = self.exchanges.get_mut(&generation) else { return };
        exchange.connected.insert(rank);
        if exchange.broken_by.is_some() {
            return self.work(index, 5, Work::EdgeBroke);
        }
        if !exchange.is_connected() {
            return;
        }
        for rank in 0..world {
            let (other, life) = self.exchanges[&generation].members[rank];
            if self.workers[other].life == life {
                let delay = 2 + self.draws.below(60);
                self.work_of(other, generation, delay, Work::HandedOver);
            }
        }
    }

    /// The base state is here: held all along, from a peer, from a checkpoint, or made from the seed.
    fn take_over(&mut self, index: usize) -> Check {
        let worker = &self.workers[index];
        let Some(member) = &worker.member else { return Ok(()) };
        let (generation, step) = (worker.generation(), member.form.base_step);
        let digest = match (member.form.holders.first(), worker.held) {
            (Some(_), Some(held)) => Digest(held.digest),
            (Some(&holder), None) => {
                let (from, life) = self.exchanges[&generation].members[holder as usize];
                let there = self.workers[from]
                    .held
                    .filter(|held| self.workers[from].life == life && held.step == step);
                // It died, or was sealed and went on: the edge to it breaks, and that is noticed.
                let Some(held) = there else { return Ok(()) };
                Digest(held.digest)
            }
            (None, _) if step == 0 => first_digest(),
            (None, _) => {
                let there = self.disk.checkpoints.iter().any(|entry| entry.step == step);
                // A worker that stood still for long may ask for what is no longer kept.
                let late = self.checker.newest_generation() > generation.0;
                ensure(Invariant::I8, there || late, || {
                    format!("the checkpoint of step {step} is gone")
                })?;
                digest_after(step)
            }
        };
        let worker = &mut self.workers[index];
        worker.held = Some(Mark { generation, step, digest: digest.0 });
        if let Some(member) = &mut worker.member {
            member.stage = Stage::Ready;
        }
        self.checker.says_ready(worker.incarnation(), generation.0);
        self.say(index, Kind::Ready(v1::Ready { step, digest: digest.0.to_vec() }));
        if active(Mutant::TrainsUntold) {
            self.run(index);
        }
        Ok(())
    }

    fn apply(&mut self, index: usize, generation: Generation, step: u64, votes: Votes) {
        let worker = &mut self.workers[index];
        let Some(held) = &mut worker.held else { return };
        let digest = next_digest(Digest(held.digest), step).0;
        *held = Mark { generation, step, digest };
        worker.step = step;
        let forward_ns = worker.pace * 1_000_000;
        let then = match votes {
            Votes { stop: true, .. } => Then::End,
            _ if step == self.total => Then::End,
            Votes { pause: true, .. } => Then::Pause,
            Votes { .. } => Then::Train,
        };
        let done = v1::StepDone {
            step,
            digest: digest.to_vec(),
            loss: 0.5,
            correct: 1,
            gradient_norm: 1.0,
            skipped: None,
            paused: then == Then::Pause,
            times: Some(v1::PhaseTimes { forward_ns, ..v1::PhaseTimes::default() }),
        };
        self.say(index, Kind::StepDone(done));
        let evaluation = self.timeline.evaluates_after(step);
        let checkpoint = self.timeline.checkpoints_after(step) || then == Then::End;
        let delay = if evaluation { 1 + self.draws.below(40) } else { 0 };
        self.work(index, delay, Work::FollowUp { step, evaluation, checkpoint, then });
    }

    fn follow_up(
        &mut self,
        index: usize,
        step: u64,
        (evaluation, checkpoint): (bool, bool),
        then: Then,
    ) {
        let (Some(held), Some(member)) = (self.workers[index].held, &self.workers[index].member)
        else {
            return;
        };
        let (rank, world) = (member.rank as u64, member.form.members.len() as u64);
        let slices = member.form.members[member.rank].slice_count;
        if evaluation {
            let len = self.test_len;
            let samples = len * (rank + 1) / world - len * rank / world;
            // The accuracy goes up and down, so that the best checkpoint is not always the newest.
            let correct = samples - samples * (step * 7 % 5) / 10;
            let (correct_top5, loss_fixed) = (samples, 0);
            let evaluated = v1::Evaluated { step, samples, correct, correct_top5, loss_fixed };
            self.say(index, Kind::Evaluated(evaluated));
        }
        if checkpoint {
            self.upload(index, step, Digest(held.digest), then == Then::End);
        }
        let worker = &mut self.workers[index];
        let pace = worker.pace;
        let Some(member) = &mut worker.member else { return };
        if then == Then::End {
            member.stage = Stage::Ended;
            member.last = Some((step, Digest(held.digest)));
            return;
        }
        member.stage = Stage::Training(step + 1);
        member.votes.pause &= then != Then::Pause;
        let rest = if then == Then::Pause { PAUSE } else { 0 };
        let delay = rest + pace * u64::from(slices) + self.draws.below(5);
        self.work(index, delay, Work::Computed { step: step + 1 });
    }
}

/// How long the real worker waits behind a step for the end of its generation.
const PAUSE: Millis = 1000;
