//! Merged models say what the adapted ones say, whatever file they come from and go to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::export::export;
use mesp::merge::{Options, Report, merge};
use mesp::quantize::{TypeError, quantize};
use mesp::source::{Base, open_model};
use mesp_device::{Mapping, Real};
use mesp_formats::gguf::{self, TensorType};
use mesp_formats::lora::Layout;
use mesp_formats::safetensors_file;

use crate::support::{ARCHS, Case, eval_shapes, mesp_policy, session_for};

fn options(ty: Option<TensorType>) -> Options {
    Options { ty, max_shard: u64::MAX }
}

fn merged(model: &Path, adapter: &Path, output: &Path, ty: Option<TensorType>) -> Report {
    merge(model, adapter, output, options(ty), &mut |_, _| {}).expect("merged")
}

/// The loss of every target on a model, without an adapter.
fn losses<R: Real>(case: &Case, path: &Path) -> Vec<f64> {
    let model = Arc::new(open_model(path, Base::Mapped).expect("a model").load().expect("weights"));
    let mut options = case.options(mesp_policy());
    options.adapter = AdapterConfig::none();
    options.training = false;
    let mut session = session_for::<R>(&model, options, &eval_shapes(&case.batch), 1);
    session.evaluate(&case.batch).iter().map(mesp_device::RowStat::nats).collect()
}

fn adapted<R: Real>(case: &Case) -> Vec<f64> {
    let mut session = case.session::<R>(case.options(mesp_policy()), 1);
    session.evaluate(&case.batch).iter().map(mesp_device::RowStat::nats).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

/// The values of all tensors of a directory.
fn tensors(dir: &Path) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for path in mesp_formats::ModelDir::open(dir).expect("a model").shards {
        let map = Mapping::open(&path).expect("weights");
        for t in safetensors_file::parse(&path, map.bytes()).expect("a header").tensors {
            let values = safetensors_file::read_f32(&path, map.bytes(), &t).expect("values");
            assert!(all.insert(t.name, values).is_none());
        }
    }
    all
}

/// Stored weights are rounded to single precision, 6e-8 of each, most of which cancels in a loss.
#[test]
fn every_target_has_the_loss_of_the_adapted_model() {
    let dir = tempfile::tempdir().expect("a folder");
    for arch in ARCHS {
        let case = Case::load(arch);
        let (model, adapter) = (case.dir.join("model"), case.dir.join("adapter"));
        let to = dir.path().join(arch);
        let report = merged(&model, &adapter, &to, Some(TensorType::F32));
        assert_eq!(report.merged, report.errors[0].tensors, "{arch}");
        assert_eq!((report.errors[0].mean, report.files), (0.0, 1), "{arch}");
        let (ours, theirs) = (losses::<f64>(&case, &to), adapted::<f64>(&case));
        let base = losses::<f64>(&case, &model);
        assert!(furthest(&base, &theirs) > 1e-3, "{arch}: the adapter does something");
        assert!(furthest(&ours, &theirs) <= 1e-6, "{arch}: {:e}", furthest(&ours, &theirs));
        let single = furthest(&losses::<f32>(&case, &to), &adapted::<f32>(&case));
        assert!(single <= 2e-5, "{arch}: {single:e}");
    }
}

/// A GGUF base and a GGUF result change only the order of rows and what norms are counted from.
#[test]
fn bases_and_results_in_gguf_say_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    for arch in ARCHS {
        let case = Case::load(arch);
        let (model, adapter) = (case.dir.join("model"), case.dir.join("adapter"));
        let at = |name: &str| dir.path().join(format!("{arch}-{name}"));
        let ty = Some(TensorType::F32);
        merged(&model, &adapter, &at("hf"), ty);
        quantize(&model, &at("base.gguf"), TensorType::F32, &mut |_, _| {}).expect("a file");
        merged(&model, &adapter, &at("a.gguf"), ty);
        merged(&at("base.gguf"), &adapter, &at("b.gguf"), None);
        merged(&at("base.gguf"), &adapter, &at("back"), ty);
        let file = |name: &str| fs::read(at(name)).expect("a file");
        let values = |name: &str| {
            let bytes = file(name);
            let parsed = gguf::parse(&at(name), &bytes).expect("a header");
            parsed
                .tensors
                .iter()
                .map(|t| (t.name.clone(), bytes[t.range.clone()].to_vec()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(values("a.gguf") == values("b.gguf"), "{arch}: the same bits by either way");
        let (hf, back) = (tensors(&at("hf")), tensors(&at("back")));
        for (name, values) in &back {
            let gemma_norm = arch == "gemma3_text" && name.ends_with("norm.weight");
            for (x, y) in values.iter().zip(&hf[name]) {
                // 1 + w was rounded.
                let near = if gemma_norm { (x - y).abs() <= 2e-7 } else { x.to_bits() == y.to_bits() };
                assert!(near, "{arch} {name}: {x} {y}");
            }
        }
        let difference = furthest(&losses::<f64>(&case, &at("b.gguf")), &adapted::<f64>(&case));
        assert!(difference <= 1e-6, "{arch}: {difference:e}");
        let difference = furthest(&losses::<f64>(&case, &at("back")), &adapted::<f64>(&case));
        assert!(difference <= 1e-6, "{arch}: {difference:e}");
    }
}

/// From whichever layout the adapter comes.
#[test]
fn exported_adapters_merge_to_the_same_weights() {
    let dir = tempfile::tempdir().expect("a folder");
    for arch in ARCHS {
        let case = Case::load(arch);
        let (model, adapter) = (case.dir.join("model"), case.dir.join("adapter"));
        let at = |name: &str| dir.path().join(format!("{arch}-{name}"));
        merged(&model, &adapter, &at("first"), Some(TensorType::F32));
        let first = tensors(&at("first"));
        let mut from: PathBuf = adapter.clone();
        // Around, each from the one before.
        for (i, to) in [Layout::Gguf, Layout::Mlx, Layout::Gguf, Layout::Peft, Layout::Mlx, Layout::Peft]
            .into_iter()
            .enumerate()
        {
            let output = at(&format!("{i}.gguf"));
            export(&from, to, Some(&model), &output).expect("exported");
            merged(&model, &output, &at(&format!("merged-{i}")), Some(TensorType::F32));
            assert!(tensors(&at(&format!("merged-{i}"))) == first, "{arch}, {to:?}");
            from = output;
        }
        let bytes = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).expect("tensors");
        let (path, last) = (adapter.join("adapter_model.safetensors"), bytes(&from));
        let read = |bytes: &[u8]| {
            let header = safetensors_file::parse(&path, bytes).expect("a header");
            let of = |t| safetensors_file::read_f32(&path, bytes, t).expect("values");
            header.tensors.iter().map(|t| (t.name.clone(), of(t))).collect::<BTreeMap<_, _>>()
        };
        assert!(read(&last) == read(&bytes(&adapter)), "{arch}: the numbers are those of the beginning");
        let config = |dir: &Path| mesp_formats::AdapterConfig::read(dir).expect("a configuration");
        let (one, two) = (config(&from), config(&adapter));
        assert_eq!((one.r, one.scale()), (two.r, two.scale()), "{arch}");
    }
}

/// Rows of q and k in a llama file are those of its weights.
#[test]
fn rows_of_llama_are_turned_in_gguf_only() {
    let dir = tempfile::tempdir().expect("a folder");
    for (arch, turned) in [("llama", true), ("mistral", true), ("smollm3", true), ("qwen2", false)] {
        let case = Case::load(arch);
        let file = dir.path().join(format!("{arch}.gguf"));
        let report = export(&case.dir.join("adapter"), Layout::Gguf, Some(&case.dir.join("model")), &file);
        assert!(report.expect("exported").notes.is_empty());
        let bytes = fs::read(&file).expect("a file");
        let parsed = gguf::parse(&file, &bytes).expect("a header");
        let there = parsed.tensor("blk.1.attn_k.weight.lora_b").expect("B");
        let session = case.session::<f32>(case.options(mesp_policy()), 1);
        let pair = session.params()[1][mesp::arch::Module::K as usize].as_ref().expect("a pair");
        let values = crate::support::values(session.backend(), &pair.b);
        let c = &case.model.config;
        let map: Vec<usize> =
            if turned { gguf::to_interleaved(c.kv_heads, c.head_dim) } else { (0..c.kv_cols()).collect() };
        let rank = case.adapter.rank;
        let expected: Vec<u8> = map
            .iter()
            .flat_map(|r| &values[r * rank..][..rank])
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect();
        assert!(bytes[there.range.clone()] == expected, "{arch}");
    }
    let text = export(&dir.path().join("llama.gguf"), Layout::Peft, None, &dir.path().join("x"));
    assert!(text.expect_err("no heads").to_string().contains("‘model’"));
}

#[test]
fn shards_are_the_one_file_in_parts() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = Case::load("qwen2");
    let (model, adapter) = (case.dir.join("model"), case.dir.join("adapter"));
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    merged(&model, &adapter, &one, None);
    let small = Options { ty: None, max_shard: 20_000 };
    let report = merge(&model, &adapter, &many, small, &mut |_, _| {}).expect("merged");
    assert!(report.files > 2, "{report:?}");
    assert!(many.join("model.safetensors.index.json").is_file() && !many.join("model.safetensors").exists());
    assert!(tensors(&one) == tensors(&many));
    for path in mesp_formats::ModelDir::open(&many).expect("a model").shards {
        let map = Mapping::open(&path).expect("weights");
        let header = safetensors_file::parse(&path, map.bytes()).expect("a header");
        let bytes: usize = header.tensors.iter().map(|t| t.range.len()).sum();
        assert!(bytes <= 20_000 || header.tensors.len() == 1, "{}: {bytes}", path.display());
    }
}

/// A quantized base: what has no adapter stays to the bit; what has one is f16, or rounded again on request, and
/// how much of the change that loses is said.
#[test]
fn quantized_bases_keep_what_is_not_merged() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = Case::load("qwen2");
    let (model, adapter) = (case.dir.join("model"), case.dir.join("adapter"));
    let base = dir.path().join("base.gguf");
    quantize(&model, &base, TensorType::Q8_0, &mut |_, _| {}).expect("a file");
    let read = |path: &Path| {
        let bytes = fs::read(path).expect("a file");
        let parsed = gguf::parse(path, &bytes).expect("a header");
        let of = |t: &gguf::TensorInfo| (t.ty, bytes[t.range.clone()].to_vec());
        parsed.tensors.iter().map(|t| (t.name.clone(), of(t))).collect::<BTreeMap<_, _>>()
    };
    let before = read(&base);
    let mut lost = Vec::new();
    for (ty, stored) in [(None, TensorType::F16), (Some(TensorType::Q8_0), TensorType::Q8_0)] {
        let output = dir.path().join(format!("{stored:?}.gguf"));
        let report = merged(&base, &adapter, &output, ty);
        assert_eq!(report.notes.iter().any(|n| n.contains("the base is quantized")), ty.is_none());
        let after = read(&output);
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        let (mut same, mut changed) = (0, 0);
        for (name, (was, bytes)) in &before {
            let (is, now) = &after[name];
            if bytes == now && was == is {
                same += 1;
            } else {
                let block = name.starts_with("blk.") && !name.contains("norm");
                assert!(block && (*is == stored || *is == TensorType::F16), "{name} {is:?}");
                changed += 1;
            }
        }
        assert_eq!((changed, same), (report.merged, before.len() - report.merged));
        lost.push(
            report.errors.iter().find(|e| e.ty == stored).and_then(TypeError::of_change).expect("a share"),
        );
        let found = furthest(&losses::<f64>(&case, &output), &adapted::<f64>(&case));
        assert!(found > 0.0 && found < 0.2, "{found}");
    }
    assert!(lost[0] > 0.0 && lost[1] > 5.0 * lost[0], "{lost:?}");
    let hf = dir.path().join("hf");
    let report = merged(&base, &adapter, &hf, None);
    assert!(report.notes[0].contains("stored as bf16"), "{:?}", report.notes);
    assert!(furthest(&losses::<f64>(&case, &hf), &adapted::<f64>(&case)) < 0.2);
}

#[test]
fn an_adapter_of_another_model_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let case = |arch: &str| Case::load(arch).dir;
    let refused = |model: &str, adapter: &Path, ty| {
        let output = dir.path().join("out");
        let error = merge(&case(model).join("model"), adapter, &output, options(ty), &mut |_, _| {});
        assert!(!output.exists());
        error.expect_err("refused").to_string()
    };
    let text = refused("qwen3", &case("qwen2").join("adapter"), None);
    assert!(text.contains("made for another model"), "{text}");
    let text = refused("qwen2", &case("phi3").join("adapter"), None);
    assert!(text.contains("a qwen2 model has no such module"), "{text}");
    let text = refused("qwen2", &case("qwen2").join("adapter"), Some(TensorType::Q4_0));
    assert!(text.contains("type q4_0 is of GGUF files"), "{text}");
    let text = refused("qwen2", &case("qwen2").join("model"), None);
    assert!(text.contains("expected an adapter"), "{text}");
    let file = dir.path().join("a.gguf");
    export(&case("qwen2").join("adapter"), Layout::Gguf, Some(&case("qwen2").join("model")), &file)
        .expect("ok");
    let text = refused("llama", &file, None);
    assert!(text.contains("expected an adapter of architecture llama, the model's, found qwen2"), "{text}");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "no leftovers");
}
