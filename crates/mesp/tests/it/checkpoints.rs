//! Checkpoints as other programs leave them: number types that products do not take, names without a prefix, tensors
//! in two files, a tied head that is none. What is read must be what transformers reads, and what is not is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesp::adapter::AdapterConfig;
use mesp::data::{FileRows, RaggedBatch, ReadOptions};
use mesp::model::{Batch, ModelWeights};
use mesp::quantize::quantize;
use mesp::source::fingerprint::{self, Extent};
use mesp::source::{Base, open_model, shape_source};
use mesp::train::Options;
use mesp_formats::gguf::TensorType;
use mesp_formats::{Dtype, ModelConfig, safetensors_file};

use crate::support::{
    Case, MemorySource, eval_shapes, golden, load_config, mean_loss, mesp_policy, session_for, to_batch,
};

/// A tensor as it is stored.
#[derive(Clone)]
struct Stored(Dtype, Vec<usize>, Vec<u8>);

type Tensors = BTreeMap<String, Stored>;

/// The tensors of a golden, single precision.
fn tensors(arch: &str) -> Tensors {
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
    MemorySource::read(&golden(arch).join("model"))
        .tensors
        .iter()
        .map(|(name, (shape, values))| (name.clone(), Stored(Dtype::F32, shape.clone(), bytes(values))))
        .collect()
}

fn write_file(path: &Path, tensors: &Tensors) {
    let list: Vec<_> = tensors.iter().collect();
    let heads: Vec<_> = list.iter().map(|(n, Stored(t, s, _))| ((*n).clone(), *t, s.clone())).collect();
    safetensors_file::write(path, &heads, &BTreeMap::new(), &mut |i, w| w.write_all(&list[i].1.2))
        .expect("weights");
}

/// A directory with a golden's configuration and these weight files, with an index where there are several.
fn directory(arch: &str, files: &[&Tensors]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(golden(arch).join("model/config.json"), dir.path().join("config.json"))
        .expect("config.json");
    if let [one] = files {
        write_file(&dir.path().join("model.safetensors"), one);
        return dir;
    }
    let mut index = serde_json::Map::new();
    for (i, file) in files.iter().enumerate() {
        let name = format!("model-{i}.safetensors");
        write_file(&dir.path().join(&name), file);
        index.extend(file.keys().map(|t| (t.clone(), name.clone().into())));
    }
    write_index(dir.path(), &index);
    dir
}

fn write_index(dir: &Path, weight_map: &serde_json::Map<String, serde_json::Value>) {
    let json = serde_json::json!({ "weight_map": weight_map });
    std::fs::write(dir.join("model.safetensors.index.json"), json.to_string()).expect("an index");
}

fn open(path: &Path) -> mesp::Result<(Arc<ModelWeights>, Vec<String>)> {
    let opened = open_model(path, Base::Mapped)?;
    let notes = opened.notes.clone();
    Ok((Arc::new(opened.load()?), notes))
}

/// The mean loss of a model without an adapter, in double precision.
fn loss_of(model: &Arc<ModelWeights>, batch: &Batch) -> f64 {
    let case = Case::load("qwen2");
    let options = Options { adapter: AdapterConfig::none(), training: false, ..case.options(mesp_policy()) };
    mean_loss(&mut session_for::<f64>(model, options, &eval_shapes(batch), 1), batch)
}

fn loss(path: &Path, batch: &Batch) -> f64 {
    loss_of(&open(path).expect("a model").0, batch)
}

fn refusal(path: &Path) -> String {
    let text = open(path).map(|_| ()).expect_err("a model that must be refused").to_string();
    let planned = shape_source(path).and_then(|s| ModelWeights::load(s.config.clone(), &s));
    assert_eq!(planned.map(|_| ()).expect_err("and no plan of it").to_string(), text);
    text
}

/// A case of the shared data, with its rows.
#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
fn shared(name: &str, model: &str) -> Option<(PathBuf, Batch)> {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases").join(name);
    let dir = case.join(model);
    if !dir.is_dir() {
        eprintln!("skipped: {} is not there", dir.display());
        return None;
    }
    let read = ReadOptions::new(load_config(&dir).vocab_size);
    let rows = FileRows::read(&case.join("ids.jsonl"), None, &read).expect("rows").examples;
    Some((dir, to_batch(&RaggedBatch::from_examples(&rows.iter().collect::<Vec<_>>()))))
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 6e-7 * expected.abs().max(1.0) + 5e-7, "{found}, expected {expected}");
}

/// Values from transformers 5.24 in float64, to six digits.
#[test]
fn a_phi_with_a_part_of_each_head_rotated_has_transformers_loss() {
    let Some((dir, batch)) = shared("partial-rotary-in-rope-parameters", "model") else { return };
    near(loss(&dir, &batch), 4.939_962);
    let to = tempfile::tempdir().expect("a folder");
    let file = to.path().join("m.gguf");
    quantize(&dir, &file, TensorType::F32, &mut |_, _| {}).expect("a file");
    near(loss(&file, &batch), 4.939_962);
}

#[test]
fn duplicates_and_a_tied_head_in_the_index_load_as_in_transformers() {
    for model in ["dup-tensor", "index-names-tied-head"] {
        let Some((dir, batch)) = shared("shards", model) else { return };
        near(loss(&dir, &batch), 5.470_436);
    }
}

/// transformers 5.24: 5.4342, with a warning that the two will not be tied.
#[test]
fn a_stored_head_of_a_tied_model_has_transformers_loss() {
    let Some((dir, batch)) = shared("tied-with-own-head", "model") else { return };
    let (model, notes) = open(&dir).expect("a model");
    assert!((loss_of(&model, &batch) - 5.4342).abs() < 5e-5);
    assert!(notes.iter().any(|n| n.contains("the stored head is used")), "{notes:?}");
}

#[test]
fn a_head_that_differs_from_the_tied_table_is_used_and_kept() {
    let case = Case::load("qwen2");
    let mut own = tensors("qwen2");
    let table = own["model.embed_tokens.weight"].clone();
    own.insert("lm_head.weight".to_owned(), table);
    let equal = directory("qwen2", &[&own]);
    let (model, notes) = open(equal.path()).expect("a model");
    assert!(model.head.is_none() && notes.is_empty(), "{notes:?}");
    assert_eq!(loss_of(&model, &case.batch), loss(&case.dir.join("model"), &case.batch));

    // With a head of zeros every token is as likely as any other, whatever the embeddings.
    own.get_mut("lm_head.weight").expect("a head").2.fill(0);
    let dir = directory("qwen2", &[&own]);
    let uniform = (model.config.vocab_size as f64).ln();
    let (model, notes) = open(dir.path()).expect("a model");
    assert!(!model.config.tied && (loss_of(&model, &case.batch) - uniform).abs() < 1e-12);
    assert!(notes[0].contains("tie_word_embeddings") && notes[0].contains("lm_head.weight"), "{notes:?}");
    let planned = shape_source(dir.path()).expect("shapes");
    assert!(!planned.config.tied && planned.notes == notes);

    let file = dir.path().join("m.gguf");
    let report = quantize(dir.path(), &file, TensorType::F32, &mut |_, _| {}).expect("a file");
    assert!(report.notes.contains(&notes[0]), "{:?}", report.notes);
    assert!((loss(&file, &case.batch) - uniform).abs() < 1e-6);

    let to = dir.path().join("merged");
    let options = mesp::merge::Options { ty: None, max_shard: 1 << 30 };
    mesp::merge::merge(dir.path(), &case.dir.join("adapter"), &to, options, &mut |_, _| {}).expect("a merge");
    assert!(!ModelConfig::read(&to).expect("config.json").tie_word_embeddings);
    assert!((loss(&to, &case.batch) - uniform).abs() < 1e-12);
}

/// Numbers of 8 bits are exactly those of bf16, which holds them.
#[test]
fn eight_bits_and_double_precision_are_read_as_their_values() {
    let case = Case::load("qwen2");
    let mlp = |name: &&String| name.contains(".mlp.");
    for (dtype, bits) in [(Dtype::F8E4M3, 16), (Dtype::F8E5M2, 16), (Dtype::F64, 32)] {
        let (mut small, mut plain) = (tensors("qwen2"), tensors("qwen2"));
        let names: Vec<String> = small.keys().filter(mlp).cloned().collect();
        for (n, name) in names.iter().enumerate() {
            let Stored(ty, shape, bytes) = small.get_mut(name).expect("a tensor");
            let count: usize = shape.iter().product();
            // Finite ones near 0 of both signs; doubles are rounded.
            let byte =
                |i: usize| (((i * 37 + n * 11) % 40) as u8) | if i.is_multiple_of(3) { 0x80 } else { 0 };
            *bytes = match dtype {
                Dtype::F64 => (0..count).flat_map(|i| (0.1 / (i + 1) as f64).to_le_bytes()).collect(),
                _ => (0..count).map(byte).collect(),
            };
            *ty = dtype;
            let mut values = vec![0.0; count];
            dtype.read(bytes, &mut values).expect("numbers");
            plain.insert(
                name.clone(),
                Stored(Dtype::F32, shape.clone(), values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            );
        }
        let (dir, same) = (directory("qwen2", &[&small]), directory("qwen2", &[&plain]));
        let (model, notes) = open(dir.path()).expect("a model");
        let expected = loss(same.path(), &case.batch);
        assert_eq!(loss_of(&model, &case.batch), expected, "{dtype:?}");
        assert!(notes[0].contains(&format!("stored as {}: {}", dtype.name(), names.len())), "{notes:?}");

        // They are held in memory, and a plan that touches no values counts them.
        let count: usize = names.iter().map(|n| small[n].1.iter().product::<usize>()).sum();
        let vectors: usize = small.values().filter(|t| t.1.len() == 1).map(|t| t.1[0]).sum();
        assert_eq!(model.resident_bytes(), 4 * vectors + count * bits / 8);
        let source = shape_source(dir.path()).expect("shapes");
        let planned = ModelWeights::load(source.config.clone(), &source).expect("a plan");
        assert_eq!(planned.resident_bytes(), model.resident_bytes());

        let file = dir.path().join("m.gguf");
        quantize(dir.path(), &file, TensorType::F32, &mut |_, _| {}).expect("a file");
        assert!((loss(&file, &case.batch) - expected).abs() < 1e-6);
        let to = dir.path().join("merged");
        let options = mesp::merge::Options { ty: None, max_shard: 1 << 30 };
        let report = mesp::merge::merge(dir.path(), &case.dir.join("adapter"), &to, options, &mut |_, _| {});
        assert_eq!(report.expect("a merge").tensors, small.len(), "no tensor is dropped");
        open(&to).expect("the merged model");
    }
}

#[test]
fn types_that_are_not_read_are_named_and_no_tensor_is_dropped() {
    let case = Case::load("qwen2");
    let mut odd = tensors("qwen2");
    let name = "model.layers.1.mlp.up_proj.weight";
    let shape = odd[name].1.clone();
    let count = shape.iter().product();
    odd.insert(name.to_owned(), Stored(Dtype::I8, shape.clone(), vec![1; count]));
    let dir = directory("qwen2", &[&odd]);
    let text = refusal(dir.path());
    assert!(text.contains(&format!("tensor \"{name}\" is stored as I8, expected F32, F16, BF16")), "{text}");
    let to = tempfile::tempdir().expect("a folder");
    let quantized = quantize(dir.path(), &to.path().join("m.gguf"), TensorType::F32, &mut |_, _| {});
    assert!(quantized.expect_err("refused").to_string().contains("is stored as I8"));

    // A scale beside numbers of 8 bits.
    for scale in ["weight_scale", "weight_scale_inv"] {
        let mut scaled = tensors("qwen2");
        scaled.insert(name.to_owned(), Stored(Dtype::F8E4M3, shape.clone(), vec![1; count]));
        let scale = format!("model.layers.1.mlp.up_proj.{scale}");
        scaled.insert(scale.clone(), Stored(Dtype::F32, vec![], vec![0; 4]));
        let text = refusal(directory("qwen2", &[&scaled]).path());
        assert!(text.contains(&format!("stored as F8_E4M3 with a scale beside it, {scale}")), "{text}");
    }

    // A buffer that no model asks for goes along, byte for byte.
    let mut buffer = tensors("qwen2");
    let bytes: Vec<u8> = (0..24).collect();
    buffer.insert("model.position_ids".to_owned(), Stored(Dtype::I64, vec![3], bytes.clone()));
    let (dir, out) = (directory("qwen2", &[&buffer]), to.path().join("merged"));
    let options = mesp::merge::Options { ty: None, max_shard: 1 << 30 };
    mesp::merge::merge(dir.path(), &case.dir.join("adapter"), &out, options, &mut |_, _| {})
        .expect("a merge");
    let file = std::fs::read(out.join("model.safetensors")).expect("weights");
    let header = safetensors_file::parse(&out, &file).expect("a header");
    let kept = header.tensors.iter().find(|t| t.name == "model.position_ids").expect("the buffer");
    assert_eq!((kept.dtype, &file[kept.range.clone()]), (Dtype::I64, &bytes[..]));
}

/// `AutoModelForCausalLM` reads checkpoints of the model without a head (transformers' `base_model_prefix`).
#[test]
fn names_without_the_prefix_are_read() {
    let case = Case::load("qwen2");
    let bare: Tensors = tensors("qwen2")
        .into_iter()
        .map(|(name, t)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), t))
        .collect();
    assert!(bare.contains_key("layers.0.mlp.up_proj.weight") && bare.contains_key("norm.weight"));
    let dir = directory("qwen2", &[&bare]);
    assert_eq!(loss(dir.path(), &case.batch), loss(&case.dir.join("model"), &case.batch));
}

#[test]
fn a_tensor_in_two_files_must_be_the_same() {
    let case = Case::load("qwen2");
    let expected = loss(&case.dir.join("model"), &case.batch);
    let name = "model.layers.0.mlp.up_proj.weight";
    let (all, mut one) = (tensors("qwen2"), Tensors::new());
    one.insert(name.to_owned(), all[name].clone());
    assert_eq!(loss(directory("qwen2", &[&all, &one]).path(), &case.batch), expected);
    one.get_mut(name).expect("a tensor").2[0] ^= 1;
    let text = refusal(directory("qwen2", &[&all, &one]).path());
    assert!(
        text.contains(&format!("tensor {name:?} is in ")) && text.contains("with the same values"),
        "{text}"
    );

    // The index may name what nobody needs, and another file than the one that has a tensor.
    let dir = directory("qwen2", &[&all, &one]);
    write_file(&dir.path().join("model-1.safetensors"), &Tensors::new());
    let mut index: serde_json::Map<_, _> =
        all.keys().map(|t| (t.clone(), "model-1.safetensors".into())).collect();
    index.insert("lm_head.weight".to_owned(), "model-0.safetensors".into());
    write_index(dir.path(), &index);
    assert_eq!(loss(dir.path(), &case.batch), expected);
    let mut less = all.clone();
    less.remove(name);
    write_file(&dir.path().join("model-0.safetensors"), &less);
    let text = refusal(dir.path());
    assert!(
        text.contains(&format!("model-1.safetensors: tensor {name} is not in this file, where the index")),
        "{text}"
    );
}

/// As transformers reports unexpected keys: a bias that the configuration does not have changes nothing in silence.
#[test]
fn tensors_that_are_not_used_are_pointed_out() {
    let mut more = tensors("llama");
    more.insert("model.layers.0.mlp.up_proj.bias".to_owned(), Stored(Dtype::F32, vec![1], vec![0; 4]));
    more.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(),
        Stored(Dtype::F32, vec![1], vec![0; 4]),
    );
    let dir = directory("llama", &[&more]);
    let notes = |path: &Path| {
        let opened = open_model(path, Base::Mapped).expect("a model");
        opened.load_with_notes(path).expect("a model").1
    };
    let found = notes(dir.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("does not use: 1, the first is model.layers.0.mlp.up_proj.bias"), "{found:?}");
    assert!(notes(&golden("llama").join("model")).is_empty());
}

/// transformers attaches an adapter wherever it finds `adapter_config.json`.
#[test]
fn an_adapter_beside_a_model_is_pointed_out() {
    let dir = directory("qwen2", &[&tensors("qwen2")]);
    assert!(open(dir.path()).expect("a model").1.is_empty());
    std::fs::write(dir.path().join("adapter_config.json"), "{}").expect("a file");
    let notes = open(dir.path()).expect("a model").1;
    assert!(notes[0].contains("an adapter lies beside the model (adapter_config.json)"), "{notes:?}");
}

fn prints(path: &Path) -> [String; 3] {
    let (model, _) = open(path).expect("a model");
    [
        fingerprint::weights(&model, Extent::Samples),
        fingerprint::weights(&model, Extent::All),
        fingerprint::shape(&model.config),
    ]
}

/// XXH64 by Python's xxhash of each tensor's name, type, shape and bytes, in the order of the model.
#[test]
fn a_fingerprint_is_of_names_types_shapes_and_values() {
    assert_eq!(prints(&golden("qwen2").join("model"))[1], "bd404192f3a8c520");
}

/// What the engine computes with is the same: the files are not.
#[test]
fn a_fingerprint_is_that_of_the_tensors_wherever_they_lie() {
    let all = tensors("qwen2");
    let expected = prints(&golden("qwen2").join("model"));
    let (mut one, mut two) = (Tensors::new(), Tensors::new());
    for (i, (name, tensor)) in all.iter().enumerate() {
        let part = if i % 3 == 0 { &mut one } else { &mut two };
        part.insert(name.clone(), tensor.clone());
    }
    let mut headed = all.clone();
    headed.insert("lm_head.weight".to_owned(), all["model.embed_tokens.weight"].clone());
    headed.insert("model.rotary_emb.inv_freq".to_owned(), Stored(Dtype::F32, vec![1], vec![0; 4]));
    let bare =
        all.iter().map(|(name, t)| (name.trim_start_matches("model.").to_owned(), t.clone())).collect();
    for (how, files) in [
        ("copied", &[&all][..]),
        ("in shards", &[&one, &two]),
        ("in other shards", &[&two, &one]),
        ("with what is not used", &[&headed]),
        ("without a prefix", &[&bare]),
    ] {
        assert_eq!(prints(directory("qwen2", files).path()), expected, "{how}");
    }
    let to = tempfile::tempdir().expect("a folder");
    let file = to.path().join("m.gguf");
    quantize(&golden("qwen2").join("model"), &file, TensorType::F32, &mut |_, _| {}).expect("a file");
    let gguf = prints(&file);
    assert_eq!(gguf[..2], expected[..2], "the same numbers in a GGUF file");
}

#[test]
fn other_weights_types_and_settings_have_other_fingerprints() {
    let all = tensors("qwen2");
    let expected = prints(&golden("qwen2").join("model"));
    // A change of the last bits all over one matrix or vector, as training makes it.
    for name in [
        "model.layers.1.mlp.up_proj.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
    ] {
        let mut other = all.clone();
        let bytes = &mut other.get_mut(name).expect("a tensor").2;
        bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| b[0] ^= 1);
        let found = prints(directory("qwen2", &[&other]).path());
        assert!(found[0] != expected[0] && found[1] != expected[1] && found[2] == expected[2], "{name}");
    }
    // One number of one matrix: all bytes show it, samples need not.
    let mut unseen = 0;
    for at in (0..5120).step_by(512) {
        let mut other = all.clone();
        other.get_mut("model.layers.1.mlp.up_proj.weight").expect("a tensor").2[at] ^= 1;
        let found = prints(directory("qwen2", &[&other]).path());
        assert_ne!(found[1], expected[1], "byte {at}");
        unseen += usize::from(found[0] == expected[0]);
    }
    assert!(unseen > 0);
    // Two matrices that have changed places.
    let mut swapped = all.clone();
    let [gate, up] = ["gate", "up"].map(|p| format!("model.layers.0.mlp.{p}_proj.weight"));
    swapped.insert(gate.clone(), all[&up].clone());
    swapped.insert(up, all[&gate].clone());
    assert_ne!(prints(directory("qwen2", &[&swapped]).path())[0], expected[0]);
    // The same values in another type.
    let mut half = all.clone();
    let table = half.get_mut("model.embed_tokens.weight").expect("a tensor");
    table.0 = Dtype::F64;
    let wide = |b: &[u8; 4]| f64::from(f32::from_le_bytes(*b)).to_le_bytes();
    table.2 = table.2.as_chunks::<4>().0.iter().flat_map(wide).collect();
    assert_eq!(prints(directory("qwen2", &[&half]).path()), expected, "held as what it was rounded to");
    let table = half.get_mut("model.embed_tokens.weight").expect("a tensor");
    *table = all["model.embed_tokens.weight"].clone();
    table.0 = Dtype::BF16;
    table.2 = table.2.as_chunks::<4>().0.iter().flat_map(|b| [b[2], b[3]]).collect();
    assert_ne!(prints(directory("qwen2", &[&half]).path())[0], expected[0]);
    // Of the configuration what is computed with counts, and no more.
    for (key, value, same) in [
        ("rms_norm_eps", serde_json::json!(1e-5), false),
        ("rope_parameters", serde_json::json!({"rope_type": "default", "rope_theta": 7777.0}), false),
        ("transformers_version", serde_json::json!("9.9"), true),
    ] {
        let dir = directory("qwen2", &[&all]);
        let file = dir.path().join("config.json");
        let text = std::fs::read_to_string(&file).expect("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[key] = value;
        std::fs::write(&file, config.to_string()).expect("written");
        let found = prints(dir.path());
        assert_eq!(found[..2], expected[..2], "{key}");
        assert_eq!(found[2] == expected[2], same, "{key}");
    }
}
