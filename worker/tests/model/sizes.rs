//! The five standard depths against torchvision's models, by number of parameters and of tensors.

use kernels::Isa;
use proto::Job;
use proto::job::Model;
use worker::model::{Geometry, ResNet};

use crate::training::device;

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
        let geometry = Geometry { batch: 1, height: 32, width: 32, channels: 3, classes: 1000 };
        let model = ResNet::new(&device(1, Isa::detect()), &standard(arch), geometry);
        let layout = model.layout();
        assert_eq!(layout.parameters_len(), parameters, "{arch}");
        assert_eq!(layout.parameters.len(), tensors, "{arch}");
        // Each BatchNorm has weight, bias, mean and variance; the last layer has a weight and a bias.
        let norms = (tensors - 2) / 3;
        assert_eq!(layout.statistics.len(), 2 * norms, "{arch}");
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
