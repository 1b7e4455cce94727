//! `worker describe`: the layers of a model as a table, with shapes, parameters and operations.

use std::path::{Path, PathBuf};

use dataset::{Dataset, DatasetError, ImageShape};
use proto::exit::ExitCode;
use proto::job::{Arch, DataFormat, Job, JobError, Model};
use serde::Serialize;

use crate::args::{Describe, Input, StemName, TableFormat};
use crate::data::format;
use crate::model::{Geometry, Outline, UnitOutline};
use crate::table::{Align, Table, grouped, json};

/// A model as it is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    pub model: String,
    /// `[channels, height, width]`
    pub input: [usize; 3],
    pub classes: usize,
    /// In forward order. ReLU and the additions of the shortcuts are not listed.
    pub layers: Vec<Layer>,
    pub parameters: u64,
    pub parameter_bytes: u64,
    /// Elements of the running means and variances, which are no parameters.
    pub statistics: u64,
    /// Of one image's forward pass: 2 for each multiply-add of convolutions and linear layers, nothing else.
    pub flops: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// As torchvision names it.
    pub name: String,
    pub kind: String,
    /// `[channels, height, width]`, or `[features]`.
    pub output: Vec<usize>,
    pub parameters: u64,
    pub flops: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    #[error(
        "describe {model}: there is no such job file, and it is no standard depth; choose resnet18, resnet34, resnet50, \
         resnet101 or resnet152, or name a job file"
    )]
    NoSuchModel { model: String },
    #[error("read {}: {source}; name a job file or a standard depth, such as resnet50", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("describe {}: {source}", .path.display())]
    Job { path: PathBuf, source: JobError },
    #[error(
        "describe {}: --stem goes with a standard depth; a job file says `stem` in its [model]",
        .path.display()
    )]
    StemOfJob { path: PathBuf },
    #[error(
        "describe {}: {source}; or say with --input and --classes what the dataset would",
        .path.display()
    )]
    Dataset { path: PathBuf, source: DatasetError },
}

impl DescribeError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            DescribeError::Dataset { .. } => ExitCode::Data,
            _ => ExitCode::Usage,
        }
    }
}

/// What the command prints.
pub fn describe(args: &Describe) -> Result<String, DescribeError> {
    let description = description(args)?;
    Ok(match args.format {
        TableFormat::Table => description.text(),
        TableFormat::Markdown => description.markdown(),
        TableFormat::Json => json(&description),
    })
}

/// The model that the command line names, laid out.
pub fn description(args: &Describe) -> Result<Description, DescribeError> {
    let (model, size, classes) = match args.model.parse::<Arch>() {
        Ok(arch) => {
            let standard = Model::standard(arch);
            let stem = args.stem.map_or(standard.stem, StemName::stem);
            (Model { stem, ..standard }, args.input.unwrap_or(IMAGENET), args.classes)
        }
        Err(_) => of_job(args)?,
    };
    let Input([channels, height, width]) = size;
    let classes = classes.unwrap_or(IMAGENET_CLASSES);
    let geometry = Geometry { slices: 1, batch: 1, height, width, channels, classes };
    Ok(Description::new(args.model.clone(), &model, geometry))
}

/// A job file's model, and what it is trained on where the command line does not say.
fn of_job(args: &Describe) -> Result<(Model, Input, Option<usize>), DescribeError> {
    let path = PathBuf::from(&args.model);
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DescribeError::NoSuchModel { model: args.model.clone() },
        _ => DescribeError::Unreadable { path: path.clone(), source },
    })?;
    let job =
        Job::parse(&text).map_err(|source| DescribeError::Job { path: path.clone(), source })?;
    if args.stem.is_some() {
        return Err(DescribeError::StemOfJob { path });
    }
    let (size, classes) = trained_on(job.data.format);
    let (size, classes) = match (args.input.or(size), args.classes.or(classes)) {
        (Some(size), Some(classes)) => (size, classes),
        (size, classes) => {
            let (its_size, its_classes) = of_dataset(&job, &path)
                .map_err(|source| DescribeError::Dataset { path: path.clone(), source })?;
            (size.unwrap_or(its_size), classes.unwrap_or(its_classes))
        }
    };
    Ok((job.model, size, Some(classes)))
}

/// What a job's format says without a look at the dataset.
fn trained_on(format: DataFormat) -> (Option<Input>, Option<usize>) {
    match format {
        DataFormat::Cifar10 => (Some(CIFAR), Some(10)),
        DataFormat::Cifar100 => (Some(CIFAR), Some(100)),
        DataFormat::Idx => (None, None),
        DataFormat::ImageFolder(images) => (Some(Input([3, images.size, images.size])), None),
    }
}

fn of_dataset(job: &Job, job_file: &Path) -> Result<(Input, usize), DatasetError> {
    let folder = job_file.parent().unwrap_or(Path::new("")).join(&job.data.path);
    let dataset = Dataset::open(format(job), &folder)?;
    let ImageShape { height, width, channels } = dataset.shape;
    Ok((Input([channels, height, width]), dataset.classes.len()))
}

impl Description {
    pub fn new(name: String, model: &Model, geometry: Geometry) -> Description {
        let outline = Outline::new(model, Geometry { batch: 1, ..geometry });
        let layers = layers(&outline);
        let parameters = outline.parameters as u64;
        let listed: u64 = layers.iter().map(|layer| layer.parameters).sum();
        assert_eq!(listed, parameters, "every parameter belongs to a listed layer");
        Description {
            model: name,
            input: [geometry.channels, geometry.height, geometry.width],
            classes: geometry.classes,
            parameters,
            parameter_bytes: parameters * size_of::<f32>() as u64,
            statistics: outline.statistics as u64,
            flops: layers.iter().map(|layer| layer.flops).sum(),
            layers,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.heading(), self.table().text());
        for (what, figure) in self.totals() {
            text += &format!("{what:<36}{figure:>18}\n");
        }
        text + NOTE
    }

    fn markdown(&self) -> String {
        let mut totals = Table::new(&[("total", Align::Left), ("", Align::Right)]);
        for (what, figure) in self.totals() {
            totals.row(vec![what.to_owned(), figure]);
        }
        let (layers, totals) = (self.table().markdown(), totals.markdown());
        format!("{}\n\n{layers}\n{totals}\n{NOTE}", self.heading())
    }

    fn heading(&self) -> String {
        format!("{}, input {}, {} classes", self.model, shape(&self.input), self.classes)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("layer", Align::Left),
            ("kind", Align::Left),
            ("output", Align::Right),
            ("parameters", Align::Right),
            ("FLOPs", Align::Right),
        ]);
        for Layer { name, kind, output, parameters, flops } in &self.layers {
            let output = shape(output);
            table.row(vec![
                name.clone(),
                kind.clone(),
                output,
                grouped(*parameters),
                grouped(*flops),
            ]);
        }
        table
    }

    fn totals(&self) -> [(&'static str, String); 4] {
        [
            ("parameters", grouped(self.parameters)),
            ("parameter bytes (fp32)", grouped(self.parameter_bytes)),
            ("running statistics (no parameters)", grouped(self.statistics)),
            ("FLOPs, forward, one image", grouped(self.flops)),
        ]
    }
}

fn layers(outline: &Outline) -> Vec<Layer> {
    let mut layers = Vec::new();
    unit(&outline.stem, &mut layers);
    let mut last = &outline.stem;
    if let Some(pool) = &outline.max_pool {
        layers.push(Layer {
            name: "maxpool".to_owned(),
            kind: format!("max pool {0}x{0}/{1}", pool.kernel, pool.stride),
            output: vec![pool.channels, pool.out_height(), pool.out_width()],
            parameters: 0,
            flops: 0,
        });
    }
    for block in &outline.blocks {
        for shape in block.chain.iter().chain(&block.projection) {
            unit(shape, &mut layers);
        }
        last = block.chain.last().unwrap_or(last);
    }
    let linear = &outline.linear;
    let (rows, columns) = (last.conv.out_height(), last.conv.out_width());
    layers.push(Layer {
        name: "avgpool".to_owned(),
        kind: format!("average pool {rows}x{columns}"),
        output: vec![outline.pool.channels],
        parameters: 0,
        flops: 0,
    });
    layers.push(Layer {
        name: "fc".to_owned(),
        kind: "linear".to_owned(),
        output: vec![linear.outputs],
        parameters: (linear.weight_len() + linear.outputs) as u64,
        flops: 2 * linear.weight_len() as u64,
    });
    layers
}

fn unit(unit: &UnitOutline, layers: &mut Vec<Layer>) {
    let conv = &unit.conv;
    let output = vec![conv.out_channels, conv.out_height(), conv.out_width()];
    let (bias, with_bias) = if unit.has_bias { (conv.out_channels, ", bias") } else { (0, "") };
    layers.push(Layer {
        name: unit.conv_name.clone(),
        kind: format!("conv {0}x{0}/{1}{with_bias}", conv.kernel, conv.stride),
        output: output.clone(),
        parameters: (conv.weight_len() + bias) as u64,
        flops: conv.flops() as u64,
    });
    layers.push(Layer {
        name: unit.norm_name.clone(),
        kind: "batch norm".to_owned(),
        output,
        parameters: 2 * conv.out_channels as u64,
        flops: 0,
    });
}

/// `64x112x112`
fn shape(sides: &[usize]) -> String {
    sides.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// ImageNet's usual crop.
const IMAGENET: Input = Input([3, 224, 224]);
const IMAGENET_CLASSES: usize = 1000;
const CIFAR: Input = Input([3, 32, 32]);
const NOTE: &str = "Shapes are channels x height x width. FLOPs count 2 for each multiply-add of convolutions (padding\n\
                    included) and linear layers, nothing else. ReLU and the additions of the shortcuts, without parameters,\n\
                    are not listed.\n";
