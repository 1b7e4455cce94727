//! Images of a job's dataset that can't be decoded: each is said once and counted once, whoever meets it and however often.
//! Too many training images end the run. What is known outlives a restart: a repaired file makes another dataset, and so
//! another job.

use std::collections::BTreeSet;

use proto::job::DataFormat;
use proto::wire::v1::Split;

use super::action::{Action, Level};
use super::event::BadImage;
use super::job::JobSpec;
use super::membership::Contradiction;
use super::record::Record;
use super::{Cause, Cluster};

/// Numbers of the images, by part of the dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Quarantine {
    train: BTreeSet<u64>,
    test: BTreeSet<u64>,
}

/// How many images can't be decoded, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BadCounts {
    pub train: u64,
    pub train_len: u64,
    pub test: u64,
    pub test_len: u64,
}

impl Quarantine {
    /// False for an image that was there.
    pub(crate) fn add(&mut self, split: Split, index: u64) -> bool {
        match split {
            Split::Train => self.train.insert(index),
            Split::Test => self.test.insert(index),
        }
    }

    pub(crate) fn counts(&self, spec: &JobSpec) -> BadCounts {
        BadCounts {
            train: self.train.len() as u64,
            train_len: spec.dataset.train_len,
            test: self.test.len() as u64,
            test_len: spec.dataset.test_len,
        }
    }
}

impl BadCounts {
    /// "3 of 50000 training images can't be decoded"; `None` when all can.
    pub fn words(&self) -> Option<String> {
        let part = |count: u64, len: u64, what: &str| {
            (count > 0).then(|| format!("{count} of {len} {what} images"))
        };
        let parts =
            [part(self.train, self.train_len, "training"), part(self.test, self.test_len, "test")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{} can't be decoded", parts.join(" and ")))
    }
}

impl Cluster {
    pub(super) fn take_quarantined(
        &mut self,
        rank: usize,
        images: Vec<BadImage>,
    ) -> Result<(), Contradiction> {
        let Some(membership) = &self.membership else { return Ok(()) };
        let (id, name) = (membership.job.clone(), membership.name(rank).clone());
        let Some(job) = self.job_mut(&id) else { return Ok(()) };
        let (mut lines, mut train, mut test) = (Vec::new(), Vec::new(), Vec::new());
        for image in images {
            let (len, new) = match image.split {
                Split::Train => (job.spec.dataset.train_len, &mut train),
                Split::Test => (job.spec.dataset.test_len, &mut test),
            };
            if image.index >= len {
                let index = image.index;
                return Err(Contradiction(format!(
                    "worker {name} could not decode image {index} of a part that has {len}"
                )));
            }
            if job.quarantine.add(image.split, image.index) {
                new.push(image.index);
                lines.extend(line(&image, job.quarantine.counts(&job.spec)));
            }
        }
        // Also when all are known: of a run that they have ended, and that was started again.
        let too_many = excess(&job.spec, job.quarantine.counts(&job.spec));
        if !train.is_empty() || !test.is_empty() {
            self.push(Action::Journal(Record::Quarantined { job: id.to_string(), train, test }));
        }
        for line in lines {
            self.log(Some(&id), Level::Warn, line);
        }
        if let Some(line) = too_many {
            self.fail(Cause::Data, line);
        }
        Ok(())
    }
}

/// What is said of an image; `counts` has it in. A log of thousands of such lines helps nobody.
fn line(image: &BadImage, counts: BadCounts) -> Option<String> {
    let BadImage { split, path, cause, .. } = image;
    let (number, place, consequence) = match split {
        Split::Train => {
            let place = format!("{} of {}", counts.train, counts.train_len);
            (counts.train, place, "another image of its slice takes its place")
        }
        Split::Test => {
            let place = format!("{} of {}", counts.test, counts.test_len);
            (counts.test, place, "it counts as answered wrong")
        }
    };
    let what = if *split == Split::Train { "image" } else { "test image" };
    match number {
        ..=LINES_MAX => {
            Some(format!("{what} {path} can't be decoded: it {cause}; {consequence} ({place})"))
        }
        number if number == LINES_MAX + 1 => {
            Some(format!("more {what}s can't be decoded; from here on they are only counted"))
        }
        _ => None,
    }
}

/// Why the run can't go on with so few good images; `None` when it can.
fn excess(spec: &JobSpec, counts: BadCounts) -> Option<String> {
    let DataFormat::ImageFolder(images) = spec.job.data.format else { return None };
    let share = images.max_bad_fraction;
    let BadCounts { train, train_len, .. } = counts;
    (train as f64 > share * train_len as f64).then(|| {
        format!(
            "{train} of {train_len} training images can't be decoded, more than data.max_bad_fraction = {share} allows; \
             repair or remove those that the log names, then start over with --fresh"
        )
    })
}

/// Images of each part that get a line of their own.
const LINES_MAX: u64 = 1000;
