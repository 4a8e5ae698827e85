use super::*;
use crate::Threads;
use crate::test_util::Rng;
use crate::{Compute, Init, Lhs, Out, Par, Rhs, matmul, matmul_scratch};

const QUANTIZED: [Dtype; 8] =
    [Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q4_K, Dtype::Q5_K, Dtype::Q6_K];

/// Blocks of random bits, with scales and minima that are numbers.
fn random(rng: &mut Rng, dtype: Dtype, values: usize) -> Vec<u8> {
    let mut data: Vec<u8> = (0..dtype.row_bytes(values)).map(|_| rng.next_u64() as u8).collect();
    let halves: &[usize] = match dtype {
        Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 => &[0],
        Dtype::Q6_K => &[208],
        _ => &[0, 2],
    };
    for block in data.chunks_exact_mut(dtype.row_bytes(dtype.block_len())) {
        for at in halves {
            block[*at..at + 2].copy_from_slice(&half::f16::from_f32(rng.value() as f32).to_le_bytes());
        }
    }
    data
}

#[test]
fn every_f16_converts_exactly() {
    for bits in 0..=u16::MAX {
        let (ours, exact) = (f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
        assert!(ours == exact || (ours.is_nan() && exact.is_nan()), "{bits:#06x}: {ours} against {exact}");
    }
}

/// One value by the definition of its type: bits are picked one by one, with no regard to speed.
fn by_definition(dtype: Dtype, row: &[u8], index: usize) -> f32 {
    let (len, bytes) = (dtype.block_len(), dtype.row_bytes(dtype.block_len()));
    let (b, i) = (&row[index / len * bytes..][..bytes], index % len);
    let f16 = |at: usize| half::f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let bit = |from: usize, n: usize| i32::from(b[from + n / 8] >> (n % 8) & 1);
    // Four bits of a block of 32, and of 64 values of a block of 256.
    let four = |from: usize| i32::from(b[from + i % 16] >> (4 * (i / 16)) & 15);
    let wide = |from: usize| i32::from(b[from + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15);
    let six = |minimum: usize| {
        let (s, g) = (&b[4..16], i / 32);
        let byte = if g < 4 {
            s[g + 4 * minimum] & 63
        } else {
            (s[g + 4] >> (4 * minimum) & 15) + 16 * (s[g - 4 + 4 * minimum] >> 6)
        };
        f32::from(byte)
    };
    let grouped = |q: i32| f16(0) * six(0) * q as f32 - f16(2) * six(1);
    match dtype {
        Dtype::Q8_0 => f16(0) * f32::from(b[2 + i] as i8),
        Dtype::Q4_0 => f16(0) * (four(2) - 8) as f32,
        Dtype::Q4_1 => f16(0) * four(4) as f32 + f16(2),
        Dtype::Q5_0 => f16(0) * (four(6) + 16 * bit(2, i) - 16) as f32,
        Dtype::Q5_1 => f16(0) * (four(8) + 16 * bit(4, i)) as f32 + f16(2),
        Dtype::Q4_K => grouped(wide(16)),
        Dtype::Q5_K => grouped(wide(48) + 16 * bit(16 + i % 32, i / 32)),
        Dtype::Q6_K => {
            let (half, run, j) = (i / 128, i % 128 / 32, i % 32);
            let low = b[64 * half + j + if run % 2 == 1 { 32 } else { 0 }];
            let low = if run < 2 { low % 16 } else { low / 16 };
            let high = b[128 + 32 * half + j] >> (2 * run) & 3;
            f16(208) * f32::from(b[192 + i / 16] as i8) * (i32::from(low + 16 * high) - 32) as f32
        }
        _ => unreachable!("no blocks"),
    }
}

#[test]
fn quantized_blocks_by_the_definition_from_any_column() {
    let mut rng = Rng(20);
    for dtype in QUANTIZED {
        let cols = 3 * dtype.block_len();
        let data = random(&mut rng, dtype, 2 * cols);
        let view = WeightView { dtype, data: &data, rows: 2, cols };
        view.check();
        let last = &data[dtype.row_bytes(cols)..];
        let exact: Vec<f32> = (0..cols).map(|i| by_definition(dtype, last, i)).collect();
        for from in 0..cols {
            for n in [0, 1, 2, 31, 32, 33, 64, 65, 96, cols] {
                let n = n.min(cols - from);
                let mut got = vec![f32::NAN; n];
                let mut calls = 0;
                view.for_row(1, from, n, |i, v| {
                    assert_eq!(i, calls, "in order");
                    calls += 1;
                    got[i] = v;
                });
                assert_eq!(got, exact[from..from + n], "{dtype:?} {from} {n}");
            }
        }
    }
}

/// A quantized weight multiplies as its dequantized values do, in both orientations.
#[test]
fn quantized_weights_multiply_as_their_values() {
    let mut rng = Rng(6);
    for dtype in QUANTIZED {
        let [m, n, k] = if dtype.block_len() == 32 { [7, 96, 160] } else { [7, 256, 768] };
        let data = random(&mut rng, dtype, n * k);
        let a: Vec<f32> = rng.vec(m * k.max(n));
        let mut scratch = vec![f32::NAN; matmul_scratch(1)];
        for (view, transposed) in [
            (WeightView { dtype, data: &data, rows: n, cols: k }, true),
            (WeightView { dtype, data: &data, rows: k, cols: n }, false),
        ] {
            let mut wide = Vec::new();
            (0..view.rows).for_each(|r| view.for_row(r, 0, view.cols, |_, v| wide.push(v)));
            let (quantized, dense) = if transposed {
                (Rhs::WeightTransposed(view), Rhs::transposed(&wide, k))
            } else {
                (Rhs::Weight(view), Rhs::rows(&wide, n))
            };
            for compute in [Compute::Full, Compute::Bf16] {
                let [mut c, mut d] = [vec![0.0; m * n], vec![0.0; m * n]];
                for (out, b) in [(&mut c, quantized), (&mut d, dense)] {
                    matmul(
                        Out::rows(out, n),
                        [m, n, k],
                        1.0,
                        Lhs::rows(&a, k),
                        b,
                        Init::Zero,
                        compute,
                        &mut scratch,
                        Par::serial(),
                    );
                }
                assert_eq!(c, d, "{dtype:?} {compute:?}");
            }
        }
    }
}

/// A product of few rows is the product of many rows to the bit, in every format, orientation of the result,
/// start, and for any number of threads.
#[test]
fn few_rows_are_rows_of_many() {
    let mut rng = Rng(7);
    let pool = Threads::new(3).expect("threads");
    let plain = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    for dtype in QUANTIZED.into_iter().chain(plain) {
        for n in [16, 87, 352, 5] {
            let k = if dtype.block_len() == 256 { 512 } else { 480 };
            let values: Vec<f32> = rng.vec(n * k);
            let data: Vec<u8> = match dtype {
                Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                Dtype::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                _ => random(&mut rng, dtype, n * k),
            };
            let w = Rhs::WeightTransposed(WeightView { dtype, data: &data, rows: n, cols: k });
            let (a, bias, start): (Vec<f32>, Vec<f32>, Vec<f32>) =
                (rng.vec(20 * k), rng.vec(n), rng.vec(20 * n));
            let mut scratch = vec![f32::NAN; matmul_scratch(3)];
            for compute in [Compute::Full, Compute::Bf16] {
                for init in [Init::Zero, Init::Bias(&bias), Init::Accumulate] {
                    let mut many = start.clone();
                    let (out, lhs) = (Out::rows(&mut many, n), Lhs::rows(&a, k));
                    matmul(out, [20, n, k], 1.0, lhs, w, init, compute, &mut scratch, Par::serial());
                    for m in [1, 2, 4, 5, 16] {
                        for par in [Par::serial(), Par::on(&pool)] {
                            let mut few = start[..m * n].to_vec();
                            let (out, lhs) = (Out::rows(&mut few, n), Lhs::rows(&a, k));
                            matmul(out, [m, n, k], 1.0, lhs, w, init, compute, &mut scratch, par);
                            assert_eq!(few, many[..m * n], "{dtype:?} [{m},{n},{k}] {compute:?}");
                        }
                        let mut few: Vec<f32> = (0..m * n).map(|x| start[x % m * n + x / m]).collect();
                        let a_t: Vec<f32> = (0..m * k).map(|x| a[x % m * k + x / m]).collect();
                        let (out, lhs) = (Out::transposed(&mut few, m), Lhs::transposed(&a_t, m));
                        matmul(out, [m, n, k], 1.0, lhs, w, init, compute, &mut scratch, Par::serial());
                        assert!(
                            (0..m * n).all(|x| few[x] == many[x % m * n + x / m]),
                            "{dtype:?} transposed"
                        );
                    }
                }
            }
        }
    }
}
