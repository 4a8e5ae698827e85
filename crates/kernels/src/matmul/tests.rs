//! Odd shapes, strides, starts and formats against the definition; tiles and threads against each other.

use super::*;
use crate::Dtype;
use crate::Threads;
use crate::test_util::{Rng, relative};

/// The definition, in f64.
fn reference(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a(i, p) * b(p, j)).sum();
        }
    }
    c
}

const SHAPES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [1, 64, 3],
    [6, 64, 448],
    [7, 65, 449],
    [5, 63, 447],
    [13, 17, 1],
    [3, 8, 31],
    [8, 131, 16],
    [37, 16, 900],
    [2, 200, 0],
    [12, 128, 64],
    [31, 48, 5],
];

#[test]
fn equals_the_definition_for_all_layouts() {
    let mut rng = Rng(1);
    for [m, n, k] in SHAPES {
        let (a, b): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(k * n));
        let exact = reference(m, n, k, |i, p| f64::from(a[i * k + p]), |p, j| f64::from(b[p * n + j]));
        let a_t: Vec<f32> = (0..m * k).map(|x| a[(x % m) * k + x / m]).collect();
        let b_t: Vec<f32> = (0..n * k).map(|x| b[(x % k) * n + x / k]).collect();
        let bytes: Vec<u8> = b_t.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes_straight: Vec<u8> = b.iter().flat_map(|x| x.to_le_bytes()).collect();
        let lhs = [Lhs::rows(&a, k), Lhs::transposed(&a_t, m)];
        let rhs = [
            Rhs::rows(&b, n),
            Rhs::transposed(&b_t, k),
            Rhs::WeightTransposed(WeightView { dtype: Dtype::F32, data: &bytes, rows: n, cols: k }),
            Rhs::Weight(WeightView { dtype: Dtype::F32, data: &bytes_straight, rows: k, cols: n }),
        ];
        let mut first: Option<Vec<f32>> = None;
        let mut scratch = vec![f32::NAN; matmul_scratch(1)];
        for a in lhs {
            for b in rhs {
                let mut c = vec![f32::NAN; m * n];
                matmul(
                    Out::rows(&mut c, n),
                    [m, n, k],
                    1.0,
                    a,
                    b,
                    Init::Zero,
                    Compute::Full,
                    &mut scratch,
                    Par::serial(),
                );
                assert!(relative(&c, &exact) < 1e-6, "[{m},{n},{k}]");
                let mut t = vec![f32::NAN; m * n];
                matmul(
                    Out::transposed(&mut t, m),
                    [m, n, k],
                    1.0,
                    a,
                    b,
                    Init::Zero,
                    Compute::Full,
                    &mut scratch,
                    Par::serial(),
                );
                assert!((0..m * n).all(|x| t[(x % n) * m + x / n].to_bits() == c[x].to_bits()));
                assert_eq!(first.get_or_insert(c.clone()), &c, "one order of terms for every layout");
            }
        }
    }
}

#[test]
fn starts_from_bias_and_accumulates_and_scales() {
    let (m, n, k) = (7, 70, 20);
    let mut rng = Rng(2);
    let (a, b, c0): (Vec<f64>, Vec<f64>, Vec<f64>) = (rng.vec(m * k), rng.vec(k * n), rng.vec(m * n));
    let bias: Vec<f32> = rng.vec(n);
    let product = reference(m, n, k, |i, p| a[i * k + p], |p, j| b[p * n + j]);
    let mut scratch = vec![0.0; matmul_scratch(1)];
    for (init, alpha) in [(Init::Bias(&bias), 1.0), (Init::Accumulate, -0.5), (Init::Zero, 3.0)] {
        let mut c = c0.clone();
        matmul(
            Out::rows(&mut c, n),
            [m, n, k],
            alpha,
            Lhs::rows(&a, k),
            Rhs::rows(&b, n),
            init,
            Compute::Full,
            &mut scratch,
            Par::serial(),
        );
        for (x, value) in c.iter().enumerate() {
            let start = match init {
                Init::Zero => 0.0,
                Init::Bias(bias) => f64::from(bias[x % n]),
                Init::Accumulate => c0[x],
            };
            assert!((value - (start + alpha * product[x])).abs() < 1e-12);
        }
    }
}

#[test]
fn half_precision_weights_are_exact_f32() {
    let (m, n, k) = (5, 33, 50);
    let mut rng = Rng(3);
    let a: Vec<f32> = rng.vec(m * k);
    let w: Vec<f32> = rng.vec(n * k);
    let mut scratch = vec![0.0; matmul_scratch(1)];
    let f16: Vec<u8> = w.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let bf16: Vec<u8> = w.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    for (dtype, data, back) in [
        (Dtype::F16, &f16, (|b: [u8; 2]| half::f16::from_le_bytes(b).to_f32()) as fn([u8; 2]) -> f32),
        (Dtype::Bf16, &bf16, |b| half::bf16::from_le_bytes(b).to_f32()),
    ] {
        let wide: Vec<f32> = data.as_chunks::<2>().0.iter().map(|b| back(*b)).collect();
        let view = WeightView { dtype, data, rows: n, cols: k };
        let (mut c, mut d) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul(
            Out::rows(&mut c, n),
            [m, n, k],
            1.0,
            Lhs::rows(&a, k),
            Rhs::WeightTransposed(view),
            Init::Zero,
            Compute::Full,
            &mut scratch,
            Par::serial(),
        );
        matmul(
            Out::rows(&mut d, n),
            [m, n, k],
            1.0,
            Lhs::rows(&a, k),
            Rhs::transposed(&wide, k),
            Init::Zero,
            Compute::Full,
            &mut scratch,
            Par::serial(),
        );
        assert_eq!(c, d);
    }
}

#[test]
fn threads_and_row_tiles_change_no_bit() {
    let (m, n, k) = (61, 200, 500);
    let mut rng = Rng(4);
    let (a, b): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(k * n));
    let mut scratch = vec![0.0; matmul_scratch(4)];
    for compute in [Compute::Full, Compute::Bf16] {
        let mut product = |par: Par<'_>| {
            let mut c = vec![0.0; m * n];
            let (left, right) = (Lhs::rows(&a, k), Rhs::rows(&b, n));
            matmul(Out::rows(&mut c, n), [m, n, k], 1.0, left, right, Init::Zero, compute, &mut scratch, par);
            c
        };
        let whole = product(Par::serial());
        for threads in [2, 3, 4] {
            let pool = Threads::new(threads).expect("threads");
            assert_eq!(product(Par::on(&pool)), whole, "{compute:?}, {threads} threads");
        }
    }
    // A sum over rows, cut into tiles that accumulate: bᵀ·b' over k with a tile of 7.
    let mut sums = vec![0.0; n * n];
    for from in (0..k).step_by(7) {
        let rows = 7.min(k - from);
        let part = &b[from * n..(from + rows) * n];
        let init = if from == 0 { Init::Zero } else { Init::Accumulate };
        matmul(
            Out::rows(&mut sums, n),
            [n, n, rows],
            1.0,
            Lhs::transposed(part, n),
            Rhs::rows(part, n),
            init,
            Compute::Full,
            &mut scratch,
            Par::serial(),
        );
    }
    let mut once = vec![0.0; n * n];
    matmul(
        Out::rows(&mut once, n),
        [n, n, k],
        1.0,
        Lhs::transposed(&b, n),
        Rhs::rows(&b, n),
        Init::Zero,
        Compute::Full,
        &mut scratch,
        Par::serial(),
    );
    assert_eq!(sums, once);
}

/// Every panel and every row has one owner, no group is larger than its place, and threads get the same where that can be.
#[test]
fn work_is_cut_evenly() {
    let micro = Micro::<f32>::of(Compute::Full);
    for panels in [1, 2, 3, 5, 14, 76, 77, 2374] {
        for threads in [1, 2, 3, 4, 16] {
            for m in [1, 17, 33, 256] {
                let (groups, row_blocks) = cut(m, panels, threads, &micro);
                let shares: Vec<_> = (0..groups).map(|g| share(panels, groups, g)).collect();
                assert_eq!(
                    shares.iter().flat_map(Clone::clone).collect::<Vec<_>>(),
                    (0..panels).collect::<Vec<_>>()
                );
                assert!(shares.iter().all(|s| (1..=micro.group).contains(&s.len())), "{panels} in {groups}");
                assert!((1..=threads).contains(&row_blocks) && row_blocks <= m.div_ceil(micro.mr));
                if m == 256 && panels % threads == 0 {
                    assert_eq!(groups * row_blocks % threads, 0, "{panels} panels, {threads} threads");
                }
            }
        }
    }
    // One panel of many rows: the rows are shared.
    assert_eq!(cut(256, 1, 2, &micro), (1, 2));
}

/// bf16 products against the definition on rounded factors, for all storage types, odd depths and widths.
#[test]
fn bf16_products_round_their_factors_only() {
    let mut rng = Rng(5);
    let bf = |x: f32| half::bf16::from_f32(x).to_f32();
    for [m, n, k] in SHAPES {
        let (a, w): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(n * k));
        let exact =
            reference(m, n, k, |i, p| f64::from(bf(a[i * k + p])), |p, j| f64::from(bf(w[j * k + p])));
        let straight: Vec<f32> = (0..n * k).map(|x| w[(x % n) * k + x / n]).collect();
        let mut scratch = vec![f32::NAN; matmul_scratch(1)];
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let bytes = |w: &[f32]| -> Vec<u8> {
                match dtype {
                    Dtype::F32 => w.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    _ => w.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                }
            };
            let (t, s) = (bytes(&w), bytes(&straight));
            for b in [
                Rhs::WeightTransposed(WeightView { dtype, data: &t, rows: n, cols: k }),
                Rhs::Weight(WeightView { dtype, data: &s, rows: k, cols: n }),
                Rhs::rows(&straight, n),
                Rhs::transposed(&w, k),
            ] {
                let mut c = vec![f32::NAN; m * n];
                let (out, lhs) = (Out::rows(&mut c, n), Lhs::rows(&a, k));
                matmul(out, [m, n, k], 1.0, lhs, b, Init::Zero, Compute::Bf16, &mut scratch, Par::serial());
                // Products of bf16 are exact in f32; what is left is the rounding of sums.
                assert!(relative(&c, &exact) < 1e-6, "[{m},{n},{k}] {dtype:?} {}", relative(&c, &exact));
            }
        }
    }
}

/// A term gives the bits of a second product, wherever the first cuts its work.
#[test]
fn a_term_is_a_second_product() {
    let mut rng = Rng(31);
    let pool = Threads::new(3).expect("threads");
    for [m, n, k, depth] in [[1, 1, 1, 1], [7, 70, 33, 8], [40, 700, 500, 8], [13, 129, 20, 1000]] {
        let (a, b): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(k * n));
        let (h, l): (Vec<f32>, Vec<f32>) = (rng.vec(m * depth), rng.vec(n * depth));
        let start: Vec<f32> = rng.vec(m * n);
        for compute in [Compute::Full, Compute::Bf16] {
            for par in [Par::serial(), Par::on(&pool)] {
                let mut scratch = vec![0.0; matmul_scratch(par.threads())];
                let (left, right) = (Lhs::rows(&a, k), Rhs::rows(&b, n));
                let (h, l) = (Lhs::rows(&h, depth), Rhs::transposed(&l, depth));
                let mut two = start.clone();
                let (size, init) = ([m, n, k], Init::Accumulate);
                matmul(Out::rows(&mut two, n), size, 1.0, left, right, init, compute, &mut scratch, par);
                let (size, full) = ([m, n, depth], Compute::Full);
                matmul(Out::rows(&mut two, n), size, 1.7, h, l, init, full, &mut scratch, par);
                let mut one = start.clone();
                let term = Some(Term { depth, alpha: 1.7, a: h, b: l });
                let (size, out) = ([m, n, k], Out::rows(&mut one, n));
                matmul_plus(out, size, 1.0, left, right, init, compute, term, &mut scratch, par);
                assert_eq!(one, two, "[{m},{n},{k}] and {depth}, {compute:?}");
            }
        }
    }
}

/// The same where rows are few and the weight is read where it lies, or packed.
#[test]
fn a_term_is_a_second_product_of_few_rows() {
    let mut rng = Rng(32);
    let pool = Threads::new(3).expect("threads");
    for ([m, n, k, depth], compute) in [
        ([1, 200, 64, 8], Compute::Bf16),
        ([4, 70, 96, 16], Compute::Full),
        ([9, 130, 160, 3], Compute::Bf16),
    ] {
        let (a, w): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(n * k));
        let data: Vec<u8> = w.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        let b = Rhs::WeightTransposed(WeightView { dtype: Dtype::Bf16, data: &data, rows: n, cols: k });
        let (h, l): (Vec<f32>, Vec<f32>) = (rng.vec(m * depth), rng.vec(n * depth));
        let (h, l) = (Lhs::rows(&h, depth), Rhs::transposed(&l, depth));
        for par in [Par::serial(), Par::on(&pool)] {
            let mut scratch = vec![f32::NAN; matmul_scratch(par.threads())];
            let (left, size, init) = (Lhs::rows(&a, k), [m, n, k], Init::Zero);
            let [mut two, mut one] = [vec![f32::NAN; m * n], vec![f32::NAN; m * n]];
            matmul(Out::rows(&mut two, n), size, 1.0, left, b, init, compute, &mut scratch, par);
            let (second, full) = ([m, n, depth], Compute::Full);
            matmul(Out::rows(&mut two, n), second, 1.7, h, l, Init::Accumulate, full, &mut scratch, par);
            let term = Some(Term { depth, alpha: 1.7, a: h, b: l });
            matmul_plus(Out::rows(&mut one, n), size, 1.0, left, b, init, compute, term, &mut scratch, par);
            assert_eq!(one, two, "[{m},{n},{k}] and {depth}, {compute:?}");
        }
    }
}

/// Factors stored in bf16 multiply as the numbers they stand for, in place or copied, at even and odd strides.
#[test]
fn factors_in_bf16_multiply_as_their_values() {
    let mut rng = Rng(12);
    // The last two are of few rows, whose weights are read where they lie.
    for [m, n, k] in SHAPES.into_iter().chain([[1, 130, 64], [3, 64, 96]]) {
        let mut stored = |len: usize| -> (Vec<u16>, Vec<f32>) {
            let mut narrow = vec![0; len];
            crate::narrow(&mut narrow, &rng.vec::<f32>(len), Par::serial());
            let mut wide = vec![0.0; len];
            crate::widen(&mut wide, &narrow, Par::serial());
            (narrow, wide)
        };
        let ((a16, a), (b16, b)) = (stored(m * k), stored(k * n));
        let (a16, b16) = (Values::Bf16(&a16), Values::Bf16(&b16));
        let mut scratch = vec![f32::NAN; matmul_scratch(1)];
        let mut product = |a: Lhs<'_, f32>, b: Rhs<'_, f32>, alpha: f32, compute: Compute| {
            let mut c = vec![f32::NAN; m * n];
            let (out, par) = (Out::rows(&mut c, n), Par::serial());
            matmul(out, [m, n, k], alpha, a, b, Init::Zero, compute, &mut scratch, par);
            c
        };
        for compute in [Compute::Full, Compute::Bf16] {
            for (left16, left) in [
                (Lhs::rows_of(a16, k), Lhs::rows(&a, k)),
                (Lhs::transposed_of(a16, m), Lhs::transposed(&a, m)),
            ] {
                let mut rights = vec![Rhs::rows(&b, n)];
                if k > 0 {
                    rights.push(Rhs::transposed_of(b16, k));
                }
                for right in rights {
                    let same = product(left, right, 1.0, compute);
                    assert_eq!(product(left16, right, 1.0, compute), same, "[{m},{n},{k}] {compute:?}");
                }
            }
        }
        // Adapters are multiplied in full, by a scale. A matrix without values does not say how many rows it has.
        if k == 0 {
            continue;
        }
        for (right16, right) in
            [(Rhs::rows_of(b16, n), Rhs::rows(&b, n)), (Rhs::transposed_of(b16, k), Rhs::transposed(&b, k))]
        {
            let same = product(Lhs::rows(&a, k), right, 0.75, Compute::Full);
            let got = product(Lhs::rows(&a, k), right16, 0.75, Compute::Full);
            assert_eq!(got, same, "[{m},{n},{k}]");
        }
    }
}

/// Thin products in every layout against the definition; columns and threads change no bit.
#[test]
fn rank_r_products_equal_the_definition_and_split_anywhere() {
    let mut rng = Rng(32);
    let pool = Threads::new(3).expect("threads");
    let shapes = SHAPES.into_iter().chain([[8, 1000, 130], [64, 700, 70], [24, 257, 500], [9, 50, 4200]]);
    for [m, n, k] in shapes.filter(|s| s[0] <= MOST_RANKS) {
        let (a, b, start): (Vec<f32>, Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(k * n), rng.vec(m * n));
        let product = reference(m, n, k, |i, p| f64::from(a[i * k + p]), |p, j| f64::from(b[p * n + j]));
        let exact: Vec<f64> = product.iter().zip(&start).map(|(p, s)| f64::from(*s) - 0.75 * p).collect();
        let a_t: Vec<f32> = (0..m * k).map(|x| a[(x % m) * k + x / m]).collect();
        let b_t: Vec<f32> = (0..n * k).map(|x| b[(x % k) * n + x / k]).collect();
        let mut first: Option<Vec<f32>> = None;
        for par in [Par::serial(), Par::on(&pool)] {
            let mut scratch = vec![f32::NAN; matmul_scratch(par.threads())];
            for a in [Lhs::rows(&a, k), Lhs::transposed(&a_t, m)] {
                for b in [Rhs::rows(&b, n), Rhs::transposed(&b_t, k)] {
                    let size = [m, n, k];
                    let mut c = start.clone();
                    matmul_rank_r(
                        Out::rows(&mut c, n),
                        size,
                        -0.75,
                        a,
                        b,
                        Init::Accumulate,
                        &mut scratch,
                        par,
                    );
                    assert!(relative(&c, &exact) < 3e-6, "[{m},{n},{k}]");
                    let mut t: Vec<f32> = (0..m * n).map(|x| start[(x % m) * n + x / m]).collect();
                    let out = Out::transposed(&mut t, m);
                    matmul_rank_r(out, size, -0.75, a, b, Init::Accumulate, &mut scratch, par);
                    assert!((0..m * n).all(|x| t[(x % n) * m + x / n].to_bits() == c[x].to_bits()));
                    assert_eq!(first.get_or_insert(c.clone()), &c, "one order of terms for every layout");
                }
            }
        }
        // A scale of one leaves nothing that the way of many rows would do otherwise.
        let (mut thin, mut wide) = (start.clone(), start.clone());
        let mut scratch = vec![f32::NAN; matmul_scratch(1)];
        let (a, b, init, size) = (Lhs::rows(&a, k), Rhs::rows(&b, n), Init::Accumulate, [m, n, k]);
        matmul_rank_r(Out::rows(&mut thin, n), size, 1.0, a, b, init, &mut scratch, Par::serial());
        let (out, compute) = (Out::rows(&mut wide, n), Compute::Full);
        matmul(out, size, 1.0, a, b, init, compute, &mut scratch, Par::serial());
        assert_eq!(thin, wide, "[{m},{n},{k}]");
    }
}
