//! One connection to one peer and the two threads that own it. The reader checks every frame against the layout and
//! hands it to the engine; the writer sends what the engine queued. Neither decides anything, and neither blames the
//! peer for more than what it saw on its socket.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kernels::SharedMemory;

use super::buffer::Pool;
use super::engine::Event;
use super::frame::{FrameError, HEADER_LEN, Header, Kind, VERDICT_LEN_MAX, Verdict};
use super::gather::{Partial, Place};
use super::handshake::is_timeout;
use super::layout::Layout;
use super::memory::{OFFER_LEN, Offer};
use super::stretch::{Region, Stretch};

/// The engine's end of a connection. Closed when dropped.
#[derive(Debug)]
pub(super) struct Link {
    socket: Arc<TcpStream>,
    /// `None` once nothing more is to be sent.
    queue: Option<SyncSender<Outgoing>>,
    hurry: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A frame to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) header: Header,
    pub(super) payload: Payload,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// This worker's memory.
    Values(Region),
    /// Nothing: the peer finds these values in this worker's memory.
    Kept {
        len: usize,
    },
    Bytes(Vec<u8>),
}

/// What both threads of a link need.
#[derive(Clone)]
pub(super) struct LinkContext {
    pub(super) peer: usize,
    pub(super) generation: u64,
    pub(super) timeout: Duration,
    pub(super) layout: Arc<Layout>,
    pub(super) pool: Pool,
    pub(super) events: SyncSender<Event>,
}

/// Why a reader ended.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Plan(String),
}

impl Link {
    pub(super) fn start(socket: TcpStream, context: LinkContext) -> io::Result<Link> {
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(Some(context.timeout))?;
        let socket = Arc::new(socket);
        let hurry = Arc::new(AtomicBool::new(false));
        // Room for two steps, which is all that can be unsent: this worker queues sums of step `s + 1` only when the
        // peer's partials of `s + 1` are here, and the peer sends these after it has received everything of step `s`.
        // So the engine never waits for a peer, and no ring of full queues can come about.
        let frames = context.layout.frames_of_step(context.layout.rank, context.peer);
        let (queue, queued) = mpsc::sync_channel(2 * frames + CONTROL_FRAMES_MAX);

        let peer = context.peer;
        let writer = {
            let (socket, hurry) = (Arc::clone(&socket), Arc::clone(&hurry));
            let events = context.events.clone();
            move || {
                let result = write_all_queued(&socket, &queued, &hurry);
                // After a failure the reader still gets what had arrived, a verdict perhaps, and then an end. So it is
                // the reader who says what became of the peer, unless the peer just stopped taking data.
                let side = if result.is_ok() { Shutdown::Write } else { Shutdown::Both };
                close(&socket, side);
                let stalled = result.as_ref().is_err_and(is_timeout);
                let result = result.map_err(|error| error.to_string());
                drop(events.send(Event::Written { peer, result, stalled }));
            }
        };
        let reader = {
            let socket = Arc::clone(&socket);
            move || read_until_end(&socket, &context)
        };
        let spawn = |name: &str| thread::Builder::new().name(format!("exchange-{name}-{peer}"));
        let writing = spawn("write").spawn(writer)?;
        let reading =
            spawn("read").spawn(reader).inspect_err(|_| close(&socket, Shutdown::Both))?;
        Ok(Link { socket, queue: Some(queue), hurry, threads: vec![writing, reading] })
    }

    /// The peer may be on this machine: both ends have the same address.
    pub(super) fn is_local(&self) -> bool {
        is_local(&self.socket)
    }

    /// Queues a frame. One to a connection that is already broken is dropped: its reader reports the break.
    pub(super) fn send(&self, frame: Outgoing) -> Result<(), String> {
        match self.queue.as_ref().map(|queue| queue.try_send(frame)) {
            Some(Err(TrySendError::Full(_))) => Err("more than two steps are unsent".to_owned()),
            Some(Ok(()) | Err(TrySendError::Disconnected(_))) | None => Ok(()),
        }
    }

    /// Ends the queue: the writer sends what is in it, closes its side and reports `Written`.
    pub(super) fn finish(&mut self) {
        self.queue = None;
    }

    /// Makes the writer pass over data that is queued: the generation is lost, only the verdict matters.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Closes the connection and waits for the threads, which nothing holds up once the events' receiver is gone.
    pub(super) fn close(mut self) {
        self.finish();
        close(&self.socket, Shutdown::Both);
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                tracing::error!("a thread of an exchange connection panicked");
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        close(&self.socket, Shutdown::Both);
    }
}

impl Payload {
    /// Bytes that the peer gets, by whatever way.
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Kept { len } => len * size_of::<f32>(),
            sent => sent.bytes().len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Values(region) => bytemuck::cast_slice(region.values()),
            Payload::Kept { .. } => &[],
            Payload::Bytes(bytes) => bytes,
        }
    }
}

fn write_all_queued(
    mut socket: &TcpStream,
    queued: &Receiver<Outgoing>,
    hurry: &AtomicBool,
) -> io::Result<()> {
    for Outgoing { header, payload } in queued {
        if hurry.load(Ordering::Relaxed) && matches!(header.kind, Kind::Partial | Kind::Sum) {
            continue;
        }
        let head = header.encode(payload.bytes());
        let mut parts = &mut [IoSlice::new(&head), IoSlice::new(payload.bytes())][..];
        while !parts.is_empty() {
            match socket.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn read_until_end(socket: &TcpStream, context: &LinkContext) {
    let peer = context.peer;
    let event = match read_frames(socket, context) {
        Ok(()) => return,
        Err(ReadError::Socket(error)) => Event::Lost { peer, cause: describe(&error) },
        Err(error) => Event::BadFrame { peer, what: error.to_string() },
    };
    // Nobody receives when the exchange ended before this did: then the end is no news.
    drop(context.events.send(event));
}

/// Reads up to the peer's last frame.
fn read_frames(mut socket: &TcpStream, context: &LinkContext) -> Result<(), ReadError> {
    let from = context.peer;
    let mut memory = None;
    loop {
        let mut bytes = [0; HEADER_LEN];
        socket.read_exact(&mut bytes)?;
        let (header, crc) = Header::decode(&bytes)?;
        if header.generation != context.generation {
            return Err(ReadError::Plan(format!("it is of generation {}", header.generation)));
        }
        let event = match header.kind {
            Kind::Partial | Kind::Sum => {
                context.layout.admit(from, &header).map_err(ReadError::Plan)?;
                read_values(socket, context, memory.as_ref(), &header, crc)?
            }
            Kind::Offer => {
                let mut payload = vec![0; (header.len as usize).min(OFFER_LEN)];
                read_payload(socket, &mut payload, crc)?;
                let offer = Offer::decode(&payload)
                    .ok_or_else(|| ReadError::Plan("an offer of another length".to_owned()))?;
                memory = offer.take(context.layout.vectors(from).memory_len()).map(Arc::new);
                if memory.is_none() {
                    continue;
                }
                Event::Opened { from }
            }
            Kind::Taken => Event::Taken { from },
            Kind::Poison => {
                let len = (header.len as usize).min(VERDICT_LEN_MAX);
                let mut payload = vec![0; len];
                read_payload(socket, &mut payload, crc)?;
                let verdict = Verdict::decode(&payload)
                    .ok_or_else(|| ReadError::Plan("a verdict without names".to_owned()))?;
                Event::Poisoned { from, verdict }
            }
            Kind::Bye => Event::Left { peer: from },
        };
        if context.events.send(event).is_err() || matches!(header.kind, Kind::Poison | Kind::Bye) {
            return Ok(());
        }
    }
}

/// The values of a data frame: from the socket, or where they lie in the peer's memory.
fn read_values(
    socket: &TcpStream,
    context: &LinkContext,
    memory: Option<&Arc<SharedMemory>>,
    header: &Header,
    crc: u32,
) -> Result<Event, ReadError> {
    let LinkContext { peer: from, layout, pool, .. } = context;
    let (bucket, offset) = (header.bucket as usize, header.offset as usize);
    let place = Place { from: *from, step: header.step, bucket, offset };
    let len = header.len as usize / size_of::<f32>();
    let node = (header.kind == Kind::Partial).then_some(header.node);
    let values = match (header.kept, memory) {
        (false, _) => {
            let mut values = pool.take(len);
            read_payload(socket, bytemuck::cast_slice_mut(&mut values), crc)?;
            Stretch::Received(values)
        }
        (true, Some(memory)) => {
            let (memory, at) = (Arc::clone(memory), layout.position(place, node));
            Stretch::Kept(Region { memory, at, len })
        }
        (true, None) => return Err(ReadError::Plan("it is kept where nobody looks".to_owned())),
    };
    Ok(match node {
        Some(node) => Event::Partial(Partial { place, node, values }),
        None => Event::Sum { place, values },
    })
}

fn read_payload(mut socket: &TcpStream, payload: &mut [u8], crc: u32) -> Result<(), ReadError> {
    socket.read_exact(payload)?;
    if crc32fast::hash(payload) == crc { Ok(()) } else { Err(FrameError::PayloadCrc.into()) }
}

pub(super) fn is_local(socket: &TcpStream) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(own), Ok(peer)) => own.ip() == peer.ip(),
        _ => false,
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

fn close(socket: &TcpStream, side: Shutdown) {
    // An error says that the other side closed it first.
    drop(socket.shutdown(side));
}

/// `Offer`, `Taken`, `Poison` or `Bye`, of which a connection sees one of each at most.
const CONTROL_FRAMES_MAX: usize = 4;
