//! What runs leave: logs of derivatives, checkpoints, `run.json` and `metrics.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::arch::{Config, Module};
use mesp::method::Method;
use mesp::model::{Batch, ModelWeights};
use mesp::optim::{OptimizerKind, ScheduleKind};
use mesp::settings::Settings;
use mesp::source::{Base, HfSource};
use mesp::train::{Action, Length, Options, Progress, RunConfig, Session, Shapes, checkpoint, plan, replay};
use mesp_device::{Cpu, Threads};
use mesp_formats::ModelConfig;

use crate::scratch;

/// Any bytes are refused as a log of derivatives, with the file's name, or give steps that are the same after they were
/// written.
pub fn slopes(bytes: &[u8]) {
    let path = Path::new("slopes.replay");
    let log = match replay::parse(path, bytes) {
        Ok(log) => log,
        Err(error) => return assert!(error.to_string().starts_with("slopes.replay"), "{error}"),
    };
    assert!(log.begin as usize <= bytes.len());
    assert!(log.derivatives.iter().all(|step| step.len() == log.header.directions));
    let _ = log.header.full();
    if let Ok(mut settings) = Settings::from_names(&log.header.settings) {
        // A file of the machine is not read.
        settings.adapter.adapter = None;
        let _ = settings.resolve();
    }
    let flat = log.derivatives.concat();
    let written = replay::to_bytes(path, &log.header, &flat).expect("a header that was read");
    let again = replay::parse(path, &written).expect("what was written");
    assert_eq!(again.header, log.header);
    let bits =
        |derivatives: &[f32]| derivatives.iter().map(|derivative| derivative.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&again.derivatives.concat()), bits(&flat));
}

/// A checkpoint of a small session, to have one of its files replaced.
struct Checkpoint {
    session: Session<Cpu<f32>>,
    run: RunConfig,
    folder: PathBuf,
    /// Names and contents of its files.
    files: Vec<(&'static str, Vec<u8>)>,
}

/// The files, in the order in which the first byte of an input chooses them.
const FILES: [&str; 4] =
    ["state.json", "adapter_model.safetensors", "first_moment.safetensors", "second_moment.safetensors"];

thread_local! {
    static CHECKPOINT: std::cell::RefCell<Checkpoint> = std::cell::RefCell::new(Checkpoint::new());
}

impl Checkpoint {
    fn new() -> Self {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/qwen2/model"));
        let config = Config::new(&ModelConfig::read(dir).expect("config.json")).expect("a model");
        let source = HfSource::open(dir, Base::Mapped).expect("weights");
        let model = Arc::new(ModelWeights::load(config, &source).expect("a model"));
        let layers = Some(vec![1]);
        let adapter = AdapterConfig { layers, ..AdapterConfig::new(1, 2.0, false, vec![Module::K]) };
        let optimizer = OptimizerKind::adamw(0.9, 0.999, 1e-8);
        let options = Options { optimizer, ..Options::new(adapter, Method::Mesp.policy()) };
        let mut batch = Batch::default();
        batch.fill(&[1, 2, 3], &[2, 3, -100], &[0, 3]);
        let shapes = Shapes { train: Some(batch.clone()), eval: None };
        let plan = plan(&model, &options, &shapes, size_of::<f32>(), 1).expect("a plan");
        let pool = Arc::new(Threads::new(1).expect("a thread"));
        let mut session = Session::new(Cpu::<f32>::new(plan, pool), model, options, shapes.targets());
        session.init_adapters(7);
        let run = run_config();
        scratch::with(|dir| {
            let progress = Progress { step: 3, updates: 3, first_loss: Some(2.5), ..Progress::default() };
            let folder = checkpoint::save(&session, dir, &progress, &run).expect("a checkpoint");
            let files = FILES.map(|name| (name, fs::read(folder.join(name)).expect("its file"))).into();
            Self { session, run, folder, files }
        })
    }

    /// Reads the checkpoint that is in a folder: how far it is, and what is trained.
    fn read(&mut self, folder: &Path) -> mesp::Result<(Progress, String)> {
        let progress = checkpoint::load(&mut self.session, folder, &self.run)?;
        Ok((progress, replay::digest(&self.session)))
    }
}

fn run_config() -> RunConfig {
    RunConfig {
        learning_rate: 1e-3,
        lr_schedule: ScheduleKind::parse("cosine").expect("a schedule"),
        warmup_ratio: 0.0,
        batch_size: 1,
        batch_tokens: None,
        grad_accum: 1,
        length: Length::Steps(9),
        max_grad_norm: None,
        seed: 7,
        eval_every: None,
        save_every: None,
        save_total_limit: None,
        early_stopping_patience: None,
        early_stopping_min_delta: 0.0,
        load_best_at_end: false,
        on_nonfinite: Action::Report,
        on_spike: Action::Report,
        spike_factor: 0.0,
        output: None,
        adapter_at_eval: false,
        settings: r#"{"rank":1}"#.to_owned(),
        identity: BTreeMap::from([("rows".to_owned(), "abc".to_owned())]),
        made_with: mesp::train::MadeWith::default(),
        base_model: None,
    }
}

/// Any bytes in the place of one of a checkpoint's files, which the first byte chooses, are refused with a name in the
/// checkpoint, or give a state that is the same after it was written.
pub fn checkpoint(bytes: &[u8]) {
    let Some((choice, content)) = bytes.split_first() else { return };
    CHECKPOINT.with_borrow_mut(|there| {
        let (name, first) = there.files[usize::from(*choice) % FILES.len()].clone();
        let folder = there.folder.clone();
        fs::write(folder.join(name), content).expect("a file");
        let read = there.read(&folder);
        fs::write(folder.join(name), first).expect("a file");
        let (progress, digest) = match read {
            Ok(read) => read,
            Err(error) => return assert!(error.to_string().contains("step-3"), "{error}"),
        };
        let again = folder.with_file_name("again");
        let written = checkpoint::save(&there.session, &again, &progress, &there.run).expect("a checkpoint");
        let second = there.read(&written).expect("what was written");
        fs::remove_dir_all(&again).expect("what was written");
        assert_eq!(second, (progress, digest));
    });
}

/// What the first bytes of a seed of [`checkpoint()`] choose, and what stands there, for each file.
#[must_use]
pub fn checkpoint_seeds() -> Vec<(String, Vec<u8>)> {
    CHECKPOINT.with_borrow(|there| {
        let seed = |(i, (name, content)): (usize, &(&str, Vec<u8>))| {
            ((*name).to_owned(), [&[i as u8], content.as_slice()].concat())
        };
        there.files.iter().enumerate().map(seed).collect()
    })
}

/// Any `run.json` and any `metrics.jsonl`, which follows it after a zero byte, give what is JSON on one line for a page,
/// and the same when it is read again.
pub fn run_json(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (summary, events) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    scratch::with(|dir| {
        let dir = dir.join("run");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join("run.json"), summary).expect("a file");
        fs::write(dir.join("metrics.jsonl"), events).expect("a file");
        let news = mesp_cli::untrusted::run_folder(&dir).expect("a run");
        assert!(!news.contains(['\n', '\r']), "{news:?}");
        let json: serde_json::Value = serde_json::from_str(&news).unwrap_or_else(|e| panic!("{e}: {news}"));
        assert_eq!(json["count"], 1, "{news}");
        assert_eq!(mesp_cli::untrusted::run_folder(&dir).as_ref(), Some(&news));
    });
}
