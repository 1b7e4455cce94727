//! A program that runs: its lines as they come, its children, its end.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A started program. Dropping it kills it and its children.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<Line>,
    readers: Vec<JoinHandle<()>>,
    /// Every line so far, in the order of arrival.
    seen: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    at: Instant,
    to_stdout: bool,
    text: String,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    pub fn spawn(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![read(stdout, true, sender.clone()), read(stderr, false, sender)];
        Running { child, lines, readers, seen: Vec::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line, printed before or after this call, that contains all of `parts`; and when it came.
    pub fn wait_for(&mut self, parts: &[&str], limit: Duration) -> (String, Instant) {
        let matches = |line: &Line| parts.iter().all(|part| line.text.contains(part));
        if let Some(line) = self.seen.iter().find(|line| matches(line)) {
            return (line.text.clone(), line.at);
        }
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if matches(&line) {
                        return (line.text, line.at);
                    }
                }
                Err(why) => panic!("no line with {parts:?} ({why}) in:\n{}", self.everything()),
            }
        }
    }

    /// Waits for the end.
    pub fn finish(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no end within {limit:?}:\n{}", self.everything())
                }
            }
        }
        // Both pipes are closed: the end is a moment away.
        let status = self.child.wait().expect("the child was not waited for");
        let text = |to_stdout: bool| {
            let lines = self.seen.iter().filter(|line| line.to_stdout == to_stdout);
            lines.map(|line| line.text.clone() + "\n").collect::<String>()
        };
        Ended { code: status.code(), stdout: text(true), stderr: text(false) }
    }

    /// Process numbers of the children, oldest first.
    pub fn children(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// SIGKILL to the program and its children, as a power failure would.
    pub fn kill_all(&mut self) {
        let children = self.children();
        send(self.child.id(), Signal::KILL);
        children.into_iter().for_each(|child| send(child, Signal::KILL));
    }

    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    fn everything(&self) -> String {
        self.seen.iter().map(|line| line.text.clone() + "\n").collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_all();
            // The process must not outlive the test; its status interests nobody.
            drop(self.child.wait());
        }
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

/// A running process, watched without being its parent.
#[derive(Debug)]
pub struct Watched {
    handle: OwnedFd,
}

impl Watched {
    pub fn new(process: u32) -> Watched {
        let pid = Pid::from_raw(process.cast_signed()).expect("a process number is above 0");
        let handle = pidfd_open(pid, PidfdFlags::empty()).expect("the process runs");
        Watched { handle }
    }

    /// Waits for the end; false when the process still runs after `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let mut polled = [PollFd::new(&self.handle, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("limits are short");
        poll(&mut polled, Some(&limit)).expect("polling a process works") > 0
    }
}

/// Sends a signal to a process that may have ended already.
pub fn send(process: u32, signal: Signal) {
    let pid = Pid::from_raw(process.cast_signed()).expect("a process number is above 0");
    // Gone already is as good as killed.
    kill_process(pid, signal).ok();
}

fn children_of(process: u32) -> Vec<u32> {
    let tasks = format!("/proc/{process}/task");
    let tasks = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut children: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|child| child.parse().ok())
        .collect();
    children.sort_unstable();
    children
}

fn read(pipe: impl Read + Send + 'static, to_stdout: bool, lines: Sender<Line>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for text in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(Line { at: Instant::now(), to_stdout, text }).is_err() {
                return;
            }
        }
    })
}
