//! A folder of image files: `train/CLASS/*` and `val/CLASS/*` (or `test/CLASS/*`), as torchvision's
//! `ImageFolder` reads it. Lists the files and checks the layout; decodes nothing.
//!
//! Classes are the folders of `train`, sorted by name; files are those that end in .jpg, .jpeg or
//! .png in any case, sorted by name. Hidden entries and other files are passed over; links are
//! followed.
//!
//! The fingerprint takes the relative path and the length of every file, in this order, then the
//! content of up to [`SAMPLED_FILES`] of them, evenly spread. So a million files take seconds and any
//! list of files is recognised, but a changed byte in one file of a large dataset may not be.

use crate::error::DatasetError;
use crate::folder::Folder;
use crate::index::Contents;
use crate::index::ImageShape;
use crate::split::Files;
use crate::split::Split;
use std::ffi::OsStr;
use std::fs;
use std::fs::DirEntry;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Lists both splits.
pub(crate) fn read(folder: &mut Folder, size: usize) -> Result<Contents, DatasetError> {
    let train = split_folder(folder, &["train"], "train")?;
    let test = split_folder(folder, &["val", "test"], "val (or test)")?;
    let classes = class_names(&train)?;
    let test_classes = class_names(&test)?;
    let unknown: Vec<String> = test_classes
        .iter()
        .filter(|class| classes.binary_search(class).is_err())
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(DatasetError::UnknownClasses { folder: test, train, classes: unknown });
    }
    let train = Listing::read(train, &classes, &classes)?;
    let test = Listing::read(test, &test_classes, &classes)?;
    absorb(folder, &[&train, &test], &classes)?;
    let classes: Arc<[String]> = classes.into();
    let shape = ImageShape { height: size, width: size, channels: 3 };
    let (train, test) = (train.into_split(&classes), test.into_split(&classes));
    Ok(Contents { train, test, shape, classes: classes.to_vec() })
}

/// The files of one split, class after class.
struct Listing {
    folder: PathBuf,
    names: Vec<Box<OsStr>>,
    labels: Vec<u32>,
    lengths: Vec<u64>,
}

impl Listing {
    /// `present`: the classes with a folder here; `classes`: all, whose place is the label.
    fn read(
        folder: PathBuf,
        present: &[String],
        classes: &[String],
    ) -> Result<Listing, DatasetError> {
        let mut listing =
            Listing { folder, names: Vec::new(), labels: Vec::new(), lengths: Vec::new() };
        let mut empty = Vec::new();
        for class in present {
            let label = classes.binary_search(class).expect("unknown classes were refused");
            let files = image_files(&listing.folder.join(class))?;
            if files.is_empty() {
                empty.push(class.clone());
            }
            for (name, length) in files {
                listing.names.push(name);
                listing.labels.push(label as u32);
                listing.lengths.push(length);
            }
            if listing.names.len() > FILES_MAX {
                let (what, limit) = ("images", FILES_MAX);
                return Err(DatasetError::TooMany { folder: listing.folder, what, limit });
            }
        }
        if empty.is_empty() {
            Ok(listing)
        } else {
            Err(DatasetError::EmptyClasses { folder: listing.folder, classes: empty })
        }
    }

    fn path(&self, i: usize, classes: &[String]) -> PathBuf {
        self.folder.join(&classes[self.labels[i] as usize]).join(&*self.names[i])
    }

    fn into_split(self, classes: &Arc<[String]>) -> Split {
        let Listing { folder, names, labels, .. } = self;
        Split::of_files(Files { folder, classes: Arc::clone(classes), names }, labels)
    }
}

/// The first of these folders that exists.
fn split_folder(
    folder: &Folder,
    names: &[&str],
    missing: &'static str,
) -> Result<PathBuf, DatasetError> {
    let found = names.iter().map(|name| folder.path().join(name)).find(|path| path.is_dir());
    found.ok_or_else(|| DatasetError::MissingSplit { folder: folder.path().to_owned(), missing })
}

fn class_names(split: &Path) -> Result<Vec<String>, DatasetError> {
    let mut classes = Vec::new();
    for entry in entries(split)? {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        // Names reach terminals and pages.
        match entry.file_name().into_string() {
            Ok(name) if !name.contains(char::is_control) => classes.push(name),
            _ => return Err(DatasetError::ClassFolderName { path }),
        }
        if classes.len() > CLASSES_MAX {
            let (what, limit) = ("classes", CLASSES_MAX);
            return Err(DatasetError::TooMany { folder: split.to_owned(), what, limit });
        }
    }
    if classes.is_empty() {
        return Err(DatasetError::NoClasses { folder: split.to_owned() });
    }
    classes.sort_unstable();
    Ok(classes)
}

/// Names and lengths of the image files of one class, sorted by name.
fn image_files(class: &Path) -> Result<Vec<(Box<OsStr>, u64)>, DatasetError> {
    let mut files = Vec::new();
    for entry in entries(class)? {
        let path = entry.path();
        let unreadable = |cause| DatasetError::Unreadable { path: entry.path(), cause };
        if entry.file_type().map_err(unreadable)?.is_dir() {
            return Err(DatasetError::Nested { path });
        }
        let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if !ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(DatasetError::NotAFile { path });
        }
        files.push((entry.file_name().into_boxed_os_str(), metadata.len()));
    }
    files.sort_unstable();
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, DatasetError> {
    let listing = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries =
        listing.map_err(|cause| DatasetError::Unreadable { path: folder.to_owned(), cause })?;
    entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    Ok(entries)
}

fn absorb(
    folder: &mut Folder,
    splits: &[&Listing],
    classes: &[String],
) -> Result<(), DatasetError> {
    let files = || splits.iter().flat_map(|split| (0..split.names.len()).map(move |i| (*split, i)));
    let root = folder.path().to_owned();
    let name_of = |path: &Path| -> Vec<u8> {
        path.strip_prefix(&root).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec()
    };
    for (split, i) in files() {
        folder.absorb_length(&name_of(&split.path(i, classes)), split.lengths[i]);
    }
    let count = files().count();
    let chosen = count.min(SAMPLED_FILES);
    let mut next = 0;
    for (at, (split, i)) in files().enumerate() {
        if next < chosen && at == next * count / chosen {
            let path = split.path(i, classes);
            let start = start_of(&path)?;
            folder.absorb(&name_of(&path), &start);
            next += 1;
        }
    }
    Ok(())
}

fn start_of(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SAMPLED_BYTES).read_to_end(&mut start))
        .map_err(|cause| DatasetError::Unreadable { path: path.to_owned(), cause })?;
    Ok(start)
}

const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Files whose content the fingerprint takes: a few seconds even from a slow network file system.
const SAMPLED_FILES: usize = 256;
/// Of each of them, from its start: more than almost any image has.
const SAMPLED_BYTES: u64 = 4 << 20;
/// A hundred times ImageNet.
const FILES_MAX: usize = 1 << 27;
const CLASSES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
