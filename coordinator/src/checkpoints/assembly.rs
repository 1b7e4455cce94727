//! Checkpoints in the making: every member uploads its share of each file's bytes, and when the last share is on disk the
//! checkpoint is complete. Fenced by the generation: parts of an older one are refused. Does not decide whether the step
//! counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::identity::{Generation, JobId};
use proto::wire::{CHUNK_BYTES_MAX, checkpoint_part};

use super::header::{FileSpec, check_files, difference};
use crate::disk::{self, DiskFile};

/// The door through which parts come in: open while a generation lives.
#[derive(Debug, Default)]
pub struct Uploads {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    job: JobId,
    generation: Generation,
    members: u32,
    /// Folder of the job's checkpoints.
    folder: PathBuf,
    assemblies: BTreeMap<u64, Arc<Assembly>>,
    /// Steps whose checkpoint was given up: late parts of them are refused.
    given_up: BTreeSet<u64>,
    /// Steps whose checkpoint was complete and is out of these hands: a part sent again must not touch it.
    taken: BTreeSet<u64>,
}

/// A checkpoint that is being put together.
#[derive(Debug)]
pub struct Assembly {
    pub step: u64,
    /// `tmp-...`
    pub folder: PathBuf,
    pub files: Vec<FileSpec>,
    handles: Vec<DiskFile>,
    shares: Mutex<Vec<Share>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Share {
    Missing,
    Arriving,
    Stored,
}

/// One member's upload. Dropped before `finish`, it may be sent again.
#[derive(Debug)]
pub struct Part {
    assembly: Arc<Assembly>,
    rank: u32,
    /// By file: what this member is to send.
    expected: Vec<Range<u64>>,
    /// By file: what it has sent, disjoint, ascending, merged.
    stored: Vec<Vec<Range<u64>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("generation {offered} of job {job} is not the current one")]
    NotCurrent { job: String, offered: u64 },
    #[error("the checkpoint header is refused: {0}")]
    Header(String),
    #[error("rank {rank} has sent its part of step {step} already")]
    Repeated { rank: u32, step: u64 },
    #[error("rank {rank} is sending its part of step {step}")]
    Arriving { rank: u32, step: u64 },
    #[error("the checkpoint data is refused: {0}")]
    Data(String),
    #[error("a chunk at {offset} of file {file} does not match its checksum")]
    Checksum { file: u32, offset: u64 },
    #[error("{what} {} (the checkpoint needs {needed} bytes): {source}", path.display())]
    Disk { what: &'static str, path: PathBuf, needed: u64, source: io::Error },
    #[error("{ASSEMBLIES_MAX} checkpoints are being uploaded already")]
    TooMany,
    #[error("the checkpoint of step {step} was given up")]
    GivenUp { step: u64 },
}

impl Uploads {
    /// Accepts parts of this generation. `folder` is the job's checkpoint folder.
    pub fn open(&self, job: JobId, generation: Generation, members: u32, folder: PathBuf) {
        let (assemblies, given_up, taken) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        *self.lock() = Some(Open { job, generation, members, folder, assemblies, given_up, taken });
    }

    /// Accepts no more, and removes what is incomplete.
    pub fn close(&self, generation: Generation) {
        let mut open = self.lock();
        if open.as_ref().is_some_and(|open| open.generation == generation)
            && let Some(closed) = open.take()
        {
            for assembly in closed.assemblies.values() {
                assembly.discard();
            }
        }
    }

    /// Begins one member's part.
    pub fn begin(
        &self,
        job: &str,
        generation: u64,
        step: u64,
        rank: u32,
        files: Vec<FileSpec>,
    ) -> Result<Part, UploadError> {
        let mut lock = self.lock();
        let open = lock
            .as_mut()
            .filter(|open| open.job.as_str() == job && open.generation == Generation(generation));
        let Some(open) = open else {
            return Err(UploadError::NotCurrent { job: job.to_owned(), offered: generation });
        };
        if open.given_up.contains(&step) {
            return Err(UploadError::GivenUp { step });
        }
        if open.taken.contains(&step) {
            return Err(UploadError::Repeated { rank, step });
        }
        if rank >= open.members {
            let members = open.members;
            return Err(UploadError::Header(format!("rank {rank} of {members} members")));
        }
        check_files(&files).map_err(UploadError::Header)?;
        let assembly = match open.assemblies.get(&step) {
            Some(assembly) => assembly.clone(),
            None if open.assemblies.len() >= ASSEMBLIES_MAX => return Err(UploadError::TooMany),
            None => {
                let folder = open.folder.join(format!("{}{step:08}-{generation}", super::TMP));
                let assembly = Assembly::create(step, folder, files.clone(), open.members)?;
                open.assemblies.entry(step).or_insert(Arc::new(assembly)).clone()
            }
        };
        if assembly.files != files {
            return Err(UploadError::Header(format!(
                "rank {rank} describes the files of step {step} differently: {}",
                difference(&assembly.files, &files)
            )));
        }
        assembly.claim(rank)?;
        let expected =
            files.iter().map(|file| checkpoint_part(file.len, rank, open.members)).collect();
        let stored = vec![Vec::new(); files.len()];
        Ok(Part { assembly, rank, expected, stored })
    }

    /// Gives up the checkpoints that lack this member's part although it has come to `step`: a member sends its parts one
    /// after another, so it has skipped them. Returns their steps.
    pub fn pass_over(&self, generation: u64, step: u64, rank: u32) -> Vec<u64> {
        let mut lock = self.lock();
        let open = lock.as_mut().filter(|open| open.generation == Generation(generation));
        let Some(open) = open.filter(|open| rank < open.members) else { return Vec::new() };
        let older = open.assemblies.range(..step);
        let lacking = older.filter(|(_, assembly)| assembly.lacks(rank)).map(|(&step, _)| step);
        let skipped: Vec<u64> = lacking.collect();
        for step in &skipped {
            open.discard(*step);
        }
        skipped
    }

    /// Gives a checkpoint up and removes it; `false` when that has been done before.
    pub fn give_up(&self, generation: u64, step: u64) -> bool {
        let mut lock = self.lock();
        let open = lock.as_mut().filter(|open| open.generation == Generation(generation));
        let Some(open) = open else { return false };
        open.discard(step)
    }

    /// Takes a complete checkpoint out, for sealing.
    pub fn take(&self, generation: Generation, step: u64) -> Option<Arc<Assembly>> {
        let mut lock = self.lock();
        let open = lock.as_mut().filter(|open| open.generation == generation)?;
        let complete = open.assemblies.get(&step).is_some_and(|assembly| assembly.is_complete());
        if !complete {
            return None;
        }
        open.taken.insert(step);
        open.assemblies.remove(&step)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // Every change under the lock is a single insertion or removal: nothing is half done after a panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// `false` when that has been done before.
    fn discard(&mut self, step: u64) -> bool {
        if let Some(assembly) = self.assemblies.remove(&step) {
            assembly.discard();
        }
        self.given_up.insert(step)
    }
}

impl Assembly {
    fn create(
        step: u64,
        folder: PathBuf,
        files: Vec<FileSpec>,
        members: u32,
    ) -> Result<Assembly, UploadError> {
        let needed = files.iter().map(|file| file.len).sum();
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| UploadError::Disk { what, path, needed, source }
        };
        if folder.exists() {
            disk::remove_tree(&folder).map_err(fail("clearing", &folder))?;
        }
        // Sealing makes the names in it durable, and the folder's own.
        let above = folder.parent().unwrap_or(&folder);
        disk::create_folders(above).map_err(fail("creating", above))?;
        disk::create_folder(&folder).map_err(fail("creating", &folder))?;
        let mut handles = Vec::new();
        for spec in &files {
            let path = folder.join(spec.name.as_str());
            let sized =
                DiskFile::create(&path).and_then(|file| file.set_len(spec.len).map(|()| file));
            handles.push(sized.map_err(fail("creating", &path))?);
        }
        let shares = Mutex::new(vec![Share::Missing; members as usize]);
        Ok(Assembly { step, folder, files, handles, shares })
    }

    fn claim(&self, rank: u32) -> Result<(), UploadError> {
        let mut shares = self.lock();
        let share = &mut shares[rank as usize];
        let step = self.step;
        match *share {
            Share::Missing => {
                *share = Share::Arriving;
                Ok(())
            }
            Share::Arriving => Err(UploadError::Arriving { rank, step }),
            Share::Stored => Err(UploadError::Repeated { rank, step }),
        }
    }

    fn lacks(&self, rank: u32) -> bool {
        self.lock()[rank as usize] == Share::Missing
    }

    fn is_complete(&self) -> bool {
        self.lock().iter().all(|share| *share == Share::Stored)
    }

    fn discard(&self) {
        // What can't be removed now is removed at the next start.
        disk::remove_tree(&self.folder).ok();
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Writes one chunk to its place.
    pub fn store(
        &mut self,
        file: u32,
        offset: u64,
        data: &[u8],
        crc32: u32,
    ) -> Result<(), UploadError> {
        let index = file as usize;
        let Some(expected) = self.expected.get(index) else {
            return Err(UploadError::Data(format!("there is no file {file}")));
        };
        if data.is_empty() || data.len() > CHUNK_BYTES_MAX {
            let found = data.len();
            return Err(UploadError::Data(format!(
                "a chunk has {found} bytes, must be 1 to {CHUNK_BYTES_MAX}"
            )));
        }
        let range = offset..offset.saturating_add(data.len() as u64);
        if range.start < expected.start || range.end > expected.end {
            return Err(UploadError::Data(format!(
                "bytes {range:?} of file {file} are not part of {expected:?}"
            )));
        }
        if crc32fast::hash(data) != crc32 {
            return Err(UploadError::Checksum { file, offset });
        }
        if !insert(&mut self.stored[index], range) {
            return Err(UploadError::Data(format!("bytes at {offset} of file {file} came twice")));
        }
        let written = self.assembly.handles[index].write_all_at(data, offset);
        written.map_err(|source| self.disk_error("writing", index, source))
    }

    /// Ends the part: all its bytes must be there. Returns their number, and whether the checkpoint is complete now.
    pub fn finish(mut self) -> Result<(u64, bool), UploadError> {
        for (index, expected) in self.expected.iter().enumerate() {
            let complete = match self.stored[index].as_slice() {
                [] => expected.is_empty(),
                [only] => only == expected,
                _ => false,
            };
            if !complete {
                let name = &self.assembly.files[index].name;
                return Err(UploadError::Data(format!("bytes of {name} are missing")));
            }
            let synced = self.assembly.handles[index].sync();
            synced.map_err(|source| self.disk_error("syncing", index, source))?;
        }
        let bytes = self.expected.iter().map(|range| range.end - range.start).sum();
        let complete = {
            let mut shares = self.assembly.lock();
            shares[self.rank as usize] = Share::Stored;
            shares.iter().all(|share| *share == Share::Stored)
        };
        self.expected.clear();
        Ok((bytes, complete))
    }

    fn disk_error(&self, what: &'static str, index: usize, source: io::Error) -> UploadError {
        let path = self.assembly.folder.join(self.assembly.files[index].name.as_str());
        UploadError::Disk { what, path, needed: self.assembly.bytes(), source }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut shares = self.assembly.lock();
        let share = &mut shares[self.rank as usize];
        if *share == Share::Arriving {
            *share = Share::Missing;
        }
    }
}

/// Adds a range to disjoint, ascending, merged ranges; `false` when it overlaps one of them.
fn insert(ranges: &mut Vec<Range<u64>>, new: Range<u64>) -> bool {
    let at = ranges.partition_point(|range| range.start < new.start);
    let overlaps_before = at > 0 && ranges[at - 1].end > new.start;
    let overlaps_after = ranges.get(at).is_some_and(|range| range.start < new.end);
    if overlaps_before || overlaps_after {
        return false;
    }
    ranges.insert(at, new);
    if ranges.get(at + 1).is_some_and(|next| next.start == ranges[at].end) {
        ranges[at].end = ranges.remove(at + 1).end;
    }
    if at > 0 && ranges[at - 1].end == ranges[at].start {
        ranges[at - 1].end = ranges.remove(at).end;
    }
    true
}

/// Checkpoints that the members are uploading at the same time; more means that the disk does not keep up.
const ASSEMBLIES_MAX: usize = 8;
