//! The images that can't be decoded, as they are met: each is told of once, however often it comes.

use std::collections::BTreeSet;

use super::batch::Quarantined;

/// Part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Train,
    Test,
}

/// An image that was met for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub part: Part,
    pub image: Quarantined,
}

/// What was met since a generation began.
#[derive(Debug, Default)]
pub struct Quarantine {
    known: BTreeSet<(Part, usize)>,
    untold: Vec<Found>,
}

impl Quarantine {
    pub fn add(&mut self, part: Part, images: Vec<Quarantined>) {
        for image in images {
            if self.known.insert((part, image.index)) {
                self.untold.push(Found { part, image });
            }
        }
    }

    /// Those that were added since the last call.
    pub fn take(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_of_each_part_is_told_of_once() {
        let image = |index| Quarantined { index, path: "x".into(), cause: "is none".to_owned() };
        let mut quarantine = Quarantine::default();
        quarantine.add(Part::Train, vec![image(3), image(3), image(1)]);
        let told = |found: Vec<Found>| found.iter().map(|f| (f.part, f.image.index)).collect();
        let first: Vec<_> = told(quarantine.take());
        assert_eq!(first, [(Part::Train, 3), (Part::Train, 1)]);
        quarantine.add(Part::Train, vec![image(1)]);
        quarantine.add(Part::Test, vec![image(1)]);
        let then: Vec<_> = told(quarantine.take());
        assert_eq!(then, [(Part::Test, 1)]);
    }
}
