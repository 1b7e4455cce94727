//! Real folders: parts come in, are sealed, damaged, found again.

use std::sync::Arc;

use proto::identity::{Generation, hex};
use proto::manifest::{MANIFEST_FILE, MODEL_FILE, OPTIMIZER_FILE, folder_name};
use proto::wire::checkpoint_part;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::core::{BaseSearch, CheckpointEntry, Digest, JobSpec, SealOrder, Shelf};
use crate::fixtures::{JOB, entry, spec, spec_of};

/// A folder of jobs, and the checkpoint folder of one of them.
struct Disk {
    jobs: TempDir,
    uploads: Uploads,
}

pub(super) fn job() -> JobId {
    "digits-1".parse().unwrap()
}

fn content(step: u64) -> [Vec<u8>; 2] {
    let bytes = |len: u64, salt: u64| (0..len).map(|i| (i * 7 + salt + step) as u8).collect();
    [bytes(1000, 1), bytes(301, 2)]
}

fn files(step: u64) -> Vec<FileSpec> {
    let names = [MODEL_FILE, OPTIMIZER_FILE];
    let file = |(name, bytes): (&str, Vec<u8>)| FileSpec {
        name: name.parse().unwrap(),
        len: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
    };
    names.into_iter().zip(content(step)).map(file).collect()
}

impl Disk {
    fn new(members: u32) -> Disk {
        let disk = Disk { jobs: tempfile::tempdir().unwrap(), uploads: Uploads::default() };
        disk.uploads.open(job(), Generation(5), members, disk.folder());
        disk
    }

    fn folder(&self) -> PathBuf {
        folder_of(self.jobs.path(), &job())
    }

    fn place(&self, step: u64) -> PathBuf {
        self.folder().join(folder_name(step))
    }

    fn begin(&self, step: u64, rank: u32) -> Result<Part, UploadError> {
        self.uploads.begin("digits-1", 5, step, rank, files(step))
    }

    /// Sends one member's part in small chunks, the last first; true when the checkpoint is complete.
    fn send(&self, step: u64, rank: u32, members: u32) -> bool {
        let mut part = self.begin(step, rank).unwrap();
        for (index, bytes) in content(step).iter().enumerate() {
            let range = checkpoint_part(bytes.len() as u64, rank, members);
            let starts: Vec<u64> = range.clone().step_by(64).collect();
            for start in starts.into_iter().rev() {
                let data = &bytes[start as usize..(start + 64).min(range.end) as usize];
                part.store(index as u32, start, data, crc32fast::hash(data)).unwrap();
            }
        }
        part.finish().unwrap().1
    }

    fn take(&self, step: u64) -> Arc<Assembly> {
        self.uploads.take(Generation(5), step).unwrap()
    }

    /// A sealed checkpoint from one member.
    fn sealed(&self, step: u64) -> CheckpointEntry {
        assert!(self.send(step, 0, 1));
        seal(&self.take(step), &order(step)).unwrap()
    }

    fn find(&self, spec: &JobSpec) -> BaseSearch {
        find_base(&self.folder(), &job(), spec)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(super) fn order(step: u64) -> SealOrder {
    SealOrder {
        job: job(),
        spec: spec(),
        generation: Generation(5),
        step,
        digest: Digest([step as u8; 16]),
        evaluation: entry(step, Some(30)).evaluation,
        device_kind: "cpu".to_owned(),
    }
}

#[test]
fn parts_cover_every_byte_once() {
    for len in [0, 1, 2, 7, 1000, u64::MAX] {
        for members in [1, 2, 3, 5, 64] {
            let mut end = 0;
            for rank in 0..members {
                let part = checkpoint_part(len, rank, members);
                assert_eq!(part.start, end);
                end = part.end;
            }
            assert_eq!(end, len);
        }
    }
}

#[test]
fn a_checkpoint_is_complete_when_every_member_has_sent_its_part() {
    for members in [1, 2, 3, 5] {
        let disk = Disk::new(members);
        for rank in (1..members).rev() {
            assert!(!disk.send(8, rank, members));
            assert!(disk.uploads.take(Generation(5), 8).is_none());
        }
        assert!(disk.send(8, 0, members));
        seal(&disk.take(8), &order(8)).unwrap();
        let [model, optimizer] = content(8);
        assert_eq!(std::fs::read(disk.place(8).join(MODEL_FILE)).unwrap(), model);
        assert_eq!(std::fs::read(disk.place(8).join(OPTIMIZER_FILE)).unwrap(), optimizer);
        assert_eq!(disk.names(), [folder_name(8)]);
    }
}

#[test]
fn the_manifest_says_everything_that_is_needed_to_use_the_model() {
    let disk = Disk::new(1);
    let entry = disk.sealed(8);
    let manifest = verify(&disk.place(8)).unwrap().manifest;
    assert_eq!((manifest.step, manifest.epoch, manifest.total_steps), (8, 2, 20));
    assert_eq!(manifest.job, spec().toml);
    assert_eq!(manifest.input.mean, [0.3]);
    assert_eq!(manifest.evaluation.unwrap().correct, 30);
    assert_eq!((entry.bytes, entry.model_sha256), (1301, files(8)[0].sha256.clone()));
}

#[test]
fn parts_that_can_not_be_right_are_refused() {
    let disk = Disk::new(2);
    let stale = disk.uploads.begin("digits-1", 4, 8, 0, files(8));
    assert!(matches!(stale, Err(UploadError::NotCurrent { .. })));
    let other = disk.uploads.begin("other-1", 5, 8, 0, files(8));
    assert!(matches!(other, Err(UploadError::NotCurrent { .. })));
    assert!(matches!(disk.begin(8, 2), Err(UploadError::Header(_))));

    let part = disk.begin(8, 0).unwrap();
    assert!(matches!(disk.begin(8, 0), Err(UploadError::Arriving { .. })));
    drop(part);
    let mut part = disk.begin(8, 0).unwrap();
    let mut differing = files(8);
    differing[1].sha256 = "00".repeat(32);
    let disagrees = disk.uploads.begin("digits-1", 5, 8, 1, differing).unwrap_err().to_string();
    assert!(disagrees.contains(OPTIMIZER_FILE), "{disagrees}");

    let data = [7; 10];
    let crc = crc32fast::hash(&data);
    assert!(matches!(part.store(2, 0, &data, crc), Err(UploadError::Data(_))));
    assert!(matches!(part.store(0, 0, &[], 0), Err(UploadError::Data(_))));
    assert!(
        matches!(part.store(0, 495, &data, crc), Err(UploadError::Data(_))),
        "of the other's part"
    );
    assert!(matches!(part.store(0, u64::MAX, &data, crc), Err(UploadError::Data(_))));
    assert!(matches!(part.store(0, 0, &data, crc ^ 1), Err(UploadError::Checksum { .. })));
    part.store(0, 0, &data, crc).unwrap();
    assert!(matches!(part.store(0, 5, &data, crc), Err(UploadError::Data(_))), "it came twice");
    assert!(matches!(part.finish(), Err(UploadError::Data(_))), "bytes are missing");
}

#[test]
fn headers_that_could_harm_are_refused() {
    let disk = Disk::new(1);
    let begin = |files| disk.uploads.begin("digits-1", 5, 8, 0, files).unwrap_err();
    let mut manifest = files(8);
    manifest[1].name = MANIFEST_FILE.parse().unwrap();
    let mut twice = files(8);
    twice[1].name = twice[0].name.clone();
    let mut huge = files(8);
    huge[0].len = u64::MAX;
    huge[1].len = u64::MAX;
    let many = vec![files(8)[0].clone(); 17];
    for files in [manifest, twice, huge, many, files(8)[1..].to_vec(), Vec::new()] {
        assert!(matches!(begin(files), UploadError::Header(_)));
    }
    assert!(!disk.folder().exists(), "nothing was written");
}

#[test]
fn bytes_that_do_not_match_the_announced_hash_are_never_sealed() {
    let disk = Disk::new(1);
    let mut part = disk.begin(8, 0).unwrap();
    let [mut model, optimizer] = content(8);
    model[500] ^= 1;
    for (index, bytes) in [model, optimizer].iter().enumerate() {
        part.store(index as u32, 0, bytes, crc32fast::hash(bytes)).unwrap();
    }
    assert!(part.finish().unwrap().1);
    let error = seal(&disk.take(8), &order(8)).unwrap_err().to_string();
    assert!(error.contains(MODEL_FILE) && error.contains("SHA-256"), "{error}");
    assert_eq!(disk.names(), [""; 0]);
}

#[test]
fn closing_a_generation_removes_what_is_incomplete() {
    let disk = Disk::new(2);
    disk.send(8, 0, 2);
    assert_eq!(disk.names().len(), 1);
    disk.uploads.close(Generation(4));
    assert_eq!(disk.names().len(), 1, "another generation's end");
    disk.uploads.close(Generation(5));
    assert_eq!(disk.names(), [""; 0]);
    assert!(matches!(disk.begin(8, 1), Err(UploadError::NotCurrent { .. })));
}

#[test]
fn a_checkpoint_that_was_given_up_takes_no_more_parts() {
    let disk = Disk::new(2);
    disk.send(8, 0, 2);
    assert!(disk.uploads.give_up(5, 8));
    assert!(!disk.uploads.give_up(5, 8), "one warning is enough");
    assert!(matches!(disk.begin(8, 1), Err(UploadError::GivenUp { step: 8 })));
    assert_eq!(disk.names(), [""; 0]);
    assert!(disk.begin(12, 0).is_ok(), "the next one may fit");
}

#[test]
fn a_checkpoint_that_one_worker_skips_is_given_up() {
    let disk = Disk::new(2);
    disk.send(4, 1, 2);
    for step in [8, 12] {
        disk.send(step, 0, 2);
    }
    assert_eq!(disk.uploads.pass_over(5, 12, 0), [4], "rank 0 has sent 8 and 12");
    assert_eq!(disk.uploads.pass_over(5, 12, 1), [8]);
    assert_eq!(disk.uploads.pass_over(5, 16, 2), [0; 0], "there is no rank 2");
    assert!(matches!(disk.begin(8, 1), Err(UploadError::GivenUp { step: 8 })));
    assert!(disk.send(12, 1, 2));
    assert_eq!(disk.names().len(), 1);
}

#[test]
fn a_part_sent_again_leaves_a_checkpoint_that_is_being_sealed_alone() {
    let disk = Disk::new(1);
    assert!(disk.send(8, 0, 1));
    assert!(matches!(disk.begin(8, 0), Err(UploadError::Repeated { .. })));
    let assembly = disk.take(8);
    assert!(matches!(disk.begin(8, 0), Err(UploadError::Repeated { .. })));
    seal(&assembly, &order(8)).unwrap();
}

#[test]
fn a_full_disk_names_path_and_need_and_leaves_nothing() {
    let disk = Disk::new(1);
    assert!(disk.send(8, 0, 1));
    let assembly = disk.take(8);
    // A folder in place of the manifest stands for any failing write.
    std::fs::create_dir(assembly.folder.join(MANIFEST_FILE)).unwrap();
    let error = seal(&assembly, &order(8)).unwrap_err().to_string();
    assert!(error.contains("manifest.json (the checkpoint needs 1301 bytes)"), "{error}");
    assert_eq!(disk.names(), [""; 0]);
}

#[test]
fn the_same_checkpoint_sent_again_leaves_the_first_one() {
    let disk = Disk::new(1);
    let first = disk.sealed(8);
    // A generation that goes on from there begins anew.
    disk.uploads.open(job(), Generation(5), 1, disk.folder());
    assert_eq!(disk.sealed(8), first);
    assert_eq!(disk.names(), [folder_name(8)]);
}

#[test]
fn leftovers_of_a_crash_are_swept_away() {
    let disk = Disk::new(1);
    disk.sealed(8);
    disk.begin(12, 0).unwrap();
    assert_eq!(disk.names().len(), 2);
    sweep(disk.jobs.path()).unwrap();
    assert_eq!(disk.names(), [folder_name(8)]);
}

#[test]
fn the_newest_whole_checkpoint_is_found_and_damaged_ones_are_set_aside() {
    let disk = Disk::new(1);
    for step in [4, 8, 12, 16] {
        disk.sealed(step);
    }
    let model = disk.place(16).join(MODEL_FILE);
    let mut bytes = std::fs::read(&model).unwrap();
    bytes[17] ^= 0x10;
    std::fs::write(&model, bytes).unwrap();
    let optimizer = disk.place(12).join(OPTIMIZER_FILE);
    std::fs::write(&optimizer, &std::fs::read(&optimizer).unwrap()[..300]).unwrap();

    let BaseSearch::Found { entries, set_aside } = disk.find(&spec()) else { panic!() };
    assert_eq!(entries.iter().map(|entry| entry.step).collect::<Vec<_>>(), [4, 8]);
    assert_eq!(set_aside.len(), 2);
    assert!(set_aside[0].contains("step 16") && set_aside[0].contains("SHA-256"), "{set_aside:?}");
    assert!(set_aside[1].contains("has 300 bytes, but its manifest says 301"), "{set_aside:?}");
    assert!(disk.names().contains(&"damaged-step-00000016".to_owned()));
}

#[test]
fn every_truncation_and_every_flipped_bit_of_a_manifest_is_noticed_or_harmless() {
    let disk = Disk::new(1);
    disk.sealed(4);
    let path = disk.place(4).join(MANIFEST_FILE);
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() - 2 {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(verify(&disk.place(4)).is_err(), "cut at {len}");
    }
    let hash = whole.windows(9).position(|window| window == b"\"sha256\":").unwrap() + 12;
    for at in [hash, hash + 30, hash + 62] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(verify(&disk.place(4)).is_err(), "flip at {at}");
    }
}

#[test]
fn a_checkpoint_that_can_not_be_read_now_is_left_alone() {
    let disk = Disk::new(1);
    disk.sealed(4);
    let model = disk.place(4).join(MODEL_FILE);
    let elsewhere = disk.place(4).join("elsewhere");
    std::fs::rename(&model, &elsewhere).unwrap();
    // A loop of links stands for any error of reading.
    std::os::unix::fs::symlink(&model, &model).unwrap();
    let BaseSearch::Refused { problem } = disk.find(&spec()) else { panic!() };
    assert!(problem.contains(MODEL_FILE), "{problem}");
    assert_eq!(disk.names(), [folder_name(4)]);
    std::fs::rename(&elsewhere, &model).unwrap();
    assert!(matches!(disk.find(&spec()), BaseSearch::Found { .. }));
}

#[test]
fn nothing_is_found_where_nothing_is_whole() {
    let disk = Disk::new(1);
    assert!(matches!(disk.find(&spec()), BaseSearch::Nothing { .. }));
    disk.sealed(4);
    std::fs::remove_file(disk.place(4).join(MANIFEST_FILE)).unwrap();
    let BaseSearch::Nothing { set_aside } = disk.find(&spec()) else { panic!() };
    assert_eq!(set_aside.len(), 1);
}

#[test]
fn a_checkpoint_of_another_model_is_refused_with_the_difference() {
    let disk = Disk::new(1);
    disk.sealed(4);
    let other = spec_of(&JOB.replace("resnet18", "resnet34"));
    let BaseSearch::Refused { problem } = disk.find(&other) else { panic!() };
    assert!(problem.contains("model.blocks ([2, 2, 2, 2], now [3, 4, 6, 3])"), "{problem}");
    let mut other = spec();
    other.dataset.fingerprint = "cd".repeat(32);
    let BaseSearch::Refused { problem } = disk.find(&other) else { panic!() };
    assert!(problem.contains("was trained on dataset abab"), "{problem}");
    assert_eq!(disk.names(), [folder_name(4)], "it is left alone");
}

#[test]
fn the_shelf_removes_what_is_no_longer_kept_and_writes_its_index() {
    let disk = Disk::new(1);
    let mut entries: Vec<CheckpointEntry> = [4, 8, 12].map(|step| disk.sealed(step)).to_vec();
    entries.remove(0);
    let shelf = Shelf { entries, best: Some(8) };
    // A removal that was interrupted is finished.
    let dying = disk.folder().join("tmp-removed-00000004");
    std::fs::create_dir(&dying).unwrap();
    std::fs::write(dying.join(MODEL_FILE), "half").unwrap();
    retain(&disk.folder(), &job(), &shelf).unwrap();
    assert_eq!(disk.names(), ["index.json", "step-00000008", "step-00000012"]);
    let text = std::fs::read_to_string(disk.folder().join("index.json")).unwrap();
    let index: Index = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (index.last.as_deref(), index.best.as_deref()),
        (Some("step-00000012"), Some("step-00000008"))
    );
}

#[test]
fn weights_are_copied_once_and_a_copy_that_was_damaged_is_made_again() {
    let jobs = tempfile::tempdir().unwrap();
    let source = jobs.path().join("weights.safetensors");
    std::fs::write(&source, "abc").unwrap();
    let sha256 = hex(&Sha256::digest("abc"));
    let facts = crate::core::WeightsFacts { sha256, len: 3, other_classes: None };
    let copy = copy_of(jobs.path(), &job());
    assert!(verify_copy(&copy, &facts).is_err());
    for damage in ["", "abd", "abcd"] {
        if !damage.is_empty() {
            std::fs::write(&copy, damage).unwrap();
        }
        keep_copy(jobs.path(), &job(), &source, &facts).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), b"abc");
    }
    // A whole copy needs no original.
    std::fs::write(&source, "xyz").unwrap();
    keep_copy(jobs.path(), &job(), &source, &facts).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), b"abc");
    std::fs::remove_file(&copy).unwrap();
    let changed = keep_copy(jobs.path(), &job(), &source, &facts).unwrap_err().to_string();
    assert!(changed.contains("when the job was submitted it had"), "{changed}");
    std::fs::remove_file(&source).unwrap();
    let gone = keep_copy(jobs.path(), &job(), &source, &facts).unwrap_err().to_string();
    assert!(gone.contains(source.to_str().unwrap()) && gone.contains("No such file"), "{gone}");
    let left: Vec<_> = std::fs::read_dir(copy.parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
