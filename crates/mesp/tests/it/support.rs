//! Models, batches and sessions for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, matrices, peft};
use mesp::data::{Dataset, RaggedBatch, ReadOptions};
use mesp::method::Method;
use mesp::model::{Batch, Config, Model};
use mesp::optim::OptimizerKind;
use mesp::source::{Base, HfSource};
use mesp::tape::Policy;
use mesp::train::{Options, Session, Shapes, Update, plan};
use mesp_device::{Backend, Cpu, Real};
use mesp_formats::ModelConfig;

/// A file of the golden folder.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(path)
}

/// One golden: model, adapter, rows.
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) model: Arc<Model>,
    pub(crate) adapter: AdapterConfig,
    pub(crate) batch: Batch,
}

impl Case {
    pub(crate) fn load(arch: &str) -> Self {
        let dir = golden(arch);
        let model = load_model(&dir.join("model"));
        let adapter = peft::load_config(&dir.join("adapter")).expect("adapter config");
        let rows = Dataset::read(&dir.join("rows.jsonl"), None, &ReadOptions::new(model.config.vocab_size)).expect("rows");
        let ragged = RaggedBatch::from_examples(&rows.examples.iter().collect::<Vec<_>>());
        let mut batch = Batch::default();
        batch.fill(&ragged.tokens, &ragged.labels, &ragged.offsets);
        Self { dir, model, adapter, batch }
    }

    pub(crate) fn options(&self, policy: Policy) -> Options {
        Options {
            adapter: self.adapter.clone(),
            policy,
            update: Update::Accumulate,
            optimizer: OptimizerKind::Sgd { momentum: 0.0 },
            weight_decay: 0.0,
            training: true,
        }
    }

    /// A session on the processor, planned for this case's batch, with the golden adapter loaded.
    pub(crate) fn session<R: Real>(&self, options: Options, threads: usize) -> Session<Cpu<R>> {
        let shapes = Shapes { train: Some(self.batch.clone()), eval: Some(self.batch.clone()) };
        let mut session = session_for(&self.model, options, &shapes, threads);
        let config = self.model.config.clone();
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, &self.dir.join("adapter/adapter_model.safetensors"), params, &config).expect("adapter");
        session
    }
}

pub(crate) fn load_model(dir: &Path) -> Arc<Model> {
    let config = Config::new(&ModelConfig::read(dir).expect("config.json")).expect("a supported model");
    let source = HfSource::open(dir, Base::Mapped).expect("weights");
    Arc::new(Model::load(config, &source).expect("a model"))
}

pub(crate) fn session_for<R: Real>(model: &Arc<Model>, options: Options, shapes: &Shapes, threads: usize) -> Session<Cpu<R>> {
    let plan = plan(model, &options, shapes, size_of::<R>(), threads).expect("a plan");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    Session::new(Cpu::<R>::new(plan, Arc::new(pool)), Arc::clone(model), options, shapes.targets())
}

/// All gradients, one vector a matrix.
pub(crate) fn gradients<B: Backend>(session: &Session<B>) -> Vec<Vec<f64>> {
    matrices(session.grads())
        .map(|g| {
            let mut values = vec![0.0; g.rows() * g.cols()];
            session.backend().store(g.view(), &mut |i, x| values[i] = x);
            values
        })
        .collect()
}

/// ‖a − b‖ / ‖b‖.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let diff: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
    let norm: f64 = b.iter().map(|y| y.powi(2)).sum();
    (diff / norm).sqrt()
}

/// The default policy.
pub(crate) fn mesp_policy() -> Policy {
    Method::Mesp.policy()
}
