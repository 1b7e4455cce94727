//! The order in which training visits samples, and the random draws of each visit. Both are pure
//! functions of a seed and a position: no state, random access, the same on every machine. Knows
//! neither images nor batches; whoever cuts the stream into steps, slices and workers owns that.
//!
//! The order is a balanced Feistel network (Luby and Rackoff, "How to construct pseudorandom
//! permutations from pseudorandom functions", SIAM J. Comput. 17, 1988) over the smallest even
//! number of bits that holds the epoch, restricted to `[0, N)` by cycle walking (Black and Rogaway,
//! "Ciphers with arbitrary finite domains", CT-RSA 2002). Round keys, round function and draws use
//! the mixing function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014, with the constants of Stafford's variant 13).
//!
//! The values are part of the promise that a job gives the same bits again: tests pin them.

/// Keyed order of the endless sample stream: each epoch, a block of `len` positions, visits each
/// sample exactly once, in an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleOrder {
    seed: u64,
    len: u64,
    half_bits: u32,
}

/// Random draws keyed by `(seed, position)`: the augmentation randomness of one visit. Draw `k`
/// depends on the key and `k` alone, so no state is shared between positions.
#[derive(Debug, Clone)]
pub struct Draws {
    counter: u64,
}

impl SampleOrder {
    /// # Panics
    /// Unless `1 <= len <= 2^40`. A dataset never opens with an empty split, so a zero here is a
    /// mistake of the program and not of its user.
    pub fn new(seed: u64, len: u64) -> SampleOrder {
        assert!((1..=LEN_MAX).contains(&len), "sample order over {len} samples, need 1 to 2^40");
        let bits = u64::BITS - (len - 1).leading_zeros();
        SampleOrder { seed, len, half_bits: bits.div_ceil(2).max(HALF_BITS_MIN) }
    }

    /// Samples per epoch.
    #[expect(clippy::len_without_is_empty, reason = "an epoch is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn epoch(&self, position: u64) -> u64 {
        position / self.len
    }

    /// The sample at this position of the stream, below `len`.
    pub fn sample(&self, position: u64) -> u64 {
        let key = stream_key(Purpose::Order, self.seed, self.epoch(position));
        let mut value = position % self.len;
        // The network permutes a domain of at most max(4 len, 64) values, in cycles. Following a
        // cycle until it is back below `len` is a bijection too, and ends: the start is on it.
        loop {
            value = self.permute(key, value);
            if value < self.len {
                return value;
            }
        }
    }

    fn permute(&self, key: u64, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 1..=ROUNDS {
            let round_key = mix(key.wrapping_add(round.wrapping_mul(GOLDEN_GAMMA)));
            let scramble = mix(round_key ^ right) >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ scramble);
        }
        left << self.half_bits | right
    }
}

impl Draws {
    pub fn new(seed: u64, position: u64) -> Draws {
        Draws { counter: stream_key(Purpose::Draws, seed, position) }
    }

    /// The randomness that the samples of a slice share, keyed by the slice's first position. Apart
    /// from that of the sample at this position.
    pub fn of_slice(seed: u64, first_position: u64) -> Draws {
        Draws { counter: stream_key(Purpose::Slice, seed, first_position) }
    }

    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(GOLDEN_GAMMA);
        mix(self.counter)
    }

    /// Uniform in `[0, bound)`, without bias: the multiplication method of Lemire, "Fast random
    /// integer generation in an interval", ACM TOMACS 29, 2019.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number lies below 0");
        // 2^64 mod bound: that many of the lowest products would favour some results.
        let surplus = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= surplus {
                return (product >> 64) as u64;
            }
        }
    }

    pub fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Keeps the streams of one seed apart.
#[derive(Clone, Copy)]
enum Purpose {
    Order = 1,
    Draws = 2,
    Slice = 3,
}

/// Each input passes through the mixer before the next is added, so that neighbouring seeds and
/// counters share nothing and `(seed, counter)` does not mean the same as `(seed + 1, counter - 1)`.
fn stream_key(purpose: Purpose, seed: u64, counter: u64) -> u64 {
    let mut key = mix((purpose as u64).wrapping_mul(GOLDEN_GAMMA));
    key = mix(key ^ seed).wrapping_add(GOLDEN_GAMMA);
    mix(key ^ counter)
}

/// The finaliser of SplitMix64: a bijection in which each input bit changes about half the output.
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// 2^64 divided by the golden ratio, made odd: multiples of it are spread evenly.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Four suffice for long halves with ideal round functions; short halves need more.
const ROUNDS: u64 = 8;
/// A few bits more than a tiny dataset needs: on one-bit halves all rounds are affine.
const HALF_BITS_MIN: u32 = 3;
const LEN_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests;
