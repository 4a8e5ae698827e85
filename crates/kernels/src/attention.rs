//! Causal grouped-query attention in tiles (Dao et al. 2022; Ainslie et al. 2023).
//!
//! ```text
//! forward   O = softmax(c·Q·Kᵀ)·V over the keys a row sees;   keeps O and ℓ = ln Σ exp(c·Q·Kᵀ) per row and head
//! backward  P = exp(c·Q·Kᵀ − ℓ)     δ = rowsum(dO∘O)
//!           dV = Pᵀ·dO              dP = dO·Vᵀ
//!           dS = P∘(dP − δ)         dQ = c·dS·K      dK = c·dSᵀ·Q
//! tangent   S' = c·(Q'·Kᵀ + Q·K'ᵀ)    O' = (P∘S')·V + P·V' − rowsum(P∘S')·O
//! reads     q, k, v, ℓ, δ (so O dies once δ is known: dQ may take its buffer)
//! scratch   attention_scratch: packed keys and values and a few tiles per thread
//! shapes    q o dq [n, H·D]   k v dk dv [m, Hk·D]   ℓ δ [n, H]      derivation: docs/math/attention.md
//! ```
//!
//! Query head `h` reads key head `h / (H/Hk)`; dK and dV sum over the query heads of a group. Nothing of
//! size rows × rows exists, unless a policy keeps the probabilities: then the tile of P is read where it
//! would be rebuilt, from the same code, so the gradients are the same to the bit.
//!
//! Row `i` sees key `j` when `j ≤ i < j + window`. Tiles of keys that no row of a tile of queries sees are not
//! visited, forward or backward, so that a window bounds the work per row whatever the length.
//!
//! A tile of keys and values is packed once for the microkernel and serves all query heads that read it, and in the
//! pass over keys all tiles of queries too.
//!
//! The backward makes two passes: dQ by tiles of queries, dK and dV by tiles of keys. Scores are rebuilt in
//! both (7 products where 5 would do), and in return every output tile belongs to one task: any number of
//! threads, no additions between them.

mod rows;
mod tile;

pub use tile::attention_scratch;
use tile::{Source, Task, Work};

use crate::Real;
use crate::matmul::Compute;
use crate::matmul::packed::padded;
use crate::par::{Par, Pieces};

/// Heads and sequences.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape<'a> {
    /// Query heads H.
    pub heads: usize,
    /// Key and value heads Hk; divides H.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Where each sequence's queries begin, and the end.
    pub queries: &'a [usize],
    /// Where each sequence's keys begin, and the end. A sequence may have more keys than queries: its last
    /// query sees its last key (decoding with a cache).
    pub keys: &'a [usize],
    /// Keys per tile.
    pub key_tile: usize,
    /// How many keys a query sees, its own and those before it: `usize::MAX` for all.
    pub window: usize,
    /// c, by which scores are multiplied: 1/√D unless the model says otherwise.
    pub scale: f64,
    /// What products multiply: the numbers, or both factors rounded to bf16. Sums and the softmax are full always.
    pub compute: Compute,
}

impl AttentionShape<'_> {
    fn q_cols(&self) -> usize {
        self.heads * self.head_dim
    }
    fn kv_cols(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// c.
    fn c<R: Real>(&self) -> R {
        R::from_f64(self.scale)
    }
}

/// Where the backward finds probabilities.
#[derive(Debug, Clone, Copy)]
pub enum ProbsAt<'a, R> {
    /// Rebuilt from q, k and ℓ, tile by tile.
    Rebuild,
    /// Kept by [`attention_probs`].
    Kept(&'a [R]),
}

/// Values per head of the probabilities of sequences at `offsets`: Σ length².
pub fn probs_len(offsets: &[usize]) -> usize {
    offsets.windows(2).map(|w| (w[1] - w[0]).pow(2)).sum()
}

/// O and ℓ.
///
/// # Panics
/// When shapes disagree or scratch is short.
#[track_caller]
pub fn attention<R: Real>(
    o: &mut [R],
    lse: &mut [R],
    [q, k, v]: [&[R]; 3],
    shape: AttentionShape<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let work = Work::new(shape, [q, k, v], scratch, par);
    work.check_queries(&[o.len()], &[lse.len()]);
    let (o, lse) = (Pieces::new(o), Pieces::new(lse));
    let (d, cols, heads) = (shape.head_dim, shape.q_cols(), shape.heads);
    let wide = padded(d);
    work.by_queries(par, |task, tiles| {
        let rows = task.rows.len();
        let all = task.heads.len() * rows;
        tiles.acc[..all * wide].fill(R::ZERO);
        tiles.top[..all].fill(R::LOWEST);
        tiles.total[..all].fill(R::ZERO);
        let at = [task.keys_from, task.heads.start / work.group()];
        for keys in task.key_tiles(shape.key_tile) {
            let keys_t = work.columns(k, at, &keys, tiles.keys_t);
            let values = work.rows(v, at, &keys, tiles.packed);
            let stride = padded(keys.len());
            for (h, head) in task.heads.clone().enumerate() {
                work.product(q, task, head, &keys_t, tiles.s, tiles.left);
                let of = h * rows..(h + 1) * rows;
                let acc = &mut tiles.acc[of.start * wide..of.end * wide];
                let (top, total) = (&mut tiles.top[of.clone()], &mut tiles.total[of]);
                rows::online(tiles.s, stride, task, &keys, shape.c(), top, total, acc, wide);
                let seen = |rows| task.seen(&rows, &keys);
                values.multiply(acc, true, rows, tiles.s, stride, tiles.left, seen);
            }
        }
        for (h, head) in task.heads.clone().enumerate() {
            for r in 0..rows {
                let (i, row) = (h * rows + r, task.rows.start + r);
                let total = tiles.total[i];
                // SAFETY: row and head lie inside `o` and `lse` (checked), and belong to this task alone.
                unsafe {
                    *lse.as_ptr().add(row * heads + head) = tiles.top[i] + R::from_f64(total.to_f64().ln());
                    let to = o.as_ptr().add(row * cols + head * d);
                    rows::store(to, &tiles.acc[i * wide..][..d], R::ONE / total);
                }
            }
        }
    });
}

/// O' for queries, keys and values that move along `tangents`; `o` and `lse` are [`attention`]'s.
///
/// # Panics
/// As [`attention`].
#[track_caller]
pub fn attention_tangent<R: Real>(
    t: &mut [R],
    [o, lse]: [&[R]; 2],
    [q, k, v]: [&[R]; 3],
    tangents: [&[R]; 3],
    shape: AttentionShape<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let [qt, kt, vt] = tangents;
    let work = Work::new(shape, [q, k, v], scratch, par);
    work.check_queries(&[t.len(), o.len(), qt.len()], &[lse.len()]);
    assert!(kt.len() == k.len() && vt.len() == v.len(), "attention_tangent: tangents of keys and values");
    let t = Pieces::new(t);
    let (d, cols) = (shape.head_dim, shape.q_cols());
    let wide = padded(d);
    work.by_queries(par, |task, tiles| {
        let rows = task.rows.len();
        let all = task.heads.len() * rows;
        tiles.acc[..all * wide].fill(R::ZERO);
        tiles.total[..all].fill(R::ZERO);
        let at = [task.keys_from, task.heads.start / work.group()];
        for keys in task.key_tiles(shape.key_tile) {
            let keys_t = work.columns(k, at, &keys, tiles.keys_t);
            let moved_t = work.columns(kt, at, &keys, tiles.values_t);
            let values = work.rows(v, at, &keys, tiles.packed);
            let moved = work.rows(vt, at, &keys, tiles.acc2);
            let stride = padded(keys.len());
            for (h, head) in task.heads.clone().enumerate() {
                work.probs(task, head, &keys, lse, Source::Rebuild(keys_t), tiles.s, tiles.left);
                work.product(qt, task, head, &keys_t, tiles.ds, tiles.left);
                work.add_product(q, task, head, &moved_t, tiles.ds, tiles.left);
                let total = &mut tiles.total[h * rows..(h + 1) * rows];
                rows::score_tangent(tiles.ds, tiles.s, stride, shape.c(), total);
                let acc = &mut tiles.acc[h * rows * wide..(h + 1) * rows * wide];
                let seen = |rows| task.seen(&rows, &keys);
                values.multiply(acc, true, rows, tiles.ds, stride, tiles.left, seen);
                moved.multiply(acc, true, rows, tiles.s, stride, tiles.left, seen);
            }
        }
        for (h, head) in task.heads.clone().enumerate() {
            for r in 0..rows {
                let (i, at) = (h * rows + r, (task.rows.start + r) * cols + head * d);
                let row = &mut tiles.acc[i * wide..][..d];
                rows::take(row, &o[at..at + d], tiles.total[i]);
                // SAFETY: the row's values of this head lie inside `t` (checked) and belong to this task alone.
                unsafe { rows::store(t.as_ptr().add(at), row, R::ONE) };
            }
        }
    });
}

/// The probabilities themselves, `[H, probs_len(offsets)]`, zeros where a row sees no key: for policies that keep
/// them.
///
/// # Panics
/// As [`attention`]; and when a sequence has more keys than queries.
#[track_caller]
pub fn attention_probs<R: Real>(
    p: &mut [R],
    lse: &[R],
    [q, k]: [&[R]; 2],
    shape: AttentionShape<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let work = Work::new(shape, [q, k, k], scratch, par);
    let per_head = probs_len(shape.queries);
    assert_eq!(p.len(), shape.heads * per_head, "attention_probs: out");
    work.check_queries(&[], &[lse.len()]);
    let p = Pieces::new(p);
    work.by_queries(par, |task, tiles| {
        let len = task.keys_len;
        let at = [task.keys_from, task.heads.start / work.group()];
        for keys in task.all_key_tiles(shape.key_tile) {
            let source = work.source(ProbsAt::Rebuild, at, &keys, tiles.keys_t);
            for head in task.heads.clone() {
                work.probs(task, head, &keys, lse, source, tiles.s, tiles.left);
                for r in 0..task.rows.len() {
                    let at = head * per_head + task.probs_at + (task.first + r) * len + keys.start;
                    let row = &tiles.s[r * padded(keys.len())..][..keys.len()];
                    // SAFETY: the row's probabilities of this head lie inside `p` and belong to this task alone.
                    unsafe { rows::store(p.as_ptr().add(at), row, R::ONE) };
                }
            }
        }
    });
}

/// δ = rowsum(dO∘O) per row and head.
///
/// # Panics
/// When shapes disagree.
#[track_caller]
pub fn attention_delta<R: Real>(delta: &mut [R], d_o: &[R], o: &[R], head_dim: usize, par: Par<'_>) {
    assert!(d_o.len() == o.len() && o.len() == delta.len() * head_dim, "attention_delta: shapes");
    let chunk = crate::par::rows_per_task(head_dim);
    par.chunks(delta, chunk, |i, delta| {
        let at = i * chunk * head_dim;
        rows::dots(delta, &d_o[at..], &o[at..], head_dim);
    });
}

/// dQ.
///
/// # Panics
/// As [`attention`].
#[track_caller]
pub fn attention_backward_q<R: Real>(
    dq: &mut [R],
    d_o: &[R],
    [q, k, v]: [&[R]; 3],
    [lse, delta]: [&[R]; 2],
    probs: ProbsAt<'_, R>,
    shape: AttentionShape<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let work = Work::new(shape, [q, k, v], scratch, par);
    work.check_queries(&[dq.len(), d_o.len()], &[lse.len(), delta.len()]);
    let dq = Pieces::new(dq);
    let (d, cols) = (shape.head_dim, shape.q_cols());
    let wide = padded(d);
    work.by_queries(par, |task, tiles| {
        let rows = task.rows.len();
        tiles.acc[..task.heads.len() * rows * wide].fill(R::ZERO);
        let at = [task.keys_from, task.heads.start / work.group()];
        for keys in task.key_tiles(shape.key_tile) {
            let source = work.source(probs, at, &keys, tiles.keys_t);
            let values_t = work.columns(v, at, &keys, tiles.values_t);
            let key_rows = work.rows(k, at, &keys, tiles.packed);
            for (h, head) in task.heads.clone().enumerate() {
                work.probs(task, head, &keys, lse, source, tiles.s, tiles.left);
                work.score_gradient(task, head, [d_o, delta], &values_t, tiles.s, tiles.ds, tiles.left);
                let out = &mut tiles.acc[h * rows * wide..];
                let seen = |rows| task.seen(&rows, &keys);
                key_rows.multiply(out, true, rows, tiles.ds, padded(keys.len()), tiles.left, seen);
            }
        }
        for (h, head) in task.heads.clone().enumerate() {
            for r in 0..rows {
                let (i, at) = (h * rows + r, (task.rows.start + r) * cols + head * d);
                // SAFETY: the row's values of this head lie inside `dq` (checked) and belong to this task alone.
                unsafe { rows::store(dq.as_ptr().add(at), &tiles.acc[i * wide..][..d], shape.c()) };
            }
        }
    });
}

/// dK and dV.
///
/// # Panics
/// As [`attention`].
#[track_caller]
pub fn attention_backward_kv<R: Real>(
    dk: &mut [R],
    dv: &mut [R],
    d_o: &[R],
    [q, k, v]: [&[R]; 3],
    [lse, delta]: [&[R]; 2],
    probs: ProbsAt<'_, R>,
    shape: AttentionShape<'_>,
    scratch: &mut [R],
    par: Par<'_>,
) {
    let work = Work::new(shape, [q, k, v], scratch, par);
    work.check_queries(&[d_o.len()], &[lse.len(), delta.len()]);
    assert!(dk.len() == k.len() && dv.len() == v.len(), "attention_backward_kv: dk and dv");
    let (dk, dv) = (Pieces::new(dk), Pieces::new(dv));
    let (d, cols) = (shape.head_dim, shape.kv_cols());
    let (group, wide) = (work.group(), padded(d));
    work.by_keys(par, |sequence, kv_head, keys, tiles| {
        let stride = padded(keys.len());
        tiles.acc[..keys.len() * wide].fill(R::ZERO);
        tiles.acc2[..keys.len() * wide].fill(R::ZERO);
        let at = [shape.keys[sequence], kv_head];
        let source = work.source(probs, at, &keys, tiles.keys_t);
        let values_t = work.columns(v, at, &keys, tiles.values_t);
        for head in kv_head * group..(kv_head + 1) * group {
            for task in Task::tiles_that_see(shape, sequence, head, &keys) {
                work.probs(&task, head, &keys, lse, source, tiles.s, tiles.left);
                work.score_gradient(&task, head, [d_o, delta], &values_t, tiles.s, tiles.ds, tiles.left);
                let seeing = |some| task.seeing(&some, &keys);
                let d_o = work.query_rows(d_o, &task, head, tiles.packed);
                d_o.multiply_transposed(tiles.acc2, keys.len(), tiles.s, stride, seeing);
                let q = work.query_rows(q, &task, head, tiles.packed);
                q.multiply_transposed(tiles.acc, keys.len(), tiles.ds, stride, seeing);
            }
        }
        for j in 0..keys.len() {
            let at = (shape.keys[sequence] + keys.start + j) * cols + kv_head * d;
            // SAFETY: the key's values of this head lie inside `dk` and `dv` and belong to this task alone.
            unsafe {
                rows::store(dk.as_ptr().add(at), &tiles.acc[j * wide..][..d], shape.c());
                rows::store(dv.as_ptr().add(at), &tiles.acc2[j * wide..][..d], R::ONE);
            }
        }
    });
}

#[cfg(test)]
mod tests;
