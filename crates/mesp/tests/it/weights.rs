//! Weights from model directories, and directories that must be refused.

use std::path::Path;
use std::sync::Arc;

use mesp::arch::Config;
use mesp::model::ModelWeights;
use mesp::source::{Base, HfSource};
use mesp_device::Dtype;
use mesp_formats::{ModelConfig, config};

use crate::support::{
    ARCHS, Answer, Case, MemorySource, answer, golden, load_config, load_model, mean_loss, mesp_policy,
    randomize_adapters, session_for,
};

/// A model directory that is a golden's with some changes.
fn changed(arch: &str, edit: impl FnOnce(&mut MemorySource)) -> tempfile::TempDir {
    let from = golden(arch).join("model");
    let mut source = MemorySource::read(&from);
    edit(&mut source);
    let dir = tempfile::tempdir().expect("a folder");
    source.write(dir.path(), &std::fs::read_to_string(from.join("config.json")).expect("config.json"));
    dir
}

fn load(dir: &Path) -> mesp::Result<ModelWeights> {
    ModelWeights::load(load_config(dir), &HfSource::open(dir, Base::Mapped)?)
}

fn message(dir: &Path) -> String {
    load(dir).expect_err("a directory that must be refused").to_string()
}

/// What a model gives on a golden's rows with random adapters.
fn answer_of(case: &Case, model: ModelWeights) -> Answer {
    let mut session = session_for::<f32>(&Arc::new(model), case.options(mesp_policy()), &case.shapes(), 2);
    randomize_adapters(&mut session);
    answer(&mut session, &case.batch)
}

#[test]
fn the_same_weights_give_the_same_bits_from_any_source() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let dir = case.dir.join("model");
        let mapped = answer_of(&case, load(&dir).expect("a model"));
        let rewritten = changed(arch, |_| {});
        assert!(
            mapped == answer_of(&case, load(rewritten.path()).expect("a model")),
            "{arch}: written as F32"
        );
        let memory = ModelWeights::load(load_config(&dir), &MemorySource::read(&dir)).expect("a model");
        assert!(mapped == answer_of(&case, memory), "{arch}: in memory");
    }
}

#[test]
fn a_resident_base_equals_its_rounded_values() {
    for arch in ARCHS {
        let case = Case::load(arch);
        let dir = case.dir.join("model");
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
            let source = HfSource::open(&dir, Base::Resident(dtype)).expect("weights");
            let resident = ModelWeights::load(load_config(&dir), &source).expect("a model");
            let mut rounded = MemorySource::read(&dir);
            for (shape, values) in rounded.tensors.values_mut() {
                // Vectors stay in single precision.
                if shape.len() == 2 {
                    for x in values {
                        *x = match dtype {
                            Dtype::F16 => half::f16::from_f32(*x).to_f32(),
                            Dtype::Bf16 => half::bf16::from_f32(*x).to_f32(),
                            _ => *x,
                        };
                    }
                }
            }
            let rounded = ModelWeights::load(load_config(&dir), &rounded).expect("a model");
            assert!(answer_of(&case, resident) == answer_of(&case, rounded), "{arch} {dtype:?}");
        }
        let [mapped, f16] = [Base::Mapped, Base::Resident(Dtype::F16)].map(|base| {
            let source = HfSource::open(&dir, base).expect("weights");
            answer_of(&case, ModelWeights::load(load_config(&dir), &source).expect("a model"))
        });
        assert!(mapped != f16, "{arch}: rounding to F16 changes something");
    }
}

#[test]
fn resident_bytes_are_what_is_held() {
    let dir = golden("llama").join("model");
    let count = MemorySource::read(&dir).tensors;
    let sum = |rank| count.values().filter(|(s, _)| s.len() == rank).map(|(_, v)| v.len()).sum::<usize>();
    let (vectors, matrices) = (sum(1), sum(2));
    for (base, bytes) in [(Base::Mapped, 0), (Base::Resident(Dtype::F32), 4 * matrices)] {
        let source = HfSource::open(&dir, base).expect("weights");
        let model = ModelWeights::load(load_config(&dir), &source).expect("a model");
        assert_eq!(model.resident_bytes(), 4 * vectors + bytes, "{base:?}");
    }
    let parameters = load_config(&dir).parameters();
    assert_eq!(parameters, (vectors + matrices) as u64);
}

#[test]
fn a_missing_tensor_is_named() {
    for name in
        ["model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.bias", "model.norm.weight"]
    {
        let dir = changed("qwen2", |s| assert!(s.tensors.remove(name).is_some()));
        let text = message(dir.path());
        assert!(text.contains(&format!("tensor {name} is in none of the weight files")), "{text}");
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
    }
    let name = "model.layers.1.self_attn.q_norm.weight";
    let dir = changed("qwen3", |s| assert!(s.tensors.remove(name).is_some()));
    assert!(message(dir.path()).contains(name));
}

#[test]
fn another_shape_is_refused() {
    for (name, shape, expected) in [
        ("model.layers.0.mlp.gate_proj.weight", vec![32, 80], "expected [80, 32]"),
        ("model.embed_tokens.weight", vec![96, 32], "expected [97, 32]"),
        ("model.layers.0.self_attn.q_proj.weight", vec![32 * 32], "expected [32, 32]"),
        ("model.layers.2.input_layernorm.weight", vec![31], "expected [32]"),
        ("model.layers.2.self_attn.v_proj.bias", vec![1, 16], "expected [16]"),
    ] {
        let dir = changed("qwen2", |s| {
            let values = vec![0.5; shape.iter().product()];
            assert!(s.tensors.insert(name.to_owned(), (shape.clone(), values)).is_some());
        });
        let text = message(dir.path());
        assert!(
            text.contains(&format!("tensor {name:?} has shape {shape:?}, {expected} from config.json")),
            "{text}"
        );
        assert!(text.contains("do not belong together"), "{text}");
    }
}

#[test]
fn a_configuration_of_another_model_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = std::fs::read_to_string(golden("qwen2/model/config.json")).expect("config.json");
    let config = config.replace("\"intermediate_size\": 80", "\"intermediate_size\": 88");
    assert!(config.contains("88"));
    MemorySource::read(&golden("qwen2/model")).write(dir.path(), &config);
    let text = message(dir.path());
    assert!(text.contains("has shape [80, 32], expected [88, 32] from config.json"), "{text}");
}

/// Some converters store a tied table under the head's name only.
#[test]
fn a_tied_table_may_be_stored_as_the_head() {
    let case = Case::load("qwen2");
    let dir = changed("qwen2", |s| {
        let table = s.tensors.remove("model.embed_tokens.weight").expect("the table");
        assert!(s.tensors.insert("lm_head.weight".to_owned(), table).is_none());
    });
    let model = load(dir.path()).expect("a model");
    assert!(model.head.is_none());
    assert!(answer_of(&case, model) == answer_of(&case, load(&case.dir.join("model")).expect("a model")));

    let dir = changed("qwen2", |s| assert!(s.tensors.remove("model.embed_tokens.weight").is_some()));
    let text = message(dir.path());
    assert!(text.contains("tensor model.embed_tokens.weight is in none of the weight files"), "{text}");
}

#[test]
fn an_untied_head_is_read_and_needed() {
    let case = Case::load("llama");
    let model = load_model(&case.dir.join("model"));
    let head = model.head.as_ref().expect("a head of its own");
    assert_ne!(head.view().data, model.embedding.view().data);
    for name in ["lm_head.weight", "model.embed_tokens.weight"] {
        let dir = changed("llama", |s| assert!(s.tensors.remove(name).is_some()));
        let text = message(dir.path());
        assert!(text.contains(&format!("tensor {name} is in none of the weight files")), "{text}");
    }
    // With a zero head every token is as likely as any other, whatever the embedding.
    let dir = changed("llama", |s| s.values_mut("lm_head.weight").fill(0.0));
    let model = Arc::new(load(dir.path()).expect("a model"));
    let mut session = session_for::<f64>(&model, case.options(mesp_policy()), &case.shapes(), 1);
    let (loss, uniform) = (mean_loss(&mut session, &case.batch), 97f64.ln());
    assert!((loss - uniform).abs() <= 1e-14 * uniform, "{loss}");
}

#[test]
fn older_configuration_keys_give_the_same_model() {
    for arch in ARCHS {
        let new = ModelConfig::read(&golden(arch).join("model")).expect("config.json");
        let path = golden(arch).join("config_v4.json");
        let old =
            config::parse(&path, &std::fs::read_to_string(&path).expect("config_v4.json")).expect("old keys");
        assert_eq!(old, new, "{arch}");
        // The engine's own configuration, with the frequencies that follow from the keys.
        let [old, new] = [old, new].map(|c| format!("{:?}", Config::new(&c).expect("a supported model")));
        assert_eq!(old, new, "{arch}");
    }
}
