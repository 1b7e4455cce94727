//! What a digest sees: every bit, and nothing else.

use kernels::{Buffer, CudaView, Device, Precision, Span, View};

use crate::numbers::Numbers;
use crate::support::{assert_same_bits_each_time, device, fp32, runs_large_grids};

#[test]
fn a_digest_equals_its_definition_at_every_length_and_alignment() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    for len in [0, 1, 2, 3, 4, 5, 1023, 4099] {
        let values = Numbers::new(1).vec(len + 3);
        for start in 0..4.min(len + 1) {
            let span = Span::new(start, len - start);
            let expected = reference(&[&values[start..len]]);
            assert_eq!(digest(&gpu, &[(&fp32(&gpu, &values), span)]), expected, "{span:?}");
        }
    }
}

#[test]
fn threads_that_take_several_turns_leave_nothing_out() {
    if !runs_large_grids() {
        return;
    }
    let Some(gpu) = device(Precision::Fp32) else { return };
    let values = Numbers::new(2).vec(2_300_003);
    let buffer = fp32(&gpu, &values);
    assert_eq!(digest(&gpu, &[(&buffer, buffer.span())]), reference(&[&values]));
}

#[test]
fn a_flipped_bit_another_order_and_another_border_are_seen() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let values = [vec![0.0; 40], Numbers::new(3).vec(57)].concat();
    let of = |values: &[f32]| {
        let buffer = fp32(&gpu, values);
        digest(&gpu, &[(&buffer, buffer.span())])
    };
    let mut seen = std::collections::HashSet::from([of(&values)]);
    for (index, bit) in (0..values.len()).zip((0..32).cycle()) {
        let mut flipped = values.clone();
        flipped[index] = f32::from_bits(flipped[index].to_bits() ^ 1 << bit);
        assert!(seen.insert(of(&flipped)), "bit {bit} of {index}");
    }
    let mut swapped = values.clone();
    swapped.swap(50, 70);
    assert!(seen.insert(of(&swapped)));
    assert!(seen.insert(of(&values[..96])));
    let buffer = fp32(&gpu, &values);
    for border in [0, 1, 40, 97] {
        let parts = [Span::new(0, border), Span::new(border, 97 - border)];
        let found = digest(&gpu, &parts.map(|part| (&buffer, part)));
        assert_eq!(found, reference(&[&values[..border], &values[border..]]));
        assert!(seen.insert(found), "border {border}");
    }
}

#[test]
fn bits_are_the_same_each_time() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let buffers = [3001, 0, 77].map(|len| fp32(&gpu, &Numbers::new(4).vec(len)));
    assert_same_bits_each_time("a digest", || {
        let all = buffers.each_ref().map(|buffer| (buffer, buffer.span()));
        let bytes = digest(&gpu, &all);
        vec![bytes.iter().map(|&byte| f32::from(byte)).collect()]
    });
}

fn digest(device: &Device, spans: &[(&Buffer, Span)]) -> [u8; 16] {
    let Device::Cuda(cuda) = device else { panic!("not a GPU") };
    let views: Vec<CudaView<'_>> = spans.iter().map(|(buffer, span)| view(buffer, *span)).collect();
    cuda.digest(&views).unwrap()
}

fn view(buffer: &Buffer, span: Span) -> CudaView<'_> {
    let View::Cuda(view) = buffer.view(span) else { panic!("not on a GPU") };
    view
}

fn reference(buffers: &[&[f32]]) -> [u8; 16] {
    let [mut first, mut second] = [0u64; 2];
    let pairs = buffers.iter().flat_map(|buffer| buffer.chunks(2));
    for (position, pair) in (1u64..).zip(pairs) {
        let word = |index: usize| pair.get(index).map_or(0, |value| u64::from(value.to_bits()));
        let key = position.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let keyed = (word(0) | word(1) << 32).wrapping_add(key);
        let product = (keyed ^ keyed >> 32).wrapping_mul(key);
        let hash = product ^ product >> 32;
        let again = (hash ^ key).wrapping_mul(FACTOR);
        first = first.wrapping_add(hash);
        second = second.wrapping_add(again ^ again >> 32);
    }
    for buffer in buffers {
        let step = |sum: u64| (sum ^ buffer.len() as u64).wrapping_mul(FACTOR).rotate_left(29);
        [first, second] = [step(first), step(second)];
    }
    (u128::from(first) | u128::from(second) << 64).to_le_bytes()
}

const FACTOR: u64 = 0xD6E8_FEB8_6659_FD93;
