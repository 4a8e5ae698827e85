//! Products with frozen weights in every format, against the `gemm` crate and PyTorch.

use std::cell::RefCell;
use std::time::Duration;

use mesp_kernels::{Compute, Dtype, Init, Lhs, Out, Par, Rhs, WeightView, matmul, matmul_scratch};

use crate::alternate::{Contestant, Torch, race};
use crate::{Rng, wanted};

/// Random bits with plausible scales.
pub(crate) fn weight(rng: &mut Rng, dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    let values = rng.vec(if dtype.is_quantized() { 0 } else { rows * cols });
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        _ => {
            let bytes = rows * dtype.row_bytes(cols);
            let mut data: Vec<u8> =
                (0..bytes.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
            data.truncate(bytes);
            let scales: &[usize] = match dtype {
                Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 => &[0],
                Dtype::Q6_K => &[208],
                _ => &[0, 2],
            };
            for block in data.chunks_exact_mut(dtype.row_bytes(dtype.block_len())) {
                for at in scales {
                    block[*at..at + 2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
                }
            }
            data
        }
    }
}

pub(crate) fn products(budget: Duration) {
    let torch = RefCell::new(std::env::var("MESP_BENCH_PYTHON").ok().map(|p| Torch::start(&p)));
    let mut rng = Rng(1);
    for (m, d, ff) in [(256, 896, 4864), (32, 896, 4864)] {
        for (form, n, k) in [("forward", ff, d), ("straight", d, ff), ("forward", d, ff), ("straight", ff, d)]
        {
            let size @ [m, n, k] = [m, n, k];
            let title = |compute: &str| format!("product {m}x{n}x{k} {form}, {compute}");
            if !["bf16", "f32"].iter().any(|c| wanted(&title(c))) {
                continue;
            }
            let a = rng.vec(m * k);
            let flop = 2 * m * n * k;
            let weights: Vec<(Dtype, Vec<u8>)> =
                [Dtype::Bf16, Dtype::F32, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_K]
                    .into_iter()
                    .map(|dtype| {
                        let (rows, cols) = if form == "forward" { (n, k) } else { (k, n) };
                        let cols = cols.next_multiple_of(dtype.block_len());
                        (dtype, weight(&mut rng, dtype, rows, cols))
                    })
                    .collect();
            let (a, weights) = (&a, &weights);
            for (name, compute, torch_type) in
                [("bf16", Compute::Bf16, "bfloat16"), ("f32", Compute::Full, "float32")]
            {
                if !wanted(&title(name)) {
                    continue;
                }
                let mut all = Vec::new();
                for (dtype, data) in weights {
                    let (rows, cols) = if form == "forward" { (n, k) } else { (k, n) };
                    if cols % dtype.block_len() != 0 {
                        continue;
                    }
                    let view = WeightView { dtype: *dtype, data, rows, cols };
                    let (mut out, mut scratch) = (vec![0.0; m * n], vec![0.0; matmul_scratch(1)]);
                    all.push(Contestant::new(format!("ours, {} weights", dtype.name()), flop, move || {
                        let w =
                            if form == "forward" { Rhs::WeightTransposed(view) } else { Rhs::Weight(view) };
                        let (out, a) = (Out::rows(&mut out, n), Lhs::rows(a, k));
                        matmul(out, size, 1.0, a, w, Init::Zero, compute, &mut scratch, Par::serial());
                    }));
                }
                if compute == Compute::Full {
                    all.push(gemm_f32(size, a, form, &mut rng));
                }
                if torch.borrow().is_some() {
                    let torch = &torch;
                    all.push(Contestant::timed("PyTorch", flop, move || {
                        torch.borrow_mut().as_mut().map_or(0.0, |t| t.product(size, torch_type, form))
                    }));
                }
                race(&title(name), "GFLOP/s", budget, all);
            }
        }
    }
}

fn gemm_f32<'a>([m, n, k]: [usize; 3], a: &'a [f32], form: &str, rng: &mut Rng) -> Contestant<'a> {
    let (b, mut c) = (rng.vec(n * k), vec![0.0f32; m * n]);
    let [b_rows, b_cols] = if form == "forward" { [1, k as isize] } else { [n as isize, 1] };
    Contestant::new("gemm crate", 2 * m * n * k, move || {
        // SAFETY: the three matrices are as large as their shapes and strides say.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                1,
                k as isize,
                b.as_ptr(),
                b_cols,
                b_rows,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    })
}
