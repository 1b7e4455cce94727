//! Checkpoint folders that can't be used: each is refused with exit code 5, the place, and what to do.

use proto::exit::ExitCode;
use proto::manifest::{MANIFEST_FILE, MODEL_FILE};
use worker::trained::Trained;

use crate::short_run::{Made, digits};

#[test]
fn a_folder_without_a_checkpoint_is_told_from_a_damaged_one() {
    let made = digits();
    for folder in [made.root.path().to_owned(), made.root.path().join("gone"), made.model_file()] {
        let error = Trained::open(&folder, None).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::State);
        let message = error.to_string();
        assert!(message.contains("has no manifest.json; name a folder such as"), "{message}");
        assert!(message.contains(folder.to_str().unwrap()), "{message}");
    }
    std::fs::write(made.folder.join(MANIFEST_FILE), "{\"format\": 1").unwrap();
    refused(&made, "it is no checkpoint manifest");
}

#[test]
fn a_flipped_bit_a_missing_byte_and_a_missing_file_are_named() {
    let made = digits();
    let whole = std::fs::read(made.model_file()).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(made.model_file(), &flipped).unwrap();
    refused(&made, "it has SHA-256");
    std::fs::write(made.model_file(), &whole[1..]).unwrap();
    refused(&made, "bytes, its manifest says");
    std::fs::remove_file(made.model_file()).unwrap();
    refused(&made, "model.safetensors");
}

#[test]
fn a_manifest_that_says_what_no_run_wrote_is_refused() {
    let made = digits();
    made.rewrite_manifest(|manifest| manifest.format = 2);
    refused(&made, "it has form 2, this release reads 1");
    made.rewrite_manifest(|manifest| manifest.input.height = 0);
    refused(&made, "impossible size");
    made.rewrite_manifest(|manifest| manifest.input.width = usize::MAX);
    refused(&made, "impossible size");
    made.rewrite_manifest(|manifest| manifest.input.mean.clear());
    refused(&made, "one value for each channel");
    made.rewrite_manifest(|manifest| manifest.classes.clear());
    refused(&made, "names no class");
    made.rewrite_manifest(|manifest| drop(manifest.files.remove(MODEL_FILE)));
    refused(&made, "does not list model.safetensors");
    made.rewrite_manifest(|manifest| manifest.job = "name = 1".to_owned());
    refused(&made, "use the release that wrote the checkpoint");
}

#[test]
fn weights_of_another_model_than_the_manifests_are_refused() {
    let made = digits();
    made.rewrite_manifest(|manifest| {
        manifest.job = manifest.job.replace("widths = [8, 16]", "widths = [8, 12]");
    });
    let trained = Trained::open(&made.folder, None).unwrap();
    let device = kernels::Device::cpu(std::num::NonZeroUsize::MIN).unwrap();
    let message = trained.model(&device, 1).unwrap_err().to_string();
    assert!(message.contains("does not fit the manifest's job"), "{message}");
    assert!(message.contains("fc.weight is [10, 16], the model needs [10, 12]"), "{message}");
}

fn refused(made: &Made, words: &str) {
    let error = Trained::open(&made.folder, None).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::State);
    let message = error.to_string();
    assert!(message.contains(words), "{message}");
    assert!(message.contains(made.folder.to_str().unwrap()), "{message}");
}
