//! The table on the layers of real networks, and what its pieces promise.

use super::*;

#[test]
fn layers_of_resnet50_go_to_tensor_cores() {
    let slice =
        |size, inputs, outputs, kernel, stride| layer(32, size, inputs, outputs, kernel, stride);
    let name = |slice: &ConvShape| {
        Product::of(&Walk::forward(slice), Element::Bf16).kernel.of(Element::Bf16)
    };
    let named = |slice: &ConvShape| format!("{:?}", name(slice));
    assert!(named(&slice(224, 3, 64, 7, 2)).contains("conv_stem_even"));
    assert!(named(&slice(32, 3, 64, 3, 1)).contains("conv_stem_odd"));
    assert!(named(&slice(56, 64, 64, 3, 1)).contains("conv_mma_128x64"));
    assert!(named(&slice(56, 64, 256, 1, 1)).contains("conv_mma_128x128"));
    assert!(named(&slice(7, 2048, 512, 1, 1)).contains("conv_mma_64x64"));
    let weights = |slice: &ConvShape| format!("{:?}", WeightGrad::of(slice, Element::Bf16).kernel);
    assert!(weights(&slice(224, 3, 64, 7, 2)).contains("conv_stem_weight_grad"));
    assert!(weights(&slice(56, 64, 64, 1, 1)).contains("conv_mma_weight_grad_64x64"));
    assert!(weights(&slice(56, 64, 64, 3, 1)).contains("conv_mma_weight_grad_128x64"));
    assert!(weights(&slice(28, 512, 1024, 1, 2)).contains("conv_mma_weight_grad_128x128"));
}

#[test]
fn fp32_and_odd_channels_have_an_engine_too() {
    for slice in [layer(2, 9, 64, 64, 3, 1), layer(2, 9, 5, 3, 11, 1), layer(2, 9, 3, 10, 3, 1)] {
        let product = Product::of(&Walk::forward(&slice), Element::F32);
        assert_eq!(product.grid(&Walk::forward(&slice), 1).shared, 0, "{slice:?}");
        assert_eq!(WeightGrad::of(&slice, Element::F32).shared, 0, "{slice:?}");
    }
    // 11 x 11 windows of 5 channels are too wide for the stem; backwards no stem goes.
    let wide = layer(2, 9, 5, 3, 11, 1);
    assert_eq!(Product::of(&Walk::forward(&wide), Element::Bf16).shared, 0);
    assert!(Walk::input_grad(&wide).all(|walk| Product::of(&walk, Element::Bf16).shared == 0));
}

#[test]
fn no_engine_asks_for_more_shared_memory_than_the_smallest_gpu_has() {
    for (kernel, stride) in [(1, 1), (3, 1), (3, 2), (7, 2), (11, 4), (16, 1), (31, 3)] {
        for inputs in [1, 3, 5, 7, 8, 64] {
            let slice = layer(2, 64, inputs, 64, kernel, stride);
            let product = Product::of(&Walk::forward(&slice), Element::Bf16);
            assert!(product.shared <= 99 << 10, "{slice:?}: {}", product.shared);
            let weight_grad = WeightGrad::of(&slice, Element::Bf16);
            assert!(weight_grad.shared <= 99 << 10, "{slice:?}: {}", weight_grad.shared);
        }
    }
}

#[test]
fn pieces_cover_every_unit_once() {
    for (batch, size) in [(1, 1), (1, 7), (3, 14), (32, 112), (256, 56)] {
        for inputs in [3, 64] {
            let slice = layer(batch, size, inputs, 64, 3, 1);
            let engine = WeightGrad::of(&slice, Element::Bf16);
            let split = engine.split(&slice);
            let (units, pixels) = match engine.unit {
                Unit::Pixels => (slice.out_pixels(), 1),
                Unit::Images => (stem_tiles(&Walk::forward(&slice)), 128),
            };
            assert!(split.len * pixels <= PIXELS_MAX, "{slice:?}: {split:?}");
            let Split { count, len } = split;
            assert!((count - 1) * len < units && units <= count * len, "{slice:?}: {split:?}");
        }
    }
}

fn layer(
    batch: usize,
    size: usize,
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
) -> ConvShape {
    let (height, width, pad) = (size, size, kernel / 2);
    ConvShape { slices: 1, batch, height, width, in_channels, out_channels, kernel, stride, pad }
}
