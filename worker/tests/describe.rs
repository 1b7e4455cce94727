//! What `worker describe` says of the standard depths, of the job files in `examples/models`, and of wrong arguments.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use clap::Parser;
use proto::exit::ExitCode;
use worker::args::{Cli, Command};
use worker::describe::{DescribeError, Description, description};

#[test]
fn the_standard_depths_have_torchvisions_parameters_and_operations() {
    // torchvision's documentation gives multiply-adds in units of 10^9, rounded to three digits.
    for (arch, parameters, giga_multiply_adds) in [
        ("resnet18", 11_689_512, 1.814),
        ("resnet34", 21_797_672, 3.664),
        ("resnet50", 25_557_032, 4.089),
        ("resnet101", 44_549_160, 7.801),
        ("resnet152", 60_192_808, 11.514),
    ] {
        let found = described(&[arch]);
        assert_eq!(found.parameters, parameters, "{arch}");
        assert_eq!(found.parameter_bytes, 4 * parameters, "{arch}");
        let difference = found.flops as f64 / 2e9 - giga_multiply_adds;
        assert!(difference.abs() < 0.001, "{arch}: {}", found.flops);
    }
}

#[test]
fn the_configurable_model_takes_odd_numbers_of_blocks_widths_and_any_image() {
    let found = described(&[&example("configurable"), "--input", "3x150x131", "--classes", "6"]);
    assert_eq!(output(&found, "conv1"), [48, 75, 66]);
    assert_eq!(output(&found, "maxpool"), [48, 38, 33]);
    assert_eq!(output(&found, "layer1.2.bn2"), [48, 38, 33]);
    assert_eq!(output(&found, "layer2.0.downsample.0"), [96, 19, 17]);
    assert_eq!(output(&found, "layer3.4.bn2"), [200, 10, 9]);
    assert_eq!((output(&found, "avgpool"), output(&found, "fc")), ([200].to_vec(), [6].to_vec()));
    let has = |name: &str| found.layers.iter().any(|layer| layer.name == name);
    assert!(!has("layer1.0.downsample.0") && !has("layer2.1.conv1") && !has("layer3.5.conv1"));
}

#[test]
fn resnet50_with_a_stem_bias_has_the_figures_of_its_description() {
    let found = described(&[&example("resnet50-stem-bias"), "--classes", "10"]);
    assert_eq!((found.input, found.classes), ([3, 224, 224], 10));
    assert_eq!((parameters(&found, "conv1"), parameters(&found, "bn1")), (9_472, 128));
    assert_eq!(parameters(&found, "fc"), 2048 * 10 + 10);
    assert_eq!(found.parameters, 23_528_586);
    let found = described(&[&example("basic-3463-stem-bias"), "--classes", "10"]);
    assert_eq!((parameters(&found, "conv1"), parameters(&found, "bn1")), (9_472, 128));
    assert_eq!((output(&found, "avgpool"), parameters(&found, "fc")), ([512].to_vec(), 5_130));
}

#[test]
fn resnet34_projects_where_the_filters_double_and_nowhere_else() {
    let found = described(&[&example("resnet34"), "--classes", "1000"]);
    assert_eq!(found.parameters, 21_797_672);
    let projections: Vec<&str> = found
        .layers
        .iter()
        .filter(|layer| layer.name.ends_with("downsample.0"))
        .map(|layer| layer.name.as_str())
        .collect();
    let doublings = ["layer2", "layer3", "layer4"].map(|stage| format!("{stage}.0.downsample.0"));
    assert_eq!(projections, doublings);
    for (name, channels, side) in [("layer2", 128, 28), ("layer3", 256, 14), ("layer4", 512, 7)] {
        let projection = layer(&found, &format!("{name}.0.downsample.0"));
        assert_eq!(
            (projection.kind.as_str(), &projection.output[..]),
            ("conv 1x1/2", &[channels, side, side][..])
        );
        assert_eq!(projection.parameters, (channels * channels / 2) as u64);
        assert_eq!(layer(&found, &format!("{name}.0.conv1")).kind, "conv 3x3/2");
    }
    assert_eq!(layer(&found, "conv1").kind, "conv 7x7/2");
}

#[test]
fn two_bottleneck_blocks_a_stage_have_the_shapes_of_their_walk_through() {
    let arguments = [&example("bottleneck-2222"), "--classes", "1000"];
    let found = described(&arguments);
    assert_eq!(found.input, [3, 214, 214]);
    for (name, shape) in [
        ("conv1", &[64, 107, 107][..]),
        ("maxpool", &[64, 54, 54]),
        ("layer1.1.bn3", &[256, 54, 54]),
        ("layer2.1.bn3", &[512, 27, 27]),
        ("layer3.1.bn3", &[1024, 14, 14]),
        ("layer4.1.bn3", &[2048, 7, 7]),
        ("avgpool", &[2048]),
        ("fc", &[1000]),
    ] {
        assert_eq!(output(&found, name), shape, "{name}");
    }
}

#[test]
fn layers_come_in_forward_order() {
    let found = described(&["resnet18", "--input", "3x32x32", "--stem", "cifar"]);
    let names: Vec<&str> = found.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(
        names[..8],
        [
            "conv1",
            "bn1",
            "layer1.0.conv1",
            "layer1.0.bn1",
            "layer1.0.conv2",
            "layer1.0.bn2",
            "layer1.1.conv1",
            "layer1.1.bn1"
        ]
    );
    assert_eq!(names[names.len() - 2..], ["avgpool", "fc"]);
}

#[test]
fn a_job_file_is_described_for_its_own_dataset() {
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits/job.toml");
    let found = described(&[digits]);
    assert_eq!((found.input, found.classes), ([1, 8, 8], 10));
    let found = described(&[&example("configurable")]);
    assert_eq!((found.input, found.classes), ([3, 32, 32], 10));
}

#[test]
fn the_three_formats_hold_the_same_figures() {
    let text = printed(&["resnet18"]);
    assert!(text.contains("\nconv1") && text.contains("11,689,512"), "{text}");
    let markdown = printed(&["resnet18", "--format", "markdown"]);
    assert!(markdown.contains("| conv1 | conv 7x7/2 | 64x112x112 | 9,408 |"), "{markdown}");
    let json: serde_json::Value =
        serde_json::from_str(&printed(&["resnet18", "--format", "json"])).unwrap();
    assert_eq!(json["parameters"], 11_689_512);
    assert_eq!(json["layers"][0]["output"], serde_json::json!([64, 112, 112]));
}

#[test]
fn a_model_that_can_not_be_described_is_refused_with_what_would_work() {
    let refused = |arguments: &[&str]| {
        let error = description(&parsed(arguments)).unwrap_err();
        (error.exit_code(), error.to_string())
    };
    let (code, message) = refused(&["resnet19"]);
    assert_eq!(code, ExitCode::Usage);
    assert!(message.contains("no such job file") && message.contains("resnet18"), "{message}");
    let (_, message) = refused(&[&example("resnet34"), "--stem", "cifar"]);
    assert!(message.contains("a job file says `stem`"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    let text = std::fs::read_to_string(example("resnet34")).unwrap();
    std::fs::write(&job, text).unwrap();
    let (code, message) = refused(&[job.to_str().unwrap()]);
    assert_eq!(code, ExitCode::Data, "{message}");
    assert!(message.contains("or say with --input and --classes"), "{message}");
    std::fs::write(&job, "name = 7").unwrap();
    let error = description(&parsed(&[job.to_str().unwrap()])).unwrap_err();
    assert!(matches!(error, DescribeError::Job { .. }), "{error}");
}

fn described(arguments: &[&str]) -> Description {
    description(&parsed(arguments)).unwrap()
}

fn printed(arguments: &[&str]) -> String {
    worker::describe::describe(&parsed(arguments)).unwrap()
}

fn parsed(arguments: &[&str]) -> worker::args::Describe {
    let cli = Cli::try_parse_from([&["worker", "describe"], arguments].concat()).unwrap();
    let Command::Describe(arguments) = cli.command else { panic!("{cli:?}") };
    arguments
}

fn example(name: &str) -> String {
    format!("{}/../examples/models/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn layer<'a>(found: &'a Description, name: &str) -> &'a worker::describe::Layer {
    found.layers.iter().find(|layer| layer.name == name).unwrap()
}

fn output(found: &Description, name: &str) -> Vec<usize> {
    layer(found, name).output.clone()
}

fn parameters(found: &Description, name: &str) -> u64 {
    layer(found, name).parameters
}
