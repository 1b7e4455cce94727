//! Round trips of the files, and files that must be refused.

use super::*;
use crate::layout::Role;

fn snapshot(outputs: usize) -> Snapshot {
    let mut layout = Layout::default();
    layout.parameter(
        "fc.weight".to_owned(),
        Role::LinearWeight { inputs: 4, outputs },
        4 * outputs,
    );
    let role = Role::ConvWeight { kernel: 3, inputs: 2, outputs: 3 };
    layout.parameter("conv1.weight".to_owned(), role, 54);
    layout.running("bn1", 3);
    let values = |len: usize| (0..len).map(|i| i as f32 - 7.5).collect::<Vec<f32>>();
    let (params, running) = (values(layout.parameters_len()), values(layout.statistics_len()));
    let velocity = params.iter().map(|p| -p).collect();
    let half = |values: &[f32]| values.iter().map(|value| 0.5 * value).collect();
    let average = Some(Average { params: half(&params), running: half(&running) });
    Snapshot { step: 3, layout: Arc::new(layout), params, running, velocity, average }
}

#[test]
fn a_state_is_read_back_bit_for_bit_and_encoding_it_again_gives_the_same_bytes() {
    let before = snapshot(5);
    let (model, optimizer) = (before.encode_model(), before.encode_optimizer());
    let mut after = snapshot(5);
    for buffer in [&mut after.params, &mut after.running, &mut after.velocity] {
        buffer.fill(0.0);
    }
    let layout = Arc::clone(&after.layout);
    decode_model(&layout, &model, &mut after.params, &mut after.running).unwrap();
    decode_optimizer(&layout, &optimizer, &mut after.velocity).unwrap();
    assert_eq!(after.params, before.params);
    assert_eq!(after.running, before.running);
    assert_eq!(after.velocity, before.velocity);
    assert_eq!(after.encode_model(), model);
}

#[test]
fn an_average_is_read_back_bit_for_bit_and_has_the_form_of_the_model() {
    let before = snapshot(5);
    let bytes = before.encode_ema().unwrap();
    let Snapshot { layout, mut params, mut running, .. } = snapshot(5);
    decode_ema(&layout, &bytes, &mut params, &mut running).unwrap();
    let average = before.average.as_ref().unwrap();
    assert_eq!((&params, &running), (&average.params, &average.running));
    decode_model(&layout, &bytes, &mut params, &mut running).unwrap();
    assert_eq!(Snapshot { average: None, ..before }.encode_ema(), None);
    let error = decode_ema(&layout, &bytes[1..], &mut params, &mut running).unwrap_err();
    assert!(error.to_string().contains("read ema.safetensors"), "{error}");
}

#[test]
fn a_file_of_another_model_is_refused_with_the_differences() {
    let mut ours = snapshot(5);
    let layout = Arc::clone(&ours.layout);
    let error =
        decode_model(&layout, &snapshot(7).encode_model(), &mut ours.params, &mut ours.running);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("fc.weight is [7, 4], the model needs [5, 4]"), "{message}");
    let error =
        decode_model(&layout, &ours.encode_optimizer(), &mut ours.params, &mut ours.running);
    assert!(error.unwrap_err().to_string().contains("bn1.running_mean is missing"));
}

#[test]
fn every_truncation_is_refused() {
    let mut ours = snapshot(2);
    let layout = Arc::clone(&ours.layout);
    let bytes = ours.encode_model();
    for len in 0..bytes.len() {
        let result = decode_model(&layout, &bytes[..len], &mut ours.params, &mut ours.running);
        assert!(matches!(result, Err(CheckpointError::Damaged { .. })), "{len}");
    }
    let mut huge = bytes;
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let result = decode_model(&layout, &huge, &mut ours.params, &mut ours.running);
    assert!(matches!(result, Err(CheckpointError::Damaged { .. })));
}
