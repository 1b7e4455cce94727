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
    assert_eq!((job.model.stem, job.model.stem_bias), (Stem::Imagenet, false));
    assert!(!job.model.zero_init_residual);
    assert_eq!((job.optimizer.rule, job.optimizer.clip_norm, job.ema), (Rule::Sgd, None, None));
    assert_eq!(job.init, Init::Seed);
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
        .replace(
            "arch = \"resnet18\"",
            "arch = \"resnet50\"\nstem_bias = true\nzero_init_residual = true\ninit = \"w.safetensors\"",
        )
        + "nesterov = true\nweight_decay = 5e-4\nrule = \"lars\"\nclip_norm = 0.7\n\
           [ema]\ndecay = 0.99998\nevery = 32\n[schedule]\ndecay = \"step\"\nmilestones = [1, 1.5]\ngamma = 0.2\n";
    for text in [MINIMAL, &full] {
        let job = Job::parse(text).unwrap();
        let written = job.to_toml();
        assert_eq!(Job::parse(&written).unwrap(), job, "{written}");
        assert_eq!(Job::parse(&written).unwrap().to_toml(), written);
    }
}

#[test]
fn an_average_and_a_trust_ratio_have_the_usual_defaults() {
    let job = Job::parse(&format!("{MINIMAL}rule = \"lars\"\n[ema]\n")).unwrap();
    assert_eq!(job.optimizer.rule, Rule::Lars { trust_coefficient: 0.001 });
    assert_eq!(job.ema, Some(Ema { decay: 0.9999, every: 1 }));
}

fn image_folder(keys: &str) -> Result<Job, JobError> {
    let text = format!("format = \"imagefolder\"\n{keys}");
    Job::parse(&MINIMAL.replace("format = \"idx\"", &text))
}

#[test]
fn an_image_folder_has_the_usual_defaults() {
    let job = image_folder("").unwrap();
    let expected = ImageFolder {
        size: 224,
        resize: 256,
        scale: [0.08, 1.0],
        ratio: [3.0 / 4.0, 4.0 / 3.0],
        max_bad_fraction: 0.001,
    };
    assert_eq!(job.data.format, DataFormat::ImageFolder(expected));
    let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
    assert_eq!(job.data.normalisation, Normalisation::Given { mean, std });
    for (size, resize) in [(128, 146), (160, 183), (176, 201), (288, 329)] {
        let job = image_folder(&format!("size = {size}")).unwrap();
        let images = ImageFolder { size, resize, ..expected };
        assert_eq!(job.data.format, DataFormat::ImageFolder(images));
    }
}

#[test]
fn an_image_folder_is_written_as_it_was_read() {
    let keys = "size = 64\nresize = 70\nscale = [0.35, 1]\nratio = [0.5, 1.3333]\nmax_bad_fraction = 0.25\n\
                sizes = [[0, 32], [1, 96]]\n\
                mean = [0, 0.1, 0.2]\nstd = [1, 1, 1]\naugment = { flip = true }";
    for keys in ["", keys] {
        let job = image_folder(keys).unwrap();
        let written = job.to_toml();
        assert_eq!(Job::parse(&written).unwrap(), job, "{written}");
        assert_eq!(Job::parse(&written).unwrap().to_toml(), written);
    }
}

#[test]
fn keys_of_an_image_folder_are_refused_where_they_cannot_work() {
    for (keys, expected) in [
        ("size = 0", "`data.size` must be 1 to 4096"),
        ("size = 64\nresize = 63", "`data.resize` must be data.size, which is 64, to 16384"),
        ("scale = [0, 1]", "`data.scale` must be two rising shares"),
        ("scale = [0.5, 1.5]", "`data.scale`"),
        ("scale = [nan, 1]", "`data.scale`"),
        ("scale = [1]", "invalid length 1"),
        ("ratio = [2, 1]", "`data.ratio` must be two rising values above 0 and up to 100"),
        ("max_bad_fraction = 1.5", "`data.max_bad_fraction` must be 0 to 1"),
        ("augment = { pad = 4 }", "`data.augment.pad` is not for format = \"imagefolder\""),
        (
            "sizes = [[1, 32]]",
            "`data.sizes` must be pairs of a rising epoch, the first 0, and a side",
        ),
        ("sizes = [[0, 32], [0, 64]]", "`data.sizes` must be pairs of a rising epoch"),
        ("sizes = [[0, 32], [1, 0]]", "`data.sizes` has a side outside 1 to 4096"),
        (
            "sizes = [[0, 32], [2, 64]]",
            "`data.sizes` has an epoch that is not below train.epochs, 2",
        ),
        ("sizes = [[0]]", "invalid length 1"),
        ("scales = [0.5, 1]", "unknown key `scales`; did you mean `scale`?"),
    ] {
        let message = image_folder(keys).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
    for key in [
        "size = 8",
        "sizes = [[0, 8]]",
        "resize = 8",
        "scale = [1, 1]",
        "ratio = [1, 1]",
        "max_bad_fraction = 0",
    ] {
        let message = refused("path = \".\"", &format!("path = \".\"\n{key}"));
        let (name, _) = key.split_once(' ').unwrap();
        let expected = format!("`data.{name}` is for format = \"imagefolder\" only");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn augmentation_is_off_unless_asked_for_and_written_as_it_was_read() {
    assert_eq!(Job::parse(MINIMAL).unwrap().data.augment, Augment::default());
    let keys = "pad = 2\nflip = true\npolicy = 'randaugment'\nmagnitude = 5\nerase = 0.25\nmixup = 0.2\ncutmix = 1";
    let job = Job::parse(&format!("{MINIMAL}[data.augment]\n{keys}\n")).unwrap();
    let policy = Policy::RandAugment { operations: 2, magnitude: 5 };
    let expected = Augment { pad: 2, flip: true, policy, erase: 0.25, mixup: 0.2, cutmix: 1.0 };
    assert_eq!(job.data.augment, expected);
    assert_eq!(Job::parse(&job.to_toml()).unwrap(), job);
    let trivial = format!("{MINIMAL}[data.augment]\npolicy = 'trivialaugment'\n");
    let job = Job::parse(&trivial).unwrap();
    assert_eq!(job.data.augment.policy, Policy::TrivialAugment);
    assert_eq!(Job::parse(&job.to_toml()).unwrap(), job);
}

#[test]
fn augmentation_that_cannot_work_is_refused() {
    for (keys, expected) in [
        ("pad = 65", "`data.augment.pad` must be at most 64"),
        ("erase = 1.5", "`data.augment.erase` is a probability: must be 0 to 1"),
        ("erase = nan", "`data.augment.erase`"),
        ("mixup = -1", "`data.augment.mixup` must be 0, for none, or 0.001 to 100"),
        ("cutmix = inf", "`data.augment.cutmix` must be 0, for none, or 0.001 to 100"),
        ("policy = 'autoaugment'", "unknown variant `autoaugment`, expected one of"),
        ("operations = 2", "`data.augment.operations` is for policy = \"randaugment\" only"),
        (
            "policy = 'trivialaugment'\nmagnitude = 3",
            "`data.augment.magnitude` is for policy = \"randaugment\" only",
        ),
        ("policy = 'randaugment'\noperations = 0", "`data.augment.operations` must be 1 to 14"),
        ("policy = 'randaugment'\nmagnitude = 31", "`data.augment.magnitude` must be 0 to 30"),
        ("cutmx = 1", "unknown key `cutmx`; did you mean `cutmix`?"),
    ] {
        let message = Job::parse(&format!("{MINIMAL}[data.augment]\n{keys}\n")).unwrap_err();
        let message = message.to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
    for key in ["mixup", "cutmix"] {
        let alone = MINIMAL.replace("batch = 64", "batch = 8");
        let message = Job::parse(&format!("{alone}[data.augment]\n{key} = 1\n")).unwrap_err();
        let expected = format!("`data.augment.{key}` mixes the samples of a slice");
        assert!(message.to_string().contains(&expected), "{message}");
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
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\nclip_norm = 0",
            "`optimizer.clip_norm` must be positive; leave it out to clip nothing",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\ntrust_coefficient = 0.001",
            "`optimizer.trust_coefficient` is for rule = \"lars\" only",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\nrule = \"lars\"\ntrust_coefficient = -1",
            "`optimizer.trust_coefficient` must be positive",
        ),
        ("learning_rate = 0.1", "learning_rate = 0.1\nrule = \"adam\"", "unknown variant `adam`"),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[ema]\ndecay = 1",
            "`ema.decay` must be at least 0 and below 1",
        ),
        (
            "learning_rate = 0.1",
            "learning_rate = 0.1\n[ema]\nevery = 0",
            "`ema.every` must be 1 to 100000 steps",
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
        (
            "arch = \"resnet18\"",
            "arch = \"resnet18\"\ninit = \"w.pth\"",
            "`model.init` must be a .safetensors file",
        ),
        ("epochs = 2", "", "missing field `epochs`"),
        ("epochs = 2", "epochs = \"2\"", "line 9: invalid type"),
    ] {
        let message = refused(from, to);
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn every_job_file_among_the_examples_is_one() {
    let mut seen = 0;
    let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../examples").into()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir::<std::path::PathBuf>(folder).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "toml") {
                let job = Job::parse(&std::fs::read_to_string(&path).unwrap());
                let job = job.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert_eq!(Job::parse(&job.to_toml()).unwrap(), job, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "{seen} job files");
}
