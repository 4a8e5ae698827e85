//! Models, batches and sessions for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, BlockPairs, Matrix, matrices, matrices_mut, params, peft};
use mesp::arch::{Config, Module, Param, Tensor};
use mesp::data::{FileRows, RaggedBatch, ReadOptions};
use mesp::method::Method;
use mesp::model::{Batch, ModelWeights, WeightSource};
use mesp::optim::OptimizerKind;
use mesp::rng;
use mesp::source::{Base, HfSource, encode};
use mesp::tape::Policy;
use mesp::train::{Options, Session, Shapes, plan};
use mesp_device::{Act, Backend, Cpu, Dtype, Mapping, Real, Threads, View, Weight};
use mesp_formats::{ModelConfig, ModelDir, safetensors_file};

/// The goldens.
pub(crate) const ARCHS: [&str; 7] = ["qwen2", "qwen3", "llama", "mistral", "gemma3_text", "smollm3", "phi3"];

/// PyTorch's defaults, as the goldens have them.
pub(crate) const ADAMW: OptimizerKind = OptimizerKind::adamw(0.9, 0.999, 1e-8);
pub(crate) const SGD: OptimizerKind = OptimizerKind::sgd(0.0);

/// A file of the golden folder.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(path)
}

/// One golden: model, adapter, rows.
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) model: Arc<ModelWeights>,
    pub(crate) adapter: AdapterConfig,
    /// All rows.
    pub(crate) batch: Batch,
    /// Each row by itself, in the same order.
    pub(crate) rows: Vec<Batch>,
}

impl Case {
    pub(crate) fn load(arch: &str) -> Self {
        let dir = golden(arch);
        let model = load_model(&dir.join("model"));
        let adapter = mesp::source::load_adapter_config(&dir.join("adapter")).expect("adapter config");
        let read = ReadOptions::new(model.config.vocab_size);
        let examples = FileRows::read(&dir.join("rows.jsonl"), None, &read).expect("rows").examples;
        let all: Vec<_> = examples.iter().collect();
        let batch = to_batch(&RaggedBatch::from_examples(&all));
        let rows = all.chunks(1).map(|row| to_batch(&RaggedBatch::from_examples(row))).collect();
        Self { dir, model, adapter, batch, rows }
    }

    /// Accumulating SGD with the golden adapter's shape.
    pub(crate) fn options(&self, policy: Policy) -> Options {
        Options::new(self.adapter.clone(), policy)
    }

    /// Shapes for this case's rows.
    pub(crate) fn shapes(&self) -> Shapes {
        shapes(&self.batch)
    }

    /// A session on the processor, planned for this case's batch, with the golden adapter loaded.
    pub(crate) fn session<R: Real>(&self, options: Options, threads: usize) -> Session<Cpu<R>> {
        self.session_for(options, &self.shapes(), threads)
    }

    /// As [`Case::session`], planned for other batches.
    pub(crate) fn session_for<R: Real>(
        &self,
        options: Options,
        shapes: &Shapes,
        threads: usize,
    ) -> Session<Cpu<R>> {
        let mut session = session_for(&self.model, options, shapes, threads);
        self.read_adapter(&mut session, &self.adapter_file()).expect("the golden adapter");
        session
    }

    pub(crate) fn adapter_file(&self) -> PathBuf {
        self.dir.join("adapter/adapter_model.safetensors")
    }

    /// Reads an adapter's tensors into a session of this model.
    pub(crate) fn read_adapter<R: Real>(
        &self,
        session: &mut Session<Cpu<R>>,
        file: &Path,
    ) -> mesp::Result<()> {
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, file, params, &self.model.config)
    }
}

/// One batch as the largest of training and of evaluation.
pub(crate) fn shapes(batch: &Batch) -> Shapes {
    Shapes { train: Some(batch.clone()), eval: Some(batch.clone()) }
}

/// One batch as the largest of evaluation, without training.
pub(crate) fn eval_shapes(batch: &Batch) -> Shapes {
    Shapes { train: None, eval: Some(batch.clone()) }
}

pub(crate) fn to_batch(ragged: &RaggedBatch) -> Batch {
    let mut batch = Batch::default();
    batch.fill(&ragged.tokens, &ragged.labels, &ragged.offsets);
    batch
}

/// Sequences of random tokens with these lengths; every position but a sequence's last is a target.
pub(crate) fn random_batch(lengths: &[usize], vocab: usize, seed: u64) -> Batch {
    let (mut tokens, mut targets, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    for length in lengths {
        for place in 0..*length {
            let at = tokens.len() as u64;
            tokens.push((rng::bits(seed, 0, at) % vocab as u64) as u32);
            let next = (rng::bits(seed, 0, at + 1) % vocab as u64) as i32;
            targets.push(if place + 1 < *length { next } else { -100 });
        }
        offsets.push(tokens.len());
    }
    let mut batch = Batch::default();
    batch.fill(&tokens, &targets, &offsets);
    batch
}

pub(crate) fn load_config(dir: &Path) -> Config {
    Config::new(&ModelConfig::read(dir).expect("config.json")).expect("a supported model")
}

pub(crate) fn load_model(dir: &Path) -> Arc<ModelWeights> {
    let source = HfSource::open(dir, Base::Mapped).expect("weights");
    Arc::new(ModelWeights::load(load_config(dir), &source).expect("a model"))
}

pub(crate) fn session_for<R: Real>(
    model: &Arc<ModelWeights>,
    options: Options,
    shapes: &Shapes,
    threads: usize,
) -> Session<Cpu<R>> {
    let plan = plan(model, &options, shapes, size_of::<R>(), threads).expect("a plan");
    let pool = Threads::new(threads).expect("threads");
    Session::new(Cpu::<R>::new(plan, Arc::new(pool)), Arc::clone(model), options, shapes.targets())
}

/// Random adapters, B ≠ 0. An adapter's values depend on its place alone, so that a session with fewer
/// targets has the same ones where it has any.
pub(crate) fn randomize_adapters<B: Backend>(session: &mut Session<B>) {
    let (be, params, _) = session.state_mut();
    for (l, block) in params.iter_mut().enumerate() {
        for (p, pair) in block.iter_mut().enumerate() {
            let Some(pair) = pair else { continue };
            let stream = 2 * (l * 7 + p) as u64;
            let scale = 1.0 / (pair.a.cols() as f64).sqrt();
            be.load(pair.a.view_mut(), &mut |i| scale * rng::normal(9, stream, i as u64));
            be.load(pair.b.view_mut(), &mut |i| 0.2 * rng::normal(9, stream + 1, i as u64));
            let Some((m, norms)) = pair.m.as_mut().zip(pair.norms.as_ref()) else { continue };
            // Near the norms, where they start.
            let squares = values(be, &norms.squares);
            let moved = |i: usize| 1.0 + 0.2 * rng::normal(9, stream + 1, (1 << 20) + i as u64);
            be.load(m.view_mut(), &mut |i| squares[i].sqrt() * moved(i));
        }
    }
}

/// A buffer's values.
pub(crate) fn values<B: Backend>(be: &B, act: &Act) -> Vec<f64> {
    view_values(be, act.view())
}

/// A view's values.
pub(crate) fn view_values<B: Backend>(be: &B, view: View<'_>) -> Vec<f64> {
    let mut values = vec![0.0; view.rows() * view.cols()];
    be.store(view, &mut |i, x| values[i] = x);
    values
}

/// Values of all matrices of some blocks.
pub(crate) fn all_values<B: Backend>(be: &B, blocks: &[BlockPairs]) -> Vec<Vec<f64>> {
    matrices(blocks).map(|act| values(be, act)).collect()
}

/// The gradient of a matrix of an adapter.
pub(crate) fn gradient<B: Backend>(
    session: &Session<B>,
    place: usize,
    p: Module,
    matrix: Matrix,
) -> Vec<f64> {
    let view = session.grads().get(place, Tensor::Adapter(p, matrix)).expect("a gradient");
    view_values(session.backend(), view)
}

/// All gradients, one vector a matrix; an empty one where it is frozen.
pub(crate) fn gradients<B: Backend>(session: &Session<B>) -> Vec<Vec<f64>> {
    let of = |param: Param| session.grads().get(param.place, param.tensor);
    let values = |view| view_values(session.backend(), view);
    params(session.params()).into_iter().map(|param| of(param).map_or_else(Vec::new, values)).collect()
}

/// All adapters, one vector a matrix.
pub(crate) fn parameters<B: Backend>(session: &Session<B>) -> Vec<Vec<f64>> {
    all_values(session.backend(), session.params())
}

/// To compare to the bit: unlike `==`, a NaN equals itself and 0 is not −0.
pub(crate) fn bits(matrices: &[Vec<f64>]) -> Vec<Vec<u64>> {
    matrices.iter().map(|m| m.iter().map(|x| x.to_bits()).collect()).collect()
}

/// What one step's gradients and an evaluation give, to the bit: the sum of the losses, gradients, the
/// losses of the rows.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    nats: u64,
    gradients: Vec<Vec<u64>>,
    rows: Vec<(u64, u32)>,
}

/// The [`Answer`] of a session on a batch.
pub(crate) fn answer<B: Backend>(session: &mut Session<B>, batch: &Batch) -> Answer {
    let outcome = session.accumulate(batch, batch.targets());
    assert!(outcome.nats.is_finite(), "a loss that was read from unwritten memory is NaN");
    let gradients = bits(&gradients(session));
    let rows = session.evaluate(batch).iter().map(|l| (l.nats().to_bits(), l.best)).collect();
    Answer { nats: outcome.nats.to_bits(), gradients, rows }
}

/// Mean loss of a batch without gradients.
pub(crate) fn mean_loss<B: Backend>(session: &mut Session<B>, batch: &Batch) -> f64 {
    session.evaluate(batch).iter().map(mesp_device::RowStat::nats).sum::<f64>() / batch.targets() as f64
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let diff: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
    let norm: f64 = b.iter().map(|y| y.powi(2)).sum();
    (diff / norm).sqrt()
}

/// The derivative of `f` at 0 by the stencil of fourth order, whose error is step⁴·f⁗′/30. It leaves `f` at 0.
pub(crate) fn derivative(step: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let derivative =
        [(-2.0, 1.0), (-1.0, -8.0), (1.0, 8.0), (2.0, -1.0)].map(|(at, weight)| weight * f(at * step));
    f(0.0);
    derivative.iter().sum::<f64>() / (12.0 * step)
}

/// The derivative of a loss along a direction `d` of the m-th matrix of a session's adapters, which has the values
/// `start` and is left with them.
pub(crate) fn derivative_of_matrix(
    session: &mut Session<Cpu<f64>>,
    (m, start, d): (usize, &[f64], &[f64]),
    step: f64,
    mut loss: impl FnMut(&mut Session<Cpu<f64>>) -> f64,
) -> f64 {
    derivative(step, |t| {
        let (be, params, _) = session.state_mut();
        let act = matrices_mut(params).nth(m).expect("a matrix");
        be.load(act.view_mut(), &mut |i| start[i] + t * d[i]);
        loss(session)
    })
}

/// The default policy.
pub(crate) fn mesp_policy() -> Policy {
    Method::Mesp.policy()
}

/// Weights in memory, in one stored type, to be changed before a model is made of them.
#[derive(Clone)]
pub(crate) struct MemorySource {
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// Stored type of the matrices.
    pub(crate) dtype: Dtype,
}

impl MemorySource {
    /// All weights of a model directory, converted to single precision.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut tensors = BTreeMap::new();
        for path in ModelDir::open(dir).expect("a model folder").shards {
            let map = Mapping::open(&path).expect("weights");
            for t in safetensors_file::parse(&path, map.bytes()).expect("a header").tensors {
                let values = safetensors_file::read_f32(&path, map.bytes(), &t).expect("values");
                tensors.insert(t.name, (t.shape, values));
            }
        }
        Self { tensors, dtype: Dtype::F32 }
    }

    /// A tensor's values, to change.
    pub(crate) fn values_mut(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors.get_mut(name).expect("a tensor of the model").1
    }

    /// Writes a model directory with these weights in single precision.
    pub(crate) fn write(&self, dir: &Path, config: &str) {
        std::fs::write(dir.join("config.json"), config).expect("config.json");
        let list: Vec<_> = self.tensors.iter().collect();
        let heads: Vec<_> = list
            .iter()
            .map(|(name, (shape, _))| ((*name).clone(), mesp_formats::Dtype::F32, shape.clone()))
            .collect();
        safetensors_file::write(&dir.join("model.safetensors"), &heads, &BTreeMap::new(), &mut |i, out| {
            out.write_all(&encode(Dtype::F32, &list[i].1.1))
        })
        .expect("model.safetensors");
    }
}

impl WeightSource for MemorySource {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> mesp::Result<Option<Weight>> {
        Ok(self.tensors.get(name).map(|(shape, values)| {
            assert_eq!(*shape, [rows, cols], "{name}");
            Weight::owned(self.dtype, rows, cols, encode(self.dtype, values))
        }))
    }

    fn vector(&self, name: &str, len: usize) -> mesp::Result<Option<Vec<f32>>> {
        Ok(self.tensors.get(name).map(|(shape, values)| {
            assert_eq!(*shape, [len], "{name}");
            values.clone()
        }))
    }

    fn missing(&self, name: &str) -> mesp::Error {
        mesp::Error::usage(mesp::ErrorKind::Missing, format!("{name} is missing"))
    }
}

/// The checkpoint name of a projection's weight.
pub(crate) fn weight_name(layer: usize, p: Module) -> String {
    format!("{}.weight", p.path(layer))
}
