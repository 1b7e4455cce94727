//! Residual blocks that start as their shortcuts.

use proto::job::{Block, Model, Stem};
use worker::model::{Geometry, ResNet};

use crate::tensors::{Tensors, of_model};
use crate::training::{Images, Training, any_device, bits, predict};

#[test]
fn the_last_scale_of_each_block_starts_at_zero_and_nothing_else_differs() {
    for (block, last) in [(Block::Basic, "bn2.weight"), (Block::Bottleneck, "bn3.weight")] {
        let [plain, zeroed] = [false, true].map(|zero| of_model(&started(block, zero)));
        let zeros = |tensors: &Tensors| {
            let zero =
                |name: &&String| tensors[*name].largest() == 0.0 && name.ends_with(".weight");
            tensors.keys().filter(zero).cloned().collect::<Vec<String>>()
        };
        assert!(zeros(&plain).is_empty());
        let expected = ["layer1.0", "layer1.1", "layer2.0"].map(|name| format!("{name}.{last}"));
        assert_eq!(zeros(&zeroed), expected);
        for (name, tensor) in &plain {
            if !expected.contains(name) {
                assert_eq!(tensor.values, zeroed[name].values, "{name}");
            }
        }
    }
}

#[test]
fn a_block_that_starts_at_zero_passes_its_input_on_and_learns() {
    let mut training = started(Block::Basic, true);
    let images = Images::random(5, GEOMETRY.batch, GEOMETRY);
    let logits = predict(&mut training.model, &images.pixels);
    // The chain's own weights do not reach the output: others give the same.
    let conv = tensor_span(&training.model, "layer1.1.conv1.weight");
    training.model.state_mut().0.write(conv, &vec![0.25; conv.len]);
    training.model.pack();
    assert!(predict(&mut training.model, &images.pixels) == logits);
    let before = bits(training.model.params());
    training.step(&images);
    let scale = tensor_span(&training.model, "layer1.1.bn2.weight");
    let after = bits(training.model.params());
    assert!(before[scale.start..scale.end()] != after[scale.start..scale.end()]);
}

fn tensor_span(model: &ResNet, name: &str) -> kernels::Span {
    let tensors = &model.layout().parameters;
    tensors.iter().find(|tensor| tensor.name == name).unwrap().span
}

fn started(block: Block, zero_init_residual: bool) -> Training {
    let (blocks, widths) = (vec![2, 1], vec![6, 10]);
    let model =
        Model { block, blocks, widths, stem: Stem::Cifar, stem_bias: false, zero_init_residual };
    let mut training = Training::new(&any_device(), &model, GEOMETRY, 1);
    training.model.initialise(4);
    training
}

const GEOMETRY: Geometry =
    Geometry { slices: 1, batch: 4, height: 8, width: 8, channels: 3, classes: 5 };
