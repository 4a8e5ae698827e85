//! Adapters of the head and of embeddings: against PEFT (`golden/head.py` made the numbers), merged, and in files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::merge::{Options as MergeOptions, merge};
use mesp::quantize::quantize;
use mesp::source::{Base, open_model};
use mesp::train::Options;
use mesp_device::{Mapping, RowStat};
use mesp_formats::gguf::TensorType;
use mesp_formats::safetensors_file;

use crate::support::{Case, eval_shapes, golden, mesp_policy, relative, session_for};

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

/// The mean loss of a model by itself.
fn base_loss(case: &Case, path: &Path) -> f64 {
    let model = Arc::new(open_model(path, Base::Mapped).expect("a model").load().expect("weights"));
    let options = Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
    let mut session = session_for::<f64>(&model, options, &eval_shapes(&case.batch), 1);
    let losses: Vec<f64> = session.evaluate(&case.batch).iter().map(RowStat::nats).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// Of a tied base the merged model has a head of its own.
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
