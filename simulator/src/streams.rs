//! Streams between workers and the coordinator: messages arrive late, in order, or, when a stream breaks, not at all.

use coordinator::core::{Event, Report as Said, SessionId};
use coordinator::service::convert;
use proto::identity::{Generation, Incarnation};
use proto::wire::v1::{self, TroubleKind, plan, report};

use crate::checker::{Check, Invariant, Violation};
use crate::time::Millis;
use crate::world::{Down, Happening, Up, World};

/// One control stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) worker: usize,
    pub(crate) worker_life: u64,
    coordinator_life: u64,
    open: bool,
    /// What was on its way when it broke still arrives.
    drains: bool,
    /// When the last message of each direction arrives: none overtakes another.
    up_at: Millis,
    down_at: Millis,
}

impl Stream {
    /// Nothing that the worker says arrives before then.
    pub(crate) fn stall(&mut self, until: Millis) {
        self.up_at = self.up_at.max(until);
    }

    /// Whether a message arrives: those under way when it broke, or the news of the break.
    fn delivers(&self, broken: bool) -> bool {
        if broken { !self.open } else { self.open || self.drains }
    }
}

impl World {
    pub(crate) fn reconnect(&mut self, worker: usize) {
        let (life, delay) = (self.workers[worker].life, 100 + self.draws.below(900));
        self.agenda.after(delay, Happening::Connect { worker, life });
    }

    pub(crate) fn connect_stream(&mut self, index: usize) {
        if self.workers[index].session.is_some() {
            return;
        }
        if self.core.is_none() || self.now() < self.paused_until {
            return self.reconnect(index);
        }
        let session = self.streams.len() as u64;
        let (worker_life, now) = (self.workers[index].life, self.now());
        self.streams.push(Stream {
            worker: index,
            worker_life,
            coordinator_life: self.life,
            open: true,
            drains: false,
            up_at: now,
            down_at: now,
        });
        self.workers[index].session = Some(session);
        let hello = self.workers[index].hello();
        self.send_up(index, Up::Report(v1::Report { generation: 0, kind: Some(hello) }));
    }

    /// Both ends notice, each in its own time. What was on its way is lost, or is not.
    pub(crate) fn end_stream(&mut self, session: u64) {
        let Some(stream) = self.streams.get_mut(session as usize) else { return };
        if !std::mem::replace(&mut stream.open, false) {
            return;
        }
        let now = self.agenda.now();
        let (mut up, mut down) = (now + 1 + self.draws.below(40), now + 1 + self.draws.below(40));
        let stream = &mut self.streams[session as usize];
        stream.drains = self.draws.coin();
        if stream.drains {
            (up, down) = (up.max(stream.up_at), down.max(stream.down_at));
        }
        self.agenda.at(up, Happening::Up { session, message: Up::Broken });
        self.agenda.at(down, Happening::Down { session, message: Down::Broken });
    }

    /// Of the process at the worker's end.
    pub(crate) fn incarnation_at(&self, session: u64) -> Incarnation {
        let stream = &self.streams[session as usize];
        self.workers[stream.worker].incarnation_of(stream.worker_life)
    }

    pub(crate) fn send_up(&mut self, worker: usize, message: Up) {
        let Some(session) = self.workers[worker].session else { return };
        let delay = 1 + self.draws.below(8);
        let now = self.now();
        let stream = &mut self.streams[session as usize];
        if stream.open {
            stream.up_at = stream.up_at.max(now + delay);
            self.agenda.at(stream.up_at, Happening::Up { session, message });
        }
    }

    pub(crate) fn send_down(
        &mut self,
        session: SessionId,
        generation: Generation,
        kind: plan::Kind,
    ) {
        let plan = v1::Plan { generation: generation.0, kind: Some(kind) };
        let message = Down::Plan(Box::new(plan));
        let delay = 1 + self.draws.below(8);
        let now = self.now();
        let Some(stream) = self.streams.get_mut(session.0 as usize) else { return };
        if stream.open {
            let worker = &mut self.workers[stream.worker];
            let deaf = worker.deaf_to.filter(|fault| message.is_broken_by(*fault));
            if deaf.is_some() && worker.life == stream.worker_life {
                worker.deaf_to = None;
                return self.end_stream(session.0);
            }
            stream.down_at = stream.down_at.max(now + delay);
            self.agenda.at(stream.down_at, Happening::Down { session: session.0, message });
        }
    }

    pub(crate) fn arrive_up(&mut self, session: u64, message: Up) -> Check {
        let stream = &self.streams[session as usize];
        let broken = matches!(message, Up::Broken);
        let gone = stream.coordinator_life != self.life || self.core.is_none();
        if gone || !stream.delivers(broken) {
            return Ok(());
        }
        if self.now() < self.paused_until {
            self.agenda.put_off(self.paused_until, Happening::Up { session, message });
            return Ok(());
        }
        let (incarnation, life) = (self.incarnation_at(session), stream.worker_life);
        let worker = &mut self.workers[stream.worker];
        if worker.life == life {
            worker.heard_at = self.ticks;
        }
        let worker = &self.workers[stream.worker];
        let id = SessionId(session);
        let event = match message {
            Up::Report(hello) if matches!(hello.kind, Some(report::Kind::Hello(_))) => {
                Event::Joined(convert::candidate(id, hello).map_err(misunderstood)?)
            }
            Up::Report(report) => {
                let (generation, report) = convert::report(report).map_err(misunderstood)?;
                if !matches!(report, Said::Heartbeat { .. }) {
                    self.tell_of(|| format!("   {} says {report:?}", worker.name));
                }
                match &report {
                    Said::Leaving { .. } => self.checker.leaves(id, incarnation),
                    Said::Trouble(trouble) if trouble.kind != TroubleKind::TroublePeer => {
                        self.checker.refuses(incarnation)?;
                    }
                    _ => {}
                }
                Event::Reported { session: id, generation, report }
            }
            Up::Broken => Event::StreamEnded { session: id, cause: "connection closed".to_owned() },
        };
        self.tell(event)
    }

    pub(crate) fn arrive_down(&mut self, session: u64, message: Down) -> Check {
        let stream = &self.streams[session as usize];
        let (index, life) = (stream.worker, stream.worker_life);
        let broken = matches!(message, Down::Broken);
        let worker = &self.workers[index];
        let current = worker.alive && worker.life == life && worker.session == Some(session);
        if !current || !stream.delivers(broken) {
            return Ok(());
        }
        if self.now() < worker.paused_until {
            let at = worker.paused_until;
            self.agenda.put_off(at, Happening::Down { session, message });
            return Ok(());
        }
        self.tell_of(|| format!("   {} hears {message:?}", worker.name));
        self.hear(index, message)
    }
}

/// What the real worker says is never refused.
fn misunderstood(refusal: impl std::fmt::Display) -> Violation {
    let what = format!("the coordinator refuses a report: {refusal}");
    Violation { invariant: Invariant::I10, at: 0, what }
}
