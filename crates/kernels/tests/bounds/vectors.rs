//! Everything that goes along rows.

use mesp_kernels::{
    Compute, Dropout, Dtype, Gate, Layout, Par, Real, Rhs, RopeShape, RowStat, Values, WeightView, add_bias,
    bias_grad, dora_gain, dora_gain_add, dora_gain_bf16, dora_gains, dora_magnitude_grad, dot, dropout,
    embedding, gated_backward_in_place, gated_in_place, gated_tangent_in_place, gather_rows,
    gather_rows_bf16, inverse_frequencies, matmul_scratch, rms_norm, rms_norm_add, rms_norm_backward,
    rms_norm_backward_in_place, rms_norm_tangent, rms_norm_weight_grad, rope, row_squares, scale,
    scatter_add_rows, scatter_rows, softmax_gradient, softmax_stats, softmax_sum, softmax_sum_gradient,
    sum_of_squares,
};

use crate::{Buffers, finite};

pub(crate) fn vectors<R: Real>(on: &mut Buffers) {
    let par = Par::serial();
    for (rows, d) in [(1, 1), (3, 7), (2, 16), (5, 33), (1, 130), (3, 64)] {
        on.case(format_args!("along {rows} rows of {d}"));
        let n = rows * d;
        let (x, w) = (on.values::<R>(n), on.values::<f32>(d));
        let [mut y, mut z, mut g] = [on.values::<R>(n), on.values::<R>(n), on.values::<R>(n)];
        rms_norm(&mut y, &x, &w, 1e-6, par);
        rms_norm_add(&mut y, &x, &w, 1e-6, par);
        rms_norm_backward(&mut z, &y, &x, &w, 1e-6, par);
        rms_norm_backward_in_place(&mut z, &x, &w, 1e-6, par);
        rms_norm_tangent(&mut y, &z, &x, &w, 1e-6, true, par);
        let mut dw = on.values::<R>(d);
        rms_norm_weight_grad(&mut dw, &z, &x, 1e-6, par);
        bias_grad(&mut dw, Values::Full(&x), par);
        bias_grad(&mut dw, Values::Bf16(&on.of(&vec![0x3f80u16; n])), par);
        finite(&dw);
        for gate in [Gate::Silu, Gate::GeluTanh] {
            gated_in_place(gate, &mut y, &x, par);
            gated_tangent_in_place(gate, &mut g, &x, [&y, &z], par);
            gated_backward_in_place(gate, &mut y, &mut z, &x, par);
        }
        add_bias(&mut y, &w, par);
        scale(&mut y, 0.5, par);
        assert!(sum_of_squares(&y).is_finite() && dot(&x, &y).is_finite(), "sums");
        for x in [&y, &z, &g] {
            finite(x);
        }
        dora::<R>(on, &x, (rows, d));
        let index: Vec<u32> = (0..rows as u32).rev().collect();
        let index = on.of(&index);
        gather_rows(&mut y, &x, &index, d);
        scatter_rows(&mut z, &x, &index, d);
        scatter_add_rows(&mut z, &x, &index, d, 0);
        let halves = on.of(&vec![0u16; x.len()]);
        gather_rows_bf16(&mut y, &halves, &index, d);
    }
    for (rows, heads, head_dim) in [(3, 2, 6), (1, 1, 2), (5, 3, 34)] {
        on.case(format_args!("rope, {rows} rows of {heads} heads of {head_dim}"));
        let frequencies = on.of(&inverse_frequencies(head_dim, 1e4));
        let positions: Vec<u32> = (0..rows as u32).map(|i| 7 * i).collect();
        let (positions, mut x) = (on.of(&positions), on.values::<R>(rows * heads * head_dim));
        for layout in [Layout::Half, Layout::Interleaved] {
            // The whole head, and a part of it.
            for turned in [frequencies.len(), frequencies.len().div_ceil(2)] {
                let shape = RopeShape { frequencies: &frequencies[..turned], layout, head_dim, factor: 1.5 };
                rope(&mut x, &positions, shape, false, par);
                rope(&mut x, &positions, shape, true, par);
            }
        }
        finite(&x);
    }
}

fn dora<R: Real>(on: &mut Buffers, x: &[R], (rows, d): (usize, usize)) {
    let (par, rank) = (Par::serial(), 3);
    let (m, b, p) = (on.values::<R>(d), on.values::<R>(d * rank), on.values::<R>(d * rank));
    let (g, bias) = (on.of(&vec![R::ZERO; rank * rank]), on.values::<f32>(d));
    // Larger than what is taken from them.
    let squares = on.of(&vec![R::from_f64(1e6); d]);
    let [mut gain, mut inverse, mut dm] = [on.values::<R>(d), on.values::<R>(d), on.values::<R>(d)];
    let [mut y, z] = [on.values::<R>(rows * d), on.values::<R>(rows * d)];
    dora_gains((&mut gain, &mut inverse), (&m, &squares), Values::Full(&b), (&p, &g), R::ONE, par);
    dora_gain(&mut y, &gain, Some(&bias), par);
    dropout(&mut y, Values::Full(x), d, Dropout { p: 0.5, key: 1 }, 3, true, par);
    dora_gain_add(&mut y, x, &gain, Some(&bias), par);
    dora_magnitude_grad(&mut dm, Values::Full(x), &z, &inverse, par);
    let mut halves = on.of(&vec![0x3f80u16; rows * d]);
    dora_magnitude_grad(&mut dm, Values::Bf16(&halves), &z, &inverse, par);
    dropout(&mut y, Values::Bf16(&halves), d, Dropout { p: 0.5, key: 1 }, 3, false, par);
    dora_gain_bf16(&mut halves, &gain, par);
    for x in [&gain, &inverse, &dm, &y] {
        finite(x);
    }
}

/// Rows of stored tables as values.
pub(crate) fn tables<R: Real>(on: &mut Buffers) {
    for dtype in Dtype::ALL {
        for (rows, blocks) in [(1, 1), (5, 3)] {
            let cols = blocks * dtype.block_len();
            on.case(format_args!("{} rows [{rows},{cols}]", dtype.name()));
            let data = on.weight(dtype, rows, cols);
            let tokens: Vec<u32> = (0..rows as u32).rev().collect();
            let (tokens, mut y) = (on.of(&tokens), on.values::<R>(rows * cols));
            embedding(&mut y, WeightView { dtype, data: &data, rows, cols }, &tokens, Par::serial());
            finite(&y);
            let (mut squares, view) = (on.values::<R>(rows), WeightView { dtype, data: &data, rows, cols });
            row_squares(&mut squares, view, Par::serial());
            for (i, square) in squares.iter().rev().enumerate() {
                let sum: f64 = y[i * cols..][..cols].iter().map(|y| y.to_f64().powi(2)).sum();
                assert!(
                    (square.to_f64() - sum).abs() <= 1e-6 * sum + 1e-40,
                    "{}: {square:?} {sum}",
                    dtype.name()
                );
            }
        }
    }
}

/// The softmax over a vocabulary.
pub(crate) fn heads<R: Real>(on: &mut Buffers) {
    let par = Par::serial();
    for (rows, words, d) in [(1, 1, 3), (3, 37, 32), (2, if cfg!(miri) { 50 } else { 1100 }, 33)] {
        on.case(format_args!("softmax of {rows} rows over {words} words of {d}"));
        let dtype = Dtype::F32;
        let data = on.weight(dtype, words, d);
        let table = WeightView { dtype, data: &data, rows: words, cols: d };
        let labels: Vec<u32> = (0..rows as u32).map(|i| i * (words as u32 - 1) / rows as u32).collect();
        let labels = on.of(&labels);
        let (mut z, mut sum, word) =
            (on.values::<R>(rows * words), on.values::<R>(rows * d), on.values::<R>(rows * d));
        let mut stats = on.of(&vec![RowStat::EMPTY; rows]);
        softmax_stats(&z, &labels, 0, &mut stats, par);
        let mut dz = on.of(&z);
        softmax_gradient(&mut dz, &labels, 0, 0.5, &stats, par);
        finite(&dz);
        let (mut stats, mut scratch) =
            (on.of(&vec![RowStat::EMPTY; rows]), on.values::<R>(matmul_scratch(1)));
        let compute = Compute::Full;
        softmax_sum(&mut sum, &mut z, &labels, 0, &mut stats, Rhs::Weight(table), compute, &mut scratch, par);
        softmax_sum_gradient(&mut sum, &word, 0.5, &stats, par);
        finite(&sum);
    }
}
