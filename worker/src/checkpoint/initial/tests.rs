//! Files in every type and spelling that is taken, and what is left as the seed made it.

use super::*;
use crate::layout::Role;
use proto::weights::NamedShape;

/// A convolution, its BatchNorm and a last layer.
fn layout() -> Layout {
    let mut layout = Layout::default();
    let mut parameter = |name: &str, role, len| {
        layout.parameter(name.to_owned(), role, len);
    };
    parameter("fc.weight", Role::LinearWeight { inputs: 2, outputs: 4 }, 8);
    parameter("fc.bias", Role::LinearBias { inputs: 2 }, 4);
    parameter("bn1.weight", Role::NormScale, 2);
    parameter("bn1.bias", Role::NormShift, 2);
    parameter("conv1.weight", Role::ConvWeight { kernel: 3, inputs: 2, outputs: 2 }, 36);
    layout.running("bn1", 2);
    layout
}

fn named_shapes(layout: &Layout) -> Vec<NamedShape> {
    let tensors = layout.parameters.iter().chain(&layout.statistics);
    tensors.map(|t| (t.name.clone(), torch_shape(t.role, t.span.len))).collect()
}

/// A file of 0.5, 1.5, 2.5, ... in each tensor, which every type holds exactly.
fn file(shapes: &[NamedShape], dtype: Dtype, prefix: &str) -> Vec<u8> {
    let bytes = |value: f32| match dtype {
        Dtype::F64 => f64::from(value).to_le_bytes().to_vec(),
        Dtype::BF16 => value.to_le_bytes()[2..].to_vec(),
        // As long as the value is normal and fits.
        Dtype::F16 => ((((value.to_bits() >> 23) - 112) << 10 | value.to_bits() >> 13 & 0x3ff)
            as u16)
            .to_le_bytes()
            .to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let mut owned: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| {
            let count = shape.iter().product::<usize>();
            let data = (0..count).flat_map(|i| bytes((i % 64) as f32 + 0.5)).collect();
            (format!("{prefix}{name}"), dtype, shape.clone(), data)
        })
        .collect();
    owned.push((format!("{prefix}bn1.num_batches_tracked"), Dtype::I64, vec![], vec![0; 8]));
    let views = owned.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn decode(layout: &Layout, bytes: &[u8]) -> Result<(Fit, Vec<f32>, Vec<f32>), InitialError> {
    let mut params = vec![-1.0; layout.parameters_len()];
    let mut running = vec![-1.0; layout.statistics_len()];
    let fit = decode_initial(layout, bytes, &mut params, &mut running)?;
    Ok((fit, params, running))
}

#[test]
fn every_type_and_prefix_gives_the_same_state() {
    let layout = layout();
    let shapes = named_shapes(&layout);
    let expected = decode(&layout, &file(&shapes, Dtype::F32, "")).unwrap();
    assert_eq!(expected.0, Fit::Whole);
    assert!(expected.1.iter().chain(&expected.2).all(|&value| value >= 0.5), "all is filled");
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        assert_eq!(decode(&layout, &file(&shapes, dtype, "module.")).unwrap(), expected, "{dtype}");
    }
    // [out, in, kernel, kernel] becomes [kernel, kernel, in, out].
    let conv = layout.parameters.iter().find(|t| t.name == "conv1.weight").unwrap();
    let values = &expected.1[conv.span.start..conv.span.end()];
    assert_eq!(values[..3], [0.5, 18.5, 9.5]);
}

#[test]
fn a_last_layer_of_other_classes_stays_as_it_was() {
    let layout = layout();
    let mut shapes = named_shapes(&layout);
    (shapes[0].1, shapes[1].1) = (vec![7, 2], vec![7]);
    let (fit, params, running) = decode(&layout, &file(&shapes, Dtype::F32, "")).unwrap();
    assert_eq!(fit, Fit::OtherClasses { classes: 7 });
    for tensor in &layout.parameters {
        let kept = HEAD.contains(&tensor.name.as_str());
        let values = &params[tensor.span.start..tensor.span.end()];
        assert!(values.iter().all(|&value| (value == -1.0) == kept), "{}", tensor.name);
    }
    assert!(running.iter().all(|&value| value >= 0.5));
}

#[test]
fn values_beyond_fp32_and_other_models_are_refused() {
    let layout = layout();
    let shapes = named_shapes(&layout);
    let mut bytes = file(&shapes, Dtype::F64, "");
    let len = bytes.len();
    bytes[len - 16..len - 8].copy_from_slice(&1e300f64.to_le_bytes());
    let message = decode(&layout, &bytes).unwrap_err().to_string();
    assert!(message.contains("not finite in fp32"), "{message}");
    let message = decode(&layout, &file(&shapes[1..], Dtype::F32, "")).unwrap_err().to_string();
    assert!(message.contains(&format!("{} is missing", shapes[0].0)), "{message}");
}

#[test]
fn a_binary16_has_the_value_of_its_definition() {
    for bits in 0..=u16::MAX {
        let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 0x1f, f64::from(bits & 0x3ff));
        let sign = if sign == 1 { -1.0 } else { 1.0 };
        let value = match exponent {
            0 => sign * fraction * 2f64.powi(-24),
            0x1f if fraction == 0.0 => sign * f64::INFINITY,
            0x1f => f64::NAN,
            _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
        };
        let found = f64::from(half(bits));
        assert!(found == value || (found.is_nan() && value.is_nan()), "{bits:#06x}: {found}");
        assert_eq!(found.is_sign_negative(), bits >> 15 == 1, "{bits:#06x}");
    }
}
