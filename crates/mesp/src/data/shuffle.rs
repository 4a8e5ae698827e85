//! The order of rows in an epoch: a function of their number, the seed and the epoch.

/// Rows whose order is kept as a list. Of more, the order is computed row by row and takes no memory.
pub(super) const LISTED: usize = 1 << 16;

/// An order of `n` places.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Fisher and Yates' shuffle of a list.
    Listed(Vec<u32>),
    /// A keyed permutation.
    Keyed { places: usize, keys: [u64; ROUNDS as usize], half: u32 },
}

/// Rounds of the permutation. With four rounds of a random function a Feistel network is a random permutation also to
/// someone who may ask both ways (Luby and Rackoff, 1988); the mixing function stands in for the random one.
const ROUNDS: u32 = 4;

impl Order {
    /// The order in which places were.
    pub(super) fn of(places: usize) -> Self {
        if places <= LISTED {
            return Self::Listed((0..places as u32).collect());
        }
        // Two halves of as many bits that both together count to `places`.
        let half = (usize::BITS - (places - 1).leading_zeros()).div_ceil(2);
        Self::Keyed { places, keys: [0; ROUNDS as usize], half }
    }

    /// Shuffles, whatever the order was.
    pub(super) fn shuffle(&mut self, seed: u64, epoch: usize) {
        let mut random = SplitMix64::new(seed, epoch as u64);
        match self {
            Self::Listed(list) => {
                list.sort_unstable();
                for last in (1..list.len()).rev() {
                    let other = random.below(last as u64 + 1) as usize;
                    list.swap(last, other);
                }
            }
            Self::Keyed { keys, .. } => keys.iter_mut().for_each(|key| *key = random.next()),
        }
    }

    /// What stands at a place.
    pub(super) fn at(&self, place: usize) -> usize {
        match self {
            Self::Listed(list) => list[place] as usize,
            Self::Keyed { places, keys, half } => {
                // A permutation of a power of four; what lies beyond the places is permuted again (cycle walking), so
                // that a permutation of the places remains. Fewer than four turns on average.
                let mut value = place as u64;
                loop {
                    value = feistel(value, keys, *half);
                    if value < *places as u64 {
                        return value as usize;
                    }
                }
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        if let Self::Listed(list) = self { list.capacity() * size_of::<u32>() } else { 0 }
    }
}

fn feistel(value: u64, keys: &[u64], half: u32) -> u64 {
    let mask = (1 << half) - 1;
    let halves = (value >> half, value & mask);
    let (left, right) =
        keys.iter().fold(halves, |(left, right), key| (right, left ^ (mix(right ^ key) & mask)));
    left << half | right
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): a counter through a mixing function.
struct SplitMix64(u64);

impl SplitMix64 {
    fn new(seed: u64, stream: u64) -> Self {
        // Mixed apart, so that neighbouring seeds and epochs do not walk the same counter.
        Self(mix(mix(seed).wrapping_add(stream)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`: the high half of a product, which a remainder by `bound` would not
    /// spread as evenly. The bias, `bound`/2⁶⁴, is far below what rows could show.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_once_in_another_order() {
        for places in [LISTED, LISTED + 1, 65_537, 100_000, 1 << 18, (1 << 18) + 1] {
            let mut order = Order::of(places);
            let mut earlier = Vec::new();
            for (seed, epoch) in [(0, 0), (0, 1), (1, 0)] {
                order.shuffle(seed, epoch);
                let all: Vec<usize> = (0..places).map(|place| order.at(place)).collect();
                let mut sorted = all.clone();
                sorted.sort_unstable();
                assert!(sorted.iter().enumerate().all(|(i, place)| i == *place), "{places}");
                assert!(earlier.iter().all(|other| *other != all));
                earlier.push(all);
            }
        }
    }

    /// In a random order one place in n stays, neighbours are a third of n apart, and the correlation of places with
    /// what stands there is within 4/√n of 0.
    #[test]
    fn a_keyed_order_looks_random() {
        let n = 100_000;
        let mut order = Order::of(n);
        order.shuffle(7, 3);
        let all: Vec<f64> = (0..n).map(|place| order.at(place) as f64).collect();
        let stay = all.iter().enumerate().filter(|(i, at)| *i as f64 == **at).count();
        assert!(stay < 8, "{stay} stay");
        let apart = all.windows(2).map(|w| (w[0] - w[1]).abs()).sum::<f64>() / (n - 1) as f64;
        assert!((apart / n as f64 - 1.0 / 3.0).abs() < 0.005, "{apart}");
        let mean = (n - 1) as f64 / 2.0;
        let variance = ((n * n - 1) as f64) / 12.0;
        let sum = all.iter().enumerate().map(|(i, at)| (i as f64 - mean) * (at - mean)).sum::<f64>();
        let correlation = sum / n as f64 / variance;
        assert!(correlation.abs() < 4.0 / (n as f64).sqrt(), "{correlation}");
    }
}
