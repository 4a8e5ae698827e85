//! Updates of parameters, in every way of storing them.

use mesp_kernels::{
    AdamW, Factored, Foam, Lion, MomentMut, Par, ParamMut, Real, Sgd, Values, adamw, add_scaled,
    factored_moments, factored_norms, factored_step, foam, lion, sgd,
};

use crate::{Buffers, finite};

/// Calls `update` with a parameter in each way of storing it.
fn each<R: Real>(on: &mut Buffers, n: usize, mut update: impl FnMut(&mut Buffers, ParamMut<'_, R>)) {
    let mut p = on.values::<R>(n);
    update(on, ParamMut::Full(&mut p));
    finite(&p);
    let mut values = on.of(&vec![0x3f80u16; n]);
    update(on, ParamMut::Random { values: &mut values, key: 1, first: 3 });
    let mut rest = on.of(&vec![0u16; n]);
    update(on, ParamMut::Compensated { values: &mut values, rest: &mut rest });
}

pub(crate) fn updates<R: Real>(on: &mut Buffers) {
    let par = Par::serial();
    for (rows, cols) in [(1, 1), (3, 7), (70, 9), (2, 300), (5, 33)] {
        on.case(format_args!("updates of {rows} rows of {cols}"));
        let n = rows * cols;
        let (g, mut m) = (on.values::<R>(n), on.values::<R>(n));
        add_scaled(&mut m, &g, 0.5, par);
        let s = AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 3 };
        each(on, n, |on, p| {
            let mut v = on.of(&vec![R::ZERO; n]);
            adamw(p, MomentMut::Full(&mut m), MomentMut::Full(&mut v), &g, s, par);
        });
        each(on, n, |on, p| {
            let [mut m, mut v] = [on.of(&vec![0u16; n]), on.of(&vec![0u16; n])];
            let m = MomentMut::Bf16 { values: &mut m, key: 2, first: 1 };
            adamw(p, m, MomentMut::Bf16 { values: &mut v, key: 3, first: 1 }, &g, s, par);
        });
        each(on, n, |on, p| {
            let [mut m, mut v] = [on.of(&vec![0u8; n]), on.of(&vec![0u8; n])];
            let mut scales = [(); 2].map(|()| on.of(&vec![R::ZERO; n.div_ceil(256)]));
            let [of_m, of_v] = &mut scales;
            let m = MomentMut::Blocks { codes: &mut m, scales: of_m, signed: true };
            adamw(p, m, MomentMut::Blocks { codes: &mut v, scales: of_v, signed: false }, &g, s, par);
        });
        each(on, n, |_, p| {
            let s = Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.1 };
            sgd(p, &mut m, &g, s, par);
        });
        each(on, n, |_, p| {
            let s = Lion { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
            lion(p, &mut m, &g, s, par);
        });
        for level in [0, 2, 9] {
            let s = Foam {
                cols,
                level,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-6,
                scale: 0.25,
                residual: 1.0,
                square_of_mean: false,
                learning_rate: 0.1,
                weight_decay: 0.1,
                step: 3,
            };
            each(on, n, |on, p| {
                let [mut m, mut v] = [(); 2].map(|()| on.of(&vec![R::ZERO; rows * s.folded()]));
                foam(p, &mut m, &mut v, &g, s, par);
            });
        }
        factored::<R>(on, rows, cols, &g);
    }
}

fn factored<R: Real>(on: &mut Buffers, rows: usize, cols: usize, g: &[R]) {
    let par = Par::serial();
    for columns in [true, false] {
        let (rows, cols) = if columns { (rows, cols) } else { (rows * cols, 1) };
        let s = Factored {
            rows,
            cols,
            beta: 0.5,
            eps1: 1e-30,
            eps2: 1e-3,
            threshold: 1.0,
            scale_parameter: true,
            learning_rate: 0.1,
            weight_decay: 0.1,
        };
        let (mut r, mut sums) = (on.of(&vec![R::ZERO; rows]), on.of(&[R::ZERO; 3]));
        let mut c = columns.then(|| on.of(&vec![R::ZERO; cols]));
        factored_moments(&mut r, c.as_deref_mut(), &mut sums, g, s, 0, par);
        let (p, half) = (on.values::<R>(rows * cols), on.of(&vec![0x3f80u16; rows * cols]));
        factored_norms(&mut sums, Values::Full(&p), &r, c.as_deref(), g, s, 0, par);
        factored_norms(&mut sums, Values::Bf16(&half), &r, c.as_deref(), g, s, 0, par);
        each(on, rows * cols, |_, p| factored_step(p, &r, c.as_deref(), &sums, g, s, par));
        finite(&sums);
    }
}
