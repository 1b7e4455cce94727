//! Job files as people write them: what is filled in, what is refused, and how.

use super::*;

const MINIMAL: &str = r#"
name = "digits"
[data]
format = "idx"
path = "."
[model]
arch = "resnet18"
[train]
epochs = 2
batch = 64
[optimizer]
learning_rate = 0.1
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from));
    Job::parse(&MINIMAL.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn a_minimal_file_is_filled_with_defaults() {
    let job = Job::parse(MINIMAL).unwrap();
    assert_eq!((job.seed, job.train.slices, job.checkpoint.keep), (1, 8, 3));
    assert_eq!(job.model.blocks, [2, 2, 2, 2]);
    assert_eq!(job.model.stem, Stem::Imagenet);
    assert_eq!(job.data.normalisation, Normalisation::Measured);
    assert_eq!(job.schedule.decay, Decay::Cosine);
}

#[test]
fn the_resolved_form_parses_back_to_the_same_job() {
    let full = MINIMAL
        .replace(
            "path = \".\"",
            "path = \".\"\nmean = [0.1]\nstd = [0.3]\naugment = { pad = 4, flip = true }",
        )
        .replace("batch = 64", "batch = 64\nlabel_smoothing = 0.1")
        + "nesterov = true\nweight_decay = 5e-4\n[schedule]\ndecay = \"step\"\nmilestones = [1, 1.5]\ngamma = 0.2\n";
    for text in [MINIMAL, &full] {
        let job = Job::parse(text).unwrap();
        let written = job.to_toml();
        assert_eq!(Job::parse(&written).unwrap(), job, "{written}");
        assert_eq!(Job::parse(&written).unwrap().to_toml(), written);
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_valid_key() {
    let message = refused("batch = 64", "batchsize = 64");
    assert_eq!(message, "job file: line 10: unknown key `batchsize`; did you mean `batch`?");
    let message = refused("[model]", "[modell]\n[model]");
    assert!(message.contains("unknown key `modell`; did you mean `model`?"), "{message}");
}

#[test]
fn values_that_cannot_work_are_refused_with_what_would() {
    for (from, to, expected) in [
        ("batch = 64", "batch = 60", "`train.batch` is 60, which 8 slices do not divide; try 56"),
        (
            "batch = 64",
            "batch = 63\nslices = 7",
            "`train.slices` is 7, which is no power of two up to 1024; try 8",
        ),
        ("batch = 64", "batch = 0", "`train.batch` must be 1 to"),
        ("epochs = 2", "epochs = 0", "`train.epochs` must be 1 to 1000000"),
        ("name = \"digits\"", "name = \"../x\"", "`name`"),
        ("learning_rate = 0.1", "learning_rate = -1", "`optimizer.learning_rate` must be positive"),
        ("learning_rate = 0.1", "learning_rate = 0.1\nmomentum = 1.0", "`optimizer.momentum`"),
        (
            "learning_rate = 0.1",
            "learning_rate = 1e-60",
            "`optimizer.learning_rate` must be positive",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\nmomentum = 0.99999999999",
            "`optimizer.momentum`",
        ),
        ("path = \".\"", "path = \".\"\nmean = [nan]\nstd = [1]", "`data.mean` must be finite"),
        ("arch = \"resnet18\"", "block = \"basic\"", "`model` give either `arch`"),
        (
            "arch = \"resnet18\"",
            "block = \"basic\"\nblocks = [1]\nwidths = [8, 8]",
            "`model.widths`",
        ),
        ("path = \".\"", "path = \".\"\nmean = [0.5]", "`data.mean` and data.std go together"),
        ("arch = \"resnet18\"", "arch = \"resnet19\"", "unknown variant `resnet19`"),
        ("epochs = 2", "", "missing field `epochs`"),
        ("epochs = 2", "epochs = \"2\"", "line 9: invalid type"),
    ] {
        let message = refused(from, to);
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}
