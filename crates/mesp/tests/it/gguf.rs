//! GGUF files as bases: against the directories they were made from, against their own values in single
//! precision, and files that must be refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::{AdapterConfig, Matrix, peft};
use mesp::arch::{Config, Module, Selection};
use mesp::model::{ModelWeights, WeightSource};
use mesp::quantize::{Report, quantize};
use mesp::source::{Base, GgufSource, HfSource, Kind, open_model, shape_source, tensor_dtype, text_encoder};
use mesp::train::Options;
use mesp_device::{Act, Backend, Class, Cpu, Dry, Dtype, Label, Layout, Mapping, Program, Threads, Weight};
use mesp_formats::gguf::{self, TensorType, Value};
use mesp_formats::{ModelConfig, safetensors_file};

use crate::support::{
    ARCHS, Case, MemorySource, answer, bits, golden, gradient, gradients, load_config, load_model, mean_loss,
    mesp_policy, random_batch, randomize_adapters, relative, session_for, shapes, values,
};

mod refused;
mod training;

/// A GGUF file of a directory's model.
fn converted(dir: &Path, ty: TensorType) -> (tempfile::TempDir, PathBuf, Report) {
    let to = tempfile::tempdir().expect("a folder");
    let path = to.path().join("model.gguf");
    let mut last = (0, 0);
    let report = quantize(dir, &path, ty, &mut |done, total| last = (done, total)).expect("a file");
    // The rotary divisors are made, not converted.
    assert!(last.1 > 0 && last.0 + 64 >= last.1, "{last:?}");
    assert_eq!(report.bytes, std::fs::metadata(&path).expect("a file").len());
    (to, path, report)
}

fn opened(path: &Path) -> Arc<ModelWeights> {
    Arc::new(open_model(path, Base::Mapped).expect("a model").load().expect("weights"))
}

/// A table of one row, read in every way that there is.
struct Reads {
    table: Act,
    identity: Act,
    forward: Act,
    one: Act,
    back: Act,
}

impl Reads {
    fn new<B: Backend>(be: &mut B) -> Self {
        let mut persist = |rows, cols| be.persist(rows, cols, Label::new(Class::Adapter, "test"));
        let mut identity = persist(256, 256);
        let (table, forward, mut one, back) =
            (persist(1, 256), persist(256, 1), persist(1, 1), persist(1, 256));
        be.load(identity.view_mut(), &mut |i| f64::from(u8::from(i % 257 == 0)));
        be.load(one.view_mut(), &mut |_| 1.0);
        Self { table, identity, forward, one, back }
    }

    fn through<B: Backend>(&mut self, be: &mut B, weight: &Weight) -> [&Act; 3] {
        be.embedding(self.table.view_mut(), weight, &[0]);
        be.linear(self.forward.view_mut(), self.identity.view(), weight, None, false);
        be.input_grad(self.back.view_mut(), self.one.view(), weight, false);
        [&self.table, &self.forward, &self.back]
    }
}

/// Every type reads as the reference does, in tables and in both orientations of a product.
#[test]
fn every_type_computes_with_the_references_numbers() {
    let path = golden("gguf/quants.gguf");
    let map = Arc::new(Mapping::open(&path).expect("a file"));
    let file = gguf::parse(&path, map.bytes()).expect("a header");
    let pool = Threads::new(1).expect("threads");
    let mut dry = Dry::new(4, 1);
    let mut acts = Reads::new(&mut dry);
    dry.begin(Program(0));
    acts.through(&mut dry, &Weight::shape_only(Dtype::F32, 1, 256));
    let mut be = Cpu::<f32>::new(dry.finish(), Arc::new(pool));
    let mut acts = Reads::new(&mut be);
    be.begin(Program(0));
    let mut types = Vec::new();
    for info in &file.tensors {
        let Some(expected) = file.tensor(&format!("{}.f32", info.name)) else { continue };
        let expected: Vec<f64> = map.bytes()[expected.range.clone()]
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect();
        let weight = Weight::mapped(tensor_dtype(info.ty), 1, 256, Arc::clone(&map), info.range.clone());
        for act in acts.through(&mut be, &weight) {
            assert_eq!(values(&be, act), expected, "{}", info.name);
        }
        types.push(info.ty);
    }
    assert!(TensorType::ALL.iter().all(|ty| types.contains(ty)), "{types:?}");
}

#[test]
fn a_file_says_what_it_is() {
    for arch in ARCHS {
        let dir = golden(arch).join("model");
        let (_to, path, report) = converted(&dir, TensorType::Q8_0);
        let (here, there) = (open_model(&path, Base::Mapped), open_model(&dir, Base::Mapped));
        let (here, there) = (here.expect("a file"), there.expect("a directory"));
        assert_eq!((here.kind, there.kind), (Kind::Gguf, Kind::Directory));
        let mut expected = there.file_config.clone();
        // What the format does not say.
        expected.dtype = None;
        expected.attention_bias = here.file_config.attention_bias;
        expected.use_sliding_window = false;
        if expected.layers.windowed.is_empty() {
            expected.sliding_window = None;
        }
        assert_eq!(here.file_config, expected, "{arch}");
        assert_eq!(here.config.rope.frequencies, there.config.rope.frequencies);
        assert_eq!(here.config.rope.layout == Layout::Interleaved, gguf::interleaved(arch));
        assert_eq!(
            (&here.config.attention, here.config.score_scale),
            (&there.config.attention, there.config.score_scale)
        );
        assert_eq!(here.config.family, there.config.family);
        // Rows of 40 and 72 values are no whole blocks.
        let narrow = report.notes.iter().any(|n| n.contains("as f16"));
        assert_eq!(narrow, report.errors.iter().any(|e| e.ty == TensorType::F16));
        assert!(report.notes.iter().any(|n| n.contains("no tokenizer.json")), "{:?}", report.notes);
        assert!(here.tokenizer.is_none() && text_encoder(&path).expect("none").is_none());

        // Plans see every weight's own type, and no values.
        let planned = shape_source(&path).expect("a header");
        assert_eq!(planned.dtype, here.dtype);
        let (planned, loaded) = (
            ModelWeights::load(planned.config.clone(), &planned).expect("shapes"),
            here.load().expect("weights"),
        );
        for (a, b) in planned.blocks.iter().zip(&loaded.blocks) {
            for (a, b) in a.linears.iter().zip(&b.linears) {
                assert_eq!((a.weight.dtype(), a.weight.rows()), (b.weight.dtype(), b.weight.rows()));
                assert_eq!(a.weight.resident_bytes(), 0);
            }
        }
    }
}

/// Divisors that no scaling of a configuration expresses divide the frequencies.
#[test]
fn unknown_divisors_are_applied() {
    let (to, path, _) = converted(&golden("llama/model"), TensorType::F32);
    let changed = to.path().join("changed.gguf");
    let divisors = [1.5f32, 2.0, 7.0, 11.0];
    refused::rewrite(&path, &changed, |_, tensors| {
        let tensor = tensors.iter_mut().find(|t| t.0 == gguf::ROPE_FACTORS).expect("divisors");
        tensor.3 = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
    });
    let config = open_model(&changed, Base::Mapped).expect("a model").config;
    let plain = mesp_device::inverse_frequencies(8, 20.0);
    let expected: Vec<f32> = plain.iter().zip(divisors).map(|(f, d)| f / d).collect();
    assert_eq!(config.rope.frequencies, expected);
}

#[test]
fn a_vocabulary_goes_along() {
    let json =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers/qwen2.5/tokenizer.json");
    if !json.is_file() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let config = ModelConfig {
        vocab_size: 151_936,
        hidden_size: 32,
        num_hidden_layers: 1,
        bos_token_id: Some(151_643),
        eos_token_ids: vec![151_645, 151_643],
        ..mesp::init_model::preset("tiny").expect("tiny")
    };
    mesp::init_model::write(dir.path(), &config, mesp_formats::Dtype::BF16, 1, &mut |_, _| {})
        .expect("a model");
    std::fs::copy(&json, dir.path().join("tokenizer.json")).expect("a copy");
    let settings = r#"{"add_bos_token": false, "bos_token": null, "eos_token": "<|im_end|>", "chat_template": "{{ x }}"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), settings).expect("settings");
    let (_to, path, report) = converted(dir.path(), TensorType::Q4_0);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let [here, there] =
        [&*path, dir.path()].map(|p| text_encoder(p).expect("a tokenizer").expect("a tokenizer"));
    for text in ["Hello, world! 12345", "naïve 日本\n\n  x", "<|im_start|>user\nhi<|im_end|>"] {
        assert_eq!(here.encode(text, true).expect("tokens"), there.encode(text, true).expect("tokens"));
    }
    assert_eq!(here.eos_id(), Some(151_645));
    assert_eq!(here.info().chat_template.as_deref(), Some("{{ x }}"));
    assert_eq!(open_model(&path, Base::Mapped).expect("a model").tokenizer, Some(path));
}
