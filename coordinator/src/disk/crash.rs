//! What a loss of power may leave on a disk: from a list of operations, every folder that a file system is allowed to show
//! afterwards. After ALICE (Pillai et al., OSDI 2014: reordered and torn operations) and CrashMonkey (Mohan et al., OSDI
//! 2018: a crash behind each operation), on the pessimistic side of POSIX: nothing is durable that was not synced, an
//! fsync of a file says nothing of its name, and what a failed fsync was about stays in doubt (Rebello et al., ATC 2020).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::Operation;
use super::recorder::relative;

/// A folder's content: relative path to bytes, `None` for a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tree(pub(crate) BTreeMap<PathBuf, Option<Vec<u8>>>);

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    CreateFolder(PathBuf),
    Create(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        path: PathBuf,
        len: u64,
    },
    Sync(PathBuf),
    /// It returned an error: a later one does not cover what this one was about.
    FailedSync(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile(PathBuf),
    RemoveTree(PathBuf),
    /// From here on somebody relies on something.
    Promise(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) base: Tree,
    pub(crate) steps: Vec<Step>,
}

/// One state that a crash may leave.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Crash {
    pub(crate) promises: Vec<u64>,
    pub(crate) tree: Tree,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        tree.add(root, Path::new(""));
        tree
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.0.insert(path.clone(), None);
                self.add(root, &path);
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                self.0.insert(path, Some(bytes));
            }
        }
    }

    /// Into an empty folder. Files are for this user alone, as the token must be.
    pub(crate) fn write(&self, root: &Path) {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        for (path, content) in &self.0 {
            let path = root.join(path);
            let Some(bytes) = content else {
                std::fs::create_dir(&path).unwrap();
                continue;
            };
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
            // Long files end in zeros, which need not be written.
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            file.write_all_at(&bytes[..end], 0).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
    }
}

impl Step {
    pub(super) fn of(operation: &Operation<'_>, root: &Path) -> Step {
        let relative = |path: &Path| relative(path, root);
        match *operation {
            Operation::CreateFolder { path } => Step::CreateFolder(relative(path)),
            Operation::Create { path } => Step::Create(relative(path)),
            Operation::Write { path, at, bytes } => {
                Step::Write { path: relative(path), at, bytes: bytes.to_vec() }
            }
            Operation::SetLen { path, len } => Step::SetLen { path: relative(path), len },
            Operation::SyncFile { path } | Operation::SyncFolder { path } => {
                Step::Sync(relative(path))
            }
            Operation::Rename { from, to } => {
                Step::Rename { from: relative(from), to: relative(to) }
            }
            Operation::RemoveFile { path } => Step::RemoveFile(relative(path)),
            Operation::RemoveTree { path } => Step::RemoveTree(relative(path)),
        }
    }
}

impl Recording {
    /// Shows every state that a crash behind step `from` or a later one may leave, each once, until `visit` fails.
    pub(crate) fn crashes(
        &self,
        from: usize,
        visit: &mut dyn FnMut(Crash) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut known = HashSet::new();
        let mut disk = Disk::of(&self.base);
        let mut promises = Vec::new();
        for behind in 0..=self.steps.len() {
            let choices = if behind >= from { disk.choices() } else { Vec::new() };
            for fates in choices {
                let crash = Crash { promises: promises.clone(), tree: disk.with(&fates) };
                let mut hasher = DefaultHasher::new();
                crash.hash(&mut hasher);
                if known.insert(hasher.finish()) {
                    visit(crash)?;
                }
            }
            match self.steps.get(behind) {
                Some(Step::Promise(what)) => promises.push(*what),
                Some(step) => disk.take(step),
                None => {}
            }
        }
        Ok(())
    }

    /// What a process that is started again behind `count` steps finds when the machine stayed up.
    pub(crate) fn seen_after(&self, count: usize) -> Tree {
        let mut disk = Disk::of(&self.base);
        let steps = self.steps[..count].iter();
        steps.filter(|step| !matches!(step, Step::Promise(_))).for_each(|step| disk.take(step));
        disk.seen()
    }
}

/// Files and folders by number. 0 is the root.
type Inode = usize;
type Entry = (Inode, PathBuf);

/// What is durable, and what was done since.
#[derive(Clone, Debug, Default)]
struct Disk {
    entries: BTreeMap<Entry, Inode>,
    /// Absent for folders.
    bytes: BTreeMap<Inode, Vec<u8>>,
    pending: Vec<Pending>,
    /// Entries with everything that is pending.
    now: BTreeMap<Entry, Inode>,
    inodes: usize,
}

#[derive(Clone, Debug)]
struct Pending {
    change: Change,
    /// An fsync about it failed: no later one covers it.
    in_doubt: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Link { entry: Entry, inode: Inode },
    Move { from: Entry, to: Entry, inode: Inode },
    Unlink { entry: Entry },
    Write { inode: Inode, at: usize, bytes: Vec<u8> },
    SetLen { inode: Inode, len: usize },
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Kept,
    Lost,
    /// Only the first bytes.
    Front(usize),
    /// Only the bytes from here on: blocks are written in any order.
    Back(usize),
    /// The file is as long as it should be, but the bytes never came.
    Hollow,
}

impl Disk {
    fn of(base: &Tree) -> Disk {
        let mut disk = Disk::default();
        for (path, content) in &base.0 {
            let (entry, inode) = (disk.entry(path), disk.fresh());
            disk.now.insert(entry, inode);
            disk.bytes.extend(content.clone().map(|bytes| (inode, bytes)));
        }
        disk.entries = disk.now.clone();
        disk
    }

    fn fresh(&mut self) -> Inode {
        self.inodes += 1;
        self.inodes
    }

    fn inode(&self, path: &Path) -> Inode {
        path.iter().fold(0, |folder, name| {
            let entry = (folder, PathBuf::from(name));
            *self.now.get(&entry).unwrap_or_else(|| panic!("{} was used, gone", path.display()))
        })
    }

    fn entry(&self, path: &Path) -> Entry {
        let folder = self.inode(path.parent().unwrap());
        (folder, path.file_name().unwrap().into())
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::CreateFolder(path) | Step::Create(path) => {
                let (entry, inode) = (self.entry(path), self.fresh());
                self.now.insert(entry.clone(), inode);
                if matches!(step, Step::Create(_)) {
                    self.bytes.insert(inode, Vec::new());
                }
                self.push(Change::Link { entry, inode });
            }
            Step::Write { path, at, bytes } => {
                let (inode, at, bytes) = (self.inode(path), *at as usize, bytes.clone());
                self.push(Change::Write { inode, at, bytes });
            }
            Step::SetLen { path, len } => {
                let (inode, len) = (self.inode(path), *len as usize);
                self.push(Change::SetLen { inode, len });
            }
            Step::Rename { from, to } => {
                let (from, to, inode) = (self.entry(from), self.entry(to), self.inode(from));
                self.now.remove(&from);
                self.now.insert(to.clone(), inode);
                self.push(Change::Move { from, to, inode });
            }
            Step::RemoveFile(path) => self.unlink(self.entry(path)),
            Step::RemoveTree(path) => {
                let inode = self.inode(path);
                self.unlink_all_in(inode);
                self.unlink(self.entry(path));
            }
            Step::Sync(path) => {
                let inode = self.inode(path);
                let pending = std::mem::take(&mut self.pending);
                let synced =
                    |pending: &Pending| !pending.in_doubt && pending.change.is_about(inode);
                let (done, mut rest): (Vec<_>, Vec<_>) = pending.into_iter().partition(synced);
                for Pending { change, .. } in done {
                    change.apply(Fate::Kept, &mut self.entries, &mut self.bytes);
                    rest.retain(|older| !(older.in_doubt && change.replaces(&older.change)));
                }
                self.pending = rest;
            }
            Step::FailedSync(path) => {
                let inode = self.inode(path);
                let about = self.pending.iter_mut().filter(|p| p.change.is_about(inode));
                about.for_each(|pending| pending.in_doubt = true);
            }
            Step::Promise(_) => {}
        }
    }

    fn push(&mut self, change: Change) {
        self.pending.push(Pending { change, in_doubt: false });
    }

    fn unlink(&mut self, entry: Entry) {
        self.now.remove(&entry);
        self.push(Change::Unlink { entry });
    }

    fn unlink_all_in(&mut self, folder: Inode) {
        let inside = self.now.range((folder, PathBuf::new())..(folder + 1, PathBuf::new()));
        let inside: Vec<_> = inside.map(|(entry, &inode)| (entry.clone(), inode)).collect();
        for (entry, inode) in inside {
            self.unlink_all_in(inode);
            self.unlink(entry);
        }
    }

    /// With everything that was done.
    fn seen(&self) -> Tree {
        self.with(&vec![Fate::Kept; self.pending.len()])
    }

    /// Every choice of what happened to the pending changes: of the entries and of the writes, none, all, each prefix, all
    /// but one, and only one, in every combination; the write at a prefix's end also in pieces.
    fn choices(&self) -> Vec<Vec<Fate>> {
        let (writes, entries): (Vec<usize>, Vec<usize>) =
            (0..self.pending.len()).partition(|&index| self.pending[index].change.is_of_bytes());
        let mut choices = Vec::new();
        for in_entries in selections(&entries) {
            for in_writes in selections(&writes) {
                let mut fates = vec![Fate::Lost; self.pending.len()];
                in_entries.iter().chain(&in_writes).for_each(|&at| fates[at] = Fate::Kept);
                if let Some(&last) = in_writes.last() {
                    for fate in self.pending[last].change.pieces() {
                        let mut fates = fates.clone();
                        fates[last] = fate;
                        choices.push(fates);
                    }
                }
                choices.push(fates);
            }
        }
        choices
    }

    fn with(&self, fates: &[Fate]) -> Tree {
        let (mut entries, mut bytes) = (self.entries.clone(), self.bytes.clone());
        for (pending, &fate) in self.pending.iter().zip(fates) {
            pending.change.apply(fate, &mut entries, &mut bytes);
        }
        let mut tree = Tree::default();
        let mut folders = vec![(0, PathBuf::new())];
        while let Some((folder, path)) = folders.pop() {
            let inside = entries.range((folder, PathBuf::new())..(folder + 1, PathBuf::new()));
            for ((_, name), &inode) in inside {
                let path = path.join(name);
                let content = bytes.get(&inode).cloned();
                if content.is_none() {
                    folders.push((inode, path.clone()));
                }
                tree.0.insert(path, content);
            }
        }
        tree
    }
}

impl Change {
    fn is_of_bytes(&self) -> bool {
        matches!(self, Change::Write { .. } | Change::SetLen { .. })
    }

    /// Whether an fsync of this file or folder covers it.
    fn is_about(&self, synced: Inode) -> bool {
        match self {
            Change::Link { entry, .. } | Change::Unlink { entry } => entry.0 == synced,
            Change::Move { from, to, .. } => from.0 == synced || to.0 == synced,
            Change::Write { inode, .. } | Change::SetLen { inode, .. } => *inode == synced,
        }
    }

    /// Whether it no longer matters what became of an earlier change once this one is durable.
    fn replaces(&self, older: &Change) -> bool {
        match (self, older) {
            (
                Change::Write { inode, at, bytes },
                Change::Write { inode: old_inode, at: old_at, bytes: old },
            ) => inode == old_inode && at <= old_at && old_at + old.len() <= at + bytes.len(),
            _ => older.names().iter().any(|name| self.names().contains(name)),
        }
    }

    fn names(&self) -> Vec<&Entry> {
        match self {
            Change::Link { entry, .. } | Change::Unlink { entry } => vec![entry],
            Change::Move { from, to, .. } => vec![from, to],
            Change::Write { .. } | Change::SetLen { .. } => Vec::new(),
        }
    }

    /// The ways in which a write may be there in part.
    fn pieces(&self) -> Vec<Fate> {
        let Change::Write { bytes, .. } = self else { return Vec::new() };
        // Also where a frame of the journal has its fields.
        let len = bytes.len();
        let cuts = BTreeSet::from([1, 4, 8, 24, len / 2, len.saturating_sub(1)]);
        let cuts = cuts.into_iter().filter(|&cut| cut > 0 && cut < len);
        cuts.flat_map(|cut| [Fate::Front(cut), Fate::Back(cut)]).chain([Fate::Hollow]).collect()
    }

    fn apply(
        &self,
        fate: Fate,
        entries: &mut BTreeMap<Entry, Inode>,
        bytes: &mut BTreeMap<Inode, Vec<u8>>,
    ) {
        if fate == Fate::Lost {
            return;
        }
        match self {
            Change::Link { entry, inode } => drop(entries.insert(entry.clone(), *inode)),
            Change::Unlink { entry } => drop(entries.remove(entry)),
            Change::Move { from, to, inode } => {
                if entries.get(from) == Some(inode) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *inode);
            }
            Change::SetLen { inode, len } => bytes.get_mut(inode).unwrap().resize(*len, 0),
            Change::Write { inode, at, bytes: new } => {
                let old = bytes.get_mut(inode).unwrap();
                let there = match fate {
                    Fate::Front(cut) => 0..cut,
                    Fate::Back(cut) => cut..new.len(),
                    Fate::Hollow => 0..0,
                    Fate::Kept | Fate::Lost => 0..new.len(),
                };
                let len = if let Fate::Front(cut) = fate { at + cut } else { at + new.len() };
                if old.len() < len {
                    old.resize(len, 0);
                }
                old[at + there.start..at + there.end].copy_from_slice(&new[there]);
            }
        }
    }
}

/// None, all, each prefix, all but one, only one; all there are of up to four.
fn selections(of: &[usize]) -> BTreeSet<Vec<usize>> {
    let count = of.len();
    let chosen = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..count).filter(|&index| keep(index)).map(|index| of[index]).collect()
    };
    if count <= 4 {
        return (0..1_usize << count).map(|set| chosen(&|index| set >> index & 1 == 1)).collect();
    }
    let prefixes = (0..=count).map(|len| chosen(&|index| index < len));
    let but_one = (0..count).map(|but| chosen(&|index| index != but));
    let only_one = (0..count).map(|only| chosen(&|index| index == only));
    prefixes.chain(but_one).chain(only_one).collect()
}
