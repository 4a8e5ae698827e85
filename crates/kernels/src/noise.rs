//! Random directions that are computed, not stored: the z of zeroth-order estimates.
//!
//! ```text
//! perturb    to = a·from + c·z
//! perturb_in_place      p ← a·p + c·z
//! perturb_at, perturb_rows      to = a·from + c·z for a part of a tensor
//! z          a function of (seed, step, direction, tensor, element), nothing else;
//!            0 where the value it is added to is larger in size than a bound, if there is one
//! ```
//! Bits come from Philox4x32-10 (Salmon et al. 2011): key = seed, counter = (block, tensor, step, direction).
//! A block gives four words; element `e` takes word `(e / 16) mod 4` of block `16·(e / 64) + e mod 16`, so
//! that sixteen blocks are worked on side by side. Gaussian z: the word's top bit is the sign, the other 31
//! are the tail's probability, through the inverse error function of Giles (2011), single precision. Only
//! plain additions, multiplications and roots: the same bits on every machine.

use crate::compact::{widen_into, widened};
use crate::isa::vectorized;
use crate::par::{Par, rows_per_task};
use crate::random;
use crate::{Real, Values};

/// Values that one task works on.
const CHUNK: usize = 16 * 1024;
/// Elements of sixteen blocks.
const GROUP: usize = 64;

/// How z is distributed; both have mean 0 and variance 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Normal, |z| below 6.3.
    Gaussian,
    /// −1 or 1.
    Rademacher,
}

/// Which direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step.
    pub step: u32,
    /// Number among the step's directions.
    pub direction: u32,
    /// Tensor: each has its own stream.
    pub tensor: u32,
    /// Distribution of z.
    pub distribution: Distribution,
    /// z is 0 where the value that it is added to is larger in size than this; `f32::MAX` for nowhere.
    pub below: f32,
}

/// `to = a·from + c·z`
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn perturb<R: Real>(to: &mut [R], from: &[R], [a, c]: [f64; 2], noise: Noise, par: Par<'_>) {
    assert_eq!(to.len(), from.len(), "perturb: lengths");
    perturb_at(to, Values::Full(from), [a, c], noise, 0, par);
}

/// `p ← a·p + c·z`
pub fn perturb_in_place<R: Real>(p: &mut [R], a: f64, c: f64, noise: Noise, par: Par<'_>) {
    par.chunks(p, CHUNK, |i, p| drift_chunk(p, R::from_f64(a), R::from_f64(c), noise, i * CHUNK));
}

/// [`perturb`] from values in bf16.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn perturb_bf16<R: Real>(to: &mut [R], from: &[u16], [a, c]: [f64; 2], noise: Noise, par: Par<'_>) {
    assert_eq!(to.len(), from.len(), "perturb: lengths");
    perturb_at(to, Values::Bf16(from), [a, c], noise, 0, par);
}

/// [`perturb`] for values of a tensor from the `first` on, wherever a tensor is cut.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub fn perturb_at<R: Real>(
    to: &mut [R],
    from: Values<'_, R>,
    [a, c]: [f64; 2],
    noise: Noise,
    first: usize,
    par: Par<'_>,
) {
    assert_eq!(to.len(), from.len(), "perturb: lengths");
    par.chunks(to, CHUNK, |i, to| {
        let from = from.skip(i * CHUNK);
        perturb_chunk(to, from, R::from_f64(a), R::from_f64(c), noise, first + i * CHUNK);
    });
}

/// `y[t] = table[tokens[t]] + c·z` for a table whose first value is the `first` of its tensor; without noise the
/// rows as they are.
///
/// # Panics
/// When shapes disagree or a token is not in the table.
#[track_caller]
pub fn perturb_rows<R: Real>(
    y: &mut [R],
    table: Values<'_, R>,
    tokens: &[u32],
    d: usize,
    moved: Option<(f64, Noise)>,
    first: usize,
    par: Par<'_>,
) {
    assert_eq!(y.len(), tokens.len() * d, "perturb_rows: out");
    let rows = rows_per_task(d);
    par.chunks(y, rows * d, |i, y| {
        for (y, token) in y.chunks_exact_mut(d).zip(&tokens[i * rows..]) {
            let at = *token as usize * d;
            let row = table.skip(at);
            match moved {
                Some((c, noise)) => perturb_chunk(y, row, R::ONE, R::from_f64(c), noise, first + at),
                None => read_into(y, row),
            }
        }
    });
}

/// As many values as `to` has.
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn read_into<R: Real>(to: &mut [R], from: Values<'_, R>) {
    match from {
        Values::Full(from) => to.copy_from_slice(&from[..to.len()]),
        Values::Bf16(from) => widen_into(to, &from[..to.len()]),
    }
}

/// [`perturb_in_place`] of values in bf16, which are rounded at random, so that steps far below a value's last digit are
/// right on average.
pub fn perturb_in_place_bf16(p: &mut [u16], a: f64, c: f64, noise: Noise, par: Par<'_>) {
    let step = u64::from(noise.step) << 32 | u64::from(noise.direction);
    let key = random::bits(noise.seed, step, u64::from(noise.tensor));
    par.chunks(p, CHUNK, |i, p| {
        drift_halves(p, a as f32, c as f32, noise, i * CHUNK, key);
    });
}

vectorized! {
fn drift_chunk<R: Real>(p: &mut [R], a: R, c: R, noise: Noise, first: usize) {
    moved(p, a, c, noise, first);
}
}

vectorized! {
fn perturb_chunk<R: Real>(to: &mut [R], from: Values<'_, R>, a: R, c: R, noise: Noise, first: usize) {
    read_into(to, from);
    moved(to, a, c, noise, first);
}
}

vectorized! {
fn drift_halves<R: Real>(p: &mut [u16], a: R, c: R, noise: Noise, first: usize, key: u64) {
    widened(p, first, key, |at, p: &mut [R]| moved(p, a, c, noise, first + at));
}
}

#[allow(clippy::inline_always, reason = "it must vectorize inside its callers")]
#[inline(always)]
fn moved<R: Real>(p: &mut [R], a: R, c: R, noise: Noise, first: usize) {
    // Up to where a group begins, then whole groups.
    let inside = first % GROUP;
    let (head, rest) = p.split_at_mut(if inside == 0 { 0 } else { (GROUP - inside).min(p.len()) });
    let mut z = [0.0; GROUP];
    if inside > 0 {
        group(&mut z, noise, first / GROUP);
        add(head, &z[inside..], [a, c], noise.below);
    }
    for (i, p) in rest.chunks_mut(GROUP).enumerate() {
        group(&mut z, noise, first.div_ceil(GROUP) + i);
        add(p, &z, [a, c], noise.below);
    }
}

#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn add<R: Real>(p: &mut [R], z: &[f32], [a, c]: [R; 2], below: f32) {
    let below = R::from_f32(below);
    for (p, z) in p.iter_mut().zip(z) {
        let moves = *p <= below && *p >= -below;
        *p = a * *p + if moves { c * R::from_f32(*z) } else { R::ZERO };
    }
}

/// z of the elements `64·index ..`.
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn group(z: &mut [f32; GROUP], noise: Noise, index: usize) {
    let mut words = [[0u32; 16]; 4];
    for (l, word) in words[0].iter_mut().enumerate() {
        *word = (index * 16 + l) as u32;
    }
    words[1] = [noise.tensor; 16];
    words[2] = [noise.step; 16];
    words[3] = [noise.direction; 16];
    philox(&mut words, [noise.seed as u32, (noise.seed >> 32) as u32]);
    for (z, words) in z.as_chunks_mut::<16>().0.iter_mut().zip(&words) {
        for (z, &word) in z.iter_mut().zip(words) {
            *z = match noise.distribution {
                Distribution::Gaussian => normal(word),
                Distribution::Rademacher => f32::from_bits(1f32.to_bits() | (word & 0x8000_0000)),
            };
        }
    }
}

/// Ten rounds on sixteen counters.
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the lanes of four arrays go together")]
fn philox(c: &mut [[u32; 16]; 4], mut key: [u32; 2]) {
    let split = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        for l in 0..16 {
            let (high0, low0) = split(0xD251_1F53, c[0][l]);
            let (high1, low1) = split(0xCD9E_8D57, c[2][l]);
            let (c1, c3) = (c[1][l], c[3][l]);
            c[0][l] = high1 ^ c1 ^ key[0];
            c[1][l] = low1;
            c[2][l] = high0 ^ c3 ^ key[1];
            c[3][l] = low0;
        }
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
}

/// Standard normal of a word: √2·erfinv(1 − v) with v = 2·P(|z| larger), and the sign.
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn normal(word: u32) -> f32 {
    const STEP: f32 = 1.0 / 2_147_483_648.0;
    let tail = word & 0x7FFF_FFFF;
    // Both from the integer, so that neither end loses digits.
    let v = (tail as f32 + 0.5) * STEP;
    let x = ((0x7FFF_FFFF - tail) as f32 + 0.5) * STEP;
    let w = -ln(v * (1.0 + x));
    let (near, far) = (w - 2.5, w.sqrt() - 3.0);
    let p = poly(
        near,
        [
            2.810_226_4e-8,
            3.432_739_4e-7,
            -3.523_387_7e-6,
            -4.391_506_5e-6,
            2.185_808_7e-4,
            -1.253_725e-3,
            -4.177_681_6e-3,
            2.466_407_3e-1,
            1.501_409_4,
        ],
    );
    let q = poly(
        far,
        [
            -2.002_142_6e-4,
            1.009_505_6e-4,
            1.349_343_2e-3,
            -3.673_428_4e-3,
            5.739_507_7e-3,
            -7.622_461_3e-3,
            9.438_870_5e-3,
            1.001_674,
            2.832_976_8,
        ],
    );
    let z = if w < 5.0 { p } else { q } * x * std::f32::consts::SQRT_2;
    f32::from_bits(z.to_bits() | (word & 0x8000_0000))
}

#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn poly(x: f32, coefficients: [f32; 9]) -> f32 {
    let mut p = coefficients[0];
    for c in &coefficients[1..] {
        p = p * x + c;
    }
    p
}

/// Natural logarithm of a positive normal number: x = 2ᵏ·m with √½ ≤ m < √2, ln m by the polynomial of the
/// Cephes library (S. Moshier, `logf`).
#[allow(clippy::inline_always, reason = "it must vectorize inside its caller's loop")]
#[inline(always)]
fn ln(x: f32) -> f32 {
    let shifted = x.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let k = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(std::f32::consts::FRAC_1_SQRT_2.to_bits()));
    let f = m - 1.0;
    let p = poly(
        f,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let square = f * f;
    k * 0.693_359_4 + (f * square * p - k * 2.121_944_4e-4 - 0.5 * square + f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;

    const NOISE: Noise = Noise {
        seed: 7,
        step: 3,
        direction: 1,
        tensor: 5,
        distribution: Distribution::Gaussian,
        below: f32::MAX,
    };

    fn draw(n: usize, noise: Noise) -> Vec<f64> {
        let mut z = vec![0.0; n];
        perturb_in_place(&mut z, 1.0, 1.0, noise, Par::serial());
        z
    }

    /// The vectors published with the generator's reference implementation.
    #[test]
    fn philox_gives_the_published_words() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            let mut words = counter.map(|w: u32| [w; 16]);
            philox(&mut words, key);
            assert_eq!(words.map(|w| w[9]), expected);
        }
    }

    #[test]
    fn quantiles_are_the_normal_ones() {
        // Upper tails and where the standard normal leaves them.
        let known = [
            (0.25, 0.674_489_75),
            (0.158_655_253_9, 1.0),
            (0.025, 1.959_963_985),
            (1.349_898_031_6e-3, 3.0),
            (3.167_124_183e-5, 4.0),
            (2.866_515_718e-7, 5.0),
        ];
        for (tail, z) in known {
            let word = (2.0 * tail * 2_147_483_648.0) as u32;
            assert!((f64::from(normal(word)) - z).abs() < 2e-3 * z, "{tail}: {}", normal(word));
            assert_eq!(normal(word | 0x8000_0000), -normal(word));
        }
        assert!(normal(0) > 6.0 && normal(0) < 6.4 && normal(0x7FFF_FFFF) >= 0.0);
    }

    #[test]
    fn ln_is_within_two_ulp_of_one() {
        let mut x = 1e-10f32;
        while x < 1.0 {
            let exact = f64::from(x).ln();
            let wrong = (f64::from(ln(x)) - exact).abs();
            assert!(wrong <= 2.0 * f64::from(f32::EPSILON) * exact.abs().max(0.01), "{x}: {wrong}");
            x *= 1.000_37;
        }
    }

    #[test]
    fn moments() {
        let n = 200_000;
        for distribution in [Distribution::Gaussian, Distribution::Rademacher] {
            let z = draw(n, Noise { distribution, ..NOISE });
            let moment = |k: i32| z.iter().map(|z| z.powi(k)).sum::<f64>() / n as f64;
            let fourth = if distribution == Distribution::Gaussian { 3.0 } else { 1.0 };
            // Standard errors √(var/n) with var of z, z², z⁴: 1, 2, 96; four of each.
            let error = 4.0 / (n as f64).sqrt();
            assert!(moment(1).abs() < error, "{distribution:?} {}", moment(1));
            assert!((moment(2) - 1.0).abs() < error * 2f64.sqrt(), "{distribution:?} {}", moment(2));
            assert!((moment(4) - fourth).abs() < error * 96f64.sqrt(), "{distribution:?} {}", moment(4));
        }
    }

    #[test]
    fn streams_differ_and_neighbours_are_uncorrelated() {
        let n = 50_000;
        let others = [
            Noise { seed: 8, ..NOISE },
            Noise { step: 4, ..NOISE },
            Noise { direction: 2, ..NOISE },
            Noise { tensor: 6, ..NOISE },
            Noise { seed: 7 << 32, ..NOISE },
        ];
        let z = draw(n, NOISE);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n as f64;
        let limit = 4.0 / (n as f64).sqrt();
        for other in others {
            assert!(dot(&z, &draw(n, other)).abs() < limit, "{other:?}");
        }
        for lag in [1, 4, 16, 64] {
            assert!(dot(&z[lag..], &z[..n - lag]).abs() < limit, "lag {lag}");
        }
    }

    #[test]
    fn perturb_is_from_plus_c_z_for_any_cut() {
        let n = 2 * CHUNK + 77;
        let from: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
        let z = draw(n, NOISE);
        let mut to = vec![0.0; n];
        let pool = Threads::new(3).expect("threads");
        perturb(&mut to, &from, [1.0, -0.5], NOISE, Par::on(&pool));
        assert!((0..n).all(|i| to[i] == from[i] + -0.5 * z[i]));
        let mut p = from.clone();
        perturb_in_place(&mut p, 0.9, 2.0, NOISE, Par::serial());
        assert!((0..n).all(|i| p[i] == 0.9 * from[i] + 2.0 * z[i]));
        // A shorter tensor begins alike.
        assert_eq!(draw(33, NOISE), z[..33]);
    }

    /// A part has the values that the whole has there, wherever it begins, and from bf16 as from what it stands for.
    #[test]
    fn parts_are_those_of_the_whole() {
        let n = 3 * CHUNK;
        let halves: Vec<u16> = (0..n).map(|i| crate::compact::round((i as f32).sin())).collect();
        let mut from = vec![0f32; n];
        widen_into(&mut from, &halves);
        let mut whole = vec![0f32; n];
        perturb(&mut whole, &from, [0.5, 0.1], NOISE, Par::serial());
        for (first, len) in [(0, 5), (1, 1), (63, 2), (64, 64), (100, CHUNK + 300), (7, 40)] {
            let mut part = vec![0f32; len];
            let range = first..first + len;
            for values in [Values::Full(&from[range.clone()]), Values::Bf16(&halves[range.clone()])] {
                perturb_at(&mut part, values, [0.5, 0.1], NOISE, first, Par::serial());
                assert_eq!(part, whole[range.clone()], "{range:?}");
            }
        }
        let (d, first) = (37, 5);
        let tokens = [3u32, 0, 200, 3];
        perturb(&mut whole, &from, [1.0, 0.1], NOISE, Par::serial());
        let mut rows = vec![0f32; tokens.len() * d];
        let table = Values::Bf16(&halves[first..]);
        perturb_rows(&mut rows, table, &tokens, d, Some((0.1, NOISE)), first, Par::serial());
        for (row, t) in rows.chunks(d).zip(tokens) {
            assert_eq!(row, &whole[first + t as usize * d..][..d], "{t}");
        }
        perturb_rows(&mut rows, table, &tokens, d, None, first, Par::serial());
        assert_eq!(rows[..d], from[first + 3 * d..][..d]);
    }

    /// Values that are larger than the bound stay, but for `a`.
    #[test]
    fn only_values_below_the_bound_move() {
        let n = CHUNK + 77;
        let from: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
        let z: Vec<f32> = draw(n, NOISE).iter().map(|z| *z as f32).collect();
        let sparse = Noise { below: 0.25, ..NOISE };
        let mut to = vec![0.0; n];
        perturb(&mut to, &from, [0.0, 1.0], sparse, Par::serial());
        let mut p = from.clone();
        perturb_in_place(&mut p, 1.0, 0.5, sparse, Par::serial());
        for i in 0..n {
            let z = if from[i].abs() <= 0.25 { z[i] } else { 0.0 };
            assert_eq!((to[i], p[i]), (z, from[i] + 0.5 * z), "{i}");
        }
        let moved = to.iter().filter(|t| **t != 0.0).count() as f64 / n as f64;
        assert!((moved - 2.0 * 0.25f64.asin() / std::f64::consts::PI).abs() < 0.01, "{moved}");
    }

    /// A step of a tenth of the last digit moves a tenth of the values by a digit.
    #[test]
    fn small_steps_in_bf16_are_right_on_average() {
        let n = 40_000;
        let one = 0x3F80u16;
        let mut p = vec![one; n];
        let sign = Noise { distribution: Distribution::Rademacher, ..NOISE };
        perturb_in_place_bf16(&mut p, 1.0, 0.1 / 128.0, sign, Par::serial());
        let z = draw(n, sign);
        let mut wide = vec![0.0; n];
        perturb_bf16(&mut wide, &p, [1.0, 0.0], sign, Par::serial());
        let along: f64 = wide.iter().zip(&z).map(|(w, z)| (w - 1.0) * z).sum::<f64>() / n as f64;
        // Digits are 1/128 above 1 and half of it below.
        let expected = 0.1 / 128.0;
        assert!((along / expected - 1.0).abs() < 0.1, "{along} {expected}");
    }

    /// So that a log of one machine is replayed on another. The bits come from `golden/noise.py`.
    #[test]
    fn bits_are_pinned() {
        let mut z = vec![0f32; 1001];
        perturb_in_place(&mut z, 1.0, 1.0, NOISE, Par::serial());
        let pinned = [
            (0, 3_202_646_108),
            (1, 3_205_734_304),
            (2, 3_211_951_320),
            (17, 3_195_884_353),
            (35, 1_062_678_167),
            (63, 3_221_382_787),
            (64, 1_049_703_510),
            (1000, 3_211_282_459),
        ];
        for (e, bits) in pinned {
            assert_eq!(z[e].to_bits(), bits, "element {e}");
        }
    }
}
