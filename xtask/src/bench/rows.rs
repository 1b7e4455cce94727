//! What is compared: for each row the arguments of the worker, those of PyTorch's script, and how much a round does.

use std::path::Path;

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Training steps in one process.
    Step,
    /// Training steps of two processes that exchange gradients.
    Ddp,
    /// The all-reduce alone.
    Exchange,
    /// Reading JPEG files.
    Loader,
}

/// One line of the comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// Units of one round.
    pub(super) work: f64,
    /// Rounds for each that is asked for: short ones are taken more often.
    pub(super) times: usize,
    pub(super) ours: Vec<String>,
    /// Script in `bench/` and its arguments.
    pub(super) theirs: (&'static str, Vec<String>),
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Step, Kind::Ddp, Kind::Exchange, Kind::Loader];

    pub(crate) fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Step => "step",
            Kind::Ddp => "ddp",
            Kind::Exchange => "exchange",
            Kind::Loader => "loader",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Kind::Step => "Training steps of one process",
            Kind::Ddp => {
                "Training steps of two processes, against DistributedDataParallel over gloo"
            }
            Kind::Exchange => "All-reduce of fp32 between processes, against gloo",
            Kind::Loader => {
                "JPEG files to normalised random crops of 224 pixels, against torchvision's tensor backend"
            }
        }
    }
}

/// Training steps; `threads` are of each process.
pub(super) fn steps(kind: Kind, workers: usize, threads: usize) -> Vec<Row> {
    let row = |&(model, stem, input, batch): &(&str, &str, &str, usize)| {
        let arguments = arguments(&[
            ("--model", model),
            ("--stem", stem),
            ("--input", input),
            ("--batch", &batch.to_string()),
            ("--threads", &threads.to_string()),
            ("--workers", &workers.to_string()),
        ]);
        Row {
            kind,
            name: format!("{model} ({stem} stem) {input}, batch {batch}, {workers} x {threads}"),
            unit: "images/s",
            work: batch as f64,
            times: 1,
            ours: arguments.clone(),
            theirs: ("pytorch_resnet.py", arguments),
        }
    };
    MODELS.iter().map(row).collect()
}

/// All-reduces: as workers of one machine do it, and for the smaller group as workers of several machines would.
pub(super) fn exchanges() -> Vec<Row> {
    let row = |workers: usize, megabytes: usize, tcp: bool| {
        let theirs = arguments(&[
            ("--workers", &workers.to_string()),
            ("--megabytes", &megabytes.to_string()),
        ]);
        let mut ours = vec!["exchange".to_owned()];
        ours.extend(theirs.clone());
        ours.extend(tcp.then(|| "--tcp".to_owned()));
        let way = if tcp { "TCP" } else { "shared memory" };
        Row {
            kind: Kind::Exchange,
            name: format!("{megabytes} MB, {workers} processes, {way}"),
            unit: "GB/s",
            work: megabytes as f64 / 1e3,
            times: 10,
            ours,
            theirs: ("gloo_allreduce.py", theirs),
        }
    };
    [
        (2, 25, false),
        (2, 100, false),
        (4, 25, false),
        (4, 100, false),
        (2, 25, true),
        (2, 100, true),
    ]
    .map(|(workers, megabytes, tcp)| row(workers, megabytes, tcp))
    .to_vec()
}

/// Photos by as many threads, or processes, as there are cores.
pub(super) fn loaders(photos: &Path, cores: usize) -> Vec<Row> {
    let theirs = arguments(&[
        ("--data", &photos.display().to_string()),
        ("--images", &PHOTOS.to_string()),
        ("--threads", &cores.to_string()),
    ]);
    let mut ours = vec!["loader".to_owned()];
    ours.extend(theirs.clone());
    vec![Row {
        kind: Kind::Loader,
        name: format!("{PHOTOS} photos, {cores} threads or processes"),
        unit: "images/s",
        work: PHOTOS as f64,
        times: 1,
        ours,
        theirs: ("torchvision_loader.py", theirs),
    }]
}

fn arguments(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect()
}

/// Model, stem, input, batch of all workers together.
const MODELS: [(&str, &str, &str, usize); 3] = [
    ("resnet18", "cifar", "3x32x32", 128),
    ("resnet18", "imagenet", "3x224x224", 16),
    ("resnet50", "imagenet", "3x224x224", 8),
];
/// Whole batches of 32.
const PHOTOS: usize = 416;
