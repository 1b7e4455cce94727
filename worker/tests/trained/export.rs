//! `worker export`, and what other programs make of its files. Where the variable `INTEROP_PYTHON` names a Python with onnx,
//! onnxruntime, torch, torchvision and safetensors, they are asked: `tests/interop` holds the questions.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;

use clap::Parser;
use dataset::{Dataset, Draws};
use kernels::Device;
use kernels::ops::Crop;
use proto::exit::ExitCode;
use proto::job::{Arch, Job, Model};
use proto::weights::Fit;
use safetensors::SafeTensors;
use tempfile::TempDir;
use worker::args::{Cli, Command, Export};
use worker::checkpoint::decode_initial;
use worker::data::{Source, format};
use worker::export::{ExportError, export};
use worker::model::{Geometry, ResNet};
use worker::trained::Trained;

use crate::short_run::{Made, digits, train};

#[test]
fn an_export_to_safetensors_is_the_checkpoints_own_file() {
    let made = digits();
    let out = made.root.path().join("digits.safetensors");
    let printed = exported(&made, &out).unwrap();
    assert!(printed.contains("step 40 of digits-1"), "{printed}");
    assert_eq!(std::fs::read(out).unwrap(), std::fs::read(made.model_file()).unwrap());
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force() {
    let made = digits();
    let out = made.root.path().join("digits.safetensors");
    std::fs::write(&out, "precious").unwrap();
    let error = exported(&made, &out).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains("digits.safetensors: the file exists"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    export(&parsed(&made, &out, &["--force"])).unwrap();
    assert_eq!(std::fs::read(out).unwrap(), std::fs::read(made.model_file()).unwrap());
}

#[test]
fn an_onnx_file_holds_every_tensor_of_the_checkpoint_bit_for_bit() {
    let made = digits();
    let out = made.root.path().join("digits.onnx");
    exported(&made, &out).unwrap();
    let file = std::fs::read(&out).unwrap();
    let weights = std::fs::read(made.model_file()).unwrap();
    for (name, view) in SafeTensors::deserialize(&weights).unwrap().tensors() {
        let holds = |needle: &[u8]| file.windows(needle.len()).any(|window| window == needle);
        assert!(holds(name.as_bytes()) && holds(view.data()), "{name}");
    }
    let beside: Vec<_> = std::fs::read_dir(made.root.path()).unwrap().collect();
    assert_eq!(beside.len(), 2, "the checkpoint and the file, nothing unfinished: {beside:?}");
}

#[test]
fn what_can_not_be_exported_is_refused_and_leaves_no_file() {
    let made = digits();
    let out = made.root.path().join("digits.pt");
    let error = exported(&made, &out).unwrap_err();
    assert!(matches!(error, ExportError::Ending { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let out = made.root.path().join("nowhere/digits.onnx");
    let error = exported(&made, &out).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Failure);
    assert!(error.to_string().contains("nowhere/digits.onnx"), "{error}");
    let out = made.root.path().join("digits.onnx");
    made.rewrite_manifest(|manifest| {
        manifest.job = manifest.job.replace("blocks = [1, 1]", "blocks = [1, 2]");
    });
    let error = exported(&made, &out).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::State);
    assert!(error.to_string().contains("layer2.1.bn1.bias is missing"), "{error}");
    assert!(!out.exists());
}

#[test]
fn onnxruntime_gives_the_same_logits_for_digits() {
    if let Some(python) = python_with(ONNX) {
        check_onnx(&python, &digits());
    }
}

#[test]
fn onnxruntime_gives_the_same_logits_for_bottleneck_blocks_behind_a_stem_with_a_bias() {
    if let Some(python) = python_with(ONNX) {
        let model =
            "block='bottleneck'\nblocks=[1,2]\nwidths=[8,12]\nstem='imagenet'\nstem_bias=true";
        check_onnx(&python, &on_noise(&cifar_job(model)));
    }
}

#[test]
fn torchvisions_resnet18_loads_the_checkpoint_strictly_and_gives_the_same_logits() {
    let Some(python) = python_with(&[ONNX, TORCHVISION].concat()) else { return };
    let made = on_noise(&cifar_job("arch='resnet18'"));
    check_onnx(&python, &made);
    let (images, logits) = images_and_logits(&made);
    let model = made.model_file();
    let paths = [&model, &images, &logits].map(|path| path.to_str().unwrap());
    let arguments = ["resnet18", paths[0], paths[1], paths[2], "3x32x32", "10"];
    ask(&python, "check_torchvision.py", &arguments);
}

#[test]
fn torchvisions_own_state_dicts_can_be_started_from_and_give_its_logits() {
    let Some(python) = python_with(TORCHVISION) else { return };
    for arch in [Arch::Resnet18, Arch::Resnet50] {
        let folder = tempfile::tempdir().unwrap();
        let files =
            ["weights.safetensors", "images.u8", "logits.f32"].map(|n| folder.path().join(n));
        let [weights, images, logits] = &files;
        let paths = files.each_ref().map(|path| path.to_str().unwrap());
        let arguments = [arch.as_str(), paths[0], paths[1], paths[2], "4", "64"];
        ask(&python, "make_torchvision.py", &arguments);
        let geometry =
            Geometry { slices: 1, batch: 4, height: 64, width: 64, channels: 3, classes: 1000 };
        let device = Device::cpu(NonZeroUsize::new(2).unwrap()).unwrap();
        let mut model = ResNet::new(&device, &Model::standard(arch), geometry);
        let layout = model.layout().clone();
        let (params, running) = model.state_mut();
        let (params, running) = (params.host_mut().unwrap(), running.host_mut().unwrap());
        let fit = decode_initial(&layout, &std::fs::read(weights).unwrap(), params, running);
        assert_eq!(fit.unwrap(), Fit::Whole);
        model.pack();
        let crops = [Crop { top: 0, left: 0, flip: false }; 4];
        model.load(0, &std::fs::read(images).unwrap(), &crops, &[0.5; 3], &[0.25; 3]);
        let exact = std::fs::read(logits).unwrap();
        let exact: Vec<f32> = bytemuck::pod_collect_to_vec(&exact);
        let found = model.predict().unwrap();
        assert_eq!(found.len(), exact.len());
        let difference = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{}: largest difference {difference:.1e}", arch.as_str());
        assert!(difference <= 1e-4, "{difference}");
    }
}

fn check_onnx(python: &Path, made: &Made) {
    let out = made.root.path().join("model.onnx");
    exported(made, &out).unwrap();
    let (images, logits) = images_and_logits(made);
    let arguments = [&out, &images, &logits].map(|path| path.to_str().unwrap());
    ask(python, "check_onnx.py", &arguments);
}

/// The Python to ask, if there is one that can answer; else says why not.
fn python_with(packages: &[&str]) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("INTEROP_PYTHON") else {
        println!("skipped: INTEROP_PYTHON names no Python to ask");
        return None;
    };
    let imports = format!("import {}", packages.join(", "));
    let can = Process::new(&python).args(["-c", &imports]).output().unwrap();
    if !can.status.success() {
        println!("skipped: {} can't `{imports}`", Path::new(&python).display());
        return None;
    }
    Some(python.into())
}

/// Runs a script of `tests/interop`.
fn ask(python: &Path, script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop").join(script);
    let ended = Process::new(python).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    println!("{said}");
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
}

/// Files of the first test images as the model takes them, `[N, C, H, W]`, and of the logits that they get.
fn images_and_logits(made: &Made) -> (PathBuf, PathBuf) {
    let trained = Trained::open(&made.folder, None).unwrap();
    let job = Job::parse(&made.manifest.job).unwrap();
    let source = Source::new(Arc::new(Dataset::open(format(&job), &made.data).unwrap()), &job);
    let device = Device::cpu(NonZeroUsize::new(2).unwrap()).unwrap();
    let mut model = trained.model(&device, IMAGES).unwrap();
    let batch = source.test(0, IMAGES);
    model.load(0, &batch.pixels, &batch.crops, source.mean(), source.std());
    let logits = model.predict().unwrap();
    let input = &made.manifest.input;
    let mut images = Vec::new();
    for image in batch.pixels.chunks_exact(input.height * input.width * input.channels) {
        for channel in 0..input.channels {
            let pixels = image.iter().skip(channel).step_by(input.channels);
            let (mean, std) = (input.mean[channel], input.std[channel]);
            images.extend(pixels.map(|&pixel| (f32::from(pixel) / 255.0 - mean) / std));
        }
    }
    let write = |name: &str, values: &[f32]| {
        let path = made.root.path().join(name);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    (write("images.f32", &images), write("logits.f32", &logits))
}

/// A few steps on files like CIFAR-10's, with noise for images.
fn on_noise(job: &str) -> Made {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let mut draws = Draws::new(3, 0);
    let names = (1..=5).map(|n| format!("data_batch_{n}.bin")).chain(["test_batch.bin".to_owned()]);
    for name in names {
        let mut bytes = Vec::new();
        for _ in 0..IMAGES {
            bytes.push(draws.below(10) as u8);
            bytes.extend((0..3072).map(|_| draws.below(256) as u8));
        }
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    // Enough for the running statistics to settle: before, logits are in the hundreds, and so is their rounding.
    let made = train(job, folder.path(), 20);
    // The dataset is looked at again.
    let data = made.root.path().join("data");
    std::fs::rename(folder.keep(), &data).unwrap();
    Made { data, ..made }
}

fn cifar_job(model: &str) -> String {
    format!(
        "name='noise'\n[data]\nformat='cifar10'\npath='.'\n[model]\n{model}\n\
         [train]\nepochs=9\nbatch=16\nslices=2\n[optimizer]\nlearning_rate=0.01\n"
    )
}

fn exported(made: &Made, out: &Path) -> Result<String, ExportError> {
    export(&parsed(made, out, &[]))
}

fn parsed(made: &Made, out: &Path, options: &[&str]) -> Export {
    let (checkpoint, out) = (made.folder.to_str().unwrap(), out.to_str().unwrap());
    let arguments = [&["worker", "export", checkpoint, out], options].concat();
    let cli = Cli::try_parse_from(arguments).unwrap();
    let Command::Export(arguments) = cli.command else { panic!("{cli:?}") };
    arguments
}

const ONNX: &[&str] = &["numpy", "onnx", "onnxruntime"];
const TORCHVISION: &[&str] = &["torch", "torchvision", "safetensors"];
const IMAGES: usize = 12;
