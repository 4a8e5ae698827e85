//! Against the definition and central differences, ragged and grouped, across tile edges.

use super::*;
use crate::Threads;
use crate::test_util::{Rng, differences, dot, relative};

/// Softmax attention by the definition, one sequence after another.
fn definition(q: &[f64], k: &[f64], v: &[f64], shape: AttentionShape<'_>) -> Vec<f64> {
    let (d, qc, kc) = (shape.head_dim, shape.q_cols(), shape.kv_cols());
    let mut o = vec![0.0; q.len()];
    for s in 0..shape.queries.len() - 1 {
        let (q0, k0) = (shape.queries[s], shape.keys[s]);
        let shift = (shape.keys[s + 1] - k0) - (shape.queries[s + 1] - q0);
        for i in q0..shape.queries[s + 1] {
            for h in 0..shape.heads {
                let kv = h / (shape.heads / shape.kv_heads);
                let here = shift + i - q0;
                let seen = k0 + (here + 1).saturating_sub(shape.window)..=k0 + here;
                let score =
                    |j: usize| dot(&q[i * qc + h * d..][..d], &k[j * kc + kv * d..][..d]) * shape.scale;
                let total: f64 = seen.clone().map(|j| score(j).exp()).sum();
                for j in seen {
                    let p = score(j).exp() / total;
                    for e in 0..d {
                        o[i * qc + h * d + e] += p * v[j * kc + kv * d + e];
                    }
                }
            }
        }
    }
    o
}

fn run<R: Real>(q: &[R], k: &[R], v: &[R], shape: AttentionShape<'_>) -> (Vec<R>, Vec<R>) {
    let mut o = vec![R::ZERO; q.len()];
    let mut lse = vec![R::ZERO; q.len() / shape.head_dim];
    let mut scratch = vec![R::ZERO; attention_scratch(1, shape.head_dim, shape.key_tile)];
    attention(&mut o, &mut lse, [q, k, v], shape, &mut scratch, Par::serial());
    (o, lse)
}

/// dQ, dK, dV with probabilities rebuilt or kept.
fn gradients<R: Real>(
    d_o: &[R],
    [q, k, v]: [&[R]; 3],
    shape: AttentionShape<'_>,
    keep: bool,
    par: Par<'_>,
) -> [Vec<R>; 3] {
    let (o, lse) = run(q, k, v, shape);
    let mut scratch = vec![R::ZERO; attention_scratch(par.threads(), shape.head_dim, shape.key_tile)];
    let mut p = vec![R::from_f64(9.0); shape.heads * probs_len(shape.queries)];
    let probs = if keep {
        attention_probs(&mut p, &lse, [q, k], shape, &mut scratch, par);
        ProbsAt::Kept(&p)
    } else {
        ProbsAt::Rebuild
    };
    let mut delta = vec![R::ZERO; lse.len()];
    attention_delta(&mut delta, d_o, &o, shape.head_dim, par);
    let (mut dq, mut dk, mut dv) = (vec![R::ZERO; q.len()], vec![R::ZERO; k.len()], vec![R::ZERO; v.len()]);
    attention_backward_q(&mut dq, d_o, [q, k, v], [&lse, &delta], probs, shape, &mut scratch, par);
    attention_backward_kv(&mut dk, &mut dv, d_o, [q, k, v], [&lse, &delta], probs, shape, &mut scratch, par);
    [dq, dk, dv]
}

#[test]
fn equals_the_definition_and_its_differences() {
    let mut rng = Rng(10);
    for (heads, kv_heads, head_dim, offsets, key_tile) in
        [(4, 2, 3, vec![0, 5, 6, 13], 4), (3, 3, 2, vec![0, 2], 64), (2, 1, 5, vec![0, 0, 9], 5)]
    {
        for window in [1, 2, 3, 7, usize::MAX] {
            let scale = 1.0 / (head_dim as f64).sqrt();
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                queries: &offsets,
                keys: &offsets,
                key_tile,
                window,
                scale,
                compute: Compute::Full,
            };
            let n = offsets[offsets.len() - 1];
            let q: Vec<f64> = rng.vec(n * heads * head_dim);
            let [k, v]: [Vec<f64>; 2] = std::array::from_fn(|_| rng.vec(n * kv_heads * head_dim));
            let d_o: Vec<f64> = rng.vec(q.len());
            assert!(relative(&run(&q, &k, &v, shape).0, &definition(&q, &k, &v, shape)) < 1e-14);
            let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&run(q, k, v, shape).0, &d_o);
            let [dq, dk, dv] = gradients(&d_o, [&q, &k, &v], shape, false, Par::serial());
            assert!(relative(&dq, &differences(&q, |q| loss(q, &k, &v))) < 1e-8);
            assert!(relative(&dk, &differences(&k, |k| loss(&q, k, &v))) < 1e-8);
            assert!(relative(&dv, &differences(&v, |v| loss(&q, &k, v))) < 1e-8);
        }
    }
}

/// O' for tangents of q, k, v.
fn tangent<R: Real>(
    [q, k, v]: [&[R]; 3],
    tangents: [&[R]; 3],
    shape: AttentionShape<'_>,
    par: Par<'_>,
) -> Vec<R> {
    let (o, lse) = run(q, k, v, shape);
    let mut scratch = vec![R::ZERO; attention_scratch(par.threads(), shape.head_dim, shape.key_tile)];
    let mut t = vec![R::from_f64(f64::NAN); q.len()];
    attention_tangent(&mut t, [&o, &lse], [q, k, v], tangents, shape, &mut scratch, par);
    t
}

/// ⟨dO, J·(q', k', v')⟩ = ⟨dQ, q'⟩ + ⟨dK, k'⟩ + ⟨dV, v'⟩, and nothing depends on threads.
#[test]
fn the_tangent_is_the_gradients_adjoint() {
    let mut rng = Rng(14);
    let pool = Threads::new(3).expect("threads");
    for (window, head_dim, key_tile, offsets) in
        [(usize::MAX, 5, 4, vec![0, 5, 6, 63]), (20, 80, 64, vec![0, 131, 132, 180]), (3, 16, 5, vec![0, 9])]
    {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim,
            queries: &offsets,
            keys: &offsets,
            key_tile,
            window,
            scale: 0.25,
            compute: Compute::Full,
        };
        let n = offsets[offsets.len() - 1];
        let [q, qt, d_o]: [Vec<f64>; 3] = std::array::from_fn(|_| rng.vec(n * 4 * head_dim));
        let [k, kt, v, vt]: [Vec<f64>; 4] = std::array::from_fn(|_| rng.vec(n * 2 * head_dim));
        let [dq, dk, dv] = gradients(&d_o, [&q, &k, &v], shape, false, Par::serial());
        let t = tangent([&q, &k, &v], [&qt, &kt, &vt], shape, Par::serial());
        let (forward, backward) = (dot(&d_o, &t), dot(&dq, &qt) + dot(&dk, &kt) + dot(&dv, &vt));
        assert!((forward - backward).abs() < 1e-15 * (n * 4 * head_dim) as f64, "{forward} {backward}");
        let f = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let single = tangent([&f(&q), &f(&k), &f(&v)], [&f(&qt), &f(&kt), &f(&vt)], shape, Par::serial());
        assert!(relative(&single, &t) < 2e-6, "single precision rounding over 131 keys");
        let threads = tangent([&f(&q), &f(&k), &f(&v)], [&f(&qt), &f(&kt), &f(&vt)], shape, Par::on(&pool));
        assert_eq!(single, threads);
    }
}

#[test]
fn long_rows_cross_tiles_and_nothing_depends_on_threads_or_kept_probabilities() {
    let mut rng = Rng(11);
    let offsets = [0, 131, 132, 180];
    let cases = [(usize::MAX, 16), (20, 80), (64, 64), (100, 16), (usize::MAX, 72)];
    let computes = [Compute::Full, Compute::Bf16];
    for ((window, head_dim), compute) in cases.into_iter().flat_map(|c| computes.map(|compute| (c, compute)))
    {
        // Rounding over 131 keys; a product of factors rounded to bf16 is within 2⁻⁸ of itself, and some follow another.
        let (forward, backward) = if compute == Compute::Full { (1e-6, 2e-6) } else { (0.01, 0.02) };
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim,
            queries: &offsets,
            keys: &offsets,
            key_tile: 64,
            window,
            scale: 0.25,
            compute,
        };
        let q: Vec<f32> = rng.vec(180 * 4 * head_dim);
        let [k, v]: [Vec<f32>; 2] = std::array::from_fn(|_| rng.vec(180 * 2 * head_dim));
        let d_o: Vec<f32> = rng.vec(q.len());
        let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        assert!(
            relative(&run(&q, &k, &v, shape).0, &definition(&wide(&q), &wide(&k), &wide(&v), shape))
                < forward
        );
        let plain = gradients(&d_o, [&q, &k, &v], shape, false, Par::serial());
        let exact = gradients(&wide(&d_o), [&wide(&q), &wide(&k), &wide(&v)], shape, false, Par::serial());
        for (a, b) in plain.iter().zip(&exact) {
            assert!(
                relative(a, b) < backward,
                "{compute:?}, window {window}, heads of {head_dim}: {}",
                relative(a, b)
            );
        }
        assert_eq!(gradients(&d_o, [&q, &k, &v], shape, true, Par::serial()), plain);
        let pool = Threads::new(3).expect("threads");
        assert_eq!(gradients(&d_o, [&q, &k, &v], shape, false, Par::on(&pool)), plain);
    }
}

#[test]
fn the_last_queries_against_a_cache_equal_the_whole() {
    let mut rng = Rng(12);
    let whole = [0, 70];
    for window in [usize::MAX, 40, 9, 1] {
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            queries: &whole,
            keys: &whole,
            key_tile: 32,
            window,
            scale: 0.35,
            compute: Compute::Full,
        };
        let q: Vec<f32> = rng.vec(70 * 16);
        let [k, v]: [Vec<f32>; 2] = std::array::from_fn(|_| rng.vec(70 * 8));
        let (o, _) = run(&q, &k, &v, shape);
        let last = [0, 3];
        let cached = AttentionShape { queries: &last, ..shape };
        let (tail, _) = run(&q[67 * 16..], &k, &v, cached);
        assert!(relative(&tail, &o[67 * 16..]) < 1e-6);
    }
}

/// Keys outside every row's window are not read: what lies there may be anything.
#[test]
fn keys_outside_the_window_are_not_visited() {
    let mut rng = Rng(13);
    let (queries, keys) = ([0, 3], [0, 200]);
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        queries: &queries,
        keys: &keys,
        key_tile: 16,
        window: 30,
        scale: 0.5,
        compute: Compute::Full,
    };
    let q: Vec<f64> = rng.vec(3 * 4);
    let [mut k, mut v]: [Vec<f64>; 2] = std::array::from_fn(|_| rng.vec(200 * 4));
    let (o, _) = run(&q, &k, &v, shape);
    // Row 0 sees keys 168 to 197; its first tile begins at 160.
    k[..160 * 4].fill(f64::NAN);
    v[..160 * 4].fill(f64::NAN);
    assert_eq!(run(&q, &k, &v, shape).0, o);
    let d_o: Vec<f64> = rng.vec(q.len());
    let [dq, dk, dv] = gradients(&d_o, [&q, &k, &v], shape, false, Par::serial());
    assert!(dq.iter().all(|x| x.is_finite()));
    for d in [&dk, &dv] {
        assert!(d[..168 * 4].iter().all(|x| *x == 0.0) && d[168 * 4..].iter().all(|x| *x != 0.0));
    }
}

/// Probabilities in units in the last place, for scores that are exact: ℓ and the difference to it are rounded, which
/// the exponential turns into as many units as they are large; its own unit and ℓ's sum come on top.
#[test]
fn probabilities_are_as_near_as_their_exponents() {
    let n = 200;
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        queries: &[0, n],
        keys: &[0, n],
        key_tile: 64,
        window: usize::MAX,
        scale: 1.0,
        compute: Compute::Full,
    };
    let q = vec![1.0f32; n];
    let k: Vec<f32> = Rng(15).vec::<f32>(n).iter().map(|x| (64.0 * x).round() / 8.0).collect();
    let (_, lse) = run(&q, &k, &k, shape);
    let mut scratch = vec![0.0; attention_scratch(1, 1, 64)];
    let mut p = vec![0.0; n * n];
    attention_probs(&mut p, &lse, [&q, &k], shape, &mut scratch, Par::serial());
    for i in 0..n {
        let total: f64 = k[..=i].iter().map(|s| f64::from(*s).exp()).sum();
        for j in 0..=i {
            let (s, l) = (f64::from(k[j]), total.ln());
            let off = crate::test_util::ulps(p[i * n + j], (s - l).exp());
            assert!(off <= 8.0 + l.abs() + (s - l).abs(), "row {i}, key {j}: {off} ULP, {s} of {l}");
        }
    }
}
