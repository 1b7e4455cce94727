//! What will happen when: a queue of happenings in the order of their time, those of one time in the order of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Milliseconds since the world began.
pub(crate) type Millis = u64;

/// Happenings to come.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    now: Millis,
    made: u64,
    /// Number of the happening that is happening.
    current: u64,
    heap: BinaryHeap<Reverse<Entry<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    at: Millis,
    number: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Agenda<T> {
        Agenda { now: 0, made: 0, current: 0, heap: BinaryHeap::new() }
    }

    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    pub(crate) fn at(&mut self, at: Millis, what: T) {
        let at = at.max(self.now);
        self.made += 1;
        self.heap.push(Reverse(Entry { at, number: self.made, what }));
    }

    pub(crate) fn after(&mut self, delay: Millis, what: T) {
        self.at(self.now + delay, what);
    }

    /// Puts off what is happening. It keeps its place before everything that was made later.
    pub(crate) fn put_off(&mut self, at: Millis, what: T) {
        self.heap.push(Reverse(Entry { at: at.max(self.now), number: self.current, what }));
    }

    /// The next happening; time goes on to it.
    pub(crate) fn next(&mut self) -> Option<T> {
        let Reverse(entry) = self.heap.pop()?;
        (self.now, self.current) = (entry.at, entry.number);
        Some(entry.what)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Entry<T>) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Entry<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Entry<T>) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
