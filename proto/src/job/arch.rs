//! The standard depths: names that stand for a whole `Model`.
//!
//! He et al., "Deep Residual Learning for Image Recognition", 2015, table 1.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Block, Model, Stem};

/// A standard depth, short for `block`, `blocks` and `widths`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    Resnet18,
    Resnet34,
    Resnet50,
    Resnet101,
    Resnet152,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no standard depth; choose resnet18, resnet34, resnet50, resnet101 or resnet152")]
pub struct UnknownArch;

impl Arch {
    pub const ALL: [Arch; 5] =
        [Arch::Resnet18, Arch::Resnet34, Arch::Resnet50, Arch::Resnet101, Arch::Resnet152];

    /// As written in a job file.
    pub fn as_str(self) -> &'static str {
        match self {
            Arch::Resnet18 => "resnet18",
            Arch::Resnet34 => "resnet34",
            Arch::Resnet50 => "resnet50",
            Arch::Resnet101 => "resnet101",
            Arch::Resnet152 => "resnet152",
        }
    }

    fn table(self) -> (Block, [usize; 4]) {
        match self {
            Arch::Resnet18 => (Block::Basic, [2, 2, 2, 2]),
            Arch::Resnet34 => (Block::Basic, [3, 4, 6, 3]),
            Arch::Resnet50 => (Block::Bottleneck, [3, 4, 6, 3]),
            Arch::Resnet101 => (Block::Bottleneck, [3, 4, 23, 3]),
            Arch::Resnet152 => (Block::Bottleneck, [3, 8, 36, 3]),
        }
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Arch, UnknownArch> {
        Arch::ALL.into_iter().find(|arch| arch.as_str() == name).ok_or(UnknownArch)
    }
}

impl Model {
    /// A standard depth behind the ImageNet stem.
    pub fn standard(arch: Arch) -> Model {
        let (block, blocks) = arch.table();
        Model {
            block,
            blocks: blocks.to_vec(),
            widths: STANDARD_WIDTHS.to_vec(),
            stem: Stem::Imagenet,
            stem_bias: false,
            zero_init_residual: false,
        }
    }
}

const STANDARD_WIDTHS: [usize; 4] = [64, 128, 256, 512];
