//! What attention does with the rows of a tile of scores: softmax as it streams, probabilities, their gradient.
//!
//! Rows are whole vectors long. All of a row is computed, since a loop over a range that begins and ends
//! anywhere leaves most of its work to the slow part of the loop; then what is not seen becomes zero.

use std::ops::Range;

use super::tile::{QUERY_TILE, Task};
use crate::Real;
use crate::isa::vectorized;
use crate::real::sum;

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn hide<R: Real>(s: &mut [R], visible: &Range<usize>, value: R) {
    s[visible.end..].fill(value);
    s[..visible.start].fill(value);
}

/// Sixteen values to one, halves against halves: four steps that wait for each other in place of fifteen.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn fold<R: Real>(lanes: &[R; 16], f: impl Fn(R, R) -> R) -> R {
    let eight: [R; 8] = std::array::from_fn(|i| f(lanes[i], lanes[i + 8]));
    let four: [R; 4] = std::array::from_fn(|i| f(eight[i], eight[i + 4]));
    let two: [R; 2] = std::array::from_fn(|i| f(four[i], four[i + 2]));
    f(two[0], two[1])
}

/// Sixteen interleaved parts of a row, put together by `f`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn parts<R: Real>(lanes: &mut [R; 16], s: &[R], f: impl Fn(R, R) -> R) {
    for s in s.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(s) {
            *lane = f(*lane, *x);
        }
    }
}

vectorized! {
/// The streaming softmax of a tile, `s [rows, stride]`: turns products into exp(c·product − top), updates the rows'
/// top and total, and shrinks what was summed before, `acc [rows, wide]`.
///
/// Step by step over all rows, so that what one row waits for is hidden behind the others.
pub(super) fn online<R: Real>(
    s: &mut [R],
    stride: usize,
    task: &Task,
    keys: &Range<usize>,
    c: R,
    top: &mut [R],
    total: &mut [R],
    acc: &mut [R],
    wide: usize,
) {
    let rows = task.rows.len();
    let (mut lanes, mut shrink) = ([[R::LOWEST; 16]; QUERY_TILE], [R::ONE; QUERY_TILE]);
    let (lanes, shrink) = (&mut lanes[..rows], &mut shrink[..rows]);
    let larger = |a: R, b: R| if b > a { b } else { a };
    for ((r, s), lanes) in s.chunks_exact_mut(stride).enumerate().zip(lanes.iter_mut()) {
        for x in s.iter_mut() {
            *x *= c;
        }
        hide(s, &task.visible(r, keys), R::LOWEST);
        parts(lanes, s, larger);
    }
    for ((lanes, top), shrink) in lanes.iter().zip(top.iter_mut()).zip(shrink.iter_mut()) {
        let new_top = larger(*top, fold(lanes, larger));
        (*shrink, *top) = (*top - new_top, new_top);
    }
    for x in shrink.iter_mut() {
        *x = x.exp();
    }
    for (((r, s), lanes), top) in s.chunks_exact_mut(stride).enumerate().zip(lanes.iter_mut()).zip(top.iter()) {
        for x in s.iter_mut() {
            *x = (*x - *top).exp();
        }
        hide(s, &task.visible(r, keys), R::ZERO);
        *lanes = [R::ZERO; 16];
        parts(lanes, s, |a, b| a + b);
    }
    for ((lanes, total), shrink) in lanes.iter().zip(total.iter_mut()).zip(shrink.iter()) {
        *total = *total * *shrink + fold(lanes, |a, b| a + b);
    }
    for (acc, shrink) in acc.chunks_exact_mut(wide).zip(shrink.iter()) {
        if *shrink != R::ONE {
            for x in acc {
                *x *= *shrink;
            }
        }
    }
}
}

vectorized! {
/// P = exp(c·s − ℓ) of a tile where it is seen, 0 elsewhere. `lse` begins at the first row's, `heads` apart.
pub(super) fn exp_minus<R: Real>(
    s: &mut [R],
    stride: usize,
    task: &Task,
    keys: &Range<usize>,
    c: R,
    lse: &[R],
    heads: usize,
) {
    for (r, s) in s.chunks_exact_mut(stride).enumerate().take(task.rows.len()) {
        let lse = lse[r * heads];
        for x in s.iter_mut() {
            *x = (*x * c - lse).exp();
        }
        hide(s, &task.visible(r, keys), R::ZERO);
    }
}
}

vectorized! {
/// dS = P∘(dP − δ), where dP is. `delta` begins at the first row's, `heads` apart.
pub(super) fn score_gradient<R: Real>(
    ds: &mut [R],
    p: &[R],
    stride: usize,
    rows: usize,
    delta: &[R],
    heads: usize,
) {
    let tile = ds.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).take(rows);
    for (r, (ds, p)) in tile.enumerate() {
        let delta = delta[r * heads];
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = *p * (*ds - delta);
        }
    }
}
}

vectorized! {
/// `st = P∘(c·st)` where the products of a score's tangent are, and each row's sum added to `total`.
pub(super) fn score_tangent<R: Real>(st: &mut [R], p: &[R], stride: usize, c: R, total: &mut [R]) {
    let tile = st.chunks_exact_mut(stride).zip(p.chunks_exact(stride));
    for ((st, p), total) in tile.zip(total) {
        for (st, p) in st.iter_mut().zip(p) {
            *st = *p * (c * *st);
        }
        *total += sum(stride, |i| st[i]);
    }
}
}

vectorized! {
/// `to[i] −= c·x[i]`.
pub(super) fn take<R: Real>(to: &mut [R], x: &[R], c: R) {
    for (to, x) in to.iter_mut().zip(x) {
        *to -= c * *x;
    }
}
}

vectorized! {
/// `out[r] = Σ a[r]·b[r]` over rows of `d`.
pub(super) fn dots<R: Real>(out: &mut [R], a: &[R], b: &[R], d: usize) {
    for ((out, a), b) in out.iter_mut().zip(a.chunks_exact(d)).zip(b.chunks_exact(d)) {
        *out = sum(d, |i| a[i] * b[i]);
    }
}
}

vectorized! {
/// `to[i] = c·from[i]`.
pub(super) fn scaled<R: Real>(to: &mut [R], from: &[R], c: R) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from * c;
    }
}
}

/// [`scaled`] into a row of a matrix that tasks share.
///
/// # Safety
/// `to` is valid for `from.len()` writes that nobody else makes or reads meanwhile.
pub(super) unsafe fn store<R: Real>(to: *mut R, from: &[R], c: R) {
    // SAFETY: the caller's promise.
    scaled(unsafe { std::slice::from_raw_parts_mut(to, from.len()) }, from, c);
}
