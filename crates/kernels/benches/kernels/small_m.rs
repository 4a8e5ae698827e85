//! Products of few rows, as in decoding: bytes of the weight per second, against a plain sum over as many bytes.

use std::hint::black_box;
use std::time::Duration;

use mesp_kernels::{Compute, Dtype, Init, Lhs, Out, Par, Rhs, WeightView, matmul, matmul_scratch};

use crate::alternate::{Contestant, race};
use crate::products::weight;
use crate::{Rng, wanted};

pub(crate) fn small_m(budget: Duration) {
    let mut rng = Rng(2);
    // More than the last-level cache holds, as a whole model is.
    let (k, bytes) = (896, 96 << 20);
    for (name, compute) in [("bf16", Compute::Bf16), ("f32", Compute::Full)] {
        for dtype in [Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_K] {
            let k = k / dtype.block_len() * dtype.block_len();
            let n = bytes / dtype.row_bytes(k) / 64 * 64;
            let title = format!("small m, {} weights, {name}", dtype.name());
            if !wanted(&title) {
                continue;
            }
            let data = weight(&mut rng, dtype, n, k);
            let w = Rhs::WeightTransposed(WeightView { dtype, data: &data, rows: n, cols: k });
            let mut all = vec![Contestant::new("a sum over the bytes", data.len(), || {
                // SAFETY: any eight bytes are a number; the middle part of the cut is aligned.
                let (_, words, _) = unsafe { data.align_to::<u64>() };
                black_box(words.iter().fold(0u64, |a, b| a.wrapping_add(*b)));
            })];
            for m in [1, 4, 16] {
                let (a, mut out, mut scratch) =
                    (rng.vec(m * k), vec![0.0; m * n], vec![0.0; matmul_scratch(1)]);
                all.push(Contestant::new(format!("{m} rows"), data.len(), move || {
                    let (out, a) = (Out::rows(&mut out, n), Lhs::rows(&a, k));
                    matmul(out, [m, n, k], 1.0, a, w, Init::Zero, compute, &mut scratch, Par::serial());
                }));
            }
            race(&title, "GB/s", budget, all);
        }
    }
}
