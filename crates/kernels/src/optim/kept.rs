//! How the values of an update are stored, and how they come to be numbers and go back.
//!
//! ```text
//! full          the numbers themselves
//! random        bf16; what became of it is rounded up or down at random, right on average
//! compensated   two bf16: x = values + rest; values ← nearest(x), rest ← nearest(x − values)
//! blocks        8 bits and a scale for 256 values (`blocks.rs`)
//! ```
//! An update asks for a stretch of each of its operands: what is not stored in full is brought into a room on the
//! stack, stepped there, and put back.

use std::ops::Range;

use super::CHUNK;
use super::blocks::{self, BLOCK};
use crate::Real;
use crate::compact::{round, round_at_random, wide, widen_into};
use crate::isa::vectorized;
use crate::par::{Par, Pieces};

/// Values that are brought into a room at a time.
pub(super) const STRETCH: usize = BLOCK;

/// A parameter, or some rows of one, with how it is rounded.
#[derive(Debug)]
pub enum ParamMut<'a, R> {
    /// As it is computed with.
    Full(&'a mut [R]),
    /// In bf16, rounded up or down at random, so that it is right on average: the nearest bf16 would lose every update
    /// below half of its last place.
    Random {
        /// The parameter.
        values: &'a mut [u16],
        /// Names the random numbers: each is a function of it and of the value's place.
        key: u64,
        /// The place of the first value in its tensor.
        first: usize,
    },
    /// In bf16, rounded to the nearest; what is cut off is kept and added before the next update (Kahan 1965).
    Compensated {
        /// The parameter.
        values: &'a mut [u16],
        /// What was cut off, in bf16; as many values.
        rest: &'a mut [u16],
    },
}

impl<R> ParamMut<'_, R> {
    /// Values.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Full(values) => values.len(),
            Self::Random { values, .. } | Self::Compensated { values, .. } => values.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A moment, with how it is stored.
#[derive(Debug)]
pub enum MomentMut<'a, R> {
    /// As it is computed with.
    Full(&'a mut [R]),
    /// In bf16, rounded at random: the nearest would lose every change below half of its last place, so that with
    /// β₂ = 0.999 a second moment would stand still.
    Bf16 {
        /// The moment.
        values: &'a mut [u16],
        /// As of [`ParamMut::Random`].
        key: u64,
        /// As of [`ParamMut::Random`].
        first: usize,
    },
    /// In 8 bits, by blocks of 256 values, which are counted from the first of these: a part of a tensor begins at a
    /// multiple of 256. A value is its code's, of the dynamic map of bitsandbytes, times its block's scale, the
    /// largest magnitude there (Dettmers et al. 2022); zero bytes with zero scales are zeros. A value that is not
    /// finite makes its block NaN.
    Blocks {
        /// A byte a value.
        codes: &'a mut [u8],
        /// One a block, the last one shorter.
        scales: &'a mut [R],
        /// Whether the map is the one with negative values, for a first moment; a second has none.
        signed: bool,
    },
}

impl<R> MomentMut<'_, R> {
    /// Values.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Full(values) => values.len(),
            Self::Bf16 { values, .. } => values.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An operand of an update, however it is stored.
pub(super) enum Kept<'a, R> {
    Full(&'a mut [R]),
    Random { values: &'a mut [u16], key: u64, first: usize },
    Compensated { values: &'a mut [u16], rest: &'a mut [u16] },
    Blocks { codes: &'a mut [u8], scales: &'a mut [R], signed: bool },
}

impl<'a, R> From<ParamMut<'a, R>> for Kept<'a, R> {
    #[track_caller]
    fn from(p: ParamMut<'a, R>) -> Self {
        match p {
            ParamMut::Full(values) => Self::Full(values),
            ParamMut::Random { values, key, first } => Self::Random { values, key, first },
            ParamMut::Compensated { values, rest } => {
                assert_eq!(values.len(), rest.len(), "what was cut off of each value");
                Self::Compensated { values, rest }
            }
        }
    }
}

impl<'a, R> From<MomentMut<'a, R>> for Kept<'a, R> {
    #[track_caller]
    fn from(m: MomentMut<'a, R>) -> Self {
        match m {
            MomentMut::Full(values) => Self::Full(values),
            MomentMut::Bf16 { values, key, first } => Self::Random { values, key, first },
            MomentMut::Blocks { codes, scales, signed } => {
                assert_eq!(codes.len().div_ceil(BLOCK), scales.len(), "a scale for each block");
                Self::Blocks { codes, scales, signed }
            }
        }
    }
}

impl<R: Real> Kept<'_, R> {
    fn len(&self) -> usize {
        match self {
            Self::Full(values) => values.len(),
            Self::Random { values, .. } | Self::Compensated { values, .. } => values.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    /// Some values to compute with: themselves, or in `room`, from where [`Kept::keep`] puts them back.
    pub(super) fn lend<'b>(&'b mut self, range: Range<usize>, room: &'b mut [R; STRETCH]) -> &'b mut [R] {
        if let Self::Full(values) = self {
            return &mut values[range];
        }
        let room = &mut room[..range.len()];
        match self {
            Self::Full(_) => {}
            Self::Random { values, .. } => widen(room, &values[range]),
            Self::Compensated { values, rest } => add_halves(room, &values[range.clone()], &rest[range]),
            Self::Blocks { codes, scales, signed } => {
                let scale = scales[range.start / BLOCK];
                blocks::decode(room, &codes[range], scale, blocks::map(*signed));
            }
        }
        room
    }

    /// Stores what became of them.
    pub(super) fn keep(&mut self, range: Range<usize>, room: &[R; STRETCH]) {
        let len = range.len();
        match self {
            Self::Full(_) => {}
            Self::Random { values, key, first } => {
                let at = *first + range.start;
                put_at_random(&mut values[range], &room[..len], *key, at);
            }
            Self::Compensated { values, rest } => {
                split(&mut values[range.clone()], &mut rest[range], &room[..len]);
            }
            Self::Blocks { codes, scales, signed } => {
                let scale = &mut scales[range.start / BLOCK];
                *scale = blocks::scale(&room[..len]);
                blocks::encode(&mut codes[range], &room[..len], *scale, blocks::map(*signed));
            }
        }
    }
}

vectorized! {
fn widen<R: Real>(x: &mut [R], from: &[u16]) {
    widen_into(x, from);
}
}

vectorized! {
fn put_at_random<R: Real>(to: &mut [u16], x: &[R], key: u64, first: usize) {
    round_at_random(to, x, key, first);
}
}

vectorized! {
fn add_halves<R: Real>(x: &mut [R], values: &[u16], rest: &[u16]) {
    for ((x, value), rest) in x.iter_mut().zip(values).zip(rest) {
        *x = R::from_f32(wide(*value)) + R::from_f32(wide(*rest));
    }
}
}

vectorized! {
fn split<R: Real>(values: &mut [u16], rest: &mut [u16], x: &[R]) {
    for ((value, rest), x) in values.iter_mut().zip(rest).zip(x) {
        *value = round(x.to_f64() as f32);
        *rest = round((*x - R::from_f32(wide(*value))).to_f64() as f32);
    }
}
}

/// An operand that tasks take pieces of.
pub(super) enum Cut<R> {
    Full(Pieces<R>),
    Random { values: Pieces<u16>, key: u64, first: usize },
    Compensated { values: Pieces<u16>, rest: Pieces<u16> },
    Blocks { codes: Pieces<u8>, scales: Pieces<R>, signed: bool },
}

impl<R: Real> Cut<R> {
    pub(super) fn new(kept: Kept<'_, R>) -> Self {
        match kept {
            Kept::Full(values) => Self::Full(Pieces::new(values)),
            Kept::Random { values, key, first } => Self::Random { values: Pieces::new(values), key, first },
            Kept::Compensated { values, rest } => {
                Self::Compensated { values: Pieces::new(values), rest: Pieces::new(rest) }
            }
            Kept::Blocks { codes, scales, signed } => {
                Self::Blocks { codes: Pieces::new(codes), scales: Pieces::new(scales), signed }
            }
        }
    }

    /// The `i`-th piece of `chunk` values, the last one shorter.
    ///
    /// # Safety
    /// As [`Pieces::piece`].
    pub(super) unsafe fn piece(&self, i: usize, chunk: usize) -> Kept<'_, R> {
        // SAFETY: the caller's promise, for each of the slices.
        unsafe {
            match self {
                Self::Full(values) => Kept::Full(values.piece(i, chunk)),
                Self::Random { values, key, first } => {
                    Kept::Random { values: values.piece(i, chunk), key: *key, first: first + i * chunk }
                }
                Self::Compensated { values, rest } => {
                    Kept::Compensated { values: values.piece(i, chunk), rest: rest.piece(i, chunk) }
                }
                Self::Blocks { codes, scales, signed } => {
                    debug_assert!(chunk.is_multiple_of(BLOCK), "pieces are whole blocks");
                    let (codes, scales) = (codes.piece(i, chunk), scales.piece(i, chunk / BLOCK));
                    Kept::Blocks { codes, scales, signed: *signed }
                }
            }
        }
    }
}

/// Calls `step(at, values)` for stretches of operands of one length, which begin at value `at`.
///
/// # Panics
/// When lengths differ.
#[track_caller]
pub(super) fn stepped<R: Real, const N: usize>(
    kept: [Kept<'_, R>; N],
    step: impl Fn(usize, [&mut [R]; N]) + Sync,
    par: Par<'_>,
) {
    let len = kept.first().map_or(0, Kept::len);
    assert!(kept.iter().all(|kept| kept.len() == len), "operands of an update: lengths");
    let full = kept.iter().all(|kept| matches!(kept, Kept::Full(_)));
    let (stretch, cut) = (if full { CHUNK } else { STRETCH }, kept.map(Cut::new));
    par.tasks(len.div_ceil(CHUNK), |task, _| {
        // SAFETY: chunk `task` of each operand belongs to this task alone.
        let mut pieces = cut.each_ref().map(|cut| (unsafe { cut.piece(task, CHUNK) }, [R::ZERO; STRETCH]));
        let first = task * CHUNK;
        let len = CHUNK.min(len - first);
        for start in (0..len).step_by(stretch) {
            let range = start..(start + stretch).min(len);
            step(first + start, pieces.each_mut().map(|(kept, room)| kept.lend(range.clone(), room)));
            for (kept, room) in &mut pieces {
                kept.keep(range.clone(), room);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Threads;
    use crate::test_util::Rng;

    /// x, x − nearest(x) and so on by the crate `half`; what two bf16 hold is within 2⁻¹⁷ of x.
    #[test]
    fn two_halves_are_a_value() {
        let x: Vec<f32> = Rng(50).vec(700);
        let (mut values, mut rest) = (vec![0u16; 700], vec![0u16; 700]);
        let set = |values: &mut [u16], rest: &mut [u16]| {
            let p = ParamMut::Compensated { values, rest };
            stepped([p.into()], |at, [p]| p.copy_from_slice(&x[at..][..p.len()]), Par::serial());
        };
        set(&mut values, &mut rest);
        for ((x, value), rest) in x.iter().zip(&values).zip(&rest) {
            let expected = half::bf16::from_f32(*x);
            assert_eq!(*value, expected.to_bits());
            assert_eq!(*rest, half::bf16::from_f32(x - expected.to_f32()).to_bits());
            assert!((wide(*value) + wide(*rest) - x).abs() <= x.abs() / 131_072.0);
        }
        let (again, kept) = (values.clone(), rest.clone());
        let p = ParamMut::Compensated { values: &mut values, rest: &mut rest };
        stepped([Kept::<f32>::from(p)], |_, [_]| (), Par::serial());
        assert_eq!((values, rest), (again, kept), "nothing is lost by looking at it");
    }

    #[test]
    fn places_of_random_numbers_are_those_of_the_tensor() {
        let x: Vec<f32> = Rng(51).vec(40_000);
        let put = |values: &mut [u16], at: usize, par: Par<'_>| {
            let p = ParamMut::Random { values, key: 3, first: at };
            stepped([p.into()], |i, [p]| p.copy_from_slice(&x[at + i..][..p.len()]), par);
        };
        let (mut whole, mut parts, mut threads) = (vec![0; 40_000], vec![0; 40_000], vec![0; 40_000]);
        put(&mut whole, 0, Par::serial());
        put(&mut parts[..777], 0, Par::serial());
        put(&mut parts[777..], 777, Par::serial());
        put(&mut threads, 0, Par::on(&Threads::new(3).expect("threads")));
        assert!(whole == parts && whole == threads);
    }
}
