//! What happens to a job, as its coordinator puts it on record: read from the journal while it grows, by the code that `verify`
//! trusts. A coordinator that is away adds nothing for a while; nothing else changes for the reader.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use crate::verify::{End, Entry, FrameError, Frames};

#[derive(Debug)]
pub struct Watch {
    journal: PathBuf,
    job: String,
    frames: Option<Frames>,
    waiting: VecDeque<Seen>,
    /// Newest generation that was formed.
    pub generation: u64,
    /// Names of its members.
    pub members: BTreeSet<String>,
    incarnations: BTreeSet<String>,
    /// Names of those that hold the state: a step counts only when every member has reported it.
    pub holders: BTreeSet<String>,
    /// The newest generation when each was hit last: only later ones make it a holder again.
    struck: BTreeMap<String, u64>,
    /// The generation of the newest committed step.
    committed_by: u64,
    /// Newest committed step.
    pub step: u64,
    /// Steps committed since the watch began, those that are committed again after a return included.
    pub commits: u64,
}

/// News of the job.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// `grown`: all members of the one before, and others.
    Formed {
        generation: u64,
        grown: bool,
    },
    Committed {
        generation: u64,
        step: u64,
    },
    Ended(End),
}

impl Watch {
    /// `journal` need not be there yet. What it holds of the job already is read by the first `news`.
    pub fn new(journal: PathBuf, job: String) -> Watch {
        Watch {
            journal,
            job,
            frames: None,
            waiting: VecDeque::new(),
            generation: 0,
            members: BTreeSet::new(),
            incarnations: BTreeSet::new(),
            holders: BTreeSet::new(),
            struck: BTreeMap::new(),
            committed_by: 0,
            step: 0,
            commits: 0,
        }
    }

    /// Something was done to this worker: what it holds does not count.
    pub fn strike(&mut self, name: &str) {
        self.holders.remove(name);
        self.struck.insert(name.to_owned(), self.generation);
    }

    /// The next piece of news, if there is any yet.
    pub fn news(&mut self) -> Result<Option<Seen>, FrameError> {
        let mut frames = match self.frames.take() {
            Some(frames) => frames,
            None => Frames::open(&self.journal)?,
        };
        // Many frames hold nothing that is news here.
        while self.waiting.is_empty() {
            let Some(frame) = frames.next_frame()? else { break };
            // A record of another form is for `verify` to name.
            let entries: Vec<Entry> = serde_json::from_slice(&frame.payload).unwrap_or_default();
            for entry in entries {
                if entry.job() == Some(self.job.as_str()) {
                    self.take(entry);
                }
            }
        }
        self.frames = Some(frames);
        Ok(self.waiting.pop_front())
    }

    fn take(&mut self, entry: Entry) {
        self.waiting.push_back(match entry {
            Entry::Formed { generation, members, .. } => {
                self.generation = generation;
                let now = members.iter().map(|member| member.incarnation.clone()).collect();
                let before = std::mem::replace(&mut self.incarnations, now);
                self.members = members.into_iter().map(|member| member.worker).collect();
                let more = self.incarnations.len() > before.len() && !before.is_empty();
                Seen::Formed { generation, grown: more && before.is_subset(&self.incarnations) }
            }
            Entry::Committed { generation, step, .. } => {
                if std::mem::replace(&mut self.committed_by, generation) != generation {
                    // A step of a generation that was formed before a member was hit says nothing of its successor.
                    let struck =
                        |name: &String| self.struck.get(name).is_some_and(|&at| generation <= at);
                    self.holders =
                        self.members.iter().filter(|name| !struck(name)).cloned().collect();
                }
                self.step = step;
                self.commits += 1;
                Seen::Committed { generation, step }
            }
            Entry::Ended { end, .. } => Seen::Ended(end),
            _ => return,
        });
    }
}
