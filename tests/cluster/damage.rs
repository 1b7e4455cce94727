//! Checkpoints that were damaged or exchanged, and data that changed: a run goes on from the newest checkpoint that proves
//! whole and its own, what is damaged is set aside, and nothing is overwritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cluster_tests::{JobFile, Train, digits_folder};
use proto::identity::hex;
use proto::manifest::Manifest;
use sha2::{Digest, Sha256};

use crate::bits::model_sha256;
use crate::refusals::{DATA, LIMIT, STATE, copy_folder, damage, job_on, only_error, refused};

/// Killed after its second checkpoint or soon after.
fn killed(job: &Path, state: &Path) -> Train {
    let train = Train::new(job, state);
    let mut running = train.spawn();
    running.wait_for(&["checkpoint of step 45 is on disk"], LIMIT);
    running.kill_all();
    assert_eq!(running.finish(LIMIT).code, None, "killed by a signal");
    train
}

fn long_job() -> JobFile {
    JobFile::digits().with("epochs = 3", "epochs = 8")
}

fn undisturbed(job: &Path, folder: &Path) -> String {
    model_sha256(&Train::new(job, &folder.join("undisturbed")).spawn().finish(LIMIT))
}

fn checkpoints(state: &Path) -> PathBuf {
    state.join("jobs/digits-1/checkpoints")
}

/// Folders whose names begin like this, sorted.
fn folders(checkpoints: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let mut found: Vec<PathBuf> = entries.filter(named).collect();
    found.sort();
    found
}

/// Every file below the folder with its content.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
}

fn flip_a_bit(path: &Path) {
    damage(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    });
}

type Spoil = fn(&Path);

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_leads_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let job = long_job().write(folder.path());
    let expected = undisturbed(&job, folder.path());
    let template = folder.path().join("killed");
    killed(&job, &template);
    let cases: [(&str, Spoil, &str); 6] = [
        ("flipped", |c| flip_a_bit(&c.join(MODEL)), "model.safetensors has SHA-256"),
        ("truncated", |c| damage(&c.join(MODEL), |b| b.truncate(b.len() / 2)), "bytes, but its"),
        ("optimizer", |c| flip_a_bit(&c.join(OPTIMIZER)), "optimizer.safetensors has SHA-256"),
        ("gone", |c| fs::remove_file(c.join(MODEL)).unwrap(), "No such file"),
        ("manifest", |c| damage(&c.join(MANIFEST), |b| b.truncate(90)), "no checkpoint manifest"),
        ("no-manifest", |c| fs::remove_file(c.join(MANIFEST)).unwrap(), "No such file"),
    ];
    for (name, spoil, words) in cases {
        let state = folder.path().join(name);
        copy_folder(&template, &state);
        let places = folders(&checkpoints(&state), "step-");
        let [.., before, newest] = &places[..] else { panic!("two checkpoints: {places:?}") };
        spoil(newest);
        let spoilt = contents(newest);
        let ended = Train::new(&job, &state).spawn().finish(LIMIT);
        assert_eq!(model_sha256(&ended), expected, "{name}");
        let warnings: Vec<&str> = ended.stderr.lines().filter(|l| l.contains("WARN")).collect();
        let aside = warnings.iter().find(|line| line.contains("is damaged and was set aside as"));
        let aside = aside.unwrap_or_else(|| panic!("{name}: {}", ended.stderr));
        assert!(aside.contains(words), "{name}: {aside}");
        let step: u64 = before.to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        let goes_on = format!("goes on from its checkpoint of step {step}\n");
        assert!(ended.stderr.contains(&goes_on), "{name}: {}", ended.stderr);
        let [kept] = &folders(&checkpoints(&state), "damaged-")[..] else { panic!("{name}") };
        assert_eq!(contents(kept), spoilt, "{name}: kept as it was");
    }
}

#[test]
fn when_all_checkpoints_are_damaged_a_person_decides_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let job = long_job().write(folder.path());
    let expected = undisturbed(&job, folder.path());
    let state = folder.path().join("state");
    let train = killed(&job, &state);
    let places = folders(&checkpoints(&state), "step-");
    places.iter().for_each(|place| flip_a_bit(&place.join(MODEL)));
    let spoilt: Vec<_> = places.iter().map(|place| contents(place)).collect();
    let kept = || -> Vec<_> {
        folders(&checkpoints(&state), "damaged-").iter().map(|place| contents(place)).collect()
    };
    for _ in 0..2 {
        let ended = train.spawn().finish(LIMIT);
        only_error(&ended, STATE, &["digits-1", "none of them can be used", "--fresh"]);
        assert_eq!(ended.stdout, "");
        assert_eq!(kept(), spoilt);
    }
    let fresh = Train { fresh: true, ..train }.spawn().finish(LIMIT);
    assert_eq!(model_sha256(&fresh), expected);
    assert_eq!(kept(), spoilt, "the old job's folder is left alone");
    assert!(state.join("jobs/digits-2/checkpoints").is_dir());
}

#[test]
fn a_checkpoint_of_another_model_is_refused_with_the_difference_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let job = long_job().write(folder.path());
    let expected = undisturbed(&job, folder.path());
    let other_folder = tempfile::tempdir().unwrap();
    let other = JobFile::digits().with("widths = [8, 16]", "widths = [8, 24]");
    let other = other.write(other_folder.path());
    let other_state = other_folder.path().join("state");
    assert_eq!(Train::new(&other, &other_state).spawn().finish(LIMIT).code, Some(0));
    let foreign = folders(&checkpoints(&other_state), "step-").remove(0);

    let state = folder.path().join("state");
    let train = killed(&job, &state);
    let newest = folders(&checkpoints(&state), "step-").pop().unwrap();
    let own = contents(&newest);
    fs::remove_dir_all(&newest).unwrap();
    copy_folder(&foreign, &newest);
    let ended = train.spawn().finish(LIMIT);
    let place = newest.to_str().unwrap();
    let words = [place, "belongs to another training", "model.widths", "move it away"];
    only_error(&ended, STATE, &words);
    assert_eq!(contents(&newest), contents(&foreign));

    // Its files under this job's manifest are damage, which the hashes show.
    fs::write(newest.join(MANIFEST), &own[MANIFEST]).unwrap();
    let ended = train.spawn().finish(LIMIT);
    assert!(ended.stderr.contains("damaged and was set aside"), "{}", ended.stderr);
    assert_eq!(model_sha256(&ended), expected);
}

#[test]
fn a_checkpoint_whose_tensors_do_not_fit_the_model_is_refused_by_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    let job = long_job().write(folder.path());
    let other_folder = tempfile::tempdir().unwrap();
    let other = JobFile::digits().with("widths = [8, 16]", "widths = [8, 24]");
    let other = other.write(other_folder.path());
    let other_state = other_folder.path().join("state");
    assert_eq!(Train::new(&other, &other_state).spawn().finish(LIMIT).code, Some(0));
    let foreign = folders(&checkpoints(&other_state), "step-").remove(0);

    let state = folder.path().join("state");
    let train = killed(&job, &state);
    let newest = folders(&checkpoints(&state), "step-").pop().unwrap();
    // A manifest that somebody has made fit.
    let text = fs::read(newest.join(MANIFEST)).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&text).unwrap();
    for name in [MODEL, OPTIMIZER] {
        let bytes = fs::read(foreign.join(name)).unwrap();
        let entry = manifest.files.get_mut(name).unwrap();
        entry.len = bytes.len() as u64;
        entry.sha256 = hex(&Sha256::digest(&bytes));
        fs::write(newest.join(name), bytes).unwrap();
    }
    fs::write(newest.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let made = contents(&newest);
    let ended = train.spawn().finish(LIMIT);
    let words =
        ["refused the checkpoint", "another model", "fc.weight is [10, 24]", "needs [10, 16]"];
    only_error(&ended, STATE, &words);
    assert_eq!(contents(&newest), made);
}

#[test]
fn data_that_changed_since_the_last_run_is_refused_until_it_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    copy_folder(&digits_folder(), &data);
    let digits = digits_folder().to_str().unwrap().to_owned();
    let job = long_job().with(&digits, data.to_str().unwrap()).write(folder.path());
    let expected = undisturbed(&job, folder.path());
    let state = folder.path().join("state");
    let train = killed(&job, &state);
    let flip = || damage(&data.join("train-images-idx3-ubyte"), |bytes| bytes[500] ^= 1);
    flip();
    let ended = train.spawn().finish(LIMIT);
    let words =
        ["digits-1", data.to_str().unwrap(), "have changed", "put the old ones back", "--fresh"];
    only_error(&ended, DATA, &words);
    flip();
    let ended = train.spawn().finish(LIMIT);
    assert!(ended.stderr.contains("goes on from its checkpoint"), "{}", ended.stderr);
    assert_eq!(model_sha256(&ended), expected);
    // Data that is gone is the dataset's error, not the checkpoint's.
    fs::remove_file(data.join("train-images-idx3-ubyte")).unwrap();
    let ended = Train::new(&job_on(&data).write(folder.path()), &state).spawn().finish(LIMIT);
    only_error(&ended, DATA, &["has no file train-images-idx3-ubyte"]);
}

#[test]
fn a_damaged_journal_is_refused_with_the_place_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile::digits().with("epochs = 3", "epochs = 1").write(folder.path());
    let state = folder.path().join("state");
    let train = Train::new(&job, &state);
    assert_eq!(train.spawn().finish(LIMIT).code, Some(0));
    let journal = state.join("journal");
    // In the middle of what is written: a torn end would be cut off.
    damage(&journal, |bytes| bytes[400] ^= 4);
    let spoilt = fs::read(&journal).unwrap();
    let words = [journal.to_str().unwrap(), "is damaged at byte", "restore it", "start over"];
    refused(&train.spawn().finish(LIMIT), STATE, &words);
    assert_eq!(fs::read(&journal).unwrap(), spoilt);
}

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MANIFEST: &str = "manifest.json";
