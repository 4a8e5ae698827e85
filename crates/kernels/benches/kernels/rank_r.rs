//! Thin products, as adapters make them, against the rate of an f32 product in the same race: h = x·Aᵀ, dh = g·B,
//! dA = dhᵀ·x, dB = gᵀ·h for a layer of 256 rows.

use std::cell::RefCell;
use std::time::Duration;

use mesp_kernels::{Compute, Init, Lhs, Out, Par, Rhs, matmul, matmul_rank_r, matmul_scratch};

use crate::alternate::{Contestant, race};
use crate::{Rng, wanted};

pub(crate) fn rank_r(budget: Duration) {
    let (n, mut rng) = (256, Rng(5));
    for d in [896, 4864] {
        for r in [8, 16, 24] {
            let title = format!("rank-r {n}x{d}, rank {r}");
            if !wanted(&title) {
                continue;
            }
            let (x, a, b, h) = (rng.vec(n * d), rng.vec(r * d), rng.vec(d * r), rng.vec(n * r));
            let (x, a, b, h) = (&x[..], &a[..], &b[..], &h[..]);
            let (y, w) = (rng.vec(256 * 896), rng.vec(896 * 896));
            let scratch = RefCell::new(vec![0.0; matmul_scratch(1)]);
            let run = |out: Out<'_, f32>, size, a, b| {
                let scratch = &mut scratch.borrow_mut();
                matmul(out, size, 1.0, a, b, Init::Zero, Compute::Full, scratch, Par::serial());
            };
            let mut outs: Vec<Vec<f32>> =
                [256 * 896, n * r, n * r, n * r, n * r, d * r, d * r].map(|len| vec![0.0; len]).into();
            let [c, h1, h2, g1, g2, da, db] = &mut outs[..] else { unreachable!("seven") };
            let rank_r = |out: Out<'_, f32>, size, a, b| {
                matmul_rank_r(out, size, 1.0, a, b, Init::Zero, &mut scratch.borrow_mut(), Par::serial());
            };
            let flop = 2 * n * d * r;
            let all = vec![
                Contestant::new("f32 product 256x896x896", 2 * 256 * 896 * 896, || {
                    run(Out::rows(c, 896), [256, 896, 896], Lhs::rows(&y, 896), Rhs::transposed(&w, 896));
                }),
                Contestant::new("x·Aᵀ", flop, || {
                    run(Out::rows(h1, r), [n, r, d], Lhs::rows(x, d), Rhs::transposed(a, d));
                }),
                Contestant::new("x·Aᵀ as (A·xᵀ)ᵀ", flop, || {
                    rank_r(Out::transposed(h2, r), [r, n, d], Lhs::rows(a, d), Rhs::transposed(x, d));
                }),
                Contestant::new("g·B", flop, || {
                    run(Out::rows(g1, r), [n, r, d], Lhs::rows(x, d), Rhs::rows(b, r));
                }),
                Contestant::new("g·B as (Bᵀ·gᵀ)ᵀ", flop, || {
                    rank_r(Out::transposed(g2, r), [r, n, d], Lhs::transposed(b, r), Rhs::transposed(x, d));
                }),
                Contestant::new("dhᵀ·x", flop, || {
                    rank_r(Out::rows(da, d), [r, d, n], Lhs::transposed(h, r), Rhs::rows(x, d));
                }),
                Contestant::new("gᵀ·h as (hᵀ·g)ᵀ", flop, || {
                    rank_r(Out::transposed(db, r), [r, d, n], Lhs::transposed(h, r), Rhs::rows(x, d));
                }),
            ];
            race(&title, "GFLOP/s", budget, all);
        }
    }
}
