//! Products and attention.

use mesp_kernels::{
    AttentionShape, Compute, Dtype, Init, Lhs, Out, Par, ProbsAt, Real, Rhs, Term, WeightView,
    attention_backward_kv, attention_backward_q, attention_delta, attention_probs, attention_scratch,
    attention_tangent, matmul, matmul_plus, matmul_rank_r, matmul_scratch, probs_len,
};

use crate::{Buffers, finite};

const COMPUTES: [Compute; 2] = [Compute::Full, Compute::Bf16];

/// Rows, columns, depth.
fn shapes() -> &'static [[usize; 3]] {
    if cfg!(miri) {
        &[[1, 1, 1], [7, 65, 33], [5, 17, 3]]
    } else {
        &[
            [1, 1, 1],
            [6, 64, 448],
            [7, 65, 257],
            [13, 17, 1],
            [37, 131, 63],
            [19, 96, 449],
            [3, 8, 31],
            [2, 20, 0],
            [50, 80, 34],
        ]
    }
}

pub(crate) fn products(on: &mut Buffers) {
    for [m, n, k] in shapes().iter().copied() {
        let (a, b, bias) = (on.values::<f32>(m * k), on.values::<f32>(k * n), on.values::<f32>(n));
        let mut scratch = on.values::<f32>(matmul_scratch(1));
        let mut out = on.values::<f32>(m * n);
        let lefts = [Lhs::rows(&a, k), Lhs::transposed(&a, m)];
        for (left, a) in lefts.into_iter().enumerate() {
            for (right, b) in [Rhs::rows(&b, n), Rhs::transposed(&b, k)].into_iter().enumerate() {
                for compute in COMPUTES {
                    for init in [Init::Zero, Init::Bias(&bias), Init::Accumulate] {
                        on.case(format_args!("dense [{m},{n},{k}] {left} {right} {compute:?} {init:?}"));
                        for alpha in [1.0, 0.5] {
                            let to = Out::rows(&mut out, n);
                            matmul(to, [m, n, k], alpha, a, b, init, compute, &mut scratch, Par::serial());
                            let to = Out::transposed(&mut out, m);
                            matmul(to, [m, n, k], alpha, a, b, init, compute, &mut scratch, Par::serial());
                            if compute == Compute::Full {
                                let to = Out::rows(&mut out, n);
                                matmul_rank_r(to, [m, n, k], alpha, a, b, init, &mut scratch, Par::serial());
                            }
                        }
                    }
                }
            }
        }
        finite(&out);
    }
    let sizes: &[[usize; 3]] = if cfg!(miri) {
        &[[5, 3, 1]]
    } else {
        &[[5, 3, 1], [7, 17, 2], [18, 75, 3], [33, 64, 15], [30, 75, 2], [64, 96, 3]]
    };
    for dtype in Dtype::ALL {
        for [m, n, blocks] in sizes.iter().copied() {
            let k = blocks * dtype.block_len().max(32);
            let data = on.weight(dtype, n, k);
            let (a, a2) = (on.values::<f32>(m * k), on.values::<f32>(m * n));
            let mut scratch = on.values::<f32>(matmul_scratch(1));
            let (mut y, mut dx) = (on.values::<f32>(m * n), on.values::<f32>(m * k));
            let view = WeightView { dtype, data: &data, rows: n, cols: k };
            for compute in COMPUTES {
                on.case(format_args!("{} weights [{m},{n},{k}] {compute:?}", dtype.name()));
                let (to, w, par) = (Out::rows(&mut y, n), Rhs::WeightTransposed(view), Par::serial());
                matmul(to, [m, n, k], 1.0, Lhs::rows(&a, k), w, Init::Zero, compute, &mut scratch, par);
                let (to, w) = (Out::rows(&mut dx, k), Rhs::Weight(view));
                matmul(to, [m, k, n], 1.0, Lhs::rows(&a2, n), w, Init::Zero, compute, &mut scratch, par);
                finite(&y);
                finite(&dx);
            }
        }
    }
}

pub(crate) fn small_m(on: &mut Buffers) {
    let columns: &[usize] = if cfg!(miri) { &[17] } else { &[1, 15, 16, 17, 87, 352] };
    for dtype in Dtype::ALL {
        for n in columns.iter().copied() {
            for k in [dtype.block_len().max(32), 3 * dtype.block_len().max(32)] {
                let data = on.weight(dtype, n, k);
                let mut scratch = on.values::<f32>(matmul_scratch(1));
                for m in [1, 2, 4, 5, 16] {
                    let (a, mut out) = (on.values::<f32>(m * k), on.values::<f32>(m * n));
                    let w = Rhs::WeightTransposed(WeightView { dtype, data: &data, rows: n, cols: k });
                    for compute in COMPUTES {
                        on.case(format_args!("{m} rows, {} [{n},{k}] {compute:?}", dtype.name()));
                        for (a, transposed) in [(Lhs::rows(&a, k), false), (Lhs::transposed(&a, m), true)] {
                            let to = if transposed {
                                Out::transposed(&mut out, m)
                            } else {
                                Out::rows(&mut out, n)
                            };
                            let init = Init::Zero;
                            matmul(to, [m, n, k], 1.0, a, w, init, compute, &mut scratch, Par::serial());
                        }
                    }
                    finite(&out);
                }
            }
        }
    }
}

pub(crate) fn terms(on: &mut Buffers) {
    let sizes: &[[usize; 4]] =
        if cfg!(miri) { &[[7, 33, 32, 3]] } else { &[[7, 33, 32, 3], [13, 300, 96, 8], [45, 75, 96, 5]] };
    for [m, n, k, depth] in sizes.iter().copied() {
        let data = on.weight(Dtype::Bf16, n, k);
        let w = Rhs::WeightTransposed(WeightView { dtype: Dtype::Bf16, data: &data, rows: n, cols: k });
        let (a, h, b) = (on.values::<f32>(m * k), on.values::<f32>(m * depth), on.values::<f32>(n * depth));
        let (mut out, mut scratch) = (on.values::<f32>(m * n), on.values::<f32>(matmul_scratch(1)));
        for compute in COMPUTES {
            on.case(format_args!("term [{m},{n},{k}] and {depth}, {compute:?}"));
            let term = Term { depth, alpha: 2.0, a: Lhs::rows(&h, depth), b: Rhs::transposed(&b, depth) };
            let (to, a, par) = (Out::rows(&mut out, n), Lhs::rows(&a, k), Par::serial());
            matmul_plus(to, [m, n, k], 1.0, a, w, Init::Zero, compute, Some(term), &mut scratch, par);
            finite(&out);
        }
    }
}

pub(crate) fn attention<R: Real>(on: &mut Buffers) {
    let all: &[([usize; 3], &[usize], usize, usize)] = if cfg!(miri) {
        &[([2, 1, 5], &[0, 3, 10], 4, 3)]
    } else {
        &[
            ([4, 2, 3], &[0, 5, 6, 13], 4, usize::MAX),
            ([14, 2, 64], &[0, 131], 64, usize::MAX),
            ([3, 3, 80], &[0, 49, 50], 64, 20),
            ([9, 1, 16], &[0, 0, 97], 48, 33),
            ([2, 1, 33], &[0, 48, 113], 7, 100),
        ]
    };
    let all = all.iter().flat_map(|case| COMPUTES.map(|compute| (*case, compute)));
    for (([heads, kv_heads, head_dim], offsets, key_tile, window), compute) in all {
        let n = offsets[offsets.len() - 1];
        let scale = 1.0 / (head_dim as f64).sqrt();
        let (queries, keys) = (on.of(offsets), on.of(offsets));
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            queries: &queries,
            keys: &keys,
            key_tile,
            window,
            scale,
            compute,
        };
        on.case(format_args!(
            "attention {n} tokens, {heads}/{kv_heads} heads of {head_dim}, window {window}, {compute:?}"
        ));
        let (q, d_o) = (on.values::<R>(n * heads * head_dim), on.values::<R>(n * heads * head_dim));
        let (k, v) = (on.values::<R>(n * kv_heads * head_dim), on.values::<R>(n * kv_heads * head_dim));
        let (mut o, mut dq) = (on.values::<R>(q.len()), on.values::<R>(q.len()));
        let (mut dk, mut dv) = (on.values::<R>(k.len()), on.values::<R>(k.len()));
        let (mut lse, mut delta) = (on.values::<R>(n * heads), on.values::<R>(n * heads));
        let mut scratch = on.values::<R>(attention_scratch(1, head_dim, key_tile));
        let mut p = on.values::<R>(heads * probs_len(offsets));
        let (qkv, par) = ([&q[..], &k[..], &v[..]], Par::serial());
        mesp_kernels::attention(&mut o, &mut lse, qkv, shape, &mut scratch, par);
        attention_probs(&mut p, &lse, [&q, &k], shape, &mut scratch, par);
        let tangents = [&d_o[..], &k[..], &v[..]];
        attention_tangent(&mut dq, [&o, &lse], qkv, tangents, shape, &mut scratch, par);
        finite(&dq);
        attention_delta(&mut delta, &d_o, &o, head_dim, par);
        for probs in [ProbsAt::Rebuild, ProbsAt::Kept(&p)] {
            let saved = [&lse[..], &delta[..]];
            attention_backward_q(&mut dq, &d_o, qkv, saved, probs, shape, &mut scratch, par);
            attention_backward_kv(&mut dk, &mut dv, &d_o, qkv, saved, probs, shape, &mut scratch, par);
        }
        for x in [&o, &dq, &dk, &dv, &p] {
            finite(x);
        }
    }
}
