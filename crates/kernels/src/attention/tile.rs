//! The tiles that attention's passes share: which rows see which keys, scores, probabilities, dS.

use std::ops::Range;

use super::{AttentionShape, ProbsAt};
use crate::Real;
use crate::isa::vectorized;
use crate::matmul::{Init, Lhs, Out, Rhs, matmul_scratch, serial};
use crate::par::{Par, Pieces};
use crate::real::{maximum, sum};

/// Queries per tile: a multiple of the microkernel's height.
const QUERY_TILE: usize = 48;

/// Values of scratch for a number of threads.
pub fn attention_scratch(threads: usize, head_dim: usize, key_tile: usize) -> usize {
    threads * per_thread(head_dim, key_tile)
}

fn per_thread(head_dim: usize, key_tile: usize) -> usize {
    let tall = QUERY_TILE.max(key_tile);
    matmul_scratch(1) + 2 * QUERY_TILE * key_tile + 2 * tall * head_dim + 2 * QUERY_TILE
}

/// One thread's scratch, taken apart.
pub(super) struct Tiles<'a, R> {
    /// Packed panel of a product.
    pub(super) panel: &'a mut [R],
    /// Scores, then probabilities, `[queries, keys]`.
    pub(super) s: &'a mut [R],
    /// dS, `[queries, keys]`.
    pub(super) ds: &'a mut [R],
    /// The output that grows, `[rows, D]`.
    pub(super) acc: &'a mut [R],
    /// A second one.
    pub(super) acc2: &'a mut [R],
    /// Running maximum per query.
    pub(super) top: &'a mut [R],
    /// Running sum per query.
    pub(super) total: &'a mut [R],
}

impl<'a, R> Tiles<'a, R> {
    fn new(scratch: &'a mut [R], head_dim: usize, key_tile: usize) -> Self {
        let tall = QUERY_TILE.max(key_tile);
        let (panel, rest) = scratch.split_at_mut(matmul_scratch(1));
        let (s, rest) = rest.split_at_mut(QUERY_TILE * key_tile);
        let (ds, rest) = rest.split_at_mut(QUERY_TILE * key_tile);
        let (acc, rest) = rest.split_at_mut(tall * head_dim);
        let (acc2, rest) = rest.split_at_mut(tall * head_dim);
        let (top, total) = rest.split_at_mut(QUERY_TILE);
        Self { panel, s, ds, acc, acc2, top, total }
    }
}

/// A tile of queries of one head of one sequence.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) head: usize,
    /// Rows of q, o, ℓ.
    pub(super) rows: Range<usize>,
    /// The first row's place in its sequence of queries.
    pub(super) first: usize,
    /// Keys before the first query: keys − queries of the sequence.
    shift: usize,
    /// The sequence's first row of k and v.
    keys_from: usize,
    /// The sequence's keys.
    pub(super) keys_len: usize,
    /// Where the sequence's probabilities begin within a head.
    pub(super) probs_at: usize,
    window: usize,
}

impl Task {
    fn new(shape: AttentionShape<'_>, sequence: usize, head: usize, first: usize) -> Self {
        let (q0, q1) = (shape.queries[sequence], shape.queries[sequence + 1]);
        let (k0, k1) = (shape.keys[sequence], shape.keys[sequence + 1]);
        let rows = q0 + first..(q0 + first + QUERY_TILE).min(q1);
        let probs_at = super::probs_len(&shape.queries[..=sequence]);
        let shift = (k1 - k0) - (q1 - q0);
        let window = shape.window;
        Self { head, rows, first, shift, keys_from: k0, keys_len: k1 - k0, probs_at, window }
    }

    /// The tiles of queries of a head that see any of `keys`.
    pub(super) fn tiles_that_see(
        shape: AttentionShape<'_>,
        sequence: usize,
        head: usize,
        keys: &Range<usize>,
    ) -> impl Iterator<Item = Self> {
        let (start, end) = (keys.start, keys.end);
        let queries = shape.queries[sequence + 1] - shape.queries[sequence];
        let tiles = queries.div_ceil(QUERY_TILE);
        (0..tiles)
            .map(move |t| Self::new(shape, sequence, head, t * QUERY_TILE))
            .filter(move |t| t.reach() > start && t.earliest(0) < end)
    }

    /// How many keys the tile's last query sees.
    fn reach(&self) -> usize {
        self.shift + self.first + self.rows.len()
    }

    /// The first key that row `r` of the tile sees.
    fn earliest(&self, r: usize) -> usize {
        (self.shift + self.first + r + 1).saturating_sub(self.window)
    }

    /// Key tiles from the first that the window reaches up to the diagonal.
    pub(super) fn key_tiles(&self, tile: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, end) = (self.earliest(0) / tile * tile, self.reach());
        (start..end).step_by(tile).map(move |from| from..(from + tile).min(end))
    }

    /// Key tiles of the whole sequence.
    pub(super) fn all_key_tiles(&self, tile: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = self.keys_len;
        (0..end).step_by(tile).map(move |from| from..(from + tile).min(end))
    }

    /// Which of `keys` row `r` of the tile sees, counted from the first of them.
    pub(super) fn visible(&self, r: usize, keys: &Range<usize>) -> Range<usize> {
        let within = |key: usize| key.saturating_sub(keys.start).min(keys.len());
        within(self.earliest(r))..within(self.shift + self.first + r + 1)
    }
}

/// What all tiles of a pass read.
pub(super) struct Work<'a, R> {
    shape: AttentionShape<'a>,
    q: &'a [R],
    k: &'a [R],
    v: &'a [R],
    scratch: Pieces<R>,
}

impl<'a, R: Real> Work<'a, R> {
    #[track_caller]
    pub(super) fn new(
        shape: AttentionShape<'a>,
        [q, k, v]: [&'a [R]; 3],
        scratch: &'a mut [R],
        par: Par<'_>,
    ) -> Self {
        let AttentionShape { heads, kv_heads, head_dim, queries, keys, key_tile, window, .. } = shape;
        assert!(window > 0, "attention: a window of no keys");
        assert!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "attention: {heads} heads over {kv_heads} key heads"
        );
        assert!(queries.len() == keys.len() && !queries.is_empty(), "attention: offsets");
        for (q, k) in queries.windows(2).zip(keys.windows(2)) {
            assert!(
                q[0] <= q[1] && k[0] <= k[1] && q[1] - q[0] <= k[1] - k[0],
                "attention: a sequence's offsets"
            );
        }
        let (n, m) = (queries[queries.len() - 1], keys[keys.len() - 1]);
        assert!(q.len() >= n * shape.q_cols(), "attention: q is too short for {n} rows");
        assert!(
            k.len() >= m * shape.kv_cols() && v.len() == k.len(),
            "attention: k, v are too short for {m} rows"
        );
        let need = attention_scratch(par.threads(), head_dim, key_tile);
        assert!(scratch.len() >= need, "attention: scratch of {} values, {need} needed", scratch.len());
        Self { shape, q, k, v, scratch: Pieces::new(&mut scratch[..need]) }
    }

    /// Outputs of `[n, H·D]` and of `[n, H]`.
    #[track_caller]
    pub(super) fn check_queries(&self, wide: &[usize], narrow: &[usize]) {
        let n = self.shape.queries[self.shape.queries.len() - 1];
        assert!(wide.iter().all(|len| *len >= n * self.shape.q_cols()), "attention: values per query");
        assert!(
            narrow.iter().all(|len| *len >= n * self.shape.heads),
            "attention: values per query and head"
        );
    }

    fn tiles(&self, worker: usize) -> Tiles<'_, R> {
        let (d, tile) = (self.shape.head_dim, self.shape.key_tile);
        // SAFETY: a worker runs one task at a time and owns its piece of the scratch.
        Tiles::new(unsafe { self.scratch.piece(worker, per_thread(d, tile)) }, d, tile)
    }

    /// Runs `f` for every tile of queries of every head.
    pub(super) fn by_queries(&self, par: Par<'_>, f: impl Fn(&Task, &mut Tiles<'_, R>) + Sync + Send) {
        let heads = self.shape.heads;
        Self::each(par, self.shape.queries, QUERY_TILE, heads, |sequence, tile, head, worker| {
            f(&Task::new(self.shape, sequence, head, tile * QUERY_TILE), &mut self.tiles(worker));
        });
    }

    /// Runs `f(sequence, key head, keys)` for every tile of keys of every key head.
    pub(super) fn by_keys(
        &self,
        par: Par<'_>,
        f: impl Fn(usize, usize, Range<usize>, &mut Tiles<'_, R>) + Sync + Send,
    ) {
        let tile = self.shape.key_tile;
        Self::each(par, self.shape.keys, tile, self.shape.kv_heads, |sequence, t, head, worker| {
            let len = self.shape.keys[sequence + 1] - self.shape.keys[sequence];
            f(sequence, head, t * tile..((t + 1) * tile).min(len), &mut self.tiles(worker));
        });
    }

    /// Runs `f(sequence, tile, head, worker)` over all tiles of all sequences.
    fn each(
        par: Par<'_>,
        offsets: &[usize],
        tile: usize,
        heads: usize,
        f: impl Fn(usize, usize, usize, usize) + Sync + Send,
    ) {
        let tiles = |w: &[usize]| (w[1] - w[0]).div_ceil(tile);
        let total: usize = offsets.windows(2).map(tiles).sum();
        par.tasks(total * heads, |task, worker| {
            let (mut t, head) = (task / heads, task % heads);
            let mut sequence = 0;
            while t >= tiles(&offsets[sequence..sequence + 2]) {
                t -= tiles(&offsets[sequence..sequence + 2]);
                sequence += 1;
            }
            f(sequence, t, head, worker);
        });
    }

    /// Where the values of a task's key begin in k and v.
    pub(super) fn key_at(&self, task: &Task, key: usize) -> usize {
        let kv_head = task.head / (self.shape.heads / self.shape.kv_heads);
        (task.keys_from + key) * self.shape.kv_cols() + kv_head * self.shape.head_dim
    }

    fn query_at(&self, task: &Task) -> usize {
        task.rows.start * self.shape.q_cols() + task.head * self.shape.head_dim
    }

    /// `s = c·Q·Kᵀ` for a tile.
    pub(super) fn scores(&self, task: &Task, keys: &Range<usize>, s: &mut [R], panel: &mut [R]) {
        let size = [task.rows.len(), keys.len(), self.shape.head_dim];
        let q = Lhs::rows(&self.q[self.query_at(task)..], self.shape.q_cols());
        let k = Rhs::transposed(&self.k[self.key_at(task, keys.start)..], self.shape.kv_cols());
        serial(Out::rows(s, keys.len()), size, self.shape.c(), q, k, Init::Zero, panel);
    }

    /// `s = P` for a tile: rebuilt, or copied from what was kept.
    pub(super) fn probs(
        &self,
        task: &Task,
        keys: &Range<usize>,
        lse: &[R],
        from: ProbsAt<'_, R>,
        s: &mut [R],
        panel: &mut [R],
    ) {
        let width = keys.len();
        match from {
            ProbsAt::Rebuild => {
                self.scores(task, keys, s, panel);
                for r in 0..task.rows.len() {
                    let l = lse[(task.rows.start + r) * self.shape.heads + task.head];
                    exp_minus(&mut s[r * width..][..width], task.visible(r, keys), l);
                }
            }
            ProbsAt::Kept(p) => {
                let head = task.head * super::probs_len(self.shape.queries) + task.probs_at;
                for r in 0..task.rows.len() {
                    let at = head + (task.first + r) * task.keys_len + keys.start;
                    s[r * width..][..width].copy_from_slice(&p[at..at + width]);
                }
            }
        }
    }

    /// `ds = P∘(dO·Vᵀ − δ)` for a tile whose P is in `s`.
    pub(super) fn score_gradient(
        &self,
        task: &Task,
        keys: &Range<usize>,
        d_o: &[R],
        delta: &[R],
        tiles: &mut Tiles<'_, R>,
    ) {
        let width = keys.len();
        let size = [task.rows.len(), width, self.shape.head_dim];
        let d_o = Lhs::rows(&d_o[self.query_at(task)..], self.shape.q_cols());
        let v = Rhs::transposed(&self.v[self.key_at(task, keys.start)..], self.shape.kv_cols());
        serial(Out::rows(tiles.ds, width), size, R::ONE, d_o, v, Init::Zero, tiles.panel);
        for r in 0..task.rows.len() {
            let delta = delta[(task.rows.start + r) * self.shape.heads + task.head];
            for (ds, p) in tiles.ds[r * width..][..width].iter_mut().zip(&tiles.s[r * width..]) {
                *ds = *p * (*ds - delta);
            }
        }
    }
}

/// Zeros outside `visible`; what is inside.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled inside the vectorized bodies")]
fn hide<R: Real>(s: &mut [R], visible: Range<usize>) -> &mut [R] {
    s[visible.end..].fill(R::ZERO);
    s[..visible.start].fill(R::ZERO);
    &mut s[visible]
}

vectorized! {
/// One row of the streaming softmax: turns scores into exp(score − top), updates top and total, and returns
/// the factor by which what was summed before must shrink.
pub(super) fn online<R: Real>(s: &mut [R], visible: Range<usize>, top: &mut R, total: &mut R) -> R {
    let seen = hide(s, visible);
    if seen.is_empty() {
        return R::ONE;
    }
    let highest = maximum(seen);
    let new_top = if highest > *top { highest } else { *top };
    let shrink = if *top == R::LOWEST { R::ZERO } else { (*top - new_top).exp() };
    for x in seen.iter_mut() {
        *x = (*x - new_top).exp();
    }
    *total = *total * shrink + sum(seen.len(), |i| seen[i]);
    *top = new_top;
    shrink
}
}

vectorized! {
fn exp_minus<R: Real>(s: &mut [R], visible: Range<usize>, lse: R) {
    for x in hide(s, visible) {
        *x = (*x - lse).exp();
    }
}
}

vectorized! {
/// `out[r] = Σ a[r]·b[r]` over rows of `d`.
pub(super) fn row_dots<R: Real>(out: &mut [R], a: &[R], b: &[R], d: usize) {
    for ((out, a), b) in out.iter_mut().zip(a.chunks_exact(d)).zip(b.chunks_exact(d)) {
        *out = sum(d, |i| a[i] * b[i]);
    }
}
}

/// `to[i] = c·from[i]`.
///
/// # Safety
/// `to` is valid for `from.len()` writes that nobody else makes or reads meanwhile.
pub(super) unsafe fn store_row<R: Real>(to: *mut R, from: &[R], c: R) {
    for (i, x) in from.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { *to.add(i) = *x * c };
    }
}
