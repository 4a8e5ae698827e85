use std::sync::Arc;

use mesp_kernels::{
    AdamW, Factored, Foam, Lion, MomentMut, Par, ParamMut, Real, Sgd, Values, adamw, factored_moments,
    factored_norms, factored_step, foam, lion, narrow, random_bits,
};

use super::*;
use crate::{Act, Backend, Class, Dry, Label, Plan, Program, Threads};

const LABEL: Label = Label::new(Class::Other, "x");
const ADAMW: AdamW =
    AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 1 };

/// Runs `work` on the recorder and then on a processor of two threads.
fn run<R: Real>(work: impl Fn(&mut dyn Backend)) -> Plan {
    let mut dry = Dry::new(size_of::<R>(), 2);
    dry.begin(Program(0));
    work(&mut dry);
    let plan = dry.finish();
    let mut cpu = Cpu::<R>::new(plan, Arc::new(Threads::new(2).expect("threads")));
    cpu.begin(Program(0));
    work(&mut cpu);
    assert_eq!(cpu.reached_bytes(), cpu.plan().bytes());
    cpu.plan().clone()
}

/// A buffer of some values.
fn filled(be: &mut dyn Backend, [rows, cols]: [usize; 2], elem: Elem, value: &dyn Fn(usize) -> f64) -> Act {
    let mut x = be.alloc_as(rows, cols, elem, LABEL);
    be.load(x.view_mut(), &mut |i| value(i));
    x
}

/// Values as those of a list.
fn same<T: Into<f64> + Copy>(be: &dyn Backend, x: &Act, expected: &[T]) {
    be.store(x.view(), &mut |i, x| assert_eq!(x, expected[i].into(), "value {i}"));
}

fn gradient(i: usize) -> f64 {
    f64::from(((i as f32) * 0.37).sin())
}

fn gradients(n: usize) -> Vec<f32> {
    (0..n).map(|i| gradient(i) as f32).collect()
}

fn wide(x: &[u16]) -> Vec<f32> {
    x.iter().map(|x| f32::from_bits(u32::from(*x) << 16)).collect()
}

#[test]
fn bytes_are_bytes_on_every_backend() {
    let work = |be: &mut dyn Backend| {
        let mut x = filled(be, [3, 100], Elem::Byte, &|i| (i % 256) as f64);
        be.store(x.rows_view(1..3), &mut |i, x| assert_eq!(x, ((100 + i) % 256) as f64));
        be.zero(x.rows_mut(1..2));
        be.store(x.view(), &mut |i, x| assert_eq!(x, if i / 100 == 1 { 0.0 } else { (i % 256) as f64 }));
        assert_eq!(x.elem(), Elem::Byte);
        be.free(x);
    };
    assert_eq!(run::<f32>(work).bytes(), run::<f64>(work).bytes());
    assert_eq!(run::<f32>(work).bytes(), 320);
    let refused = std::panic::catch_unwind(|| {
        run::<f32>(|be| {
            let mut x = be.alloc_as(1, 8, Elem::Byte, LABEL);
            be.scale(x.view_mut(), 2.0);
        })
    });
    let said = refused.expect_err("a product of codes");
    assert_eq!(said.downcast_ref::<String>().map(String::as_str), Some(crate::cpu::NO_BYTES));
}

#[test]
fn moments_are_the_kernels() {
    const N: usize = 600;
    let g = gradients(N);
    // In bytes, with scales of the backend's numbers.
    let [(mut m, mut m_scales), (mut v, mut v_scales)] = [(); 2].map(|()| (vec![0u8; N], vec![0f32; 3]));
    let mut p = vec![1.0f32; N];
    let first = MomentMut::Blocks { codes: &mut m, scales: &mut m_scales, signed: true };
    let second = MomentMut::Blocks { codes: &mut v, scales: &mut v_scales, signed: false };
    adamw(ParamMut::Full(&mut p), first, second, &g, ADAMW, Par::serial());
    let codes = |be: &mut dyn Backend, exact: bool| {
        let g = filled(be, [2, N / 2], Elem::Full, &gradient);
        let mut to = filled(be, [2, N / 2], Elem::Full, &|_| 1.0);
        let [mut first, mut second] = [(); 2].map(|()| filled(be, [2, N / 2], Elem::Byte, &|_| 0.0));
        let [mut a, mut b] = [(); 2].map(|()| filled(be, [1, 3], Elem::Full, &|_| 0.0));
        let of_m = Moment { values: first.view_mut(), scales: Some(a.view_mut()), signed: true };
        let of_v = Moment { values: second.view_mut(), scales: Some(b.view_mut()), signed: false };
        be.adamw(Updated::at_random(to.view_mut(), 0), of_m, of_v, g.view(), ADAMW);
        if exact {
            same(be, &to, &p);
            same(be, &a, &m_scales);
            same(be, &b, &v_scales);
        }
        same(be, &first, &m);
        same(be, &second, &v);
        for x in [g, to, first, second, a, b] {
            be.free(x);
        }
    };
    run::<f32>(|be| codes(be, true));
    run::<f64>(|be| codes(be, false));

    // In bf16, each with random numbers of its own, of a part that begins at value 30.
    let [mut p, mut m, mut v] = [vec![0x3f80u16; N], vec![0u16; N], vec![0u16; N]];
    adamw(
        ParamMut::Random { values: &mut p, key: 9, first: 30 },
        MomentMut::Bf16 { values: &mut m, key: random_bits(9, 1, 0), first: 30 },
        MomentMut::Bf16 { values: &mut v, key: random_bits(9, 2, 0), first: 30 },
        &g,
        ADAMW,
        Par::serial(),
    );
    run::<f32>(|be| {
        let g = filled(be, [N, 1], Elem::Full, &gradient);
        let mut to = filled(be, [N, 1], Elem::Bf16, &|_| 1.0);
        let [mut first, mut second] = [(); 2].map(|()| filled(be, [N, 1], Elem::Bf16, &|_| 0.0));
        let updated = Updated { p: to.view_mut(), rest: None, key: 9, first: 30 };
        be.adamw(updated, first.view_mut().into(), second.view_mut().into(), g.view(), ADAMW);
        for (x, expected) in [(&to, &p), (&first, &m), (&second, &v)] {
            same(be, x, &wide(expected));
        }
        for x in [g, to, first, second] {
            be.free(x);
        }
    });
}

#[test]
fn what_is_cut_off_is_kept_beside_bf16_only() {
    const N: usize = 70;
    let (g, s) = (gradients(N), Sgd { learning_rate: 1e-3, momentum: 0.0, weight_decay: 0.0 });
    let [mut p, mut rest] = [vec![0x3f80u16; N], vec![0u16; N]];
    for _ in 0..3 {
        let p = ParamMut::Compensated { values: &mut p, rest: &mut rest };
        mesp_kernels::sgd(p, &mut [], &g, s, Par::serial());
    }
    let work = |be: &mut dyn Backend, halves: bool| {
        let g = filled(be, [7, 10], Elem::Full, &gradient);
        let mut to = filled(be, [7, 10], Elem::Bf16, &|_| 1.0);
        let mut kept = filled(be, [7, 10], Elem::Bf16, &|_| 0.0);
        let mut y = filled(be, [7, 10], Elem::Full, &|_| 1.0);
        for _ in 0..3 {
            let p = Updated { p: to.view_mut(), rest: Some(kept.view_mut()), key: 0, first: 0 };
            be.sgd(p, None, g.view(), s);
            be.add_scaled(y.view_mut(), g.view(), -1e-3);
        }
        if halves {
            same(be, &to, &wide(&p));
            same(be, &kept, &wide(&rest));
        } else {
            same(be, &kept, &[0.0; N]);
            let mut moved = Vec::new();
            be.store(y.view(), &mut |_, x| moved.push(x));
            be.store(to.view(), &mut |i, x| assert!((x - moved[i]).abs() < 1e-15));
        }
        for x in [g, to, kept, y] {
            be.free(x);
        }
    };
    run::<f32>(|be| work(be, true));
    run::<f64>(|be| work(be, false));
}

#[test]
fn lion_and_foam_are_the_kernels() {
    let (rows, cols) = (6, 10);
    let (n, g) = (rows * cols, gradients(rows * cols));
    let s = Lion { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
    let folding = Foam {
        cols,
        level: 2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        scale: 0.25,
        residual: 1.0,
        square_of_mean: false,
        learning_rate: 0.1,
        weight_decay: 0.1,
        step: 1,
    };
    let (mut p, mut m) = (vec![1.0f32; n], vec![0.5; n]);
    lion(ParamMut::Full(&mut p), &mut m, &g, s, Par::serial());
    let [mut first, mut second] = [(); 2].map(|()| vec![0.25f32; rows * folding.folded()]);
    foam(ParamMut::Full(&mut p), &mut first, &mut second, &g, folding, Par::serial());
    run::<f32>(|be| {
        let g = filled(be, [rows, cols], Elem::Full, &gradient);
        let mut to = filled(be, [rows, cols], Elem::Full, &|_| 1.0);
        let mut moment = filled(be, [rows, cols], Elem::Full, &|_| 0.5);
        let [mut a, mut b] = [(); 2].map(|()| filled(be, [rows, 3], Elem::Full, &|_| 0.25));
        be.lion(Updated::at_random(to.view_mut(), 0), moment.view_mut(), g.view(), s);
        be.foam(Updated::at_random(to.view_mut(), 0), a.view_mut(), b.view_mut(), g.view(), folding);
        for (x, expected) in [(&to, &p), (&moment, &m), (&a, &first), (&b, &second)] {
            same(be, x, expected);
        }
        for x in [g, to, moment, a, b] {
            be.free(x);
        }
    });
}

#[test]
fn factored_moments_in_tiles_are_the_kernels_of_the_whole() {
    let (rows, cols) = (150, 9);
    let (n, g) = (rows * cols, gradients(rows * cols));
    let s = Factored {
        rows,
        cols,
        beta: 0.0,
        eps1: 1e-30,
        eps2: 1e-3,
        threshold: 1.0,
        scale_parameter: true,
        learning_rate: 0.1,
        weight_decay: 0.1,
    };
    let par = Par::serial();
    let (mut p, mut r, mut c, mut sums) = (vec![0; n], vec![0.0; rows], vec![0.0; cols], [0.0; 3]);
    narrow(&mut p, &vec![1.0f32; n], par);
    factored_moments(&mut r, Some(&mut c), &mut sums, &g, s, 0, par);
    factored_norms(&mut sums, Values::Bf16(&p), &r, Some(&c), &g, s, 0, par);
    let of_p = ParamMut::Random { values: &mut p, key: 4, first: 0 };
    factored_step(of_p, &r, Some(&c), &sums, &g, s, par);
    run::<f32>(|be| {
        let g = filled(be, [rows, cols], Elem::Full, &gradient);
        let mut to = filled(be, [rows, cols], Elem::Bf16, &|_| 1.0);
        let mut by_row = be.alloc(rows, 1, LABEL);
        let [mut by_col, mut all] = [cols, 3].map(|n| filled(be, [1, n], Elem::Full, &|_| 0.0));
        be.zero(by_row.view_mut());
        let tiles = || (0..rows).step_by(64).map(|first| first..(first + 64).min(rows));
        for tile in tiles() {
            let (r, g) = (by_row.rows_mut(tile.clone()), g.rows_view(tile.clone()));
            be.factored_moments(r, Some(by_col.view_mut()), all.view_mut(), g, s, tile.start);
        }
        for tile in tiles() {
            let [p, r, g] = [&to, &by_row, &g].map(|x| x.rows_view(tile.clone()));
            be.factored_norms(all.view_mut(), p, r, Some(by_col.view()), g, s, tile.start);
        }
        for tile in tiles() {
            let [r, g] = [&by_row, &g].map(|x| x.rows_view(tile.clone()));
            let first = tile.start * cols;
            let p = Updated { p: to.rows_mut(tile), rest: None, key: 4, first };
            be.factored_step(p, r, Some(by_col.view()), all.view(), g, s);
        }
        same(be, &to, &wide(&p));
        same(be, &all, &sums);
        same(be, &by_col, &c);
        for x in [g, to, by_row, by_col, all] {
            be.free(x);
        }
    });
}
