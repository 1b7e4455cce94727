//! The job file as written: every key optional unless it has no sensible default, unknown keys refused.

mod augment;
mod data;
mod optimizer;

use serde::{Deserialize, Serialize};

use super::*;
use data::RawData;
use optimizer::{RawEma, RawOptimizer};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJob {
    name: String,
    seed: Option<u64>,
    data: RawData,
    model: RawModel,
    train: RawTrain,
    optimizer: RawOptimizer,
    ema: Option<RawEma>,
    #[serde(default)]
    schedule: RawSchedule,
    #[serde(default)]
    checkpoint: RawCheckpoint,
    #[serde(default)]
    exchange: RawExchange,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    arch: Option<Arch>,
    block: Option<Block>,
    blocks: Option<Vec<usize>>,
    widths: Option<Vec<usize>>,
    stem: Option<Stem>,
    stem_bias: Option<bool>,
    zero_init_residual: Option<bool>,
    init: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrain {
    epochs: u32,
    batch: usize,
    slices: Option<usize>,
    label_smoothing: Option<f64>,
    precision: Option<Precision>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchedule {
    decay: Option<RawDecay>,
    warmup_epochs: Option<f64>,
    milestones: Option<Vec<f64>>,
    gamma: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawDecay {
    Constant,
    Cosine,
    Step,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheckpoint {
    every_epochs: Option<u32>,
    keep: Option<u32>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExchange {
    bucket_mib: Option<u32>,
    timeout_s: Option<u32>,
}

impl RawJob {
    pub(super) fn parse(text: &str) -> Result<RawJob, JobError> {
        toml::from_str(text).map_err(|error| explain(text, &error))
    }

    pub(super) fn write(&self) -> String {
        toml::to_string(self).expect("a job has only types that TOML can hold")
    }

    pub(super) fn resolve(self) -> Result<Job, JobError> {
        let name = self.name.parse().map_err(|error| wrong("name", format!("{error}")))?;
        let seed = self.seed.unwrap_or(1);
        require(i64::try_from(seed).is_ok(), "seed", "must be below 2^63, as TOML integers are")?;
        let train = self.train.resolve()?;
        let data = self.data.resolve()?;
        augment::require_partners(&data.augment, &train)?;
        data::require_epochs(&data, &train)?;
        Ok(Job {
            name,
            seed,
            data,
            init: self.model.init()?,
            model: self.model.resolve()?,
            optimizer: self.optimizer.resolve()?,
            ema: self.ema.map(RawEma::resolve).transpose()?,
            schedule: self.schedule.resolve(train.epochs)?,
            train,
            checkpoint: self.checkpoint.resolve()?,
            exchange: self.exchange.resolve()?,
        })
    }
}

impl RawModel {
    fn init(&self) -> Result<Init, JobError> {
        let Some(path) = &self.init else { return Ok(Init::Seed) };
        require(
            path.extension().is_some_and(|ending| ending == "safetensors"),
            "model.init",
            "must be a .safetensors file; of a PyTorch model `safetensors.torch.save_file(model.state_dict(), ...)` makes one",
        )?;
        Ok(Init::File(path.clone()))
    }

    fn resolve(self) -> Result<Model, JobError> {
        let stem = self.stem.unwrap_or(Stem::Imagenet);
        let stem_bias = self.stem_bias.unwrap_or(false);
        let zero_init_residual = self.zero_init_residual.unwrap_or(false);
        let model = match (self.arch, self.block, self.blocks, self.widths) {
            (Some(arch), None, None, None) => {
                Model { stem, stem_bias, zero_init_residual, ..Model::standard(arch) }
            }
            (None, Some(block), Some(blocks), Some(widths)) => {
                Model { block, blocks, widths, stem, stem_bias, zero_init_residual }
            }
            _ => {
                let problem = "give either `arch` (resnet18, 34, 50, 101, 152) or all of `block`, `blocks` and `widths`";
                return Err(wrong("model", problem));
            }
        };
        let stages = model.blocks.len();
        require(
            (1..=STAGES_MAX).contains(&stages),
            "model.blocks",
            format!("needs 1 to {STAGES_MAX} stages"),
        )?;
        require(
            model.widths.len() == stages,
            "model.widths",
            "needs one width for each entry of model.blocks",
        )?;
        let blocks_fit = model.blocks.iter().all(|b| (1..=BLOCKS_MAX).contains(b));
        require(blocks_fit, "model.blocks", format!("has an entry outside 1 to {BLOCKS_MAX}"))?;
        let widths_fit = model.widths.iter().all(|w| (1..=WIDTH_MAX).contains(w));
        require(widths_fit, "model.widths", format!("has an entry outside 1 to {WIDTH_MAX}"))?;
        Ok(model)
    }
}

impl RawTrain {
    fn resolve(self) -> Result<Train, JobError> {
        let slices = self.slices.unwrap_or(8);
        let epochs_fit = (1..=EPOCHS_MAX).contains(&self.epochs);
        require(epochs_fit, "train.epochs", format!("must be 1 to {EPOCHS_MAX}"))?;
        require(
            (1..=BATCH_MAX).contains(&self.batch),
            "train.batch",
            format!("must be 1 to {BATCH_MAX}"),
        )?;
        if !slices.is_power_of_two() || slices > SLICES_MAX {
            let problem = format!(
                "is {slices}, which is no power of two up to {SLICES_MAX}; try {}",
                near_power(slices)
            );
            return Err(wrong("train.slices", problem));
        }
        if !self.batch.is_multiple_of(slices) {
            let below = self.batch / slices * slices;
            let near = if below == 0 { slices } else { below };
            let problem =
                format!("is {}, which {slices} slices do not divide; try {near}", self.batch);
            return Err(wrong("train.batch", problem));
        }
        let label_smoothing = self.label_smoothing.unwrap_or(0.0) as f32;
        require(
            (0.0..1.0).contains(&label_smoothing),
            "train.label_smoothing",
            "must be at least 0 and below 1",
        )?;
        let precision = self.precision.unwrap_or(Precision::Auto);
        Ok(Train { epochs: self.epochs, batch: self.batch, slices, label_smoothing, precision })
    }
}

impl RawSchedule {
    fn resolve(self, epochs: u32) -> Result<Schedule, JobError> {
        let warmup_epochs = self.warmup_epochs.unwrap_or(0.0);
        let fits = (0.0..f64::from(epochs)).contains(&warmup_epochs);
        require(fits, "schedule.warmup_epochs", "must be at least 0 and below train.epochs")?;
        let decay = match self.decay.unwrap_or(RawDecay::Cosine) {
            RawDecay::Step => {
                let milestones = self.milestones.unwrap_or_default();
                let rising = milestones.windows(2).all(|pair| pair[0] < pair[1]);
                let usable = rising && milestones.first().is_some_and(|&first| first > 0.0);
                require(
                    usable,
                    "schedule.milestones",
                    "must be rising epochs above 0, such as [30, 60, 80]",
                )?;
                let gamma = self.gamma.unwrap_or(0.1) as f32;
                require(
                    gamma > 0.0 && gamma < 1.0,
                    "schedule.gamma",
                    "must be above 0 and below 1",
                )?;
                Decay::Step { milestones, gamma }
            }
            other => {
                let unused = self.milestones.is_none() && self.gamma.is_none();
                require(
                    unused,
                    "schedule.decay",
                    "must be \"step\" when milestones or gamma are given",
                )?;
                if other == RawDecay::Constant { Decay::Constant } else { Decay::Cosine }
            }
        };
        Ok(Schedule { warmup_epochs, decay })
    }
}

impl RawCheckpoint {
    fn resolve(self) -> Result<Checkpoint, JobError> {
        let (every_epochs, keep) = (self.every_epochs.unwrap_or(1), self.keep.unwrap_or(3));
        require(every_epochs >= 1, "checkpoint.every_epochs", "must be at least 1")?;
        require(keep >= 1, "checkpoint.keep", "must be at least 1")?;
        Ok(Checkpoint { every_epochs, keep })
    }
}

impl RawExchange {
    fn resolve(self) -> Result<Exchange, JobError> {
        let (bucket_mib, timeout_s) = (self.bucket_mib.unwrap_or(4), self.timeout_s.unwrap_or(120));
        require((1..=256).contains(&bucket_mib), "exchange.bucket_mib", "must be 1 to 256")?;
        require((1..=3600).contains(&timeout_s), "exchange.timeout_s", "must be 1 to 3600")?;
        Ok(Exchange { bucket_mib, timeout_s })
    }
}

impl From<&Job> for RawJob {
    fn from(job: &Job) -> RawJob {
        let (decay, milestones, gamma) = match &job.schedule.decay {
            Decay::Constant => (RawDecay::Constant, None, None),
            Decay::Cosine => (RawDecay::Cosine, None, None),
            Decay::Step { milestones, gamma } => {
                (RawDecay::Step, Some(milestones.clone()), Some(short(*gamma)))
            }
        };
        RawJob {
            name: job.name.to_string(),
            seed: Some(job.seed),
            data: RawData::from(&job.data),
            model: RawModel {
                arch: None,
                block: Some(job.model.block),
                blocks: Some(job.model.blocks.clone()),
                widths: Some(job.model.widths.clone()),
                stem: Some(job.model.stem),
                stem_bias: Some(job.model.stem_bias),
                zero_init_residual: Some(job.model.zero_init_residual),
                init: match &job.init {
                    Init::Seed => None,
                    Init::File(path) => Some(path.clone()),
                },
            },
            train: RawTrain {
                epochs: job.train.epochs,
                batch: job.train.batch,
                slices: Some(job.train.slices),
                label_smoothing: Some(short(job.train.label_smoothing)),
                precision: Some(job.train.precision),
            },
            optimizer: RawOptimizer::from(&job.optimizer),
            ema: job.ema.as_ref().map(RawEma::from),
            schedule: RawSchedule {
                decay: Some(decay),
                warmup_epochs: Some(job.schedule.warmup_epochs),
                milestones,
                gamma,
            },
            checkpoint: RawCheckpoint {
                every_epochs: Some(job.checkpoint.every_epochs),
                keep: Some(job.checkpoint.keep),
            },
            exchange: RawExchange {
                bucket_mib: Some(job.exchange.bucket_mib),
                timeout_s: Some(job.exchange.timeout_s),
            },
        }
    }
}

/// Turns the parser's error into one line. serde words an unknown key as "unknown field `x`, expected one of `a`, `b`"; the
/// quoted words are the key and its candidates.
fn explain(text: &str, error: &toml::de::Error) -> JobError {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    let message = error.message().trim().replace('\n', "; ");
    let Some(rest) = message.strip_prefix("unknown field ") else {
        return JobError::Syntax(format!("line {line}: {message}"));
    };
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default().to_owned();
    let nearest = quoted
        .max_by(|a, b| strsim::jaro_winkler(&key, a).total_cmp(&strsim::jaro_winkler(&key, b)));
    let hint = nearest.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    JobError::UnknownKey { key, line, hint }
}

fn require(holds: bool, key: &'static str, problem: impl Into<String>) -> Result<(), JobError> {
    if holds { Ok(()) } else { Err(wrong(key, problem)) }
}

fn wrong(key: &'static str, problem: impl Into<String>) -> JobError {
    JobError::Value { key, problem: problem.into() }
}

fn near_power(slices: usize) -> usize {
    if slices >= SLICES_MAX { SLICES_MAX } else { slices.max(1).next_power_of_two() }
}

/// The f64 with the f32's shortest decimal form, so that 0.1 is written as 0.1.
fn short(value: f32) -> f64 {
    value.to_string().parse().expect("a number's decimal form is a number")
}

/// Limits far beyond any ResNet in use, so that a slip of the finger is an error and not a memory failure.
const EPOCHS_MAX: u32 = 1_000_000;
const STAGES_MAX: usize = 8;
const BLOCKS_MAX: usize = 512;
const WIDTH_MAX: usize = 8192;
const BATCH_MAX: usize = 1 << 20;
const SLICES_MAX: usize = 1024;
