//! The objective is a value: one that nobody ships, and the weights of the one that everybody uses.

use mesp::adapter::{AdapterConfig, BlockPairs, matrices_mut, params, peft, persistent_pairs};
use mesp::arch::{Module, Tensor};
use mesp::gradient::{Factors, Gradients, ParamList, Sums};
use mesp::method::{Backprop, Consumer};
use mesp::model::{Batch, Objective, Top};
use mesp::rng;
use mesp::train::{Options, Session};
use mesp_device::{Act, Backend, Class, Cpu, Dry, Elem, Label, Program, RowStat, Threads};
use std::sync::Arc;

use crate::support::{
    ARCHS, Case, bits, derivative, derivative_of_matrix, gradients, mesp_policy, parameters,
    randomize_adapters, relative, session_for, shapes, view_values,
};

const LABEL: Label = Label::new(Class::Other, "test");

/// L = Σ u∘x over all rows after the last block: no head, no labels, no vocabulary.
struct Functional<'a> {
    u: &'a Act,
    loss: f64,
}

impl<B: Backend> Objective<B> for Functional<'_> {
    fn losses(&mut self, be: &mut B, _: Top<'_>, x: &mut Act) {
        self.loss = be.dot(x.view(), self.u.view());
    }

    fn gradient(&mut self, be: &mut B, top: Top<'_>, x: &mut Act, _: &mut impl Factors<B>) {
        self.losses(be, top, x);
        be.copy(x.view_mut(), self.u.view());
    }

    fn of_logits(&self) -> Option<(f64, &[RowStat])> {
        None
    }
}

/// Adds gradients to buffers.
struct Adds<'a>(&'a mut Gradients);

impl<B: Backend> Consumer<B> for Adds<'_> {
    type Place<'a>
        = Sums<'a>
    where
        Self: 'a;
    fn wants(&self, place: usize, of: Tensor) -> bool {
        self.0.list().has(place, of)
    }
    fn begin(&mut self, _: &mut B, place: usize) -> Sums<'_> {
        let numbers = self.0.list().of(place);
        self.0.sums_of(numbers)
    }
}

/// What a run on a backend needs: adapters, their gradients, u.
struct Setting {
    adapters: Vec<BlockPairs>,
    grads: Gradients,
    u: Act,
    backprop: Backprop,
}

impl Setting {
    fn new<B: Backend>(be: &mut B, case: &Case) -> Self {
        let c = &case.model.config;
        let adapters = persistent_pairs(be, c, &case.adapter, Elem::Full, |_| true, LABEL);
        let list = Arc::new(ParamList::new(params(&adapters)));
        let grads = Gradients::persistent(be, &list, LABEL);
        let u = be.persist(case.batch.rows(), c.hidden_size, LABEL);
        Self { adapters, grads, u, backprop: Backprop::new(mesp_policy(), c.layers) }
    }

    fn step<B: Backend>(&mut self, be: &mut B, case: &Case) -> f64 {
        be.begin(Program(0));
        let Self { adapters, grads, u, backprop } = self;
        let mut objective = Functional { u, loss: 0.0 };
        backprop.step(be, &case.model, adapters, &case.batch, &mut objective, &mut Adds(grads));
        objective.loss
    }

    fn loss<B: Backend>(&mut self, be: &mut B, case: &Case) -> f64 {
        be.begin(Program(1));
        let Self { adapters, u, backprop, .. } = self;
        let mut objective = Functional { u, loss: 0.0 };
        backprop.evaluate(be, &case.model, adapters, None, &case.batch, &mut objective);
        objective.loss
    }
}

#[test]
fn a_linear_functional_of_the_last_rows_is_an_objective() {
    const STEP: f64 = 1e-3;
    for arch in ARCHS {
        let case = Case::load(arch);
        let mut dry = Dry::new(8, 1);
        let mut planned = Setting::new(&mut dry, &case);
        planned.step(&mut dry, &case);
        planned.loss(&mut dry, &case);
        let mut be = Cpu::<f64>::new(dry.finish(), Arc::new(Threads::new(1).expect("threads")));
        let mut setting = Setting::new(&mut be, &case);
        peft::read_tensors(&mut be, &case.adapter_file(), &mut setting.adapters, &case.model.config)
            .expect("the golden adapter");
        be.load(setting.u.view_mut(), &mut |i| rng::normal(3, 0, i as u64));
        let stepped = setting.step(&mut be, &case);
        assert_eq!(stepped.to_bits(), setting.loss(&mut be, &case).to_bits(), "{arch}: one forward");
        let exact: Vec<Vec<f64>> = setting.grads.iter().map(|(_, g)| view_values(&be, g)).collect();
        let (mut ours, mut numeric) = (Vec::new(), Vec::new());
        for (m, gradient) in exact.iter().enumerate() {
            let sign = |i: usize| if (i * 5 + m).is_multiple_of(3) { 1.0 } else { -1.0 };
            let d: Vec<f64> = (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
            let act = matrices_mut(&mut setting.adapters).nth(m).expect("a matrix");
            let start = view_values(&be, act.view());
            numeric.push(derivative(STEP, |t| {
                let act = matrices_mut(&mut setting.adapters).nth(m).expect("a matrix");
                be.load(act.view_mut(), &mut |i| start[i] + t * d[i]);
                setting.loss(&mut be, &case)
            }));
            ours.push(gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>());
        }
        // As for cross-entropy: the stencil's error and the loss's rounding.
        let error = relative(&ours, &numeric);
        assert!(error <= 1e-7, "{arch}: {error:e}");
    }
}

/// Adapters in the blocks alone, where the vocabulary is gone through once, and on the head too, where it is twice.
fn placements(case: &Case) -> [AdapterConfig; 2] {
    let mut targets = case.adapter.targets.clone();
    targets.push(Module::Head);
    [case.adapter.clone(), AdapterConfig { targets, ..case.adapter.clone() }]
}

#[test]
fn weights_of_rows_multiply_their_losses() {
    const STEP: f64 = 1e-3;
    for arch in ["qwen2", "llama", "gemma3_text", "phi3"] {
        let case = Case::load(arch);
        for adapter in placements(&case) {
            let options = Options { adapter, ..case.options(mesp_policy()) };
            let mut batch = case.batch.clone();
            batch.target_weights = (0..batch.targets()).map(|t| [0.0, 2.5, 1.0, -0.5][t % 4]).collect();
            let mut session = session_for::<f64>(&case.model, options, &shapes(&batch), 1);
            randomize_adapters(&mut session);
            let total = batch.targets();
            let outcome = session.accumulate(&batch, total);
            let (exact, start) = (gradients(&session), parameters(&session));
            let by_hand: f64 = session
                .evaluate(&batch)
                .iter()
                .zip(&batch.target_weights)
                .map(|(s, w)| s.nats() * f64::from(*w))
                .sum();
            assert!(
                (outcome.nats - by_hand).abs() <= 1e-12 * by_hand.abs(),
                "{arch}: {} {by_hand}",
                outcome.nats
            );
            let (mut ours, mut numeric) = (Vec::new(), Vec::new());
            for (m, gradient) in exact.iter().enumerate() {
                let sign = |i: usize| if (i * 5 + m).is_multiple_of(3) { 1.0 } else { -1.0 };
                let d: Vec<f64> =
                    (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
                let loss = |session: &mut Session<Cpu<f64>>| {
                    session.evaluate(&batch).iter().map(RowStat::loss).sum::<f64>() / total as f64
                };
                numeric.push(derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss));
                ours.push(gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>());
            }
            let error = relative(&ours, &numeric);
            assert!(error <= 1e-7, "{arch}: {error:e}");
        }
    }
}

/// A weight of 1 is no weight, to the bit, and one of 0 is a row that is not trained.
#[test]
fn weights_of_one_and_of_zero() {
    let case = Case::load("qwen2");
    for adapter in placements(&case) {
        let run = |batch: &Batch| {
            let options = Options { adapter: adapter.clone(), ..case.options(mesp_policy()) };
            let mut session = session_for::<f32>(&case.model, options, &shapes(&case.batch), 2);
            randomize_adapters(&mut session);
            let outcome = session.accumulate(batch, 7);
            (outcome.nats.to_bits(), bits(&gradients(&session)), gradients(&session))
        };
        let plain = run(&case.batch);
        let mut batch = case.batch.clone();
        batch.target_weights = vec![1.0; batch.targets()];
        let (nats, ours, _) = run(&batch);
        assert!((nats, &ours) == (plain.0, &plain.1), "weights of 1");
        let left_out = |t: usize| t % 3 == 1;
        batch.target_weights = (0..batch.targets()).map(|t| if left_out(t) { 0.0 } else { 1.0 }).collect();
        let (_, _, weighted) = run(&batch);
        let mut without = case.batch.clone();
        let keep = |list: &mut Vec<u32>| {
            let mut t = 0;
            list.retain(|_| {
                t += 1;
                !left_out(t - 1)
            });
        };
        keep(&mut without.target_rows);
        keep(&mut without.target_labels);
        let (_, _, fewer) = run(&without);
        for (x, y) in weighted.iter().zip(&fewer) {
            assert!(relative(x, y) <= 1e-5, "{}", relative(x, y));
        }
    }
}
