//! A file system of its own, of a chosen size, for what happens when it is full or read-only. Needs the right to mount.

use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::io::Result;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A mounted tmpfs. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    pub folder: PathBuf,
}

impl Mounted {
    /// Mounts over the empty folder. On failure it says that the test is skipped, and why.
    pub fn on(folder: &Path, kib: u64) -> Option<Mounted> {
        let mounted = mount("tmpfs", folder, "tmpfs", MountFlags::empty(), &*options(kib));
        match mounted {
            Ok(()) => Some(Mounted { folder: folder.to_owned() }),
            Err(error) => {
                // Written past the test runner, which hides what a passing test prints.
                let line = format!("skipped: mounting a file system needs root: {error}\n");
                std::io::stderr().write_all(line.as_bytes()).ok();
                None
            }
        }
    }

    pub fn resize(&self, kib: u64) -> Result<()> {
        mount_remount(&self.folder, MountFlags::empty(), &*options(kib))
    }

    pub fn make_read_only(&self) -> Result<()> {
        mount_remount(&self.folder, MountFlags::RDONLY, c"")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What a program still holds open goes when it ends.
        unmount(&self.folder, UnmountFlags::DETACH).ok();
    }
}

fn options(kib: u64) -> CString {
    CString::new(format!("size={kib}k")).expect("digits hold no zero byte")
}
