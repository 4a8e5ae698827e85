//! The tiles that attention's passes share: which rows see which keys, scores, probabilities, dS.

use std::ops::Range;

use super::{AttentionShape, ProbsAt, rows};
use crate::Real;
use crate::matmul::Rhs;
use crate::matmul::packed::{Packed, left_scratch, pack, padded};
use crate::par::{Par, Pieces};

/// Queries per tile: a multiple of the microkernel's height.
pub(super) const QUERY_TILE: usize = 48;
/// The most heads that read the same packed keys and values.
const TOGETHER: usize = 8;
/// Values of the outputs that heads grow together, a share of the second-level cache.
const OUTPUTS: usize = TOGETHER * QUERY_TILE * 64;

/// Values of scratch for a number of threads.
pub fn attention_scratch(threads: usize, head_dim: usize, key_tile: usize) -> usize {
    threads * Lengths::new(head_dim, key_tile).sum()
}

/// How many heads are computed together.
fn together(head_dim: usize) -> usize {
    (OUTPUTS / (QUERY_TILE * padded(head_dim).max(1))).clamp(1, TOGETHER)
}

/// How one thread's scratch is taken apart.
struct Lengths {
    columns: usize,
    rows: usize,
    acc: usize,
    scores: usize,
    per_query: usize,
    left: usize,
}

impl Lengths {
    fn new(head_dim: usize, key_tile: usize) -> Self {
        let queries = together(head_dim) * QUERY_TILE;
        Self {
            columns: head_dim * padded(key_tile),
            rows: QUERY_TILE.max(key_tile) * padded(head_dim),
            acc: queries.max(key_tile) * padded(head_dim),
            scores: QUERY_TILE * padded(key_tile),
            per_query: queries,
            left: left_scratch(head_dim.max(key_tile)),
        }
    }

    fn sum(&self) -> usize {
        2 * self.columns + 2 * self.rows + self.acc + 2 * self.scores + 2 * self.per_query + self.left
    }
}

/// One thread's scratch, taken apart. Rows of scores and outputs are filled up to whole vectors.
pub(super) struct Tiles<'a, R> {
    /// Packed Kᵀ, `[D, keys]`.
    pub(super) keys_t: &'a mut [R],
    /// Packed Vᵀ, `[D, keys]`.
    pub(super) values_t: &'a mut [R],
    /// Packed V, K, dO or Q, `[rows, D]`.
    pub(super) packed: &'a mut [R],
    /// Products, then probabilities, `[queries, keys]`.
    pub(super) s: &'a mut [R],
    /// dS, `[queries, keys]`.
    pub(super) ds: &'a mut [R],
    /// The outputs that grow, `[heads · queries, D]` or `[keys, D]`.
    pub(super) acc: &'a mut [R],
    /// A second one, `[keys, D]`.
    pub(super) acc2: &'a mut [R],
    /// Running maximum per head and query.
    pub(super) top: &'a mut [R],
    /// Running sum per head and query.
    pub(super) total: &'a mut [R],
    /// Rows of a left factor as the microkernel reads them.
    pub(super) left: &'a mut [R],
}

impl<'a, R> Tiles<'a, R> {
    fn new(scratch: &'a mut [R], lengths: &Lengths) -> Self {
        let (keys_t, rest) = scratch.split_at_mut(lengths.columns);
        let (values_t, rest) = rest.split_at_mut(lengths.columns);
        let (packed, rest) = rest.split_at_mut(lengths.rows);
        let (s, rest) = rest.split_at_mut(lengths.scores);
        let (ds, rest) = rest.split_at_mut(lengths.scores);
        let (acc, rest) = rest.split_at_mut(lengths.acc);
        let (acc2, rest) = rest.split_at_mut(lengths.rows);
        let (top, rest) = rest.split_at_mut(lengths.per_query);
        let (total, left) = rest.split_at_mut(lengths.per_query);
        Self { keys_t, values_t, packed, s, ds, acc, acc2, top, total, left }
    }
}

/// Where a tile's probabilities come from: [`ProbsAt`] with the keys packed, if they are needed.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, R> {
    Rebuild(Packed<'a, R>),
    Kept(&'a [R]),
}

/// A tile of queries of one sequence, for heads that read the same keys.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) heads: Range<usize>,
    /// Rows of q, o, ℓ.
    pub(super) rows: Range<usize>,
    /// The first row's place in its sequence of queries.
    pub(super) first: usize,
    /// Keys before the first query: keys − queries of the sequence.
    shift: usize,
    /// The sequence's first row of k and v.
    pub(super) keys_from: usize,
    /// The sequence's keys.
    pub(super) keys_len: usize,
    /// Where the sequence's probabilities begin within a head.
    pub(super) probs_at: usize,
    window: usize,
}

impl Task {
    fn new(shape: AttentionShape<'_>, sequence: usize, heads: Range<usize>, first: usize) -> Self {
        let (q0, q1) = (shape.queries[sequence], shape.queries[sequence + 1]);
        let (k0, k1) = (shape.keys[sequence], shape.keys[sequence + 1]);
        let rows = q0 + first..(q0 + first + QUERY_TILE).min(q1);
        let probs_at = super::probs_len(&shape.queries[..=sequence]);
        let shift = (k1 - k0) - (q1 - q0);
        let window = shape.window;
        Self { heads, rows, first, shift, keys_from: k0, keys_len: k1 - k0, probs_at, window }
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
            .map(move |t| Self::new(shape, sequence, head..head + 1, t * QUERY_TILE))
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
        self.seen(&(r..r + 1), keys)
    }

    /// Which of `keys` any of some rows sees, counted from the first key.
    pub(super) fn seen(&self, rows: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let within = |key: usize| key.saturating_sub(keys.start).min(keys.len());
        within(self.earliest(rows.start))..within(self.shift + self.first + rows.end)
    }

    /// Which rows of the tile see any of `some` keys, counted from the first of `keys`.
    pub(super) fn seeing(&self, some: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let row = |key: usize| key.saturating_sub(self.shift + self.first).min(self.rows.len());
        row(keys.start + some.start)..row((keys.start + some.end - 1).saturating_add(self.window))
    }
}

/// What all tiles of a pass read.
pub(super) struct Work<'a, R> {
    shape: AttentionShape<'a>,
    q: &'a [R],
    k: &'a [R],
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
        Self { shape, q, k, scratch: Pieces::new(&mut scratch[..need]) }
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
        let lengths = Lengths::new(self.shape.head_dim, self.shape.key_tile);
        // SAFETY: a worker runs one task at a time and owns its piece of the scratch.
        Tiles::new(unsafe { self.scratch.piece(worker, lengths.sum()) }, &lengths)
    }

    /// Runs `f` for every tile of queries of every group of heads, in parts where the threads would go idle.
    pub(super) fn by_queries(&self, par: Par<'_>, f: impl Fn(&Task, &mut Tiles<'_, R>) + Sync + Send) {
        let AttentionShape { queries, kv_heads, .. } = self.shape;
        let group = self.group();
        let tiles: usize = queries.windows(2).map(|w| (w[1] - w[0]).div_ceil(QUERY_TILE)).sum();
        let wanted = (4 * par.threads()).div_ceil((tiles * kv_heads).max(1));
        let least = group.div_ceil(together(self.shape.head_dim));
        let parts = if par.threads() == 1 { least } else { wanted.clamp(least, group) };
        let each = group.div_ceil(parts);
        Self::each(par, queries, QUERY_TILE, kv_heads * parts, |sequence, tile, part, worker| {
            let (kv_head, part) = (part / parts, part % parts);
            let heads = (part * each).min(group)..((part + 1) * each).min(group);
            if heads.is_empty() {
                return;
            }
            let heads = kv_head * group + heads.start..kv_head * group + heads.end;
            f(&Task::new(self.shape, sequence, heads, tile * QUERY_TILE), &mut self.tiles(worker));
        });
    }

    /// Query heads that read the same key head.
    pub(super) fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
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

    /// Where the values of a key of a head begin in k and v.
    fn key_at(&self, keys_from: usize, key: usize, kv_head: usize) -> usize {
        (keys_from + key) * self.shape.kv_cols() + kv_head * self.shape.head_dim
    }

    /// Where the values of a tile's queries begin in q, o and their gradients.
    pub(super) fn query_at(&self, task: &Task, head: usize) -> usize {
        task.rows.start * self.shape.q_cols() + head * self.shape.head_dim
    }

    /// Kᵀ or Vᵀ of a tile of keys, packed.
    pub(super) fn columns<'b>(
        &self,
        x: &[R],
        [keys_from, kv_head]: [usize; 2],
        keys: &Range<usize>,
        to: &'b mut [R],
    ) -> Packed<'b, R> {
        let x = &x[self.key_at(keys_from, keys.start, kv_head)..];
        pack(
            to,
            Rhs::transposed(x, self.shape.kv_cols()),
            [self.shape.head_dim, keys.len()],
            self.shape.compute,
        )
    }

    /// K or V of a tile of keys, packed.
    pub(super) fn rows<'b>(
        &self,
        x: &[R],
        [keys_from, kv_head]: [usize; 2],
        keys: &Range<usize>,
        to: &'b mut [R],
    ) -> Packed<'b, R> {
        let x = &x[self.key_at(keys_from, keys.start, kv_head)..];
        pack(to, Rhs::rows(x, self.shape.kv_cols()), [keys.len(), self.shape.head_dim], self.shape.compute)
    }

    /// Q or dO of a tile of queries, packed.
    pub(super) fn query_rows<'b>(&self, x: &[R], task: &Task, head: usize, to: &'b mut [R]) -> Packed<'b, R> {
        let x = Rhs::rows(&x[self.query_at(task, head)..], self.shape.q_cols());
        pack(to, x, [task.rows.len(), self.shape.head_dim], self.shape.compute)
    }

    /// Where probabilities of a tile of keys come from.
    pub(super) fn source<'b>(
        &self,
        probs: ProbsAt<'b, R>,
        at: [usize; 2],
        keys: &Range<usize>,
        to: &'b mut [R],
    ) -> Source<'b, R> {
        match probs {
            ProbsAt::Rebuild => Source::Rebuild(self.columns(self.k, at, keys, to)),
            ProbsAt::Kept(p) => Source::Kept(p),
        }
    }

    /// `s = x·b` for a tile of queries of x, one of q, dO: products with packed keys or values.
    pub(super) fn product(
        &self,
        x: &[R],
        task: &Task,
        head: usize,
        b: &Packed<'_, R>,
        s: &mut [R],
        left: &mut [R],
    ) {
        let x = &x[self.query_at(task, head)..];
        let all = |_| 0..self.shape.head_dim;
        b.multiply(s, false, task.rows.len(), x, self.shape.q_cols(), left, all);
    }

    /// [`Work::product`], added to what is there.
    pub(super) fn add_product(
        &self,
        x: &[R],
        task: &Task,
        head: usize,
        b: &Packed<'_, R>,
        s: &mut [R],
        left: &mut [R],
    ) {
        let x = &x[self.query_at(task, head)..];
        let all = |_| 0..self.shape.head_dim;
        b.multiply(s, true, task.rows.len(), x, self.shape.q_cols(), left, all);
    }

    /// `s = P` for a tile: rebuilt, or copied from what was kept.
    pub(super) fn probs(
        &self,
        task: &Task,
        head: usize,
        keys: &Range<usize>,
        lse: &[R],
        from: Source<'_, R>,
        s: &mut [R],
        left: &mut [R],
    ) {
        let stride = padded(keys.len());
        match from {
            Source::Rebuild(packed) => {
                self.product(self.q, task, head, &packed, s, left);
                let lse = &lse[task.rows.start * self.shape.heads + head..];
                rows::exp_minus(s, stride, task, keys, self.shape.c(), lse, self.shape.heads);
            }
            Source::Kept(p) => {
                let from = head * super::probs_len(self.shape.queries) + task.probs_at;
                for (r, s) in s.chunks_exact_mut(stride).enumerate().take(task.rows.len()) {
                    let at = from + (task.first + r) * task.keys_len + keys.start;
                    s[..keys.len()].copy_from_slice(&p[at..at + keys.len()]);
                    s[keys.len()..].fill(R::ZERO);
                }
            }
        }
    }

    /// `ds = P∘(dO·Vᵀ − δ)` for a tile whose P is in `p`.
    pub(super) fn score_gradient(
        &self,
        task: &Task,
        head: usize,
        [d_o, delta]: [&[R]; 2],
        values: &Packed<'_, R>,
        p: &[R],
        ds: &mut [R],
        left: &mut [R],
    ) {
        self.product(d_o, task, head, values, ds, left);
        let delta = &delta[task.rows.start * self.shape.heads + head..];
        rows::score_gradient(ds, p, values.stride(), task.rows.len(), delta, self.shape.heads);
    }
}
