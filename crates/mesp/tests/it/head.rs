//! Adapters of the head and of embeddings: against PEFT (`golden/head.py` made the numbers), merged, and in files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, matrices_mut, peft};
use mesp::arch::Module;
use mesp::generate::{Generator, plan_generation};
use mesp::merge::{Options as MergeOptions, merge};
use mesp::method::{Directional, Estimator, Subset};
use mesp::quantize::quantize;
use mesp::source::{Base, open_model};
use mesp::train::{Options, Session};
use mesp_device::{Backend, Cpu, Elem, Mapping, Real, RowStat, Threads};
use mesp_formats::gguf::TensorType;
use mesp_formats::peft::{MODEL_FILE, parse_tensor_name};
use mesp_formats::safetensors_file;

use crate::support::{
    Case, answer, eval_shapes, golden, gradient, gradients, mean_loss, mesp_policy, parameters, relative,
    session_for,
};

/// A tied table; a head of its own; a tied table whose rows are scaled; the head alone; embeddings alone.
const GOLDENS: [&str; 5] = ["qwen2", "llama", "gemma3_text", "mistral", "smollm3"];

fn adapter(arch: &str) -> PathBuf {
    golden("head").join(arch)
}

/// PyTorch's loss in double precision.
fn golden_loss(arch: &str) -> f64 {
    let path = adapter(arch).join("grads_f64.safetensors");
    let map = Mapping::open(&path).expect("golden");
    safetensors_file::parse(&path, map.bytes()).expect("a header").metadata["loss"].parse().expect("loss")
}

/// A golden with PEFT's adapter in place of its own.
fn case(arch: &str) -> Case {
    Case {
        adapter: mesp::source::load_adapter_config(&adapter(arch)).expect("PEFT's settings"),
        ..Case::load(arch)
    }
}

fn session<R: Real>(case: &Case, arch: &str, options: Options) -> Session<Cpu<R>> {
    let mut session = session_for(&case.model, options, &case.shapes(), 2);
    case.read_adapter(&mut session, &adapter(arch).join(MODEL_FILE)).expect("PEFT's tensors");
    session
}

/// Loss and gradients against a golden file.
fn compare<R: Real>(arch: &str, file: &str, tolerance: f64) {
    let case = case(arch);
    let mut session = session::<R>(&case, arch, case.options(mesp_policy()));
    let outcome = session.accumulate(&case.batch, case.batch.targets());
    let path = adapter(arch).join(file);
    let map = Mapping::open(&path).expect("golden");
    let header = safetensors_file::parse(&path, map.bytes()).expect("golden header");
    let reference: f64 = header.metadata["loss"].parse().expect("loss");
    let loss = outcome.nats / outcome.targets as f64;
    assert!((loss - reference).abs() <= 1e-6 * reference, "{arch}: loss {loss}, PyTorch {reference}");
    for t in &header.tensors {
        let (layer, module, matrix) = parse_tensor_name(&t.name).expect("PEFT's name");
        let p = Module::from_name(&module).expect("a projection");
        let place = p.list_index(layer, &case.model.config);
        let mut ours = gradient(&session, place, p, matrix);
        if p == Module::Embed {
            let [cols, rows] = [t.shape[0], t.shape[1]];
            ours = (0..rows * cols).map(|i| ours[i % rows * cols + i / rows]).collect();
        }
        let theirs = safetensors_file::read_f32(&path, map.bytes(), t).expect("values");
        let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
        let error = relative(&ours, &theirs);
        assert!(error <= tolerance, "{arch} {}: {error:e}", t.name);
    }
    assert_eq!(header.tensors.len(), gradients(&session).len(), "every gradient has a golden");
}

#[test]
fn f32_gradients_equal_pefts() {
    // As the goldens of LoRA: both sides round at 6e-8 over a few hundred terms.
    for arch in GOLDENS {
        compare::<f32>(arch, "grads.safetensors", 1e-5);
    }
}

#[test]
fn f64_gradients_equal_pefts() {
    // Angles, sines and cosines are single precision, and so is the golden as stored.
    for arch in GOLDENS {
        compare::<f64>(arch, "grads_f64.safetensors", 2e-6);
    }
}

/// ⟨∇L, z⟩ from tangents, from losses beside the adapters, and as a surrogate that leaves nothing out.
#[test]
fn estimates_move_them_too() {
    for arch in GOLDENS {
        let case = case(arch);
        let exact = |options| {
            let mut session = session::<f64>(&case, arch, options);
            session.accumulate(&case.batch, case.batch.targets());
            gradients(&session)
        };
        let gradient = exact(case.options(mesp_policy()));
        let norm = gradient.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let with =
            |along| Options { estimator: Estimator::Directional(along), ..case.options(mesp_policy()) };
        let (forward, mezo) = (Directional::FORWARD, Directional::MEZO);
        let mut here = session::<f64>(&case, arch, with(forward));
        let direction = forward.direction(5, 1, 0);
        let (outcome, derivative) = here.derivative(&case.batch, case.batch.targets(), direction);
        let there = |options, by: f64| {
            let mut moved = session::<f64>(&case, arch, options);
            moved.perturb_in_place(1.0, by, direction);
            (mean_loss(&mut moved, &case.batch), moved)
        };
        let (at_rest, _) = there(with(forward), 0.0);
        assert!(relative(&[outcome.nats / outcome.targets as f64], &[at_rest]) < 1e-12, "{arch}");
        here.perturb_in_place(0.0, 1.0, direction);
        let z = parameters(&here);
        let expected: f64 = gradient.iter().flatten().zip(z.iter().flatten()).map(|(g, z)| g * z).sum();
        assert!((derivative - expected).abs() <= 1e-10 * norm, "{arch}: {derivative} {expected}");

        let mut beside = session::<f64>(&case, arch, with(mezo));
        let probed = beside.probe(&case.batch, 0.01, direction);
        let (loss, _) = there(with(mezo), 0.01);
        assert!(relative(&[probed.nats / probed.targets as f64], &[loss]) < 1e-12, "{arch}");
        assert!((loss - at_rest).abs() > 1e-6, "{arch}: they moved");

        let all = Estimator::Subset(Subset::Share(1.0));
        assert!(exact(Options { estimator: all, ..case.options(mesp_policy()) }) == gradient, "{arch}");
    }
}

/// Adapters in bf16 give what their values give in single precision.
#[test]
fn adapters_in_bf16_are_looked_up_as_they_are() {
    for arch in GOLDENS {
        let case = case(arch);
        let options = |adapter_type| Options { adapter_type, ..case.options(mesp_policy()) };
        let mut stored = session::<f32>(&case, arch, options(Elem::Bf16));
        let rounded = parameters(&stored);
        let mut full = session::<f32>(&case, arch, options(Elem::Full));
        let (be, params, _) = full.state_mut();
        for (act, values) in matrices_mut(params).zip(&rounded) {
            be.load(act.view_mut(), &mut |i| values[i]);
        }
        let [here, there] = [&mut stored, &mut full].map(|session| {
            session.accumulate(&case.batch, case.batch.targets());
            gradients(session).concat()
        });
        assert!(relative(&here, &there) < 1e-5, "{arch}: {:e}", relative(&here, &there));
    }
}

/// A base in a file, in its order of rows: the same losses and gradients; and what is written is what was read.
#[test]
fn files_of_bases_and_adapters_say_the_same() {
    for arch in GOLDENS {
        let case = case(arch);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("base.gguf");
        quantize(&case.dir.join("model"), &file, TensorType::F32, &mut |_, _| {}).expect("written");
        let theirs = answer(&mut session::<f64>(&case, arch, case.options(mesp_policy())), &case.batch);
        let model = Arc::new(open_model(&file, Base::Mapped).expect("a model").load().expect("weights"));
        let on_file = Case { model, ..case };
        let mut here = session::<f64>(&on_file, arch, on_file.options(mesp_policy()));
        let loss = mean_loss(&mut here, &on_file.batch);
        assert!(relative(&[loss], &[golden_loss(arch)]) < 1e-6, "{arch}");
        let same = answer(&mut here, &on_file.batch) == theirs;
        assert!(same || on_file.model.config.arch != "qwen2", "{arch}: rows lie as in a directory");
        let again = dir.path().join("again");
        peft::save(here.backend(), &again, &on_file.adapter, None, here.params()).expect("written");
        let mut read =
            session_for::<f64>(&on_file.model, on_file.options(mesp_policy()), &on_file.shapes(), 1);
        on_file.read_adapter(&mut read, &again.join(MODEL_FILE)).expect("the same adapter");
        assert_eq!(parameters(&read), parameters(&here), "{arch}");
        assert_eq!(mesp::source::load_adapter_config(&again).expect("settings"), on_file.adapter);
    }
}

/// A token at a time, keys and values kept, the probability of a row's last label is that of the evaluation.
#[test]
fn generation_says_the_same() {
    for arch in GOLDENS {
        let case = case(arch);
        let plan = plan_generation(&case.model, &case.adapter, 40, 4, 1).expect("a plan");
        let pool = Threads::new(1).expect("threads");
        let be = Cpu::<f32>::new(plan, Arc::new(pool));
        let mut generator = Generator::new(be, Arc::clone(&case.model), &case.adapter, 40);
        let (be, params) = generator.params_mut();
        peft::read_tensors(be, &adapter(arch).join(MODEL_FILE), params, &case.model.config).expect("tensors");
        let mut session = session::<f32>(&case, arch, case.options(mesp_policy()));
        for row in case.rows.iter().filter(|row| row.targets() > 0) {
            let (last, label) = (row.targets() - 1, row.target_labels[row.targets() - 1]);
            let nats = session.evaluate(row)[last].nats();
            let (first, rest) = row.tokens[..=row.target_rows[last] as usize].split_at(1);
            generator.reset();
            let mut logits = generator.feed(first).to_vec();
            for token in rest {
                logits = generator.feed(&[*token]).to_vec();
            }
            let top = logits.iter().fold(f32::MIN, |a, b| a.max(*b));
            let total: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
            let found = total.ln() - f64::from(logits[label as usize] - top);
            assert!((found - nats).abs() <= 1e-5 * nats.max(1.0), "{arch}: {found} {nats}");
        }
    }
}

/// The mean loss of a model by itself.
fn base_loss(case: &Case, path: &Path) -> f64 {
    let model = Arc::new(open_model(path, Base::Mapped).expect("a model").load().expect("weights"));
    let options = Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
    let mut session = session_for::<f64>(&model, options, &eval_shapes(&case.batch), 1);
    let losses: Vec<f64> = session.evaluate(&case.batch).iter().map(RowStat::nats).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The merged model of a tied base has a head of its own.
#[test]
fn merged_models_have_pefts_loss() {
    let dir = tempfile::tempdir().expect("a folder");
    for arch in GOLDENS {
        let case = Case::load(arch);
        let at = |name: &str| dir.path().join(format!("{arch}-{name}"));
        let (model, file) = (case.dir.join("model"), at("base.gguf"));
        quantize(&model, &file, TensorType::F32, &mut |_, _| {}).expect("a file");
        let without = base_loss(&case, &model);
        for (base, to) in [(&model, "hf"), (&model, "a.gguf"), (&file, "b.gguf"), (&file, "back")] {
            let options = MergeOptions { ty: Some(TensorType::F32), max_shard: u64::MAX };
            let report = merge(base, &adapter(arch), &at(to), options, &mut |_, _| {}).expect("merged");
            let said = report.notes.iter().any(|note| note.contains("a head of its own"));
            assert_eq!(said, case.model.config.tied, "{arch} {to}: {:?}", report.notes);
            let (ours, theirs) = (base_loss(&case, &at(to)), golden_loss(arch));
            // Merged weights are rounded to single precision.
            assert!(relative(&[ours], &[theirs]) <= 1e-6, "{arch} {to}: {ours}, PyTorch {theirs}");
            assert!(relative(&[ours], &[without]) > 1e-3, "{arch}: the adapter does something");
            let merged = open_model(&at(to), Base::Mapped).expect("a model").config;
            assert!(!merged.tied, "{arch} {to}");
        }
    }
}

/// What only one of the two changes stays, to the bit, of the other.
#[test]
fn an_untied_table_is_the_old_one_where_nothing_changes_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = Case::load("smollm3");
    let model = case.dir.join("model");
    let options = MergeOptions { ty: None, max_shard: u64::MAX };
    merge(&model, &adapter("smollm3"), dir.path().join("hf").as_path(), options, &mut |_, _| {})
        .expect("merged");
    let table = |dir: &Path, name: &str| {
        let path = dir.join("model.safetensors");
        let map = Mapping::open(&path).expect("weights");
        let header = safetensors_file::parse(&path, map.bytes()).expect("a header");
        let info = header.tensors.iter().find(|t| t.name == name).expect("a table");
        map.bytes()[info.range.clone()].to_vec()
    };
    let [before, head, embedding] = [
        table(&model, "model.embed_tokens.weight"),
        table(&dir.path().join("hf"), "lm_head.weight"),
        table(&dir.path().join("hf"), "model.embed_tokens.weight"),
    ];
    assert!(before == head && before != embedding);
}
