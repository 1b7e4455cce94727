//! Properties of the order over many seeds and sizes, how far it is from sorted, and pinned values.

use super::Draws;
use super::LEN_MAX;
use super::SampleOrder;
use std::collections::HashSet;

/// Sizes around powers of two and four, odd sizes, and the small ones where cycles are longest.
const SIZES: [u64; 24] = [
    1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100, 255, 256, 257, 360, 1000, 1023, 1437,
    4096, 5003,
];

fn epoch_order(order: SampleOrder, epoch: u64) -> Vec<u64> {
    (0..order.len()).map(|i| order.sample(epoch * order.len() + i)).collect()
}

fn is_permutation(samples: &[u64], len: u64) -> bool {
    let distinct: HashSet<_> = samples.iter().collect();
    samples.len() as u64 == len && distinct.len() as u64 == len && samples.iter().all(|&s| s < len)
}

#[test]
fn every_epoch_is_a_bijection() {
    for seed in [0, 1, 2, 42, u64::MAX, 0x0123_4567_89ab_cdef] {
        for len in SIZES {
            let order = SampleOrder::new(seed, len);
            for epoch in [0, 1, 2, 89, 1 << 20] {
                let samples = epoch_order(order, epoch);
                assert!(is_permutation(&samples, len), "seed {seed}, len {len}, epoch {epoch}");
            }
        }
    }
}

#[test]
fn the_largest_stream_stays_in_range_and_does_not_repeat_nearby() {
    for len in [LEN_MAX, LEN_MAX - 1, LEN_MAX / 2 + 1, LEN_MAX / 4 + 1] {
        let order = SampleOrder::new(7, len);
        let positions = (0..2000).chain(len - 2000..len);
        let samples: HashSet<_> = positions.map(|position| order.sample(position)).collect();
        assert_eq!(samples.len(), 4000);
        assert!(samples.iter().all(|&sample| sample < len));
    }
}

#[test]
fn the_last_position_has_a_sample() {
    let order = SampleOrder::new(1, 1437);
    assert!(order.sample(u64::MAX) < 1437);
    assert_eq!(order.epoch(u64::MAX), u64::MAX / 1437);
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let mut seen = HashSet::new();
    for seed in 0..8 {
        for epoch in 0..8 {
            assert!(seen.insert(epoch_order(SampleOrder::new(seed, 500), epoch)));
        }
    }
}

#[test]
fn orders_of_neighbouring_epochs_and_seeds_agree_only_by_chance() {
    let len = 5003;
    let base = epoch_order(SampleOrder::new(9, len), 3);
    let others = [(9, 4), (10, 3), (8, 4), (9, 2)];
    for (seed, epoch) in others {
        let other = epoch_order(SampleOrder::new(seed, len), epoch);
        let agreeing = base.iter().zip(&other).filter(|(a, b)| a == b).count();
        // Two random permutations agree in one place on average; 12 has probability 1e-9.
        assert!(agreeing < 12, "{agreeing} agreements with seed {seed}, epoch {epoch}");
    }
}

#[test]
fn each_sample_is_used_once_per_epoch_however_the_stream_is_cut() {
    let mut draws = Draws::new(2026, 0);
    for _ in 0..60 {
        let len = 1 + draws.below(700);
        let slices = 1 << draws.below(5);
        let batch = slices * (1 + draws.below(40));
        let workers = 1 + draws.below(slices);
        let order = SampleOrder::new(draws.next_u64(), len);
        let epochs = 3;
        let steps = (epochs * len).div_ceil(batch);
        let mut uses = vec![0; (epochs * len) as usize];
        for step in 0..steps {
            for worker in 0..workers {
                for position in share_of(worker, workers, step, batch, slices) {
                    // Batches do not align with epochs: the last step reads into the next one.
                    if let Some(uses) = uses.get_mut(position as usize) {
                        let sample = order.sample(position);
                        *uses += 1;
                        assert!(sample < len);
                        assert_eq!(order.epoch(position), position / len);
                    }
                }
            }
        }
        assert!(uses.iter().all(|&uses| uses == 1), "a position is skipped or used twice");
        for epoch in 0..epochs {
            assert!(is_permutation(&epoch_order(order, epoch), len));
        }
    }
}

/// Positions of a worker in a step: a contiguous run of slices, as a generation assigns them.
fn share_of(
    worker: u64,
    workers: u64,
    step: u64,
    batch: u64,
    slices: u64,
) -> impl Iterator<Item = u64> {
    let (first, end) = (worker * slices / workers, (worker + 1) * slices / workers);
    let slice_len = batch / slices;
    step * batch + first * slice_len..step * batch + end * slice_len
}

/// Counting by sample instead of by position, over steps that straddle the epoch boundary.
#[test]
fn a_worker_count_that_changes_every_step_still_uses_each_sample_once_per_epoch() {
    for (len, batch, slices) in [(1437, 64, 8), (100, 96, 16), (50, 200, 4), (7, 8, 8)] {
        let order = SampleOrder::new(5, len);
        // `batch` epochs are a whole number of steps, whatever the sizes.
        let steps = len;
        let mut uses = vec![vec![0; len as usize]; batch as usize];
        for step in 0..steps {
            let workers = 1 + step % slices;
            for worker in 0..workers {
                for position in share_of(worker, workers, step, batch, slices) {
                    let epoch = order.epoch(position) as usize;
                    uses[epoch][order.sample(position) as usize] += 1;
                }
            }
        }
        assert!(uses.iter().flatten().all(|&uses| uses == 1));
    }
}

#[test]
fn the_order_is_far_from_sorted() {
    let len = 4096;
    for (seed, epoch) in [(0, 0), (1, 0), (0, 1), (77, 12)] {
        let samples = epoch_order(SampleOrder::new(seed, len), epoch);
        let displacement =
            samples.iter().zip(0..).map(|(&s, i): (_, u64)| s.abs_diff(i)).sum::<u64>();
        // A random permutation moves a sample by len/3 on average; sigma of the mean is ~0.004 len.
        let mean = displacement as f64 / (len * len) as f64;
        assert!((mean - 1.0 / 3.0).abs() < 0.02, "mean displacement {mean} of the length");

        let neighbours = samples.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        assert!(neighbours < 12, "{neighbours} neighbours stayed neighbours");

        let ascents = samples.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((1900..2196).contains(&ascents), "{ascents} ascents of 4095");
        assert!(longest_ascending_run(&samples) < 12);
    }
}

fn longest_ascending_run(samples: &[u64]) -> usize {
    let (mut longest, mut run) = (1, 1);
    for pair in samples.windows(2) {
        run = if pair[0] < pair[1] { run + 1 } else { 1 };
        longest = longest.max(run);
    }
    longest
}

#[test]
fn every_sample_reaches_every_place_equally_often() {
    let (len, epochs) = (10, 20_000);
    let order = SampleOrder::new(3, len);
    let mut counts = vec![[0; 10]; 10];
    for position in 0..len * epochs {
        counts[(position % len) as usize][order.sample(position) as usize] += 1;
    }
    // 2000 expected, sigma 42.4, 100 cells: 5.2 sigma.
    for (place, counts) in counts.iter().enumerate() {
        assert!(counts.iter().all(|&n| (1780..=2220).contains(&n)), "place {place}: {counts:?}");
    }
}

#[test]
fn all_orders_of_four_samples_occur_equally_often() {
    let order = SampleOrder::new(11, 4);
    let mut counts = std::collections::HashMap::new();
    for epoch in 0..24_000 {
        *counts.entry(epoch_order(order, epoch)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    // 1000 expected, sigma 31.
    assert!(counts.values().all(|&n| (840..=1160).contains(&n)), "{counts:?}");
}

#[test]
fn the_order_never_changes_silently() {
    assert_eq!(epoch_order(SampleOrder::new(0, 10), 0), GOLDEN_ORDER_0_10_0);
    assert_eq!(epoch_order(SampleOrder::new(42, 10), 1), GOLDEN_ORDER_42_10_1);
    let digits = SampleOrder::new(42, 1437);
    let first: Vec<_> = (0..8).map(|position| digits.sample(position)).collect();
    assert_eq!(first, GOLDEN_DIGITS);
    let imagenet = SampleOrder::new(42, 1_281_167);
    let far: Vec<_> = (0..4).map(|i| imagenet.sample(90 * 1_281_167 - 2 + i)).collect();
    assert_eq!(far, GOLDEN_IMAGENET);
    assert_eq!(SampleOrder::new(42, LEN_MAX).sample(123_456_789), GOLDEN_LARGEST);
}

#[test]
#[should_panic(expected = "need 1 to 2^40")]
fn an_order_over_nothing_is_refused() {
    SampleOrder::new(0, 0);
}

#[test]
#[should_panic(expected = "need 1 to 2^40")]
fn an_order_over_too_much_is_refused() {
    SampleOrder::new(0, LEN_MAX + 1);
}

#[test]
fn draws_of_one_position_are_the_same_again_and_differ_from_other_positions() {
    let take = |seed, position| {
        let mut draws = Draws::new(seed, position);
        [draws.next_u64(), draws.next_u64(), draws.next_u64()]
    };
    assert_eq!(take(5, 17), take(5, 17));
    let mut seen = HashSet::new();
    for seed in 0..20 {
        for position in 0..500 {
            assert!(take(seed, position).into_iter().all(|value| seen.insert(value)));
        }
    }
}

#[test]
fn draws_below_a_bound_are_uniform_across_positions() {
    let mut counts = [0u32; 9];
    for position in 0..90_000 {
        counts[Draws::new(1, position).below(9) as usize] += 1;
    }
    // 10,000 expected, sigma 94.
    assert!(counts.iter().all(|&n| (9_500..=10_500).contains(&n)), "{counts:?}");
}

#[test]
fn draws_below_a_bound_beyond_half_the_range_are_not_biased() {
    // Plain multiplication or remainder would give the lower half of this range 2/3 or 1/2 more.
    let bound = 3 << 62;
    let mut draws = Draws::new(8, 0);
    let low = (0..30_000).filter(|_| draws.below(bound) < bound / 3).count();
    assert!((9_600..=10_400).contains(&low), "{low} of 30000 in the lowest third");
    assert!((0..100).all(|_| draws.below(1) == 0));
}

#[test]
fn coins_and_units_are_fair_and_neighbouring_positions_independent() {
    let tosses: Vec<_> = (0..40_000).map(|position| Draws::new(3, position).coin()).collect();
    let heads = tosses.iter().filter(|&&heads| heads).count();
    // Sigma is 100 for both counts.
    assert!((19_500..=20_500).contains(&heads), "{heads} heads");
    let alike = tosses.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!((19_500..=20_500).contains(&alike), "{alike} equal neighbours");

    let mut draws = Draws::new(4, 4);
    let units: Vec<_> = (0..40_000).map(|_| draws.unit()).collect();
    assert!(units.iter().all(|unit| (0.0..1.0).contains(unit)));
    let mean = units.iter().sum::<f64>() / units.len() as f64;
    assert!((mean - 0.5).abs() < 0.0075, "mean {mean}");
}

#[test]
#[should_panic(expected = "no number lies below 0")]
fn a_draw_below_zero_is_refused() {
    Draws::new(0, 0).below(0);
}

#[test]
fn draws_never_change_silently() {
    let mut draws = Draws::new(42, 7);
    assert_eq!([draws.next_u64(), draws.next_u64()], GOLDEN_DRAWS);
    assert_eq!([draws.below(9), draws.below(1000)], GOLDEN_BELOW);
    assert_eq!([draws.coin(), draws.coin(), draws.coin()], GOLDEN_COINS);
    assert_eq!(draws.unit(), GOLDEN_UNIT);
}

const GOLDEN_ORDER_0_10_0: [u64; 10] = [0, 6, 9, 3, 8, 4, 1, 5, 7, 2];
const GOLDEN_ORDER_42_10_1: [u64; 10] = [2, 6, 1, 7, 3, 8, 4, 5, 9, 0];
const GOLDEN_DIGITS: [u64; 8] = [1297, 473, 309, 1175, 963, 91, 41, 70];
const GOLDEN_IMAGENET: [u64; 4] = [177_959, 451_099, 661_831, 435_527];
const GOLDEN_LARGEST: u64 = 768_797_796_194;
const GOLDEN_DRAWS: [u64; 2] = [0xd896_ae47_264d_8f91, 0xac2a_d2cd_487d_444a];
const GOLDEN_BELOW: [u64; 2] = [4, 173];
const GOLDEN_COINS: [bool; 3] = [true, true, false];
const GOLDEN_UNIT: f64 = 0.653285527860073;
