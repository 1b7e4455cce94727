//! Order, ends, panics and quarantine: what the reader gets does not depend on the number of threads.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use dataset::{Dataset, IGNORED, Preparation, Preparer};
use kernels::ops::{Crop, Window};
use proto::Job;

use super::super::batch::{Batch, Quarantined, Source, Tag, format};
use super::super::loader::{Loader, Share};
use super::super::mixing::Mixed;
use super::Lanes;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dataset/tests/fixtures");
/// Each with its name in the class folders `a` and `b`; the third is no image.
const FILES: [&str; 5] = ["baseline_420.jpg", "cmyk.jpg", "make.py", "palette8.png", "grey.jpg"];
const BAD: usize = 2;

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    let folder = image_folder();
    let (batch, slice_len) = (8, 4);
    let share = Share { first_step: 3, batch, slice_len, slices: 0..2 };
    let read = |threads: usize| {
        let source = source(folder.path(), threads);
        let mut loader = Loader::start(source, share.clone()).unwrap();
        (0..10).map(|_| parts(std::mem::take(loader.next_batch().unwrap()))).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (3..8)
        .flat_map(|step| [share.positions(step, 0), share.positions(step, 1)])
        .map(|positions| parts(source(folder.path(), 1).train(positions)))
        .collect();
    for threads in [1, 2, 3, 7] {
        assert_eq!(read(threads), expected, "{threads} threads");
    }
    let quarantined: Vec<_> = expected.iter().flat_map(|(.., quarantined)| quarantined).collect();
    assert!(
        quarantined.len() >= 6,
        "40 samples of 10 images, of which 2 are none: {quarantined:?}"
    );
}

#[test]
fn a_training_image_that_is_none_is_replaced_by_the_next_one_of_its_slice() {
    let folder = image_folder();
    let source = source(folder.path(), 1);
    let len = source.dataset().train.len() as u64;
    let found = source.train(0..len);
    assert_eq!(found.quarantined.len(), 2);
    let sample = |batch: &Batch, at: usize| {
        let len = batch.pixels.len() / batch.labels.len();
        let pixels = batch.pixels[at * len..][..len].to_vec();
        (pixels, batch.labels[at], batch.crops[at], batch.erased[at])
    };
    // Alone in its slice an image is blank or itself.
    let alone: Vec<_> = (0..len).map(|position| source.train(position..position + 1)).collect();
    assert_eq!(alone.iter().filter(|batch| batch.labels[0] == IGNORED).count(), 2);
    // What is mixed are the samples that count, not the blank ones.
    let mut others = found.labels.clone();
    others.rotate_right(1);
    assert_eq!(found.mixed.as_ref().map(|mixed| &mixed.others), Some(&others));
    assert!(!others.contains(&IGNORED));
    for at in 0..len as usize {
        let next = (0..).map(|ahead| (at + ahead) % len as usize);
        let next = next.into_iter().find(|&at| alone[at].labels[0] != IGNORED).unwrap();
        assert_eq!(sample(&found, at), sample(&alone[next], 0), "{at}");
    }
}

#[test]
fn a_file_that_is_gone_is_an_error_and_no_bad_image() {
    let folder = image_folder();
    let source = source(folder.path(), 2);
    let gone = folder.path().join("train/a/0.jpg");
    std::fs::remove_file(&gone).unwrap();
    let share = Share { first_step: 1, batch: 10, slice_len: 10, slices: 0..1 };
    let mut loader = Loader::start(source, share).unwrap();
    let error = loader.next_batch().unwrap_err().to_string();
    assert!(error.contains(gone.to_str().unwrap()) && error.contains("No such file"), "{error}");
}

#[test]
fn an_image_that_is_none_is_a_blank_sample_with_a_reason() {
    let folder = image_folder();
    let source = source(folder.path(), 2);
    let len = source.dataset().test.len();
    let mut lanes = source.test_lanes(0..len).unwrap();
    let batch = next(&mut lanes, len + 3).unwrap();
    assert!(next(&mut lanes, 1).is_none());
    assert_eq!(batch.labels, [0, 0, IGNORED, 0, 0, 1, 1, IGNORED, 1, 1]);
    let path = |class: &str| folder.path().join("val").join(class).join("2.jpg");
    let indices: Vec<_> = batch.quarantined.iter().map(|bad| (bad.index, &bad.path)).collect();
    assert_eq!(indices, [(BAD, &path("a")), (5 + BAD, &path("b"))]);
    assert!(batch.quarantined[0].cause.starts_with("is neither JPEG nor PNG"));
    let sample_len = 16 * 16 * 3;
    for (sample, label) in batch.pixels.chunks_exact(sample_len).zip(&batch.labels) {
        assert_eq!(sample.iter().all(|&value| value == 0), *label == IGNORED);
    }
    assert!(batch.mixed.is_none() && batch.erased.iter().all(|window| window.width == 0));
    let whole = parts(source.test(0, len));
    assert_eq!(parts(batch), whole);
    let mut padded = source.test(len - 1, 3);
    assert_eq!(padded.labels[1..], [IGNORED; 2]);
    padded.fill_up(4, sample_len);
    assert_eq!((padded.pixels.len(), padded.crops.len()), (4 * sample_len, 4));
}

#[test]
fn a_share_of_the_test_images_is_read_once() {
    let folder = image_folder();
    let source = source(folder.path(), 3);
    let mut lanes = source.test_lanes(3..8).unwrap();
    let lens = std::iter::from_fn(|| next(&mut lanes, 2)).map(|batch| batch.labels.len());
    assert_eq!(lens.collect::<Vec<_>>(), [2, 2, 1]);
    assert!(next(&mut source.test_lanes(4..4).unwrap(), 2).is_none());
}

#[test]
fn readers_that_go_away_end_their_threads() {
    let folder = image_folder();
    let source = source(folder.path(), 2);
    let share = Share { first_step: 1, batch: 4, slice_len: 2, slices: 0..1 };
    drop(Loader::start(source.clone(), share).unwrap());
    drop(source.test_lanes(0..10).unwrap());
}

#[test]
fn a_decode_thread_that_panics_ends_the_list() {
    let make = |number, _: &mut Preparer, _: &mut Vec<u8>| -> Option<Tag> {
        assert!(number < 1, "on purpose");
        None
    };
    let mut lanes = Lanes::start(Preparation::AsStored, 2, make).unwrap();
    assert!(next(&mut lanes, 4).is_none());
}

fn next(lanes: &mut Lanes, len: usize) -> Option<Batch> {
    let mut batch = Batch::default();
    lanes.next_batch(len, &mut batch).then_some(batch)
}

type Chance = (Vec<Crop>, Vec<Window>, Option<Mixed>);

fn parts(batch: Batch) -> (Vec<u8>, Vec<u32>, Chance, Vec<Quarantined>) {
    let chance = (batch.crops, batch.erased, batch.mixed);
    (batch.pixels, batch.labels, chance, batch.quarantined)
}

fn source(folder: &Path, threads: usize) -> Source {
    let job = "name = 'images'\n[data]\nformat = 'imagefolder'\npath = '.'\nsize = 16\n\
               augment = { flip = true, policy = 'trivialaugment', erase = 0.5, mixup = 0.4, cutmix = 1 }\n\
               [model]\narch = 'resnet18'\n[train]\nepochs = 1\nbatch = 8\nslices = 2\n[optimizer]\nlearning_rate = 0.1\n";
    let job = Job::parse(job).unwrap();
    let dataset = Dataset::open(format(&job), folder).unwrap();
    Source::new(Arc::new(dataset), &job).with_decode_threads(NonZeroUsize::new(threads).unwrap())
}

fn image_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for class in ["train/a", "train/b", "val/a", "val/b"] {
        let class = folder.path().join(class);
        std::fs::create_dir_all(&class).unwrap();
        for (i, name) in FILES.iter().enumerate() {
            let mut file = std::fs::File::create(class.join(format!("{i}.jpg"))).unwrap();
            file.write_all(&std::fs::read(Path::new(FIXTURES).join(name)).unwrap()).unwrap();
        }
    }
    folder
}
