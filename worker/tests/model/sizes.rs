//! The five standard depths against torchvision's models, by number of parameters and of tensors; and names and shapes
//! against what the coordinator expects of a file to start from.

use kernels::Isa;
use proto::Job;
use proto::job::{Block, Model, Stem};
use proto::weights::NamedShape;
use worker::model::{Geometry, ResNet};

use crate::tensors;
use crate::training::{Training, any_device, device};

#[test]
fn the_standard_depths_have_as_many_parameters_as_in_torchvision() {
    // Architecture, parameters, parameter tensors.
    for (arch, parameters, tensors) in [
        ("resnet18", 11_689_512, 62),
        ("resnet34", 21_797_672, 110),
        ("resnet50", 25_557_032, 161),
        ("resnet101", 44_549_160, 314),
        ("resnet152", 60_192_808, 467),
    ] {
        let geometry =
            Geometry { slices: 1, batch: 1, height: 32, width: 32, channels: 3, classes: 1000 };
        let model = ResNet::new(&device(1, Isa::detect()), &standard(arch), geometry);
        let layout = model.layout();
        assert_eq!(layout.parameters_len(), parameters, "{arch}");
        assert_eq!(layout.parameters.len(), tensors, "{arch}");
        // Each BatchNorm has weight, bias, mean and variance; the last layer has a weight and a bias.
        let norms = (tensors - 2) / 3;
        assert_eq!(layout.statistics.len(), 2 * norms, "{arch}");
    }
}

#[test]
fn a_file_to_start_from_must_hold_the_tensors_that_a_checkpoint_holds() {
    let geometry = Geometry { slices: 1, batch: 1, height: 8, width: 8, channels: 2, classes: 5 };
    let small = |block, blocks: &[usize], widths: &[usize]| {
        let (blocks, widths) = (blocks.to_vec(), widths.to_vec());
        let (stem, stem_bias, zero_init_residual) = (Stem::Cifar, true, false);
        Model { block, blocks, widths, stem, stem_bias, zero_init_residual }
    };
    for model in [
        small(Block::Basic, &[2, 1], &[4, 4]),
        small(Block::Bottleneck, &[1, 2], &[4, 8]),
        standard("resnet18"),
    ] {
        let training = Training::new(&any_device(), &model, geometry, 1);
        let found: Vec<NamedShape> =
            tensors::of_model(&training).into_iter().map(|(name, t)| (name, t.shape)).collect();
        let mut expected = proto::weights::tensors(&model, geometry.channels, geometry.classes);
        expected.sort();
        assert_eq!(found, expected, "{model:?}");
    }
}

/// A model of the job file's short names.
fn standard(arch: &str) -> Model {
    let text = format!(
        "name='sizes'\n[data]\nformat='idx'\npath='.'\n[model]\narch='{arch}'\n\
         [train]\nepochs=1\nbatch=8\n[optimizer]\nlearning_rate=1.0\n"
    );
    Job::parse(&text).unwrap().model
}
