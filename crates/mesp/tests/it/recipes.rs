//! CONTRIBUTING's recipes, tried: one value each that nobody ships. An objective is in `objective.rs`, a backend in
//! `counting.rs`, another trained parameter in `full_gradients.rs`, any policy at all in `policies_agree.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use mesp::adapter::{BlockPairs, params, peft, persistent_pairs};
use mesp::arch::{Module, Norm, Param, Tensor};
use mesp::gradient::{Factors, Gradients, ParamList, Sums};
use mesp::method::{Backprop, Consumer};
use mesp::model::{ModelWeights, NextToken};
use mesp::optim::{At, Optimizer, StateSpec, Stepped, Trained, UpdateRule};
use mesp::rng;
use mesp::train::{Options, Session};
use mesp_device::{
    Act, Backend, Class, Cpu, Dry, Elem, Form, Gate, Label, Program, RowStat, Sgd, Threads, Updated, View,
};

use crate::support::{
    Case, MemorySource, answer, derivative_of_matrix, gradients, load_config, mean_loss, mesp_policy,
    parameters, randomize_adapters, relative, session_for, shapes, values, view_values,
};

const LABEL: Label = Label::new(Class::Other, "test");

/// SGD that keeps Σ g·gᵀ, the left statistic of Shampoo (Gupta et al. 2018): a state of another shape than the
/// parameter.
#[derive(Debug, Clone, Copy)]
struct Observed;

impl UpdateRule for Observed {
    fn states(&self, param: &Param) -> Vec<StateSpec> {
        vec![StateSpec::new("left", [param.shape[0]; 2])]
    }

    fn update<B: Backend>(&self, be: &mut B, p: Updated<'_>, g: View<'_>, states: &mut [Act], at: At) {
        be.product(states[0].view_mut(), Form::RightTransposed, g, g, 1.0, true);
        let At { learning_rate, weight_decay, .. } = at;
        be.sgd(p, None, g, Sgd { learning_rate, momentum: 0.0, weight_decay });
    }
}

/// An unbiased estimate: a place takes part where its bit is set, and its gradient counts by one over its chance.
struct Sampled<'a> {
    grads: &'a mut Gradients,
    places: u32,
    chance: f64,
}

/// Factors with another scale.
struct Scaled<'a>(Sums<'a>, f64);

impl<B: Backend> Factors<B> for Scaled<'_> {
    fn wants(&self, of: Tensor) -> bool {
        Factors::<B>::wants(&self.0, of)
    }
    fn linear(&mut self, be: &mut B, of: Tensor, rows: Range<usize>, factors: [View<'_>; 2], scale: f64) {
        self.0.linear(be, of, rows, factors, scale * self.1);
    }
    fn bias(&mut self, _: &mut B, _: Module, _: Range<usize>, _: View<'_>) {}
    fn norm(&mut self, _: &mut B, _: Norm, _: [View<'_>; 2], _: f64) {}
    fn magnitudes(&mut self, _: &mut B, _: Module, _: Range<usize>, _: [View<'_>; 3]) {}
    fn table_rows(&mut self, _: &mut B, _: Tensor, _: &[u32], _: View<'_>) {}
}

impl<B: Backend> Consumer<B> for Sampled<'_> {
    type Place<'a>
        = Scaled<'a>
    where
        Self: 'a;
    fn wants(&self, place: usize, of: Tensor) -> bool {
        self.grads.list().has(place, of)
    }
    fn begin(&mut self, _: &mut B, place: usize) -> Scaled<'_> {
        let numbers = if self.places & (1 << place) == 0 { 0..0 } else { self.grads.list().of(place) };
        Scaled(self.grads.sums_of(numbers), 1.0 / self.chance)
    }
}

/// What a run needs, without a session: the parts that are tried here are its own.
struct Run {
    adapters: Vec<BlockPairs>,
    grads: Gradients,
    optimizer: Optimizer<Observed>,
    backprop: Backprop,
    stats: Vec<RowStat>,
}

impl Run {
    fn new<B: Backend>(be: &mut B, case: &Case) -> Self {
        let c = &case.model.config;
        let adapters = persistent_pairs(be, c, &case.adapter, Elem::Full, |_| true, LABEL);
        let list = Arc::new(ParamList::new(params(&adapters)));
        let grads = Gradients::persistent(be, &list, LABEL);
        let optimizer = Optimizer::new(be, Observed, 0.0, Trained::ALIKE, 0, &list);
        let stats = vec![RowStat::EMPTY; case.batch.targets()];
        Self { adapters, grads, optimizer, backprop: Backprop::new(mesp_policy(), c.layers), stats }
    }

    /// The gradient from some places, into empty buffers.
    fn gradient<B: Backend>(&mut self, be: &mut B, case: &Case, places: u32, chance: f64) {
        be.begin(Program(0));
        if let Some(all) = self.grads.flat_mut() {
            be.zero(all);
        }
        let mut objective = NextToken { scale: 1.0 / case.batch.targets() as f64, stats: &mut self.stats };
        let mut sampled = Sampled { grads: &mut self.grads, places, chance };
        let adapters = &mut self.adapters;
        self.backprop.step(be, &case.model, adapters, &case.batch, &mut objective, &mut sampled);
    }

    fn values<B: Backend>(&self, be: &B) -> Vec<Vec<f64>> {
        self.grads.iter().map(|(_, g)| view_values(be, g)).collect()
    }
}

/// A run on a processor that was planned for it.
fn planned(case: &Case) -> (Cpu<f64>, Run) {
    let mut dry = Dry::new(8, 1);
    Run::new(&mut dry, case).gradient(&mut dry, case, u32::MAX, 1.0);
    let mut be = Cpu::<f64>::new(dry.finish(), Arc::new(Threads::new(1).expect("threads")));
    let mut run = Run::new(&mut be, case);
    peft::read_tensors(&mut be, &case.adapter_file(), &mut run.adapters, &case.model.config)
        .expect("the golden adapter");
    (be, run)
}

#[test]
fn an_optimizer_has_states_of_its_own_shapes() {
    const RATE: f64 = 0.1;
    let case = Case::load("llama");
    let (mut be, mut run) = planned(&case);
    let mut left: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for step in 1..=2 {
        run.gradient(&mut be, &case, u32::MAX, 1.0);
        let before: Vec<_> = mesp::adapter::matrices(&run.adapters).map(|act| values(&be, act)).collect();
        let Run { adapters, grads, optimizer, .. } = &mut run;
        for (place, pairs) in adapters.iter_mut().enumerate() {
            let stepped = &mut Stepped { pairs, weights: None };
            optimizer.update(&mut be, place, stepped, grads, RATE, step);
        }
        for ((param, g), before) in grads.iter().zip(&before) {
            let ([rows, cols], g) = (param.shape, view_values(&be, g));
            let sum = left.entry(param.name()).or_insert_with(|| vec![0.0; rows * rows]);
            for (i, sum) in sum.iter_mut().enumerate() {
                let (a, b) = (i / rows * cols, i % rows * cols);
                *sum += (0..cols).map(|k| g[a + k] * g[b + k]).sum::<f64>();
            }
            let Tensor::Adapter(module, matrix) = param.tensor else { panic!("an adapter's") };
            let pair = adapters[param.place][module as usize].as_ref().expect("a pair");
            let after = values(&be, pair.matrix(matrix).expect("a matrix"));
            let by_hand: Vec<_> = before.iter().zip(&g).map(|(p, g)| p - RATE * g).collect();
            assert!(relative(&after, &by_hand) <= 1e-14, "{}", param.name());
        }
    }
    let states: Vec<_> = run.optimizer.states();
    let [("left", each)] = states.as_slice() else { panic!("one state, by its name") };
    assert_eq!(each.len(), left.len());
    for (param, state) in each {
        assert_eq!([state.rows(), state.cols()], [param.shape[0]; 2]);
        assert!(relative(&view_values(&be, *state), &left[&param.name()]) <= 1e-12, "{}", param.name());
    }
}

/// Over all subsets of places, each as likely as any, the mean estimate is the gradient.
#[test]
fn an_estimator_is_a_consumer() {
    let case = Case::load("qwen2");
    let (mut be, mut run) = planned(&case);
    run.gradient(&mut be, &case, u32::MAX, 1.0);
    let exact = run.values(&be);
    let places = case.model.config.layers as u32;
    let mut mean: Vec<Vec<f64>> = exact.iter().map(|g| vec![0.0; g.len()]).collect();
    for subset in 0..1 << places {
        run.gradient(&mut be, &case, subset, 0.5);
        for (mean, g) in mean.iter_mut().zip(run.values(&be)) {
            mean.iter_mut().zip(g).for_each(|(mean, g)| *mean += g / f64::from(1 << places));
        }
    }
    for (mean, exact) in mean.iter().zip(&exact) {
        assert!(relative(mean, exact) <= 1e-13);
    }
}

/// Norms on queries and keys with biases there, norms after attention and MLP, another gate, scaled embeddings: a block
/// that no family has. Its gradients are the loss's differences, under every method to the bit.
#[test]
fn a_family_is_a_value() {
    const STEP: f64 = 1e-3;
    let mut case = Case::load("qwen2");
    let mut config = load_config(&case.dir.join("model"));
    let family = &mut config.family;
    assert!(family.qkv_bias && !family.qk_norm && !family.post_norms);
    (family.qk_norm, family.post_norms, family.scaled_embedding) = (true, true, true);
    family.gate = Gate::GeluTanh;
    let mut source = MemorySource::read(&case.dir.join("model"));
    let mut norm = |name: String, len: usize| {
        let stream = source.tensors.len() as u64;
        let values = (0..len).map(|i| 1.0 + 0.1 * rng::normal(7, stream, i as u64) as f32).collect();
        source.tensors.insert(name, (vec![len], values));
    };
    for layer in 0..config.layers {
        for name in ["self_attn.q_norm", "self_attn.k_norm"] {
            norm(format!("model.layers.{layer}.{name}.weight"), config.head_dim);
        }
        for name in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
            norm(format!("model.layers.{layer}.{name}.weight"), config.hidden_size);
        }
    }
    case.model = Arc::new(ModelWeights::load(config, &source).expect("all weights of the family"));
    let options = case.options(mesp_policy());
    let mut session = session_for::<f64>(&case.model, options.clone(), &case.shapes(), 1);
    randomize_adapters(&mut session);
    session.accumulate(&case.batch, case.batch.targets());
    let (exact, start) = (gradients(&session), parameters(&session));
    let (mut ours, mut numeric) = (Vec::new(), Vec::new());
    for (m, gradient) in exact.iter().enumerate() {
        let sign = |i: usize| if rng::bits(8, m as u64, i as u64).is_multiple_of(2) { 1.0 } else { -1.0 };
        let d: Vec<f64> = (0..gradient.len()).map(|i| sign(i) / (gradient.len() as f64).sqrt()).collect();
        let loss = |session: &mut Session<Cpu<f64>>| mean_loss(session, &case.batch);
        numeric.push(derivative_of_matrix(&mut session, (m, &start[m], &d), STEP, loss));
        ours.push(gradient.iter().zip(&d).map(|(g, d)| g * d).sum::<f64>());
    }
    let error = relative(&ours, &numeric);
    assert!(error <= 1e-7, "{error:e}");
    let answers = mesp::method::Method::ALL.map(|method| {
        let options = Options { policy: method.policy(), ..options.clone() };
        let mut session = session_for::<f32>(&case.model, options, &shapes(&case.batch), 2);
        randomize_adapters(&mut session);
        answer(&mut session, &case.batch)
    });
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "methods agree");
}
