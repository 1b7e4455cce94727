//! Where accepted connections show what they are: each has its handshake in a thread of its own, within a deadline, and
//! is handed to the generation it belongs to or dropped. Knows one open generation at most, and dials nobody.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::CollectiveError;
use super::handshake::{HandshakeError, Pass, Timed};
use super::mesh::Arrival;

/// Shared by the accepting thread, the handshakes and the generation that forms.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Newest generation that was ever open.
    newest: u64,
    /// Handshakes in progress.
    busy: usize,
    closed: bool,
    /// Drops that were not logged since the last that was.
    unlogged: u64,
    logged: Option<Instant>,
}

#[derive(Clone)]
struct Open {
    pass: Pass,
    arrivals: SyncSender<Arrival>,
}

/// The desk is open for a generation as long as this lives.
#[derive(Debug)]
pub(super) struct Registered {
    desk: Arc<Desk>,
    generation: u64,
}

impl Desk {
    /// Opens for a generation; connections that came early are let in now.
    pub(super) fn open(
        self: &Arc<Desk>,
        pass: Pass,
        arrivals: SyncSender<Arrival>,
    ) -> Result<Registered, CollectiveError> {
        let generation = pass.generation;
        let mut state = self.lock();
        if generation < state.newest {
            let what = format!("generation {generation} after generation {}", state.newest);
            return Err(CollectiveError::BadGroup { what });
        }
        state.newest = generation;
        state.open = Some(Open { pass, arrivals });
        self.changed.notify_all();
        Ok(Registered { desk: Arc::clone(self), generation })
    }

    /// Accepts until `close` and one more connection.
    pub(super) fn accept_all(self: &Arc<Desk>, listener: &TcpListener, limit: Duration) {
        loop {
            let accepted = listener.accept();
            if self.lock().closed {
                return;
            }
            match accepted {
                Ok((socket, from)) => self.admit(socket, from, limit),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection of another worker");
                    // Out of descriptors, most likely: they do not come back in a busy loop.
                    let state = self.lock();
                    drop(self.changed.wait_timeout(state, ACCEPT_PAUSE));
                }
            }
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Starts the handshake of one connection, unless too many are in progress.
    fn admit(self: &Arc<Desk>, socket: TcpStream, from: SocketAddr, limit: Duration) {
        let mut state = self.lock();
        if state.busy >= HANDSHAKES_MAX {
            drop(state);
            return self.dropped(from, "too many handshakes at once");
        }
        state.busy += 1;
        drop(state);
        let desk = Arc::clone(self);
        let handshake = move || {
            if let Err(error) = desk.handshake(&socket, limit).map(|open| open.deliver(socket)) {
                desk.dropped(from, &error.to_string());
            }
            desk.lock().busy -= 1;
        };
        let thread = thread::Builder::new().name("exchange-handshake".to_owned());
        if let Err(error) = thread.spawn(handshake) {
            self.lock().busy -= 1;
            self.dropped(from, &error.to_string());
        }
    }

    fn handshake(&self, socket: &TcpStream, limit: Duration) -> Result<Claimed, HandshakeError> {
        let deadline = Instant::now() + limit;
        socket.set_nodelay(true)?;
        let hello = Timed { socket, deadline }.receive_hello()?;
        let open = self.wait_for(hello.generation, deadline).ok_or_else(|| {
            let cause = format!("generation {} does not form here", hello.generation);
            HandshakeError::Refused(cause)
        })?;
        open.pass.answer(Timed { socket, deadline }, &hello)?;
        Ok(Claimed { open, rank: hello.from as usize })
    }

    /// The open generation if it is this one. A dialer may hear of a new generation before this worker does, so a newer
    /// one is waited for; one that is over never comes back.
    fn wait_for(&self, generation: u64, deadline: Instant) -> Option<Open> {
        let left = deadline.saturating_duration_since(Instant::now());
        let ahead = |state: &mut State| generation > state.newest && !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), left, ahead);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.open.clone().filter(|open| open.pass.generation == generation)
    }

    /// Logs a dropped connection, but no flood of them.
    fn dropped(&self, from: SocketAddr, cause: &str) {
        let mut state = self.lock();
        if state.logged.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
            state.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut state.unlogged);
        state.logged = Some(Instant::now());
        drop(state);
        tracing::warn!(%from, cause, unlogged, "dropped a connection to the exchange port");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has proved its rank, and where it goes.
struct Claimed {
    open: Open,
    rank: usize,
}

impl Claimed {
    fn deliver(self, socket: TcpStream) {
        // Nobody receives when forming ended meanwhile: the connection closes with the message.
        drop(self.open.arrivals.send(Arrival::Connected { rank: self.rank, socket }));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.open.take_if(|open| open.pass.generation == self.generation);
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("newest", &self.newest).finish_non_exhaustive()
    }
}

/// Connections that have not proved themselves yet; each holds a thread for at most one handshake's deadline.
const HANDSHAKES_MAX: usize = 256;
/// Between two log lines about dropped connections: a port scan is worth a line, not a page.
const LOG_PAUSE: Duration = Duration::from_secs(1);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
