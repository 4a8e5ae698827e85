//! All state of a run on a backend, and the two programs whose memory is planned: a training step and an evaluation.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{
    Act, Backend, Class, Dropout, Dry, Label, Plan, Program, RowStat, Tangents, View, ViewMut,
};

use super::config::clip;
use super::consumers::{Accumulated, Fused, GRAD, Stepping, gathered};
use super::full::{self, Moved};
use super::objective::{Outcome, PreferenceState, Target};
use super::{Options, Total, Update};
use crate::adapter::{self, AdapterConfig, BlockPairs, dora, matrices, persistent_pairs};
use crate::arch::{Config, Param, base_params};
use crate::gradient::{Gradients, ParamList};
use crate::method::{
    Backprop, Blocks, Bounds, Derivative, Direction, Directional, Estimator, Perturbation, add_direction,
    perturb_in_place,
};
use crate::model::{Batch, ModelWeights, NextToken, Part};
use crate::optim::{Optimizer, Stepped, TrainedWeights, UpdateRule as _};
use crate::preference::Score;
use crate::rng;
use crate::source::load_adapter;
use crate::{Error, ErrorKind, Result};

const STEP: Program = Program(0);
const EVAL: Program = Program(1);
/// The optimizer's updates after the sweep, where these need buffers.
const UPDATE: Program = Program(2);
/// Buffers that have a tangent at a time, generously: a block's adapters and sites.
const TANGENTS: usize = 64;

/// The state of a run on a backend: adapters, gradients, optimizer state, and the model they belong to.
#[derive(Debug)]
pub struct Session<B> {
    be: B,
    model: Arc<ModelWeights>,
    options: Options,
    params: Vec<BlockPairs>,
    grads: Gradients,
    /// What is gathered until its place ends, where updates are fused.
    gathered: Arc<ParamList>,
    optimizer: Option<Optimizer>,
    backprop: Backprop,
    stats: Vec<RowStat>,
    preference: PreferenceState,
    steps: u64,
    /// Micro-batches of the step that is being made.
    micro: u64,
    /// Updates of each block, and of what is outside of them: fewer where steps leave blocks out.
    updates: Vec<u64>,
    /// Which values move along directions.
    bounds: Bounds,
    /// Tangents of a forward pass that carries them.
    tangents: Tangents,
    /// The model's own tensors that are trained.
    weights: Option<TrainedWeights>,
    /// The model beside them, where they are trained from losses.
    moved: Option<Moved>,
}

impl<B: Backend> Session<B> {
    /// Allocates the persistent buffers: adapters, gradients, optimizer state. `targets` is the largest number of
    /// target tokens of a batch.
    pub fn new(mut be: B, model: Arc<ModelWeights>, options: Options, targets: usize) -> Self {
        let exact = options.estimator.backpropagates();
        let held = options.held.map(|elem| {
            // Along a direction norms move as they are multiplied.
            let offset = if exact { model.config.norm_offset } else { 0.0 };
            TrainedWeights::new(&mut be, &model, &options.base, elem, options.compensated, offset)
        });
        let (weights, model) = match held {
            Some((weights, read)) => (Some(weights), Arc::new(read)),
            None => (None, model),
        };
        let moved = (!exact && weights.is_some()).then(|| Moved::new(&model));
        let (c, a) = (&model.config, &options.adapter);
        let label = Label::new(Class::Adapter, "lora");
        let mut params =
            persistent_pairs(&mut be, c, a, options.adapter_type, |param| options.trained.has(param), label);
        dora::measure(&mut be, c, model.blocks.iter().map(|b| &b.linears), &mut params);
        let list = Arc::new(ParamList::new(listed(&options, c, &params)));
        let grads = if options.keeps_gradients() {
            Gradients::persistent(&mut be, &list, GRAD)
        } else {
            Gradients::none(&list)
        };
        let Options { optimizer, weight_decay, trained, seed, .. } = options;
        // Gradients of the model that is not held are for whoever reads them.
        let steps = options.backpropagates() && (options.base.is_empty() || options.held.is_some());
        let optimizer = steps.then(|| Optimizer::new(&mut be, optimizer, weight_decay, trained, seed, &list));
        let gathered = Arc::new(match options.update {
            Update::Accumulate => ParamList::default(),
            update => gathered(&list, update == Update::PerMatrix),
        });
        let backprop = Backprop::new(options.policy, c.layers);
        let (stats, updates) = (vec![RowStat::EMPTY; targets], vec![0; params.len()]);
        Self {
            be,
            model,
            options,
            params,
            grads,
            gathered,
            optimizer,
            backprop,
            stats,
            preference: PreferenceState::default(),
            steps: 0,
            micro: 0,
            updates,
            bounds: Bounds::default(),
            tangents: Tangents::new(TANGENTS),
            weights,
            moved,
        }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.be
    }

    /// Returns the backend.
    pub fn into_backend(self) -> B {
        self.be
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The model.
    pub fn model(&self) -> &Arc<ModelWeights> {
        &self.model
    }

    /// Optimizer steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Initializes the adapters as PEFT does: A random, B zero.
    pub fn init_adapters(&mut self, seed: u64) {
        adapter::init(&mut self.be, &mut self.params, seed);
    }

    /// Fills the adapters from the one at `path`, of any layout, or anew from the seed.
    ///
    /// # Errors
    /// When the adapter cannot be read or does not fit the model.
    pub fn start_adapters(&mut self, path: Option<&Path>, seed: u64) -> Result<()> {
        match path {
            Some(path) => load_adapter(&mut self.be, path, &mut self.params, &self.model)?,
            None => self.init_adapters(seed),
        }
        Ok(())
    }

    /// Forward and backward of a micro-batch; its gradients are added to the current ones. `total` is the number of
    /// target tokens of the whole optimizer step, by which the loss is divided, or what [`Total`] says for a preference
    /// loss.
    ///
    /// # Panics
    /// When the session updates per block or does not train.
    pub fn accumulate(&mut self, batch: &Batch, total: impl Into<Total>) -> Outcome {
        self.accumulate_at((self.options.seed, self.steps + 1), batch, total.into())
    }

    /// [`Session::accumulate`] with the random numbers of `(seed, step)`.
    pub(super) fn accumulate_at(&mut self, (seed, step): (u64, u64), batch: &Batch, total: Total) -> Outcome {
        assert!(self.options.keeps_gradients(), "gradients are kept only by a session that accumulates");
        if batch.targets() == 0 {
            return Outcome::default();
        }
        self.be.begin(STEP);
        let (estimator, layers) = (self.options.estimator, self.model.config.layers);
        self.backprop.go_through(|l| estimator.has(l, layers, seed, step));
        self.backprop.set_dropout(dropout(&self.options, seed, step, self.micro));
        if self.micro == 0 {
            self.preference.score = Score::default();
        }
        self.micro += 1;
        let stats = &mut self.stats[..batch.targets()];
        let mut objective = Target::new(&self.options.objective, total, stats, &mut self.preference);
        let mut sink = Accumulated { grads: &mut self.grads, layers };
        self.backprop.step(&mut self.be, &self.model, &mut self.params, batch, &mut objective, &mut sink);
        objective.outcome()
    }

    /// L2 norm of all gradients.
    pub fn grad_norm(&mut self) -> f64 {
        let Self { be, grads, .. } = self;
        grads.iter().map(|(_, g)| be.sum_of_squares(g)).sum::<f64>().sqrt()
    }

    /// Multiplies the gradients by `clip`, makes an optimizer step, and zeroes the gradients.
    pub fn apply(&mut self, learning_rate: f64, clip: f64) {
        self.steps += 1;
        if clip < 1.0 {
            let Self { be, grads, .. } = self;
            grads.for_each_mut(|_, g| be.scale(g, clip));
        }
        let Self { be, params, weights, updates, grads, .. } = self;
        if let Some(optimizer) = &mut self.optimizer {
            let Options { estimator, seed, .. } = self.options;
            let layers = self.model.config.layers;
            if optimizer.kind().allocates() {
                be.begin(UPDATE);
            }
            for (l, pairs) in params.iter_mut().enumerate() {
                if estimator.has(l, layers, seed, self.steps) {
                    updates[l] += 1;
                    let stepped = &mut Stepped { pairs, weights: weights.as_mut() };
                    optimizer.update(be, l, stepped, grads, learning_rate, updates[l]);
                }
            }
        }
        self.refresh_weights();
        self.zero_grads();
    }

    /// Brings what the model holds of its trained tensors up to date, after these were written.
    pub fn refresh_weights(&mut self) {
        if let Some(weights) = &self.weights {
            // Nobody else has this model.
            weights.refresh(&self.be, Arc::make_mut(&mut self.model));
        }
    }

    /// Zeroes the gradients.
    pub fn zero_grads(&mut self) {
        self.micro = 0;
        if let Some(all) = self.grads.flat_mut() {
            self.be.zero(all);
        }
    }

    /// A complete step of one micro-batch whose updates are fused into the backward. Returns the loss and the L2 norm of
    /// the gradients. With `max_norm` a sweep before measures the norm, and gradients are scaled down to it. A norm that is
    /// not finite means that the update stopped at the first gradient that was not finite; what the backward reached
    /// earlier has been stepped, unless there was a sweep before.
    pub fn step_fused(&mut self, batch: &Batch, learning_rate: f64, max_norm: Option<f64>) -> (Outcome, f64) {
        if batch.targets() == 0 {
            return (Outcome::default(), 0.0);
        }
        self.steps += 1;
        let mut scale = 1.0;
        if let Some(max) = max_norm {
            let (outcome, norm) = self.sweep(batch, learning_rate, None);
            if !norm.is_finite() || self.be.faulty() {
                return (outcome, norm);
            }
            scale = clip(norm, max);
        }
        let (outcome, norm) = self.sweep(batch, learning_rate, Some(scale));
        self.refresh_weights();
        (outcome, norm)
    }

    /// A forward and backward with fused updates, or with no scale one that measures the norm of the gradients.
    fn sweep(&mut self, batch: &Batch, learning_rate: f64, scale: Option<f64>) -> (Outcome, f64) {
        self.be.begin(STEP);
        let stats = &mut self.stats[..batch.targets()];
        let Some(optimizer) = &mut self.optimizer else { return (Outcome::default(), 0.0) };
        let Options { estimator, seed, update, policy, .. } = self.options;
        let (layers, step) = (self.model.config.layers, self.steps);
        self.backprop.go_through(|l| estimator.has(l, layers, seed, step));
        self.backprop.set_dropout(dropout(&self.options, seed, step, 0));
        let kind = &self.options.objective;
        self.preference.score = Score::default();
        let mut objective = Target::new(kind, kind.total(batch), stats, &mut self.preference);
        let stepping = Stepping {
            optimizer,
            weights: self.weights.as_mut(),
            learning_rate,
            updates: &mut self.updates,
            scale,
            squares: 0.0,
            in_place: update == Update::PerMatrix,
            rows: [policy.tiles.weight_rows, policy.tiles.head_vocab],
        };
        let mut sink = Fused { stepping, gathered: &self.gathered, current: None };
        self.backprop.step(&mut self.be, &self.model, &mut self.params, batch, &mut objective, &mut sink);
        let norm = sink.stepping.squares.sqrt();
        (objective.outcome(), norm)
    }

    /// Runs the forward pass and returns the loss statistics of each target token of a batch.
    pub fn evaluate(&mut self, batch: &Batch) -> &[RowStat] {
        self.be.begin(EVAL);
        let stats = &mut self.stats[..batch.targets()];
        let objective = &mut NextToken { scale: 1.0, stats: &mut *stats };
        self.backprop.evaluate(&mut self.be, &self.model, &mut self.params, None, batch, objective);
        stats
    }

    /// P of each sequence of a batch, the sum of the log-probabilities of its trained tokens.
    pub fn log_probabilities(&mut self, batch: &Batch) -> impl Iterator<Item = f64> {
        let stats: &[RowStat] = if batch.targets() > 0 { self.evaluate(batch) } else { &[] };
        batch.targets_by_sequence().map(|rows| -stats[rows].iter().map(RowStat::nats).sum::<f64>())
    }

    /// Sets κ of kto for the steps from here on: the mean log-ratio of mismatched completions, at least 0.
    pub fn set_kl(&mut self, mean_log_ratio: f64) {
        self.preference.kl = mean_log_ratio.max(0.0);
    }

    /// What the micro-batches of the last step came to under a preference loss; nothing under others.
    pub fn score(&self) -> Option<&Score> {
        self.options.objective.preference().map(|_| &self.preference.score)
    }

    /// The loss statistics of each target token of the last batch.
    pub fn stats(&self, batch: &Batch) -> &[RowStat] {
        &self.stats[..batch.targets()]
    }

    /// The loss of a micro-batch with the parameters perturbed by `by·z`; 0 for no perturbation.
    pub fn probe(&mut self, batch: &Batch, by: f64, direction: Direction) -> Outcome {
        if batch.targets() == 0 {
            return Outcome::default();
        }
        self.be.begin(STEP);
        let stats = &mut self.stats[..batch.targets()];
        let kind = &self.options.objective;
        // The sum of the losses is the same whatever it is divided by, but for a share of the ordinary loss.
        let total = self.preference.total.unwrap_or_else(|| kind.total(batch));
        let mut objective = Target::new(kind, total, stats, &mut self.preference);
        let Self { be, model, params, weights, moved, bounds, .. } = self;
        let (model, perturbation) = match (moved, weights) {
            (Some(moved), Some(weights)) => (moved.at(be, weights, by, direction), None),
            _ => (&**model, Some(Perturbation { by, direction, bounds })),
        };
        self.backprop.evaluate(be, model, params, perturbation, batch, &mut objective);
        objective.outcome()
    }

    /// The loss of a micro-batch, and the exact directional derivative along z of its sum divided by `total`.
    pub fn derivative(
        &mut self,
        batch: &Batch,
        total: impl Into<Total>,
        direction: Direction,
    ) -> (Outcome, f64) {
        if batch.targets() == 0 {
            return (Outcome::default(), 0.0);
        }
        self.be.begin(STEP);
        let Self { be, model, params, tangents, bounds, .. } = self;
        let stats = &mut self.stats[..batch.targets()];
        let mut objective = Target::new(&self.options.objective, total.into(), stats, &mut self.preference);
        let along = (direction, &*bounds);
        let derivative = self.backprop.derivative(be, tangents, model, params, along, batch, &mut objective);
        (objective.outcome(), derivative)
    }

    /// Says of what step the micro-batches are that [`Session::probe`] is given, or of none.
    pub(super) fn set_total(&mut self, total: Option<Total>) {
        self.preference.total = total;
        if total.is_some() {
            self.preference.score = Score::default();
        }
    }

    /// Counts a step that is made without an optimizer; returns its number, counted from 1.
    pub fn advance(&mut self) -> u64 {
        self.steps += 1;
        self.steps
    }

    /// `θ ← a·θ + c·z`
    pub fn perturb_in_place(&mut self, a: f64, c: f64, direction: Direction) {
        if let Some(weights) = &mut self.weights {
            // Nobody else has this model.
            let model = Arc::make_mut(&mut self.model);
            return full::perturb_in_place(&mut self.be, weights, model, [a, c], direction);
        }
        perturb_in_place(&mut self.be, &mut self.params, [a, c], direction, &self.bounds);
    }

    /// `ĝ += c·z`; `ĝ = c·z` where not all values move: then a step has one direction.
    ///
    /// # Panics
    /// When no gradients are kept.
    pub(super) fn add_to_grads(&mut self, c: f64, direction: Direction) {
        assert!(self.options.keeps_gradients(), "a gradient is kept only where the options ask for it");
        add_direction(&mut self.be, &mut self.grads, &self.params, c, direction, &self.bounds);
    }

    /// Sets which values a direction perturbs: all, or those that are not among the largest share `sparsity` of their
    /// matrix now.
    pub fn bound(&mut self, sparsity: f64) {
        self.bounds = Bounds::new(&self.be, &self.params, sparsity);
    }

    /// [`Session::bound`] with bounds that were computed before.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// The bounds on |θ| up to which values are perturbed.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// All that is trained: the parts of the model in the order of [`ModelWeights::parts`], the adapters' matrices.
    pub fn tensors(&self) -> impl Iterator<Item = View<'_>> {
        let weights = self.weights.iter().flat_map(TrainedWeights::parts);
        weights.chain(matrices(&self.params).map(Act::view))
    }

    /// The model's own tensors that are trained.
    pub fn weights(&self) -> Option<&TrainedWeights> {
        self.weights.as_ref()
    }

    /// The same, mutable, with the backend to write them; [`Session::refresh_weights`] afterwards.
    pub fn weights_mut(&mut self) -> (&mut B, Option<&mut TrainedWeights>) {
        (&mut self.be, self.weights.as_mut())
    }

    /// The model beside the trained weights, where it is trained from losses.
    pub(super) fn moved(&self) -> Option<&Moved> {
        self.moved.as_ref()
    }

    /// The same, mutable.
    pub(super) fn moved_mut(&mut self) -> Option<&mut Moved> {
        self.moved.as_mut()
    }

    /// Restores the model's tensors that training started from.
    pub(super) fn reset(&mut self) {
        if let Some(weights) = &mut self.weights {
            weights.reset(&mut self.be, Arc::make_mut(&mut self.model));
            self.steps = 0;
        }
    }

    /// Adapters, block by block.
    pub fn params(&self) -> &[BlockPairs] {
        &self.params
    }

    /// The trained adapter parameters as one flat view, in the layout of [`Gradients::flat`]. `None` where DoRA's
    /// magnitudes are stored separately from bf16 matrices.
    pub fn flat(&self) -> Option<View<'_>> {
        adapter::flat(&self.params, |param| self.options.trained.has(param))
    }

    /// [`Session::flat`], mutable, with the backend to write it.
    pub fn flat_mut(&mut self) -> (&mut B, Option<ViewMut<'_>>) {
        let Self { be, params, options, .. } = self;
        (be, adapter::flat_mut(params, |param| options.trained.has(param)))
    }

    /// All gradients as one flat view, mutable, with the backend to write it.
    pub fn flat_grads_mut(&mut self) -> (&mut B, Option<ViewMut<'_>>) {
        (&mut self.be, self.grads.flat_mut())
    }

    /// The gradients; empty when they are not kept.
    pub fn grads(&self) -> &Gradients {
        &self.grads
    }

    /// What a checkpoint restores: adapters and optimizer state, with the backend to read or write them.
    pub fn state_mut(&mut self) -> (&mut B, &mut [BlockPairs], Option<&mut Optimizer>) {
        (&mut self.be, &mut self.params, self.optimizer.as_mut())
    }

    /// The optimizer, if a step uses one.
    pub fn optimizer(&self) -> Option<&Optimizer> {
        self.optimizer.as_ref()
    }

    /// The error of the backend's file of activations, if there was one: the results of the last step are then invalid.
    pub fn take_fault(&mut self) -> Option<std::io::Error> {
        self.be.take_fault()
    }

    /// Sets the number of optimizer steps done before this session.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
        let Options { estimator, seed, .. } = self.options;
        let layers = self.model.config.layers;
        for (l, updates) in self.updates.iter_mut().enumerate() {
            *updates = (1..=steps).filter(|step| estimator.has(l, layers, seed, *step)).count() as u64;
        }
    }
}

/// Names the dropout's random numbers among all of a seed's: the other streams are of steps and tensors.
const DROPOUT: u64 = 0x64_726f_706f_7574;

/// What adapters do not see in a micro-batch of a step: a function of the seed, the step and the micro-batch's place in
/// it, so that replay, other policies and resumed runs see the same.
fn dropout(options: &Options, seed: u64, step: u64, micro: u64) -> Option<Dropout> {
    let p = options.adapter.dropout;
    (p > 0.0).then(|| Dropout { p, key: rng::bits(seed, DROPOUT, 0) }.stream(step).stream(micro))
}

/// What a session has gradients of, in memory or block by block: nothing where a step needs none.
fn listed(options: &Options, c: &Config, adapters: &[BlockPairs]) -> Vec<Param> {
    if !options.backpropagates() && !options.gradients {
        return Vec::new();
    }
    let mut list = adapter::params(adapters);
    list.retain(|param| options.trained.has(param));
    if !options.base.is_empty() {
        list.extend(base_params(c).into_iter().filter(|param| options.base.has(param)));
        // An adapter's tensors of a place before the model's.
        list.sort_by_key(|param| param.place);
        let mut last = None;
        for param in &mut list {
            let index = last.filter(|(place, _)| *place == param.place).map_or(0, |(_, index)| index + 1);
            (param.index, last) = (index, Some((param.place, index)));
        }
    }
    list
}

/// The largest batches of a run.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// The largest micro-batch of a training step, if it trains.
    pub train: Option<Batch>,
    /// The largest batch of an evaluation, if it evaluates.
    pub eval: Option<Batch>,
}

impl Shapes {
    /// Target tokens of the largest batch.
    pub fn targets(&self) -> usize {
        [&self.train, &self.eval].into_iter().flatten().map(Batch::targets).max().unwrap_or(0)
    }
}

/// Runs a session's programs on a backend that computes nothing ([`Dry`]), and plans the memory for the real one.
///
/// # Errors
/// When a training step is to be planned for options that do not train.
pub fn plan(
    model: &Arc<ModelWeights>,
    options: &Options,
    shapes: &Shapes,
    value_bytes: usize,
    threads: usize,
) -> Result<Plan> {
    options.adapter.fits(&model.config)?;
    options.estimator.fits(model.config.layers)?;
    if options.adapter.dora && !options.estimator.backpropagates() {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "DoRA cannot be combined with an estimate: every moved adapter has norms of its own",
        )
        .hint("train with an exact method, or without DoRA"));
    }
    if options.held.is_some() {
        base_fits(model, options)?;
    }
    Ok(record(model, options, shapes, value_bytes, threads)?.try_finish()?)
}

/// Refuses what cannot train a model's own weights.
fn base_fits(model: &ModelWeights, options: &Options) -> Result<()> {
    match options.estimator {
        Estimator::Exact => {}
        Estimator::Directional(along) if matches!(along.derivative, Derivative::Difference { .. }) => {
            if along.blocks != Blocks::ALL || along.sparsity > 0.0 || options.gradients {
                return Err(Error::usage(
                    ErrorKind::Conflict,
                    "all weights move together: blocks, sparsity and kept gradients are for adapters",
                ));
            }
        }
        _ => {
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!(
                    "‘method’ {} is of adapters: it makes no gradient of the model's weights",
                    options.method_name
                ),
            )
            .hint("use an exact method, or ‘method’ mezo"));
        }
    }
    if options.adapter != AdapterConfig::none() {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "all weights are trained: there is no adapter beside them",
        ));
    }
    let mut stored = None;
    model.parts(&mut |_, part| {
        if let Part::Matrix(w) = part
            && w.dtype().is_quantized()
        {
            stored = Some(w.dtype());
        }
    });
    match stored {
        None => Ok(()),
        Some(dtype) => Err(Error::usage(
            ErrorKind::Unsupported,
            format!("all weights are to be trained, and they are stored as {dtype:?}"),
        )
        .expected("f32, bf16 or f16")
        .hint("give the model that the file was quantized from, or train an adapter")),
    }
}

/// Runs the programs on [`Dry`].
pub(super) fn record(
    model: &Arc<ModelWeights>,
    options: &Options,
    shapes: &Shapes,
    value_bytes: usize,
    threads: usize,
) -> Result<Dry> {
    if shapes.train.is_some() && !options.training {
        return Err(Error::usage(
            ErrorKind::State,
            "a training step cannot be planned for options that do not train",
        ));
    }
    let dry = Dry::new(value_bytes, threads);
    let mut session = Session::new(dry, Arc::clone(model), options.clone(), shapes.targets());
    if let Some(batch) = &shapes.train {
        match (options.estimator, options.update) {
            // Every direction and every pass asks for the same buffers.
            (Estimator::Directional(along), _) => {
                let along = Directional { directions: 1, ..along };
                session.derivatives(&along, (0, 0), batch.targets(), &mut |each| each(batch));
            }
            (_, Update::Accumulate) => {
                session.accumulate(batch, batch.targets());
                if options.optimizer.allocates() {
                    session.apply(0.0, 1.0);
                }
            }
            (_, Update::PerBlock | Update::PerMatrix) => drop(session.step_fused(batch, 0.0, None)),
        }
    }
    if let Some(batch) = &shapes.eval {
        session.evaluate(batch);
    }
    Ok(session.into_backend())
}
