//! Dropout on the adapters' inputs: `y = W·x + s·B·A·x̃`, x̃ = k∘x/(1−p), as PEFT's `lora_dropout`.

use std::ops::Range;
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, Matrix, PairView, lora};
use mesp::arch::{Module, Norm, Tensor};
use mesp::gradient::Factors;
use mesp::method::Method;
use mesp::model::Batch;
use mesp::rng;
use mesp::tape::{Policy, SavedAs, Tiles};
use mesp::train::{Options, Session, Update};
use mesp_device::{Act, Backend, Class, Cpu, Dropout, Dry, Form, Label, Program, Threads, View};

use crate::support::{
    ADAMW, ARCHS, Answer, Case, answer, bits, derivative_of_matrix, gradients, mean_loss, mesp_policy,
    parameters, random_batch, randomize_adapters, session_for, shapes, values,
};

/// A case's options with dropout, adapters on everything that a model has, its head included.
fn options(case: &Case, p: f64, policy: Policy) -> Options {
    let mut targets = Module::ALL.map(|p| p.stored_in(case.model.config.family.fused)).to_vec();
    targets.extend([Module::Head, Module::Embed]);
    targets.sort_unstable();
    targets.dedup();
    let adapter = AdapterConfig { dropout: p, targets, ..case.adapter.clone() };
    Options { adapter, ..case.options(policy) }
}

/// Adds what A of a layer gets to a buffer.
struct OfA<'a>(&'a mut Act);

impl<B: Backend> Factors<B> for OfA<'_> {
    fn wants(&self, of: Tensor) -> bool {
        of == Tensor::Adapter(Module::Q, Matrix::A)
    }
    fn linear(&mut self, be: &mut B, of: Tensor, rows: Range<usize>, [g, x]: [View<'_>; 2], scale: f64) {
        assert!(Factors::<B>::wants(self, of), "{of:?}");
        be.product(self.0.rows_mut(rows), Form::LeftTransposed, g, x, scale, true);
    }
    fn bias(&mut self, _: &mut B, _: Module, _: Range<usize>, _: View<'_>) {
        panic!("a bias is not wanted");
    }
    fn norm(&mut self, _: &mut B, _: Norm, _: [View<'_>; 2], _: f64) {
        panic!("a norm is not wanted");
    }
    fn magnitudes(&mut self, _: &mut B, _: Module, _: Range<usize>, _: [View<'_>; 3]) {
        panic!("magnitudes are not wanted");
    }
    fn table_rows(&mut self, _: &mut B, _: Tensor, _: &[u32], _: View<'_>) {
        panic!("a table is not wanted");
    }
}

/// The adapter's operations in the order of a step, on a backend. Gives h, dA and dx.
fn step<B: Backend>(be: &mut B, (n, d, r): (usize, usize, usize), mask: Dropout, first: usize) -> [Act; 3] {
    let label = Label::new(Class::Other, "test");
    let mut act = |rows, cols, stream: u64| {
        let mut act = be.persist(rows, cols, label);
        be.load(act.view_mut(), &mut |i| rng::normal(1, stream, i as u64));
        act
    };
    let [x, a, b, dh] = [act(n, d, 0), act(r, d, 1), act(1, r, 2), act(n, r, 3)];
    let [mut h, mut da, mut dx] = [act(n, r, 4), act(r, d, 5), act(n, d, 6)];
    let pair = PairView { a: a.view(), b: b.view(), scale: 2.0, dropout: Some(mask), gain: None };
    be.begin(Program(0));
    lora::project(be, h.view_mut(), x.view(), pair, first);
    lora::gradient_of_a(be, (Module::Q, &mut OfA(&mut da)), dh.view(), x.view(), Some(mask), first);
    lora::add_input_grad(be, dx.view_mut(), dh.view(), pair, first);
    [h, da, dx]
}

/// Against the formulas, with more rows than are dropped at once.
#[test]
fn a_layer_computes_the_formulas() {
    let (n, d, r, p, first) = (150, 7, 3, 0.3, 11);
    let mask = Dropout { p, key: 77 };
    let mut dry = Dry::new(8, 1);
    let _persistent = step(&mut dry, (n, d, r), mask, first);
    let pool = Arc::new(Threads::new(1).expect("threads"));
    let mut cpu = Cpu::<f64>::new(dry.finish(), pool);
    let [h, da, dx] = step(&mut cpu, (n, d, r), mask, first).map(|act| values(&cpu, &act));
    let of = |stream: u64, i: usize| rng::normal(1, stream, i as u64);
    let keeps = |t: usize, i: usize| mask.keeps(((first + t) * d + i) as u64);
    let k = |t: usize, i: usize| if keeps(t, i) { 1.0 / (1.0 - p) } else { 0.0 };
    let close = |ours: f64, theirs: f64| assert!((ours - theirs).abs() < 1e-12, "{ours} against {theirs}");
    for t in 0..n {
        for j in 0..r {
            close(h[t * r + j], (0..d).map(|i| k(t, i) * of(0, t * d + i) * of(1, j * d + i)).sum());
        }
        for i in 0..d {
            let along: f64 = (0..r).map(|j| of(3, t * r + j) * of(1, j * d + i)).sum();
            close(dx[t * d + i], of(6, t * d + i) + k(t, i) * along);
        }
    }
    for j in 0..r {
        for i in 0..d {
            let sum: f64 = (0..n).map(|t| of(3, t * r + j) * k(t, i) * of(0, t * d + i)).sum();
            close(da[j * d + i], of(5, j * d + i) + sum);
        }
    }
}

/// The mean training loss of a batch under the first step's masks.
fn training_loss(session: &mut Session<Cpu<f64>>, batch: &Batch) -> f64 {
    let outcome = session.accumulate(batch, batch.targets());
    outcome.nats / outcome.targets as f64
}

#[test]
fn gradients_equal_differences() {
    const STEP: f64 = 1e-3;
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut session =
            session_for::<f64>(&case.model, options(&case, 0.3, mesp_policy()), &case.shapes(), 1);
        randomize_adapters(&mut session);
        session.zero_grads();
        let dropped = training_loss(&mut session, &case.batch);
        let (exact, start) = (gradients(&session), parameters(&session));
        assert_ne!(dropped, mean_loss(&mut session, &case.batch), "{arch}: evaluations drop nothing");
        for (m, gradient) in exact.iter().enumerate() {
            let sign = |i: usize| if rng::bits(6, m as u64, i as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
            let along = |i: usize| sign(i) / (gradient.len() as f64).sqrt();
            let d: Vec<f64> = (0..gradient.len()).map(along).collect();
            let numeric = derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, |session| {
                // The same masks again.
                session.zero_grads();
                training_loss(session, &case.batch)
            });
            let ours: f64 = gradient.iter().zip(&d).map(|(g, d)| g * d).sum();
            // As for gradients without dropout: the stencil's own error.
            assert!((ours - numeric).abs() <= 1e-7 * numeric.abs().max(1e-2), "{arch} {m}: {ours} {numeric}");
        }
    }
}

/// With B = 0 the adapter says nothing, dropped or not: the frozen path sees all of x.
#[test]
fn the_frozen_path_drops_nothing() {
    let case = Case::load("qwen2");
    let losses = [0.0, 0.5].map(|p| {
        let mut session =
            session_for::<f64>(&case.model, options(&case, p, mesp_policy()), &case.shapes(), 1);
        session.init_adapters(0);
        training_loss(&mut session, &case.batch)
    });
    assert_eq!(losses[0], losses[1]);
}

fn run(case: &Case, batch: &Batch, policy: Policy, threads: usize) -> Answer {
    let mut session = session_for::<f32>(&case.model, options(case, 0.25, policy), &shapes(batch), threads);
    randomize_adapters(&mut session);
    answer(&mut session, batch)
}

#[test]
fn policies_and_threads_agree() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 1, 150, 3], case.model.config.vocab_size, 3);
        let reference = run(&case, &batch, mesp_policy(), 2);
        let small = Tiles { mlp_rows: 7, head_rows: 5, ..Tiles::UNTILED };
        for method in Method::ALL {
            for tiles in [method.policy().tiles, small] {
                let policy = Policy { tiles, ..method.policy() };
                assert!(run(&case, &batch, policy, 2) == reference, "{arch} {} {tiles:?}", method.name());
            }
        }
        for threads in [1, 3] {
            assert!(run(&case, &batch, mesp_policy(), threads) == reference, "{arch} {threads} threads");
        }
    }
}

/// Steps, updates by block and the plan: masks differ from step to step, and memory is what was planned.
#[test]
fn steps_have_masks_of_their_own_inside_the_plan() {
    for arch in ["qwen2", "phi3"] {
        let case = Case::load(arch);
        let batch = random_batch(&[70, 40], case.model.config.vocab_size, 5);
        let after = [Update::Accumulate, Update::PerBlock].map(|update| {
            let policy = mesp_policy().with_inputs(SavedAs::Full);
            let options = Options { update, optimizer: ADAMW, ..options(&case, 0.1, policy) };
            let mut session = session_for::<f32>(&case.model, options, &shapes(&batch), 2);
            randomize_adapters(&mut session);
            let mut losses = Vec::new();
            for _ in 0..3 {
                // Without a rate the parameters stay, and only the masks change.
                let outcome = match update {
                    Update::Accumulate => {
                        let outcome = session.accumulate(&batch, batch.targets());
                        session.apply(0.0, 1.0);
                        outcome
                    }
                    Update::PerBlock | Update::PerMatrix => session.step_fused(&batch, 0.0, None).0,
                };
                losses.push(outcome.nats.to_bits());
            }
            assert!(losses[0] != losses[1] && losses[1] != losses[2], "{arch}: new masks in each step");
            session.evaluate(&batch);
            assert_eq!(session.backend().reached_bytes(), session.backend().plan().bytes(), "{arch}");
            (losses, bits(&parameters(&session)))
        });
        assert!(after[0] == after[1], "{arch}: updates by block see the same masks");
    }
}
