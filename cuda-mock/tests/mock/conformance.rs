//! The wrappers of `portable.cuh` against plain Rust, in every schedule. With `CUDA_MOCK=off` on a real GPU.

use crate::gpu;
use crate::gpu::shape;
use cuda_mock::Schedule;
use cudarc::driver::DeviceRepr;
use cudarc::driver::LaunchConfig;
use cudarc::driver::PushKernelArg;

/// In every schedule of the mock; once on a GPU. Nothing is called when there is neither.
fn in_every_schedule(check: impl Fn(&gpu::Gpu)) {
    let Some(gpu) = gpu::mock_or_real() else { return };
    if gpu.context.name().unwrap() != "emulated GPU" {
        return check(&gpu);
    }
    for schedule in [Schedule::Lockstep, Schedule::DepthFirst, Schedule::Random(7)] {
        cuda_mock::set_schedule(schedule);
        check(&gpu);
    }
}

/// Numbers that bf16 holds exactly, as bf16 and as fp32.
fn exact(count: usize, step: usize) -> (Vec<u16>, Vec<f32>) {
    let values: Vec<f32> = (0..count).map(|i| (i * step % 31) as f32 - 15.0).collect();
    (values.iter().map(|value| (value.to_bits() >> 16) as u16).collect(), values)
}

#[test]
fn mma_is_the_product_of_its_fragments() {
    in_every_schedule(|gpu| {
        let ((a, wide_a), (b, wide_b)) = (exact(16 * 16, 7), exact(16 * 8, 11));
        let c: Vec<f32> = (0..16 * 8).map(|i| i as f32).collect();
        let stream = &gpu.stream;
        let (a, b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
        let (given, mut d) = (stream.clone_htod(&c).unwrap(), stream.clone_htod(&c).unwrap());
        let kernel = gpu.kernel("selftest_mma");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&a).arg(&b).arg(&given).arg(&mut d).launch(shape(1, 32)) }.unwrap();
        for (at, &sum) in stream.clone_dtoh(&d).unwrap().iter().enumerate() {
            let (row, column) = (at / 8, at % 8);
            let product = |k: usize| wide_a[row * 16 + k] * wide_b[k * 8 + column];
            // Sums of small integers: exact in any order.
            assert_eq!(sum, c[at] + (0..16).map(product).sum::<f32>(), "row {row} column {column}");
        }
    });
}

#[test]
fn ldmatrix_gives_each_lane_its_pair() {
    in_every_schedule(|gpu| {
        let tile: Vec<u16> = (0..256).collect();
        let stream = &gpu.stream;
        let given = stream.clone_htod(&tile).unwrap();
        let mut out = stream.alloc_zeros::<u32>(384).unwrap();
        let kernel = gpu.kernel("selftest_ldmatrix");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&given).arg(&mut out).launch(shape(1, 32)) }.unwrap();
        let out = stream.clone_dtoh(&out).unwrap();
        let element = |matrix: usize, row: usize, column: usize| {
            u32::from(tile[matrix * 64 + row * 8 + column])
        };
        let pair = |matrix, lane: usize| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            element(matrix, row, column) | element(matrix, row, column + 1) << 16
        };
        let transposed = |matrix, lane: usize| {
            let (row, column) = (lane % 4 * 2, lane / 4);
            element(matrix, row, column) | element(matrix, row + 1, column) << 16
        };
        for (start, count, of) in [
            (0, 4, &pair as &dyn Fn(usize, usize) -> u32),
            (128, 4, &transposed),
            (256, 2, &pair),
            (320, 2, &transposed),
        ] {
            for at in 0..32 * count {
                let (lane, matrix) = (at / count, at % count);
                assert_eq!(out[start + at], of(matrix, lane), "x{count}, lane {lane}");
            }
        }
    });
}

#[test]
fn copies_arrive_at_their_wait_and_invalid_ones_are_zeros() {
    in_every_schedule(|gpu| {
        let words: Vec<u32> = (1..=256).collect();
        let stream = &gpu.stream;
        let given = stream.clone_htod(&words).unwrap();
        let mut out = stream.clone_htod(&[7u32; 384]).unwrap();
        let kernel = gpu.kernel("selftest_cp_async");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&given).arg(&mut out).launch(shape(1, 32)) }.unwrap();
        let out = stream.clone_dtoh(&out).unwrap();
        assert_eq!(out[..256], words[..]);
        assert_eq!(out[256..], [0; 128]);
    });
}

#[test]
fn shuffles_and_votes_reach_the_lanes_they_name() {
    in_every_schedule(|gpu| {
        let values: Vec<f32> = (0..32).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
        let stream = &gpu.stream;
        let given = stream.clone_htod(&values).unwrap();
        let mut out = stream.alloc_zeros::<u32>(256).unwrap();
        let kernel = gpu.kernel("selftest_shuffles");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&given).arg(&mut out).launch(shape(1, 32)) }.unwrap();
        let out = stream.clone_dtoh(&out).unwrap();
        let votes = (0..32).fold(0, |votes, i| votes | u32::from(values[i] > 0.0) << i);
        for lane in 0..32 {
            let expected = [
                values[lane ^ 1].to_bits(),
                values[if lane < 29 { lane + 3 } else { lane }].to_bits(),
                values[if lane < 3 { lane } else { lane - 3 }].to_bits(),
                values[lane / 8 * 8 + 5].to_bits(),
                votes,
                votes & if lane < 16 { 0xFFFF } else { 0xFFFF_0000 },
                1,
                0,
            ];
            let found: Vec<u32> = (0..8).map(|row| out[row * 32 + lane]).collect();
            assert_eq!(found, expected, "lane {lane}");
        }
    });
}

/// The nearest bf16, by comparing distances in fp64; of two equally near ones the even.
fn nearest_bf16(f: f32) -> u16 {
    let low = (f.to_bits() >> 16) as u16;
    let distance = |bits: u16| {
        let value = f64::from(f32::from_bits(u32::from(bits) << 16));
        // What would be infinite counts as the next power of two.
        let value = if value.is_infinite() { 2f64.powi(128).copysign(value) } else { value };
        (value - f64::from(f)).abs()
    };
    let (down, up) = (distance(low), distance(low + 1));
    if down < up || down == up && low.is_multiple_of(2) { low } else { low + 1 }
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    in_every_schedule(|gpu| {
        // Every exponent and sign, with mantissas around the ties; then what is not finite.
        let low = [0u32, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
        let mantissas = [0u32, 0x0001_0000, 0x003E_0000, 0x007F_0000];
        let mut bits = Vec::new();
        for exponent in (0..255u32).chain(256..511) {
            bits.extend(mantissas.iter().flat_map(|m| low.map(|l| exponent << 23 | m | l)));
        }
        bits.extend([0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFF80_0001]);
        let stream = &gpu.stream;
        let given = stream.clone_htod(&bits).unwrap();
        let mut single = stream.alloc_zeros::<u16>(bits.len()).unwrap();
        let mut pairs = stream.alloc_zeros::<u32>(bits.len()).unwrap();
        let mut back = stream.alloc_zeros::<f32>(bits.len()).unwrap();
        let kernel = gpu.kernel("selftest_bf16");
        let mut launch = stream.launch_builder(&kernel);
        let count = i32::try_from(bits.len()).unwrap();
        launch.arg(&given).arg(&mut single).arg(&mut pairs).arg(&mut back).arg(&count);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(shape(1, 128)) }.unwrap();
        let single = stream.clone_dtoh(&single).unwrap();
        let pairs = stream.clone_dtoh(&pairs).unwrap();
        let back = stream.clone_dtoh(&back).unwrap();
        for (at, &pattern) in bits.iter().enumerate() {
            let f = f32::from_bits(pattern);
            let expected = match f {
                _ if f.is_nan() => 0x7FFF,
                _ if f.is_infinite() => (pattern >> 16) as u16,
                _ => nearest_bf16(f),
            };
            assert_eq!(single[at], expected, "{pattern:08x}");
            assert_eq!(pairs[at], u32::from(expected) | 0x3F80_0000, "{pattern:08x}");
            assert_eq!(back[at].to_bits(), u32::from(expected) << 16, "{pattern:08x}");
        }
    });
}

#[test]
fn vectors_of_eight_keep_their_order() {
    in_every_schedule(|gpu| {
        let (given, values) = exact(256, 3);
        let stream = &gpu.stream;
        let given = stream.clone_htod(&given).unwrap();
        let mut out = stream.alloc_zeros::<u16>(256).unwrap();
        let mut sums = stream.alloc_zeros::<f32>(32).unwrap();
        let kernel = gpu.kernel("selftest_vectors");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&given).arg(&mut out).arg(&mut sums).launch(shape(1, 32)) }.unwrap();
        for (at, &bits) in stream.clone_dtoh(&out).unwrap().iter().enumerate() {
            assert_eq!(f32::from_bits(u32::from(bits) << 16), 2.0 * values[at]);
        }
        let expected: Vec<f32> = values.chunks(8).map(|eight| eight.iter().sum()).collect();
        assert_eq!(stream.clone_dtoh(&sums).unwrap(), expected);
    });
}

#[test]
fn functions_on_numbers_agree_with_fp64() {
    in_every_schedule(|gpu| {
        let values: Vec<f32> = (0..128).map(|i| 0.3 + i as f32 * 0.17).collect();
        let stream = &gpu.stream;
        let given = stream.clone_htod(&values).unwrap();
        let mut out = stream.alloc_zeros::<f32>(128).unwrap();
        let kernel = gpu.kernel("selftest_numbers");
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.arg(&given).arg(&mut out).launch(shape(1, 32)) }.unwrap();
        for (four, out) in values.chunks(4).zip(stream.clone_dtoh(&out).unwrap().chunks(4)) {
            let wide: Vec<f64> = four.iter().map(|&value| f64::from(value)).collect();
            assert_eq!(out[0], four[0].mul_add(four[1], four[2]));
            let near = |found: f32, expected: f64| (f64::from(found) / expected - 1.0).abs() < 4e-7;
            assert!(near(out[1], 1.0 / wide[3].sqrt()), "rsqrtf({}) = {}", four[3], out[1]);
            assert!(near(out[2], wide[0].exp()), "expf({}) = {}", four[0], out[2]);
            assert_eq!(out[3], four[1]);
        }
    });
}

#[test]
fn the_last_block_by_ticket_sees_what_all_wrote() {
    in_every_schedule(|gpu| {
        let (_, values) = exact(5 * 64, 13);
        let stream = &gpu.stream;
        let given = stream.clone_htod(&values).unwrap();
        let mut partial = stream.alloc_zeros::<f32>(5).unwrap();
        let mut ticket = stream.alloc_zeros::<u32>(1).unwrap();
        let mut out = stream.alloc_zeros::<f32>(1).unwrap();
        let kernel = gpu.kernel("selftest_ticket");
        let shape = LaunchConfig { shared_mem_bytes: 64 * 4, ..shape(5, 64) };
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&given).arg(&mut partial).arg(&mut ticket).arg(&mut out);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(shape) }.unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [values.iter().sum::<f32>()]);
        assert_eq!(stream.clone_dtoh(&ticket).unwrap(), [0], "ready for the next launch");
    });
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    first: i32,
    second: f32,
    third: i64,
}

// SAFETY: plain numbers in C's layout, as the kernel declares them.
unsafe impl DeviceRepr for Arguments {}

#[test]
fn arguments_arrive_as_they_were_when_it_was_launched() {
    in_every_schedule(|gpu| {
        let stream = &gpu.stream;
        let mut out = stream.alloc_zeros::<f32>(5).unwrap();
        let kernel = gpu.kernel("selftest_arguments");
        {
            let (a, b) = (3i32, 2.5f32);
            let s = Arguments { first: -4, second: 0.5, third: 1 << 33 };
            let mut launch = stream.launch_builder(&kernel);
            // SAFETY: the arguments are those of the kernel.
            unsafe { launch.arg(&mut out).arg(&a).arg(&s).arg(&b).launch(shape(1, 1)) }.unwrap();
        }
        let expected = [3.0, -4.0, 0.5, (1i64 << 33) as f32, 2.5];
        assert_eq!(stream.clone_dtoh(&out).unwrap(), expected);
    });
}
