//! Random bits by counter: a value is a function of (seed, stream, index), so nothing is stored, nothing drifts,
//! no order of threads matters, and any value can be had again.

/// SplitMix64's finalizer (Steele, Lea & Flood 2014) over the mixed key.
#[must_use]
pub const fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    at(mix(seed).wrapping_add(stream), index)
}

/// The value at a place of a stream of its own.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
pub(crate) const fn at(key: u64, index: u64) -> u64 {
    mix(mix(key).wrapping_add(index))
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "as its callers")]
const fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
