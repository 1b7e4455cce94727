//! Several processes of this program that do rounds together: the one that starts them, and how they meet. Knows not what
//! they do.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::BenchError;
use super::pace::{READY, Round};
use crate::collective::{
    Abort, Collective, Group, Listener, Peer, Reserve, TcpExchange, Transport, subtrees,
};

/// Running members. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    rank: usize,
    child: Child,
    input: ChildStdin,
    /// That it says, as a thread reads them: a pipe can't be read with a deadline.
    lines: Receiver<io::Result<String>>,
}

impl Crew {
    /// Starts this program `count` times with these arguments and a rank.
    pub(super) fn start(count: usize, arguments: &[String]) -> Result<Crew, BenchError> {
        let program = std::env::current_exe()?;
        let mut crew = Crew { members: Vec::with_capacity(count) };
        for rank in 0..count {
            let mut command = Command::new(&program);
            command.args(arguments).args(["--rank", &rank.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            crew.members.push(Member::start(rank, command)?);
        }
        let addresses: Result<Vec<String>, BenchError> =
            crew.members.iter_mut().map(Member::line).collect();
        let addresses = addresses?.join(" ");
        for member in &mut crew.members {
            writeln!(member.input, "{addresses}")?;
        }
        for member in &mut crew.members {
            let line = member.line()?;
            if line != READY {
                return Err(BenchError::Member { rank: member.rank, said: line });
            }
        }
        Ok(crew)
    }

    /// One round of all: as long as the slowest, with everybody's processor time and memory.
    pub(super) fn round(&mut self) -> Result<Round, BenchError> {
        for member in &mut self.members {
            writeln!(member.input)?;
        }
        let mut total = Round::default();
        for member in &mut self.members {
            let line = member.line()?;
            let round =
                Round::parse(&line).ok_or(BenchError::Member { rank: member.rank, said: line })?;
            total.wall = total.wall.max(round.wall);
            total.busy += round.busy;
            total.peak_memory += round.peak_memory;
        }
        Ok(total)
    }
}

impl Member {
    fn start(rank: usize, mut command: Command) -> Result<Member, BenchError> {
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let input = input.expect("its standard input is a pipe");
        let output = BufReader::new(output.expect("its standard output is a pipe"));
        let (sender, lines) = sync_channel(1);
        // Ends with the child, whose end of the pipe closes, or with the member.
        thread::spawn(move || output.lines().try_for_each(|line| sender.send(line)));
        Ok(Member { rank, child, input, lines })
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let rank = self.rank;
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Ok(line?),
            Err(RecvTimeoutError::Disconnected) => {
                Err(BenchError::Member { rank, said: "nothing".to_owned() })
            }
            Err(RecvTimeoutError::Timeout) => {
                let process = self.child.id();
                Err(BenchError::Silent { rank, process, limit: SILENCE_MAX })
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that has ended already can't be killed, but has to be waited for.
            member.child.kill().ok();
            member.child.wait().ok();
        }
    }
}

/// The member's side: tells its address, learns everybody's, and connects.
pub(super) fn meet(
    rank: usize,
    transport: Transport,
    bucket_lens: Vec<usize>,
    out: &mut dyn Write,
) -> Result<Connected, BenchError> {
    let listener = Listener::bind("127.0.0.1:0")?;
    writeln!(out, "{}", listener.local_address())?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let addresses: Vec<&str> = line.split_whitespace().collect();
    let world = addresses.len();
    let slices = world.next_power_of_two();
    let first_slice = |rank: usize| (slices * rank / world) as u32;
    let peers = addresses.iter().enumerate().map(|(rank, address)| Peer {
        name: format!("worker {rank}"),
        address: (*address).to_owned(),
        first_slice: first_slice(rank),
        slice_count: first_slice(rank + 1) - first_slice(rank),
    });
    let group = Group {
        first_step: 1,
        job: "bench".to_owned(),
        generation: 1,
        rank,
        peers: peers.collect(),
        slices: slices as u32,
        key: [0; 32],
        bucket_lens,
        timeout: TIMEOUT,
        transport,
    };
    let exchange =
        TcpExchange::connect((&listener, &mut Reserve::default()), group, Abort::new(), None)?;
    let run = |rank| first_slice(rank)..first_slice(rank + 1);
    let partials = (0..world).map(|rank| subtrees(run(rank)).len()).sum();
    Ok(Connected { exchange: Box::new(exchange), partials })
}

/// A member among its peers.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) exchange: Box<dyn Collective>,
    /// That all members together add up.
    pub(super) partials: usize,
}

/// A step of a large model on a slow machine takes less.
const TIMEOUT: Duration = Duration::from_secs(300);
/// A member's steps before the first round fit in, and one whose peer is stuck has said so by then.
const SILENCE_MAX: Duration = Duration::from_secs(900);
