//! What each layout means, and what none of them may hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::Dtype;
use crate::{Error, safetensors_file};

const Q: &str = "model.layers.0.self_attn.q_proj";

/// A matrix with different numbers everywhere.
fn numbers(rows: usize, cols: usize, from: f32) -> Vec<f32> {
    (0..rows * cols).map(|i| from + i as f32).collect()
}

/// A directory with a configuration and tensors of these shapes.
fn folder(file: &str, config: &Value, tensors: &[(&str, [usize; 2])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG_FILE), config.to_string()).unwrap();
    let heads: Vec<_> =
        tensors.iter().map(|(name, shape)| ((*name).to_string(), Dtype::F32, shape.to_vec())).collect();
    safetensors_file::write(&dir.path().join(file), &heads, &BTreeMap::new(), &mut |i, w| {
        let [rows, cols] = tensors[i].1;
        w.write_all(&bytes_of(&numbers(rows, cols, i as f32 * 100.0)))
    })
    .unwrap();
    dir
}

fn open(path: &Path) -> Result<(Lora, Vec<u8>)> {
    let layout = Layout::of(path)?;
    let bytes = fs::read(layout.tensors(path)).map_err(|e| Error::io("read", path, e))?;
    Ok((Lora::read(path, layout, &bytes)?, bytes))
}

fn peft(config: &Value, tensors: &[(&str, [usize; 2])]) -> tempfile::TempDir {
    let modules: Vec<&str> = crate::peft::MODULES.into_iter().chain(["lm_head", "embed_tokens"]).collect();
    let mut all = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": modules });
    for (key, value) in config.as_object().unwrap() {
        all[key] = value.clone();
    }
    folder(MODEL_FILE, &all, tensors)
}

const A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
const DOWN_A: &str = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
const DOWN_B: &str = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
const FOUR: [(&str, [usize; 2]); 4] = [(A, [2, 3]), (B, [4, 2]), (DOWN_A, [3, 5]), (DOWN_B, [3, 3])];

#[test]
fn scales_of_peft_are_by_module() {
    let scales = |config: Value| -> Vec<f64> {
        let dir = peft(&config, &FOUR);
        open(dir.path()).unwrap().0.pairs.iter().map(|p| p.scale).collect()
    };
    let ranks = json!({ "down_proj": 3 });
    assert_eq!(scales(json!({ "rank_pattern": ranks })), [3.0, 2.0]);
    assert_eq!(scales(json!({ "rank_pattern": ranks, "alpha_pattern": { "q_proj": 1 } })), [0.5, 2.0]);
    let whole = json!({ "^model.layers.1.mlp.down_proj": 9 });
    assert_eq!(scales(json!({ "rank_pattern": ranks, "alpha_pattern": whole })), [3.0, 3.0]);
    let root = scales(json!({ "rank_pattern": ranks, "use_rslora": true }));
    assert_eq!(root, [6.0 / 2f64.sqrt(), 6.0 / 3f64.sqrt()]);
    // A part of a name is not the name.
    assert_eq!(scales(json!({ "rank_pattern": ranks, "alpha_pattern": { "proj": 1 } })), [3.0, 2.0]);
}

/// Everything that a pair says, with its numbers.
type Said = Vec<(Pair, Vec<f32>, Vec<f32>)>;

fn said(path: &Path) -> Said {
    let (lora, bytes) = open(path).unwrap();
    let values = |i, m| lora.values(i, m, &bytes).unwrap();
    lora.pairs
        .iter()
        .enumerate()
        .map(|(i, p)| (p.clone(), values(i, Matrix::A), values(i, Matrix::B)))
        .collect()
}

fn written(to: Layout, said: &Said, dir: &Path) -> PathBuf {
    let pairs: Vec<Pair> = said.iter().map(|(p, ..)| p.clone()).collect();
    let mut values =
        |i: usize, m: Matrix| Ok(if m == Matrix::A { said[i].1.clone() } else { said[i].2.clone() });
    let path = dir.join(format!("to-{}.gguf", to.name()));
    match to {
        Layout::Gguf => write_gguf(&path, &pairs, "qwen2", "name", &mut values).unwrap(),
        Layout::Peft => {
            fs::create_dir(&path).unwrap();
            write_peft(&path, &pairs, None, None, &mut values).unwrap();
        }
        Layout::Mlx => {
            fs::create_dir(&path).unwrap();
            write_mlx(&path, &pairs, None, &mut values).unwrap();
        }
    }
    path
}

/// s·B·A, all of a pair that has an effect.
fn product((p, a, b): &(Pair, Vec<f32>, Vec<f32>)) -> Vec<f64> {
    let at = |o: usize, i: usize| -> f64 {
        (0..p.rank).map(|k| f64::from(b[o * p.rank + k]) * f64::from(a[k * p.input + i])).sum()
    };
    (0..p.output * p.input).map(|n| p.scale * at(n / p.input, n % p.input)).collect()
}

#[test]
fn one_rank_and_scale_goes_around_to_the_bit() {
    let dir = peft(&json!({}), &[(A, [2, 3]), (B, [4, 2]), (DOWN_A, [2, 5]), (DOWN_B, [3, 2])]);
    let first = said(dir.path());
    assert_eq!(first[0].1, numbers(2, 3, 0.0));
    let to = tempfile::tempdir().unwrap();
    for one in [Layout::Peft, Layout::Gguf, Layout::Mlx] {
        for two in [Layout::Peft, Layout::Gguf, Layout::Mlx] {
            let sub = to.path().join(format!("{}-{}", one.name(), two.name()));
            fs::create_dir_all(sub.join("2")).unwrap();
            let there = said(&written(one, &first, &sub));
            assert_eq!(there, first, "{one:?}");
            assert_eq!(said(&written(two, &there, &sub.join("2"))), first, "{one:?} {two:?}");
        }
    }
    let sub = to.path().join("peft-peft/to-peft.gguf");
    let config = crate::AdapterConfig::read(&sub);
    // Two layers with different modules: their paths are written out.
    let config = config.unwrap();
    assert_eq!((config.lora_alpha, config.has(0, "q_proj"), config.has(1, "q_proj")), (6.0, true, false));
}

#[test]
fn ranks_and_scales_of_modules_mean_the_same_everywhere() {
    let config =
        json!({ "rank_pattern": { "down_proj": 3 }, "alpha_pattern": { "q_proj": 1 }, "use_rslora": true });
    let dir = peft(&config, &FOUR);
    let first = said(dir.path());
    let to = tempfile::tempdir().unwrap();
    for layout in [Layout::Peft, Layout::Gguf, Layout::Mlx] {
        let there = said(&written(layout, &first, to.path()));
        assert_eq!(there.len(), 2);
        for (one, two) in first.iter().zip(&there) {
            for (x, y) in product(one).iter().zip(product(two)) {
                // Folded numbers are rounded once, alpha in GGUF once more: 6e-8 each.
                assert!((x - y).abs() <= 2e-7 * x.abs(), "{layout:?}: {x} {y}");
            }
        }
    }
    let mlx: Value =
        serde_json::from_str(&fs::read_to_string(to.path().join("to-mlx.gguf").join(CONFIG_FILE)).unwrap())
            .unwrap();
    assert_eq!(mlx["lora_parameters"]["keys"], json!(["self_attn.q_proj", "mlp.down_proj"]));
    assert_eq!((&mlx["lora_parameters"]["rank"], &mlx["num_layers"]), (&json!(3), &json!(-1)));
}

#[test]
fn gguf_without_alpha_does_not_scale_and_zero_stays_zero() {
    let dir = peft(&json!({ "lora_alpha": 2 }), &FOUR[..2]);
    let to = tempfile::tempdir().unwrap();
    let file = written(Layout::Gguf, &said(dir.path()), to.path());
    let mut bytes = fs::read(&file).unwrap();
    let key = b"adapter.lora.alpha";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&0f32.to_le_bytes());
    fs::write(&file, &bytes).unwrap();
    // llama.cpp: `alpha ? scale * alpha / rank : scale`.
    assert_eq!(said(&file)[0].0.scale, 1.0);

    let dir = peft(&json!({ "lora_alpha": 0 }), &FOUR[..2]);
    for layout in [Layout::Gguf, Layout::Mlx] {
        let to = tempfile::tempdir().unwrap();
        let there = said(&written(layout, &said(dir.path()), to.path()));
        assert!(product(&there[0]).iter().all(|x| *x == 0.0), "{layout:?}");
    }
}

#[test]
fn mlx_has_transposes_and_a_direct_scale() {
    let config = json!({ "fine_tune_type": "lora", "num_layers": 4,
        "lora_parameters": { "rank": 2, "scale": 20.0, "dropout": 0.0 } });
    let names = [format!("{Q}.lora_a"), format!("{Q}.lora_b")];
    let dir = folder(MLX_MODEL_FILE, &config, &[(&names[0], [3, 2]), (&names[1], [2, 4])]);
    let (pair, a, b) = said(dir.path()).remove(0);
    assert_eq!((pair.rank, pair.input, pair.output, pair.scale), (2, 3, 4, 20.0));
    assert_eq!(a, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(b, [100.0, 104.0, 101.0, 105.0, 102.0, 106.0, 103.0, 107.0]);
}

/// PEFT's adapter of an embedding adds (B·A)ᵀ, so that of the table its B is A and its A is B, both transposed;
/// llama.cpp and mlx-lm look words up in the first factor. Around through all of them no bit changes.
#[test]
fn heads_and_embeddings_are_read_and_written() {
    let embed = "base_model.model.model.embed_tokens";
    let names = [
        format!("{embed}.lora_embedding_A"),
        format!("{embed}.lora_embedding_B"),
        format!("{embed}.base_layer.weight"),
        "base_model.model.lm_head.lora_A.weight".to_owned(),
        "base_model.model.lm_head.lora_B.weight".to_owned(),
    ];
    // Five words of three values.
    let shapes = [[2, 5], [3, 2], [5, 3], [2, 3], [5, 2]];
    let tensors: Vec<_> = names.iter().map(String::as_str).zip(shapes).collect();
    let dir = peft(&json!({}), &tensors);
    let first = said(dir.path());
    let paths: Vec<_> = first.iter().map(|(p, ..)| (p.path(), p.rank, p.input, p.output)).collect();
    assert_eq!(paths, [("lm_head".to_owned(), 2, 3, 5), ("model.embed_tokens".to_owned(), 2, 3, 5)]);
    assert_eq!(first[0].1, numbers(2, 3, 300.0));
    assert_eq!(first[1].1, [100.0, 102.0, 104.0, 101.0, 103.0, 105.0]);
    assert_eq!(first[1].2, [0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0, 4.0, 9.0]);

    let to = tempfile::tempdir().unwrap();
    for layout in [Layout::Peft, Layout::Gguf, Layout::Mlx] {
        let path = written(layout, &first, to.path());
        assert_eq!(said(&path), first, "{layout:?}");
        let bytes = fs::read(layout.tensors(&path)).unwrap();
        let shape = |name: &str| {
            if layout == Layout::Gguf {
                return crate::gguf::parse(&path, &bytes).unwrap().tensor(name).unwrap().shape.clone();
            }
            let header = safetensors_file::parse(&path, &bytes).unwrap();
            header.tensors.iter().find(|t| t.name == name).unwrap().shape.clone()
        };
        let [a, b] = match layout {
            Layout::Peft => [names[0].clone(), names[1].clone()],
            Layout::Gguf => ["lora_a", "lora_b"].map(|half| format!("token_embd.weight.{half}")),
            Layout::Mlx => ["lora_a", "lora_b"].map(|half| format!("model.embed_tokens.{half}")),
        };
        let expected = match layout {
            Layout::Peft => [[2, 5], [3, 2]],
            Layout::Gguf => [[5, 2], [3, 2]],
            Layout::Mlx => [[5, 2], [2, 3]],
        };
        assert_eq!([shape(&a), shape(&b)], expected.map(|s| s.to_vec()), "{layout:?}");
    }
    let config = crate::AdapterConfig::read(&to.path().join("to-peft.gguf")).unwrap();
    assert_eq!((config.target_modules.join(" ").as_str(), config.layers), ("lm_head embed_tokens", None));
}

#[test]
fn what_would_be_lost_is_refused() {
    let text = |dir: &tempfile::TempDir| open(dir.path()).unwrap_err().to_string();
    let with = |name: &str| {
        let mut tensors = FOUR[..2].to_vec();
        tensors.push((name, [2, 2]));
        text(&peft(&json!({}), &tensors))
    };
    for name in [
        "base_model.model.lm_head.lora_embedding_C",
        "base_model.model.model.norm.lora_A.weight",
        "base_model.model.lm_head.bias",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.embed_tokens.lora_magnitude_vector",
    ] {
        assert!(with(name).contains(&format!("tensor \"{name}\"")), "{}", with(name));
    }
    // Tensors of modules that the configuration does not name are none of the adapter's: PEFT passes them over.
    let named = |config: &Value| text(&peft(config, &FOUR[..2]));
    let other = named(&json!({ "target_modules": ["v_proj"] }));
    assert!(
        other.contains("q_proj: expected an adapter of the modules that adapter_config.json names, v_proj"),
        "{other}"
    );
    let layers = named(&json!({ "target_modules": ["q_proj"], "layers_to_transform": [1] }));
    assert!(layers.contains("q_proj in some layers, found tensors of this one"), "{layers}");
    let magnitudes = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    assert!(with(magnitudes).contains("lora_magnitude_vector\": expected a vector"));
    assert!(text(&peft(&json!({}), &FOUR[..1])).contains("expected its other half"));
    assert!(text(&peft(&json!({}), &FOUR)).contains("expected rank 2"));
    let none = text(&peft(&json!({ "use_dora": true }), &FOUR[..2]));
    assert!(none.contains("expected magnitudes of DoRA") && none.contains("found none"), "{none}");
    let expression = json!({ "alpha_pattern": { "layers\\.(": 3 } });
    assert!(text(&peft(&expression, &FOUR[..2])).contains("regular expression"));

    let mlx = |kind: &str, tensors: &[(&str, [usize; 2])]| {
        let config = json!({ "fine_tune_type": kind, "num_layers": 1, "lora_parameters": { "rank": 2, "scale": 1.0 } });
        text(&folder(MLX_MODEL_FILE, &config, tensors))
    };
    let names = [format!("{Q}.lora_a"), format!("{Q}.lora_b"), format!("{Q}.m")];
    let two = [(names[0].as_str(), [3, 2]), (names[1].as_str(), [2, 4])];
    assert!(mlx("dora", &two).contains("found \"dora\""));
    assert!(mlx("lora", &[two[0], two[1], (&names[2], [4, 1])]).contains("q_proj.m"));
    assert!(mlx("lora", &two[..1]).contains("expected its other half"));
    let empty = tempfile::tempdir().unwrap();
    assert!(text(&empty).contains("expected an adapter"));
    fs::write(empty.path().join("adapter_model.bin"), "PK").unwrap();
    let pickled = text(&empty);
    assert!(
        pickled.contains("found only adapter_model.bin, a Python pickle") && pickled.contains("save_file"),
        "{pickled}"
    );
}

/// Tables of the base are read beside the pairs, and compared to the precision of the narrower of two files.
#[test]
fn whole_tables_are_told_from_pairs() {
    let names = ["base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.base_layer.weight"];
    let mut tensors = FOUR[..2].to_vec();
    tensors.extend(names.map(|name| (name, [3, 2])));
    let dir = peft(&json!({}), &tensors);
    let (lora, bytes) = open(dir.path()).unwrap();
    let found: Vec<_> = lora.tables.iter().map(|t| (&*t.name, &*t.module, &*t.shape, t.adapted)).collect();
    assert_eq!(
        found,
        [(names[0], "lm_head", &[3, 2][..], false), (names[1], "embed_tokens", &[3, 2][..], true)]
    );
    let same = |row: &[f32], base| lora.same_row(0, 1, (base, row), &bytes).unwrap();
    assert!(same(&[202.0, 203.0], Dtype::F32) && !same(&[202.0, 203.0625], Dtype::F32));
    assert!(same(&[202.0, 203.0], Dtype::BF16) && !same(&[202.0, 204.0], Dtype::BF16));
    // bf16 has 8 bits: 202 + 2^-7 is 202 there.
    assert_eq!((rounded(202.007_81, Dtype::BF16), rounded(202.007_81, Dtype::F32)), (202.0, 202.007_81));
}

/// Where a tensor holds what is no number, its name is said.
#[test]
fn values_that_are_not_finite_are_named() {
    let dir = peft(&json!({}), &FOUR[..2]);
    let file = dir.path().join(MODEL_FILE);
    let mut bytes = fs::read(&file).unwrap();
    let lora = Lora::read(dir.path(), Layout::Peft, &bytes).unwrap();
    lora.check_values(&bytes).unwrap();
    let end = bytes.len();
    for value in [f32::NAN, f32::NEG_INFINITY] {
        // The last number is of B.
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        let text = lora.check_values(&bytes).unwrap_err().to_string();
        assert!(text.starts_with(&file.display().to_string()), "{text}");
        assert!(text.contains(&format!("tensor {B:?}: expected finite numbers, found {value}")), "{text}");
    }
}
