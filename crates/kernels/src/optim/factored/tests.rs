use super::*;
use crate::Threads;
use crate::compact::{narrow, wide};
use crate::test_util::{Rng, relative};

const SETTINGS: Factored = Factored {
    rows: 0,
    cols: 0,
    beta: 0.0,
    eps1: 1e-30,
    eps2: 1e-3,
    threshold: 1.0,
    scale_parameter: true,
    learning_rate: 0.1,
    weight_decay: 0.1,
};

/// A parameter in full with its state.
#[derive(Debug, Clone, PartialEq)]
struct State<R> {
    p: Vec<R>,
    r: Vec<R>,
    c: Option<Vec<R>>,
    sums: [R; 3],
}

impl<R: Real> State<R> {
    fn new(p: Vec<R>, rows: usize, cols: Option<usize>) -> Self {
        let c = cols.map(|cols| vec![R::ZERO; cols]);
        Self { p, r: vec![R::ZERO; rows], c, sums: [R::LOWEST; 3] }
    }

    /// The three visits, in tiles of so many rows.
    fn update(&mut self, g: &[R], s: Factored, tile: usize, par: Par<'_>) {
        let Self { p, r, c, sums } = self;
        let size = tile * s.cols;
        for (i, (r, g)) in r.chunks_mut(tile).zip(g.chunks(size)).enumerate() {
            factored_moments(r, c.as_deref_mut(), sums, g, s, i * tile, par);
        }
        for (i, ((r, g), p)) in r.chunks(tile).zip(g.chunks(size)).zip(p.chunks(size)).enumerate() {
            factored_norms(sums, Values::Full(p), r, c.as_deref(), g, s, i * tile, par);
        }
        for ((r, g), p) in r.chunks(tile).zip(g.chunks(size)).zip(p.chunks_mut(size)) {
            factored_step(ParamMut::Full(p), r, c.as_deref(), sums, g, s, par);
        }
    }
}

fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = x.len() as f64;
    x.sum::<f64>() / n
}

/// `Adafactor.step` of transformers 4 with `relative_step`, `beta1` and `warmup_init` off, line by line: `exp_avg_sq_row`,
/// `exp_avg_sq_col` or `exp_avg_sq`, `_approx_sq_grad`, `_rms`.
fn adafactor(state: &mut State<f64>, g: &[f64], s: Factored) {
    let State { p, r, c, .. } = state;
    let d = s.cols;
    let squared: Vec<f64> = g.iter().map(|g| g * g + s.eps1).collect();
    let mut update: Vec<f64>;
    if let Some(c) = c {
        for (i, r) in r.iter_mut().enumerate() {
            *r = s.beta * *r + (1.0 - s.beta) * mean(squared[i * d..][..d].iter().copied());
        }
        for (j, c) in c.iter_mut().enumerate() {
            *c = s.beta * *c + (1.0 - s.beta) * mean((0..s.rows).map(|i| squared[i * d + j]));
        }
        let row_mean = mean(r.iter().copied());
        update = (0..g.len()).map(|k| 1.0 / (r[k / d] / row_mean).sqrt() * (1.0 / c[k % d].sqrt())).collect();
    } else {
        r.iter_mut().zip(&squared).for_each(|(r, q)| *r = s.beta * *r + (1.0 - s.beta) * q);
        update = r.iter().map(|r| 1.0 / r.sqrt()).collect();
    }
    update.iter_mut().zip(g).for_each(|(u, g)| *u *= g);
    let rms = |x: &[f64]| mean(x.iter().map(|x| x * x)).sqrt();
    let clip = (rms(&update) / s.threshold).max(1.0);
    let lr = if s.scale_parameter { s.eps2.max(rms(p)) * s.learning_rate } else { s.learning_rate };
    for (p, u) in p.iter_mut().zip(update) {
        *p += -s.weight_decay * lr * *p;
        *p += -(u / clip * lr);
    }
}

fn wide_state<R: Real>(x: &State<R>) -> State<f64> {
    let wide = |x: &[R]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    State { p: wide(&x.p), r: wide(&x.r), c: x.c.as_deref().map(wide), sums: x.sums.map(R::to_f64) }
}

fn check<R: Real>(bound: f64) {
    for (rows, cols) in [(1, 1), (3, 7), (65, 300), (130, 257), (8, 600), (200, 5)] {
        for scale_parameter in [true, false] {
            let mut rng = Rng(90);
            let mut matrix = State::new(rng.vec::<R>(rows * cols), rows, Some(cols));
            let mut vector = State::new(rng.vec::<R>(rows), rows, None);
            let (mut exact, mut exact_vector) = (wide_state(&matrix), wide_state(&vector));
            for t in 1..=4 {
                let beta = 1.0 - f64::from(t).powf(-0.8);
                // With an rms of u above and below the threshold.
                let threshold = [1.0, 0.25][t as usize % 2];
                let s = Factored { rows, cols, beta, threshold, scale_parameter, ..SETTINGS };
                let g: Vec<R> = rng.vec(rows * cols);
                let wide: Vec<f64> = g.iter().map(|g| g.to_f64()).collect();
                matrix.update(&g, s, 1 << 20, Par::serial());
                adafactor(&mut exact, &wide, s);
                let s = Factored { cols: 1, ..s };
                vector.update(&g[..rows], s, 1 << 20, Par::serial());
                adafactor(&mut exact_vector, &wide[..rows], s);
            }
            for (state, exact) in [(&matrix, exact), (&vector, exact_vector)] {
                assert!(relative(&state.p, &exact.p) <= bound, "{rows} x {cols}: p");
                assert!(relative(&state.r, &exact.r) <= bound, "{rows} x {cols}: r");
                let (c, exact) = (state.c.as_deref().unwrap_or(&[]), exact.c.unwrap_or_default());
                assert!(relative(c, &exact) <= bound, "{rows} x {cols}: c");
            }
        }
    }
}

#[test]
fn is_adafactor_of_transformers() {
    check::<f64>(1e-13);
    check::<f32>(2e-6);
}

#[test]
fn tiles_and_threads_change_no_bit() {
    let pool = Threads::new(3).expect("threads");
    for (rows, cols) in [(1500, 40), (200, 333), (3000, 1)] {
        let whole = |tile: usize, par: Par<'_>, columns: Option<usize>| {
            let mut rng = Rng(91);
            let mut state = State::new(rng.vec::<f32>(rows * cols), rows, columns);
            for t in 1..=2 {
                let s = Factored { rows, cols, beta: 1.0 - f64::from(t).powf(-0.8), ..SETTINGS };
                state.update(&rng.vec(rows * cols), s, tile, par);
            }
            state
        };
        for columns in [Some(cols), None].into_iter().filter(|c| c.is_some() || cols == 1) {
            let expected = whole(rows, Par::serial(), columns);
            for tile in [64, 128, 1024, 1088] {
                assert!(expected == whole(tile, Par::serial(), columns), "tiles of {tile} rows");
            }
            assert!(expected == whole(rows, Par::on(&pool), columns), "threads");
            assert!(expected == whole(192, Par::on(&pool), columns), "threads and tiles");
        }
    }
}

/// Where every q is a product of a row's and a column's number, v is their mean over time exactly.
#[test]
fn a_product_of_two_vectors_is_kept_exactly() {
    let (rows, cols) = (5, 9);
    let mut rng = Rng(92);
    let (a, b): (Vec<f64>, Vec<f64>) = (rng.vec(rows), rng.vec(cols));
    let g: Vec<f64> = (0..rows * cols).map(|k| a[k / cols] * b[k % cols]).collect();
    let mut state = State::new(vec![0.0; rows * cols], rows, Some(cols));
    let s = Factored { rows, cols, threshold: 1e3, ..SETTINGS };
    state.update(&g, s, rows, Par::serial());
    state.update(
        &g.iter().map(|g| 2.0 * g).collect::<Vec<_>>(),
        Factored { beta: 0.5, ..s },
        rows,
        Par::serial(),
    );
    let c = state.c.as_deref().expect("columns");
    let row_mean = mean(state.r.iter().copied());
    for (k, g) in g.iter().enumerate() {
        let v = state.r[k / cols] * c[k % cols] / row_mean;
        assert!((v - 2.5 * g * g).abs() <= 1e-14 * v, "(1 + 4)/2 of g²");
    }
    // Their sums over a row are d·r_i.
    for (i, r) in state.r.iter().enumerate() {
        let all: f64 = (0..cols).map(|j| state.r[i] * c[j] / row_mean).sum();
        assert!((all - cols as f64 * r).abs() <= 1e-13 * all);
    }
}

#[test]
fn the_first_step_of_a_vector_is_the_sign_and_scale_of_g_is_nothing() {
    let g = [3.0f32, -0.5, 1e-9, -7.0, 0.0];
    let s = Factored { rows: 5, cols: 1, scale_parameter: false, weight_decay: 0.0, ..SETTINGS };
    let mut state = State::new(vec![0.0f32; 5], 5, None);
    state.update(&g, s, 5, Par::serial());
    for (p, sign) in state.p.iter().zip([-1.0, 1.0, -1.0, 1.0, 0.0]) {
        assert!((p - 0.1 * sign).abs() < 1e-7, "{p}");
    }
    // Gradients whose moments underflow as products of f32 move a matrix as others do.
    let (rows, cols) = (4, 6);
    let g: Vec<f32> = Rng(93).vec(rows * cols);
    let run = |scale: f32| {
        let mut state = State::new(Rng(94).vec::<f32>(rows * cols), rows, Some(cols));
        let s = Factored { rows, cols, eps1: 1e-36, ..SETTINGS };
        state.update(&g.iter().map(|g| g * scale).collect::<Vec<_>>(), s, rows, Par::serial());
        state.p
    };
    for scale in [1e-13, 1e-3, 1e9] {
        assert!(relative(&run(scale), &run(1.0)) < 1e-6, "{scale}");
    }
    // A step is at most η·rms(p)·τ.
    let before: Vec<f32> = Rng(94).vec(rows * cols);
    let moved: Vec<f32> = run(1.0).iter().zip(&before).map(|(p, q)| p - q * 0.99).collect();
    assert!(sum_of_squares(&moved).sqrt() <= 0.1 * sum_of_squares(&before).sqrt() * 1.1);
}

fn sum_of_squares(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum()
}

#[test]
fn parameters_in_bf16() {
    let (rows, cols) = (70, 30);
    let mut rng = Rng(95);
    let (g, start): (Vec<f32>, Vec<f32>) = (rng.vec(rows * cols), rng.vec(rows * cols));
    let mut half = vec![0; rows * cols];
    narrow(&mut half, &start, Par::serial());
    let exact: Vec<f32> = half.iter().map(|p| wide(*p)).collect();
    let s = Factored { rows, cols, ..SETTINGS };
    let mut state = State::new(exact, rows, Some(cols));
    state.update(&g, s, rows, Par::serial());
    let State { p, r, c, sums } = state;
    let mut of_half = [0.0; 3];
    of_half[0] = sums[0];
    factored_norms(&mut of_half, Values::Bf16(&half), &r, c.as_deref(), &g, s, 0, Par::serial());
    assert_eq!(of_half, sums);
    let (mut random, mut rest) = (half.clone(), vec![0; rows * cols]);
    let to = ParamMut::Random { values: &mut random, key: 1, first: 0 };
    factored_step(to, &r, c.as_deref(), &sums, &g, s, Par::serial());
    let to = ParamMut::Compensated { values: &mut half, rest: &mut rest };
    factored_step(to, &r, c.as_deref(), &sums, &g, s, Par::serial());
    for (((p, random), half), rest) in p.iter().zip(random).zip(half).zip(rest) {
        assert!((wide(random) - p).abs() <= p.abs() / 128.0);
        assert!((wide(half) + wide(rest) - p).abs() <= p.abs() / 131_072.0);
    }
}
