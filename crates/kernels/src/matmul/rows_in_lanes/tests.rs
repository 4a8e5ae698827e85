//! Against products of few rows, which are made in the other way: the same bits for every type, cut and number of threads.

use super::*;
use crate::matmul::{Compute, matmul_plus};
use crate::test_util::Rng;
use crate::weight::WeightView;
use crate::{Isa, Threads, Values};

/// Bytes up to 0x3b keep every half, bf16 and single below 1 in size.
fn weight_bytes(rng: &mut Rng, dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    (0..rows * dtype.row_bytes(cols)).map(|_| (rng.next_u64() % 0x3c) as u8).collect()
}

struct Case<'a> {
    size: [usize; 3],
    a: &'a [f32],
    b: Rhs<'a, f32>,
    init: Init<'a>,
    term: Option<Term<'a, f32>>,
}

impl Case<'_> {
    /// All rows at once, or `tile` rows at a time.
    fn product(&self, tile: usize, start: &[f32], par: Par<'_>) -> Vec<f32> {
        let [m, n, k] = self.size;
        let mut out = start.to_vec();
        let mut scratch = vec![f32::NAN; matmul_scratch(par.threads())];
        for from in (0..m).step_by(tile) {
            let rows = tile.min(m - from);
            let term = self.term.map(|t| {
                let Values::Full(h) = t.a.data else { panic!("single precision") };
                Term { a: Lhs::rows(&h[from * t.depth..], t.depth), ..t }
            });
            let (to, a) = (Out::rows(&mut out[from * n..], n), Lhs::rows(&self.a[from * k..], k));
            let size = [rows, n, k];
            matmul_plus(to, size, 1.0, a, self.b, self.init, Compute::Bf16, term, &mut scratch, par);
        }
        out
    }
}

#[test]
fn all_rows_at_once_are_few_rows_many_times() {
    let pools = [1, 2, 3].map(|threads| Threads::new(threads).expect("threads"));
    let mut rng = Rng(31);
    // Whole and ragged tiles, columns past the last panel, depth in one and in several cuts.
    for [m, n, k] in [[29, 32, 256], [64, 256, 512], [130, 75, 1280], [250, 200, 2304]] {
        for dtype in Dtype::ALL {
            let (a, h): (Vec<f32>, Vec<f32>) = (rng.vec(m * k), rng.vec(m * 5));
            let (bias, start, right): (Vec<f32>, Vec<f32>, Vec<f32>) =
                (rng.vec(n), rng.vec(m * n), rng.vec(n * 5));
            let data = weight_bytes(&mut rng, dtype, n, k);
            let forward = Rhs::WeightTransposed(WeightView { dtype, data: &data, rows: n, cols: k });
            let cols = n.next_multiple_of(dtype.block_len());
            let data = weight_bytes(&mut rng, dtype, k, cols);
            let backward =
                (cols == n).then_some(Rhs::Weight(WeightView { dtype, data: &data, rows: k, cols }));
            for b in [Some(forward), backward].into_iter().flatten() {
                for (init, rank) in
                    [(Init::Zero, 5), (Init::Bias(&bias), 0), (Init::Accumulate, 0), (Init::Accumulate, 5)]
                {
                    let term =
                        Term { depth: 5, alpha: 0.5, a: Lhs::rows(&h, 5), b: Rhs::transposed(&right, 5) };
                    let case = Case { size: [m, n, k], a: &a, b, init, term: (rank > 0).then_some(term) };
                    let expected = case.product(13, &start, Par::serial());
                    for pool in &pools {
                        let found = case.product(m, &start, Par::on(pool));
                        let other = found.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
                        assert_eq!(
                            other.map(|i| [i / n, i % n]),
                            None,
                            "[{m},{n},{k}] {} {init:?}",
                            dtype.name()
                        );
                    }
                }
            }
        }
    }
}

/// A left factor stored in bf16 is the same as one that rounds to it; ranks too large for a panel are added afterwards.
#[test]
fn stored_left_factors_and_large_terms() {
    let (m, n, k, rank) = (48, 96, 128, 200);
    let mut rng = Rng(32);
    let a: Vec<f32> = rng.vec(m * k);
    let halves: Vec<u16> = a.iter().map(|x| crate::compact::round(*x)).collect();
    let data = weight_bytes(&mut rng, Dtype::Bf16, n, k);
    let b = Rhs::WeightTransposed(WeightView { dtype: Dtype::Bf16, data: &data, rows: n, cols: k });
    let (h, right): (Vec<f32>, Vec<f32>) = (rng.vec(m * rank), rng.vec(n * rank));
    let term = Term { depth: rank, alpha: 2.0, a: Lhs::rows(&h, rank), b: Rhs::transposed(&right, rank) };
    assert!(!Plan::takes_term(rank));
    let case = Case { size: [m, n, k], a: &a, b, init: Init::Zero, term: Some(term) };
    let start = vec![f32::NAN; m * n];
    let expected = case.product(13, &start, Par::serial());
    assert!(case.product(m, &start, Par::serial()) == expected);
    let mut out = start;
    let mut scratch = vec![f32::NAN; matmul_scratch(1)];
    let left = Lhs::rows_of(Values::Bf16(&halves), k);
    let (to, size, par) = (Out::rows(&mut out, n), [m, n, k], Par::serial());
    matmul_plus(to, size, 1.0, left, b, Init::Zero, Compute::Bf16, Some(term), &mut scratch, par);
    assert!(out == expected);
}

/// These tests would say nothing of a way that is not taken.
#[test]
fn this_way_is_taken() {
    if crate::isa() != Isa::Avx512Bf16 {
        return;
    }
    let micro = Micro::<f32>::of(Compute::Bf16);
    let many = micro.many.expect("a way of its own");
    let (mut out, a, data) = (vec![0.0; 48 * 64], vec![0.0; 48 * 96], vec![0u8; 2 * 64 * 96]);
    let b = Rhs::WeightTransposed(WeightView { dtype: Dtype::Bf16, data: &data, rows: 64, cols: 96 });
    let (out, a) = (Out::rows(&mut out, 64), Lhs::rows(&a, 96));
    assert!((many.takes)(&out, [48, 64, 96], &a, &b));
    assert!(!(many.takes)(&out, [16, 64, 96], &a, &b) && !(many.takes)(&out, [33, 64, 96], &a, &b));
    assert!(!(many.takes)(&out, [48, 64, 90], &a, &b) && !(many.takes)(&out, [48, 31, 96], &a, &b));
}

#[test]
fn every_tile_and_panel_has_one_owner() {
    for threads in [1, 2, 3, 4, 8, 16] {
        for m in [17, 64, 250, 1024] {
            for n in [32, 128, 896, 4864] {
                for (k, rank, converts) in
                    [(96, 0, false), (896, 8, true), (4864, 64, false), (8192, 16, true)]
                {
                    let plan = Plan::new([m, n, k], threads, rank, converts);
                    let rows: Vec<_> = (0..plan.blocks).flat_map(|b| plan.rows(b, m)).collect();
                    let cols: Vec<_> = (0..plan.groups).flat_map(|g| plan.columns(g)).collect();
                    assert_eq!((rows, cols), ((0..m).collect(), (0..n).collect()));
                    assert!((0..plan.blocks).all(|b| !plan.rows(b, m).is_empty()));
                    let most = plan.tiles.div_ceil(plan.blocks);
                    assert!(most <= BLOCK[usize::from(converts)] && plan.depth.is_multiple_of(DEPTH));
                    // The tightest piece: one that begins a value past a line.
                    let mut piece = vec![0.0; PACKED + 2 * LINE];
                    let from = piece.as_ptr().align_offset(4 * LINE) + 1;
                    let scratch = Scratch::new(&mut piece[from..from + PACKED], &plan);
                    assert!(scratch.term.len() >= (most + 1) * LINE * rank, "room for a term");
                }
            }
        }
    }
}
