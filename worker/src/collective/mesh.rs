//! How the connections of a generation come about: every rank dials all lower ranks and accepts from all higher ones.
//! Strangers on the listening port are turned away beside this, without holding it up. Knows no bucket and no frame.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::desk::Desk;
use super::handshake::{HandshakeError, Pass, Timed};
use super::{Abort, CollectiveError, Group};

/// The socket on which other workers reach this one, for the life of the process. One generation at a time accepts its
/// connections through it.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    desk: Arc<Desk>,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads that dial and accept tell the one that forms the generation.
pub(super) enum Arrival {
    Connected {
        rank: usize,
        socket: TcpStream,
    },
    /// An attempt failed and will be repeated.
    Failing {
        rank: usize,
        cause: String,
    },
    Refused {
        rank: usize,
        cause: String,
    },
    Aborted,
}

/// How long forming may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// All connections together.
    pub(super) form: Duration,
    /// One handshake.
    pub(super) handshake: Duration,
}

impl Limits {
    pub(super) const STANDARD: Limits =
        Limits { form: Duration::from_secs(60), handshake: Duration::from_secs(5) };
}

impl Listener {
    /// Binds to `address`, host:port; port 0 takes any free one.
    pub fn bind(address: &str) -> Result<Listener, CollectiveError> {
        let failed = |error: io::Error| CollectiveError::Listen {
            address: address.to_owned(),
            cause: error.to_string(),
        };
        let socket = TcpListener::bind(address).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let desk = Arc::new(Desk::default());
        let accept = {
            let desk = Arc::clone(&desk);
            move || desk.accept_all(&socket, Limits::STANDARD.handshake)
        };
        let thread = thread::Builder::new().name("exchange-accept".to_owned());
        let accepting = Some(thread.spawn(accept).map_err(failed)?);
        Ok(Listener { address: local, desk, accepting })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.desk.close();
        // The thread is inside `accept`: a connection of our own brings it out.
        let host = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let door = SocketAddr::new(host, self.address.port());
        let woken = TcpStream::connect_timeout(&door, DIAL_LIMIT).is_ok();
        if let Some(thread) = self.accepting.take_if(|_| woken)
            && thread.join().is_err()
        {
            tracing::error!("the thread that accepts exchange connections panicked");
        }
    }
}

/// Connects this rank to all others; `None` stands at its own place.
pub(super) fn form(
    listener: &Listener,
    group: &Group,
    abort: &Abort,
    limits: Limits,
) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
    let deadline = Instant::now() + limits.form;
    let pass = Pass::new(group);
    let (arrivals, arrived) = mpsc::sync_channel(ARRIVALS_MAX);
    let _registered = listener.desk.open(pass.clone(), arrivals.clone())?;
    let wake = arrivals.clone();
    // If there is no room the receiver is awake, and looks for an abort after each arrival.
    abort.on_abort(move || drop(wake.try_send(Arrival::Aborted)));

    let mut dialers = Vec::new();
    for (rank, peer) in group.peers.iter().enumerate().take(group.rank) {
        let (going, over) = mpsc::sync_channel(0);
        let address = peer.address.clone();
        let (pass, arrivals) = (pass.clone(), arrivals.clone());
        let dialer = Dialer { rank, address, pass, arrivals, over, handshake: limits.handshake };
        thread::Builder::new()
            .name(format!("exchange-dial-{rank}"))
            .spawn(move || dialer.run())
            .map_err(|error| CollectiveError::Threads { cause: error.to_string() })?;
        dialers.push(going);
    }
    collect(group, abort, &arrived, deadline)
}

/// Gathers one connection per peer.
fn collect(
    group: &Group,
    abort: &Abort,
    arrived: &Receiver<Arrival>,
    deadline: Instant,
) -> Result<Vec<Option<TcpStream>>, CollectiveError> {
    let begun = Instant::now();
    let mut sockets: Vec<Option<TcpStream>> = group.peers.iter().map(|_| None).collect();
    let mut causes = vec![None; group.peers.len()];
    loop {
        if let Some(reason) = abort.reason() {
            return Err(CollectiveError::Aborted { reason: reason.to_owned() });
        }
        let lacks = |(rank, socket): (usize, &Option<TcpStream>)| {
            (rank != group.rank && socket.is_none()).then_some(rank)
        };
        let missing: Vec<usize> = sockets.iter().enumerate().filter_map(lacks).collect();
        let Some(&first) = missing.first() else {
            return Ok(sockets);
        };
        match arrived.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // The newest connection of a rank counts: it dials again only after giving up the one before.
            Ok(Arrival::Connected { rank, socket }) => sockets[rank] = Some(socket),
            Ok(Arrival::Failing { rank, cause }) => causes[rank] = Some(cause),
            Ok(Arrival::Refused { rank, cause }) => {
                let peer = &group.peers[rank];
                let (peer, address) = (peer.name.clone(), peer.address.clone());
                return Err(CollectiveError::Refused { peer, address, cause });
            }
            Ok(Arrival::Aborted) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let cause = causes[first].take().unwrap_or_else(|| "it did not connect".to_owned());
                let names = missing.iter().map(|rank| group.peers[*rank].name.as_str());
                let missing = names.collect::<Vec<_>>().join(", ");
                let peer = &group.peers[first];
                return Err(CollectiveError::Connect {
                    peer: peer.name.clone(),
                    address: peer.address.clone(),
                    cause: format!("{cause}; missing after {:.1?}: {missing}", begun.elapsed()),
                });
            }
        }
    }
}

/// Dials one lower rank until it answers, refuses, or the generation's forming is over.
struct Dialer {
    rank: usize,
    address: String,
    pass: Pass,
    arrivals: SyncSender<Arrival>,
    /// Disconnected when forming is over; nothing is ever sent.
    over: Receiver<Infallible>,
    handshake: Duration,
}

impl Dialer {
    fn run(self) {
        let rank = self.rank;
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let (arrival, done) = match self.attempt() {
                Ok(socket) => (Arrival::Connected { rank, socket }, true),
                Err(HandshakeError::Refused(cause)) => (Arrival::Refused { rank, cause }, true),
                Err(HandshakeError::Broken(error)) => {
                    (Arrival::Failing { rank, cause: error.to_string() }, false)
                }
            };
            if self.arrivals.send(arrival).is_err() || done {
                return;
            }
            match self.over.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(RETRY_PAUSE_MAX),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn attempt(&self) -> Result<TcpStream, HandshakeError> {
        let mut failure = io::Error::other("the name has no address");
        for address in self.address.to_socket_addrs()?.take(ADDRESSES_MAX) {
            match TcpStream::connect_timeout(&address, DIAL_LIMIT) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    let deadline = Instant::now() + self.handshake;
                    self.pass.dial(Timed { socket: &socket, deadline }, self.rank as u32)?;
                    return Ok(socket);
                }
                Err(error) => failure = error,
            }
        }
        Err(HandshakeError::Broken(failure))
    }
}

/// One TCP connect: within a cluster an answer takes milliseconds, and a lost packet is sent again after a second.
const DIAL_LIMIT: Duration = Duration::from_millis(1500);
/// First pause between attempts, doubled up to the last: quick for a peer that is just binding, sparing for one that
/// is gone.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Addresses tried for one host name.
const ADDRESSES_MAX: usize = 4;
/// Arrivals not yet looked at. Senders that find it full wait for the forming thread, which does nothing but receive.
const ARRIVALS_MAX: usize = 64;
