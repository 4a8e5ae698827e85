//! Values in 8 bits by blocks: a code of a fixed map times the block's scale.
//!
//! ```text
//! scale = max |x|;   code = the nearest to x/scale in the map, the upper one of two as near;   x' = map[code]·scale
//! signed     0, 1 and for i = 0…6 the means of 2ⁱ equal parts of 10ⁱ⁻⁶·[0.1, 1], and their negatives
//! unsigned   0, 1 and for i = 0…6 the means of 2ⁱ⁺¹ such parts
//! ```
//! The dynamic map of bitsandbytes: `create_dynamic_map(signed, max_exponent_bits=7, total_bits=8)` of
//! `bitsandbytes.functional` (Dettmers et al. 2022, arXiv 2110.02861). Near zero its steps shrink by powers of ten, and so
//! does their error; only below 3·10⁻⁷ of the largest (signed) or half of that is a value lost.

use crate::Real;
use crate::isa::vectorized;
use crate::real::sum;

/// Values with one scale.
pub(super) const BLOCK: usize = 256;

/// The numbers that codes stand for, in ascending order.
pub(super) struct Map {
    values: [f32; 256],
    /// Halfway from each to the next; the last has none.
    middles: [f32; 256],
}

static SIGNED: Map = Map::new(true);
static UNSIGNED: Map = Map::new(false);

/// The map with negative values, or without.
pub(super) const fn map(signed: bool) -> &'static Map {
    if signed { &SIGNED } else { &UNSIGNED }
}

impl Map {
    const fn new(signed: bool) -> Self {
        const SIZES: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        let (mut values, mut middles) = ([0.0f32; 256], [f32::INFINITY; 256]);
        let zero = if signed { 127 } else { 0 };
        let (mut at, mut i) = (zero + 1, 0);
        while i < SIZES.len() {
            let parts: usize = if signed { 1 << i } else { 2 << i };
            let mut part = 0;
            while part < parts {
                values[at] = (SIZES[i] * (0.1 + 0.9 * (part as f64 + 0.5) / parts as f64)) as f32;
                if signed {
                    values[2 * zero - at] = -values[at];
                }
                (at, part) = (at + 1, part + 1);
            }
            i += 1;
        }
        values[255] = 1.0;
        let mut code = 0;
        while code < 255 {
            middles[code] = f32::midpoint(values[code], values[code + 1]);
            code += 1;
        }
        Self { values, middles }
    }
}

/// max |x|; NaN where a value is not finite.
pub(super) fn scale<R: Real>(x: &[R]) -> R {
    let mut largest = R::ZERO;
    largest_magnitude(&mut largest, x);
    largest
}

vectorized! {
fn largest_magnitude<R: Real>(to: &mut R, x: &[R]) {
    let size = |x: R| if x < R::ZERO { -x } else { x };
    let larger = |m: R, x: R| if size(x) > m { size(x) } else { m };
    let mut lanes = [R::ZERO; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for (m, x) in lanes.iter_mut().zip(x) {
            *m = larger(*m, *x);
        }
    }
    let largest = lanes.iter().chain(rest).fold(R::ZERO, |m, x| larger(m, *x));
    // 0, but NaN for infinity and NaN.
    *to = largest + sum(x.len(), |i| R::ZERO * x[i]);
}
}

vectorized! {
/// What codes stand for.
pub(super) fn decode<R: Real>(x: &mut [R], codes: &[u8], scale: R, map: &Map) {
    for (x, code) in x.iter_mut().zip(codes) {
        *x = R::from_f32(map.values[usize::from(*code)]) * scale;
    }
}
}

vectorized! {
/// The codes that stand for the nearest numbers; any where the scale is 0.
pub(super) fn encode<R: Real>(codes: &mut [u8], x: &[R], scale: R, map: &Map) {
    /// Searches side by side: one waits for its last comparison only.
    const LANES: usize = 16;
    for (codes, x) in codes.chunks_mut(LANES).zip(x.chunks(LANES)) {
        let (mut values, mut found) = ([R::ZERO; LANES], [0u32; LANES]);
        for (value, x) in values.iter_mut().zip(x) {
            *value = *x / scale;
        }
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            for (found, value) in found.iter_mut().zip(&values) {
                let middle = R::from_f32(map.middles[(*found + half - 1) as usize & 0xff]);
                *found += u32::from(*value >= middle) * half;
            }
        }
        for (code, found) in codes.iter_mut().zip(found) {
            *code = found as u8;
        }
    }
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::Rng;

    /// What `create_dynamic_map` returns, signed and unsigned. It computes in single precision, a few units of the last
    /// place off.
    #[test]
    fn the_maps_are_those_of_bitsandbytes() {
        let lists = include_str!("blocks/bitsandbytes.txt").lines().filter(|line| !line.starts_with('#'));
        let lists: Vec<Vec<f64>> =
            lists.map(|list| list.split(' ').map(|x| x.parse().expect("a number")).collect()).collect();
        assert_eq!(lists.len(), 2);
        for (map, list) in [&SIGNED, &UNSIGNED].into_iter().zip(lists) {
            assert_eq!(list.len(), 256);
            for (value, expected) in map.values.iter().zip(list) {
                assert!((f64::from(*value) - expected).abs() <= 3e-7 * expected.abs(), "{value} {expected}");
            }
            assert!(map.values.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn codes_are_the_nearest() {
        for signed in [true, false] {
            let (map, mut x) = (map(signed), Rng(60).vec::<f64>(BLOCK));
            for (i, x) in x.iter_mut().enumerate() {
                // Of all sizes.
                *x *= 0.3 * 10f64.powi(-(i as i32 % 9));
                *x = if signed { *x } else { x.abs() };
            }
            let (mut codes, mut back) = ([0; BLOCK], [0.0; BLOCK]);
            let scale = scale(&x);
            assert_eq!(scale, x.iter().fold(0.0, |m, x| x.abs().max(m)));
            encode(&mut codes, &x, scale, map);
            decode(&mut back, &codes, scale, map);
            for (x, back) in x.iter().zip(back) {
                let distance = |value: f64| (value * scale - x).abs();
                let nearest = map.values.iter().map(|v| distance(f64::from(*v))).fold(f64::MAX, f64::min);
                assert!((x - back).abs() <= nearest * (1.0 + 1e-12), "{x} {back}");
            }
            // What comes back is stored as it was.
            let mut again = [0; BLOCK];
            encode(&mut again, &back, scale, map);
            assert_eq!(again, codes);
        }
    }

    #[test]
    fn zeros_and_what_is_no_number() {
        let mut back = [1.0f32; 3];
        for signed in [true, false] {
            let mut codes = [9; 3];
            encode(&mut codes, &[0.0f32; 3], scale(&[0.0f32; 3]), map(signed));
            decode(&mut back, &codes, 0.0, map(signed));
            assert_eq!(back, [0.0; 3]);
            for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(scale(&[1.0, strange, 2.0]).is_nan());
            }
        }
    }
}
