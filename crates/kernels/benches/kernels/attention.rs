//! Attention, forward and both passes of the backward, against the rate of f32 products in the same race; norms
//! against a sum over the same bytes.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use mesp_kernels::{
    AttentionShape, Compute, Init, Lhs, Out, Par, ProbsAt, Rhs, attention, attention_backward_kv,
    attention_backward_q, attention_delta, attention_scratch, matmul, matmul_scratch, rms_norm,
    rms_norm_backward,
};

use crate::alternate::{Contestant, race};
use crate::{Rng, wanted};

/// Operations are counted for the pairs of a query and a key that it sees; products that the second pass of the
/// backward repeats are counted as made.
pub(crate) fn attention_rates(budget: Duration) {
    let mut rng = Rng(3);
    for (n, heads, kv_heads, head_dim, window) in [
        (256, 14, 2, 64, usize::MAX),
        (1024, 14, 2, 64, usize::MAX),
        (256, 16, 16, 64, usize::MAX),
        (1024, 16, 8, 128, usize::MAX),
        (2048, 4, 1, 256, 512),
    ] {
        for compute in [Compute::Full, Compute::Bf16] {
            let title = if window == usize::MAX {
                format!("attention {n} tokens, {heads}/{kv_heads} heads of {head_dim}, {compute:?}")
            } else {
                format!(
                    "attention {n} tokens, window {window}, {heads}/{kv_heads} heads of {head_dim}, {compute:?}"
                )
            };
            if !wanted(&title) {
                continue;
            }
            let offsets = [0, n];
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                queries: &offsets,
                keys: &offsets,
                key_tile: 64,
                window,
                scale: 1.0 / (head_dim as f64).sqrt(),
                compute,
            };
            let (wide, narrow) = (n * heads * head_dim, n * kv_heads * head_dim);
            let (q, k, v, d_o) = (rng.vec(wide), rng.vec(narrow), rng.vec(narrow), rng.vec(wide));
            let (q, k, v, d_o) = (&q[..], &k[..], &v[..], &d_o[..]);
            let scratch = RefCell::new(vec![0.0; attention_scratch(1, head_dim, 64).max(matmul_scratch(1))]);
            let (mut o, mut lse, mut delta) = (vec![0.0; wide], vec![0.0; n * heads], vec![0.0; n * heads]);
            attention(&mut o, &mut lse, [q, k, v], shape, &mut scratch.borrow_mut(), Par::serial());
            attention_delta(&mut delta, d_o, &o, head_dim, Par::serial());
            let (lse, delta) = (&lse[..], &delta[..]);
            let short = n.min(window);
            let pairs = short * (short + 1) / 2 + (n - short) * short;
            let product = 2 * pairs * heads * head_dim;
            let (mut o2, mut lse2, mut dq) = (vec![0.0; wide], vec![0.0; n * heads], vec![0.0; wide]);
            let (mut dk, mut dv) = (vec![0.0; narrow], vec![0.0; narrow]);
            let (a, b, mut c) = (rng.vec(256 * 896), rng.vec(896 * 896), vec![0.0; 256 * 896]);
            let at = &scratch;
            let all = vec![
                Contestant::new("f32 product 256x896x896", 2 * 256 * 896 * 896, || {
                    let (out, b) = (Out::rows(&mut c, 896), Rhs::transposed(&b, 896));
                    let (a, size) = (Lhs::rows(&a, 896), [256, 896, 896]);
                    let par = Par::serial();
                    matmul(out, size, 1.0, a, b, Init::Zero, Compute::Full, &mut at.borrow_mut(), par);
                }),
                Contestant::new("forward", 2 * product, || {
                    attention(&mut o2, &mut lse2, [q, k, v], shape, &mut at.borrow_mut(), Par::serial());
                }),
                Contestant::new("backward, queries", 3 * product, || {
                    let (of, par) = (ProbsAt::Rebuild, Par::serial());
                    let scratch = &mut at.borrow_mut();
                    attention_backward_q(&mut dq, d_o, [q, k, v], [lse, delta], of, shape, scratch, par);
                }),
                Contestant::new("backward, keys and values", 4 * product, || {
                    let (of, par) = (ProbsAt::Rebuild, Par::serial());
                    let (scratch, saved) = (&mut at.borrow_mut(), [lse, delta]);
                    attention_backward_kv(&mut dk, &mut dv, d_o, [q, k, v], saved, of, shape, scratch, par);
                }),
            ];
            race(&title, "GFLOP/s", budget, all);
        }
    }
}

pub(crate) fn norms(budget: Duration) {
    let title = "norms 256x896, bytes read and written";
    if !wanted(title) {
        return;
    }
    let mut rng = Rng(4);
    let (n, d) = (256, 896);
    let (x, dy, w) = (rng.vec(n * d), rng.vec(n * d), rng.vec(d));
    let (mut y, mut dx, mut z) = (vec![0.0; n * d], vec![0.0; n * d], vec![0.0; n * d]);
    let bytes = 4 * n * d;
    let all = vec![
        Contestant::new("a copy", 2 * bytes, || black_box(&mut z).copy_from_slice(&x)),
        Contestant::new("forward", 2 * bytes, || rms_norm(&mut y, &x, &w, 1e-6, Par::serial())),
        Contestant::new("backward, added", 4 * bytes, || {
            rms_norm_backward(&mut dx, &dy, &x, &w, 1e-6, Par::serial());
        }),
    ];
    race(title, "GB/s", budget, all);
}
