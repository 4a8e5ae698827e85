//! Causal grouped-query attention in tiles (Dao et al. 2022; Ainslie et al. 2023).
//!
//! ```text
//! forward   O = softmax(c·Q·Kᵀ)·V over the keys a row sees;   keeps O and ℓ = ln Σ exp(c·Q·Kᵀ) per row and head
//! backward  P = exp(c·Q·Kᵀ − ℓ)     δ = rowsum(dO∘O)
//!           dV = Pᵀ·dO              dP = dO·Vᵀ
//!           dS = P∘(dP − δ)         dQ = c·dS·K      dK = c·dSᵀ·Q
//! reads     q, k, v, ℓ, δ (so O dies once δ is known: dQ may take its buffer)
//! scratch   attention_scratch: a few tiles and a packed panel per thread
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
//! The backward makes two passes: dQ by tiles of queries, dK and dV by tiles of keys. Scores are rebuilt in
//! both (7 products where 5 would do), and in return every output tile belongs to one task: any number of
//! threads, no additions between them.

mod tile;

pub use tile::attention_scratch;
use tile::{Task, Work};

use crate::Real;
use crate::matmul::{Init, Lhs, Out, Rhs, serial};
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
    work.by_queries(par, |task, tiles| {
        let rows = task.rows.len();
        tiles.acc[..rows * d].fill(R::ZERO);
        tiles.top[..rows].fill(R::LOWEST);
        tiles.total[..rows].fill(R::ZERO);
        for keys in task.key_tiles(shape.key_tile) {
            let width = keys.len();
            work.scores(task, &keys, tiles.s, tiles.panel);
            for r in 0..rows {
                let visible = task.visible(r, &keys);
                let row = &mut tiles.s[r * width..][..width];
                let shrink = tile::online(row, visible, &mut tiles.top[r], &mut tiles.total[r]);
                tiles.acc[r * d..][..d].iter_mut().for_each(|x| *x *= shrink);
            }
            let values = Rhs::Dense {
                data: &v[work.key_at(task, keys.start)..],
                row_stride: shape.kv_cols(),
                col_stride: 1,
            };
            let out = Out::rows(tiles.acc, d);
            serial(
                out,
                [rows, d, width],
                R::ONE,
                Lhs::rows(tiles.s, width),
                values,
                Init::Accumulate,
                tiles.panel,
            );
        }
        for r in 0..rows {
            let (total, row) = (tiles.total[r], task.rows.start + r);
            // SAFETY: row and head lie inside `o` and `lse` (checked), and belong to this task alone.
            unsafe {
                *lse.as_ptr().add(row * heads + task.head) = tiles.top[r] + R::from_f64(total.to_f64().ln());
                tile::store_row(
                    o.as_ptr().add(row * cols + task.head * d),
                    &tiles.acc[r * d..][..d],
                    R::ONE / total,
                );
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
        for keys in task.all_key_tiles(shape.key_tile) {
            work.probs(task, &keys, lse, ProbsAt::Rebuild, tiles.s, tiles.panel);
            for r in 0..task.rows.len() {
                let at = task.head * per_head + task.probs_at + (task.first + r) * len + keys.start;
                // SAFETY: the row's probabilities of this head lie inside `p` and belong to this task alone.
                unsafe {
                    tile::store_row(p.as_ptr().add(at), &tiles.s[r * keys.len()..][..keys.len()], R::ONE);
                };
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
        tile::row_dots(delta, &d_o[at..], &o[at..], head_dim);
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
    work.by_queries(par, |task, tiles| {
        let rows = task.rows.len();
        tiles.acc[..rows * d].fill(R::ZERO);
        for keys in task.key_tiles(shape.key_tile) {
            work.probs(task, &keys, lse, probs, tiles.s, tiles.panel);
            work.score_gradient(task, &keys, d_o, delta, tiles);
            let key_rows = Rhs::Dense {
                data: &k[work.key_at(task, keys.start)..],
                row_stride: shape.kv_cols(),
                col_stride: 1,
            };
            let ds = Lhs::rows(tiles.ds, keys.len());
            serial(
                Out::rows(tiles.acc, d),
                [rows, d, keys.len()],
                shape.c(),
                ds,
                key_rows,
                Init::Accumulate,
                tiles.panel,
            );
        }
        for r in 0..rows {
            let at = (task.rows.start + r) * cols + task.head * d;
            // SAFETY: the row's values of this head lie inside `dq` (checked) and belong to this task alone.
            unsafe { tile::store_row(dq.as_ptr().add(at), &tiles.acc[r * d..][..d], R::ONE) };
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
    let group = shape.heads / shape.kv_heads;
    work.by_keys(par, |sequence, kv_head, keys, tiles| {
        let width = keys.len();
        tiles.acc[..width * d].fill(R::ZERO);
        tiles.acc2[..width * d].fill(R::ZERO);
        for head in kv_head * group..(kv_head + 1) * group {
            for task in Task::tiles_that_see(shape, sequence, head, &keys) {
                let rows = task.rows.len();
                work.probs(&task, &keys, lse, probs, tiles.s, tiles.panel);
                work.score_gradient(&task, &keys, d_o, delta, tiles);
                let at = task.rows.start * shape.q_cols() + head * d;
                let rows_of = |x| Rhs::Dense { data: x, row_stride: shape.q_cols(), col_stride: 1 };
                let size = [width, d, rows];
                let p_t = Lhs::transposed(tiles.s, width);
                serial(
                    Out::rows(tiles.acc2, d),
                    size,
                    R::ONE,
                    p_t,
                    rows_of(&d_o[at..]),
                    Init::Accumulate,
                    tiles.panel,
                );
                let ds_t = Lhs::transposed(tiles.ds, width);
                serial(
                    Out::rows(tiles.acc, d),
                    size,
                    shape.c(),
                    ds_t,
                    rows_of(&q[at..]),
                    Init::Accumulate,
                    tiles.panel,
                );
            }
        }
        for j in 0..width {
            let at = (shape.keys[sequence] + keys.start + j) * cols + kv_head * d;
            // SAFETY: the key's values of this head lie inside `dk` and `dv` and belong to this task alone.
            unsafe {
                tile::store_row(dk.as_ptr().add(at), &tiles.acc[j * d..][..d], R::ONE);
                tile::store_row(dv.as_ptr().add(at), &tiles.acc2[j * d..][..d], R::ONE);
            }
        }
    });
}

#[cfg(test)]
mod tests;
