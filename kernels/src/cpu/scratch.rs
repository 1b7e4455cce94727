//! Memory that ops need for the length of a call, kept between calls. A task takes a set and gives
//! it back; there are never more sets than tasks that ran at once. What is in a set is garbage to
//! its next user.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::conv::{Pairs, Table};
use crate::device::AlignedVec;

/// One task's working memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) source: Grown,       // a padded source image
    pub(super) sums: Grown,         // partial sums of tasks
    pub(super) columns: Grown,      // columns of `dy`, made contiguous
    pub(super) rows: Grown,         // wide rows of `x`, likewise
    pub(super) weights: [Grown; 2], // a linear layer's, packed
    pub(super) zeros: Grown,        // what padding holds
    pub(super) values: Grown,       // transformed tiles
    pub(super) products: Grown,     // of transformed tiles
    pub(super) table: Table,
    pub(super) pairs: Pairs,
}

/// The sets that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct ScratchShelf {
    idle: Mutex<Vec<Scratch>>,
}

/// A set that goes back to its shelf when dropped.
#[derive(Debug)]
pub(super) struct Borrowed<'a> {
    shelf: &'a ScratchShelf,
    scratch: Scratch,
}

/// Memory that only grows.
#[derive(Debug, Default)]
pub(super) struct Grown(Option<AlignedVec>);

impl ScratchShelf {
    pub(super) fn take(&self) -> Borrowed<'_> {
        // No code runs under the lock that could panic half way: poison carries no news.
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Borrowed { shelf: self, scratch: idle.unwrap_or_default() }
    }
}

impl Grown {
    /// `len` numbers of no particular value.
    pub(super) fn take(&mut self, len: usize) -> &mut [f32] {
        if self.0.as_ref().is_none_or(|memory| memory.len() < len) {
            self.0 = None;
        }
        &mut self.0.get_or_insert_with(|| AlignedVec::zeroed(len)).as_mut_slice()[..len]
    }

    /// `len` zeros.
    pub(super) fn zeros(&mut self, len: usize) -> &[f32] {
        let zeros = self.take(len);
        zeros.fill(0.0);
        zeros
    }
}

impl Deref for Borrowed<'_> {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Scratch {
        &mut self.scratch
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        self.shelf.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}
