use super::*;
use crate::config::{ModelConfig, RopeScaling};

fn shape(model_type: &str) -> ModelConfig {
    ModelConfig {
        model_type: model_type.to_string(),
        vocab_size: 97,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        rotary_dim: 32,
        rms_norm_eps: 1e-6,
        rope_theta: 1_000_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 4096,
        tie_word_embeddings: true,
        attention_bias: (model_type != "qwen2").then_some(false),
        mlp_bias: false,
        hidden_act: "silu".to_string(),
        use_sliding_window: false,
        sliding_window: None,
        layers: crate::config::LayerTraits::default(),
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        dtype: None,
    }
}

type Tensor = (&'static str, TensorType, &'static [usize]);

const EMBEDDING: Tensor = ("token_embd.weight", TensorType::Q4_0, &[97, 64]);
const Q_BIAS: Tensor = ("blk.0.attn_q.bias", TensorType::F32, &[128]);

fn metadata(config: &ModelConfig) -> Vec<(String, Value)> {
    let mut metadata = metadata_for(config, "test");
    let id = |key: &str, id: Option<u32>| id.map(|id| (format!("tokenizer.ggml.{key}"), Value::U32(id)));
    metadata.extend(id("bos_token_id", config.bos_token_id));
    metadata.extend(id("eos_token_id", config.eos_token_ids.first().copied()));
    metadata
}

fn read(metadata: &[(String, Value)], tensors: &[Tensor]) -> Result<GgufModel> {
    let bytes = file(metadata, tensors);
    model(&parse(Path::new("model.gguf"), &bytes)?, &bytes)
}

#[test]
fn a_written_configuration_is_read() {
    for (model_type, tensors) in
        [("llama", vec![EMBEDDING]), ("qwen3", vec![EMBEDDING]), ("qwen2", vec![EMBEDDING, Q_BIAS])]
    {
        let expected = shape(model_type);
        let found = read(&metadata(&expected), &tensors).unwrap();
        assert_eq!((&found.config, found.rope_factors), (&expected, None));
        assert_eq!(found.interleaved, model_type == "llama");
    }
    let mut own_head = shape("qwen3");
    own_head.tie_word_embeddings = false;
    own_head.rope_scaling = RopeScaling::Linear { factor: 2.5 };
    let output = ("output.weight", TensorType::Q6_K, &[97usize, 256] as &[usize]);
    assert_eq!(read(&metadata(&own_head), &[EMBEDDING, output]).unwrap().config, own_head);
}

#[test]
fn every_token_that_ends_something_is_read() {
    let mut metadata = metadata(&shape("llama"));
    let none = u32::MAX;
    for (key, id) in [("eot", 7), ("eom", none)] {
        metadata.push((format!("tokenizer.ggml.{key}_token_id"), Value::U32(id)));
    }
    assert_eq!(read(&metadata, &[EMBEDDING]).unwrap().config.eos_token_ids, [2, 7]);
    metadata.pop();
    metadata.push(("tokenizer.ggml.eom_token_id".to_string(), Value::U32(2)));
    assert_eq!(read(&metadata, &[EMBEDDING]).unwrap().config.eos_token_ids, [2, 7]);
}

#[test]
fn biases_are_seen_in_the_tensors() {
    let llama = metadata(&shape("llama"));
    let all: Vec<Tensor> = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
        .iter()
        .map(|n| (&*format!("blk.0.{n}.bias").leak(), TensorType::F32, &[128usize] as &[usize]))
        .chain([EMBEDDING])
        .collect();
    let config = read(&llama, &all).unwrap().config;
    assert_eq!((config.attention_bias, config.mlp_bias), (Some(true), true));
    let some = [EMBEDDING, Q_BIAS];
    assert!(read(&llama, &some).unwrap_err().to_string().contains("\"blk.0.attn_k.bias\", found none"));
    // A bias that would go unseen.
    for (has, lacks) in [("attn_output", "attn_q"), ("ffn_down", "ffn_gate")] {
        let one = (&*format!("blk.0.{has}.bias").leak(), TensorType::F32, &[64usize] as &[usize]);
        let error = read(&llama, &[EMBEDDING, one]).unwrap_err().to_string();
        assert!(error.contains(&format!("\"blk.0.{lacks}.bias\", found none")), "{error}");
    }
    let qwen2 = metadata(&shape("qwen2"));
    assert!(
        read(&qwen2, &[EMBEDDING]).unwrap_err().to_string().contains("\"blk.0.attn_q.bias\", found none")
    );
}

#[test]
fn what_files_leave_out_has_defaults() {
    let mut metadata = metadata(&shape("llama"));
    let left_out =
        ["head_count_kv", "key_length", "value_length", "dimension_count", "freq_base", "_token_id"];
    metadata.retain(|(key, _)| !left_out.iter().any(|end| key.ends_with(end)));
    let config = read(&metadata, &[EMBEDDING]).unwrap().config;
    assert_eq!((config.num_key_value_heads, config.head_dim, config.rope_theta), (4, 16, 10_000.0));
    assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]));
}

/// The one tensor of Llama 3's divisors.
fn divisors(config: &ModelConfig) -> Vec<f32> {
    let mut tensors = rope_tensors(config);
    assert_eq!((tensors.len(), tensors[0].0), (1, ROPE_FACTORS));
    tensors.remove(0).1
}

/// What is written of longrope is read back to the last digit, whether its factor is the usual one or not.
#[test]
fn longrope_is_read_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let usual = crate::config::longrope_attention_factor(4096, 512);
    assert!((usual - 1.154_700_538_379_251_5).abs() < 1e-15, "{usual}");
    for (model_type, attention_factor) in [("phi3", usual), ("llama", 1.19), ("phi3", 1.0)] {
        let mut config = shape(model_type);
        config.rope_scaling = RopeScaling::LongRope {
            short_factor: (0..16)
                .map(|i| 1.0 + 0.05 * f64::from(i))
                .map(|x| (x * 100.0).round() / 100.0)
                .collect(),
            long_factor: (0..16).map(|i| 1.0 + 4.0 * f64::from(i)).collect(),
            original_max_position_embeddings: 512,
            attention_factor,
        };
        assert_eq!(inexpressible(&config), None);
        let divisors = rope_tensors(&config);
        let mut tensors = vec![(EMBEDDING.0.to_string(), EMBEDDING.1, EMBEDDING.2.to_vec())];
        tensors
            .extend(divisors.iter().map(|(name, of)| ((*name).to_string(), TensorType::F32, vec![of.len()])));
        let written = |metadata: &[(String, Value)], tensors: &[(String, TensorType, Vec<usize>)]| {
            write(&path, metadata, tensors, &mut |i, w| {
                let mut data = Vec::new();
                let embedding = vec![0.0; 97 * 64];
                let name = &tensors[i].0;
                let numbers = divisors.iter().find(|(n, _)| n == name).map_or(&embedding, |(_, of)| of);
                quantize_row(tensors[i].1, numbers, &mut data);
                w.write_all(&data)
            })
            .unwrap();
            let bytes = std::fs::read(&path).unwrap();
            model(&parse(&path, &bytes).unwrap(), &bytes)
        };
        let said = metadata(&config);
        let found = written(&said, &tensors).unwrap();
        assert_eq!((&found.config, &found.rope_factors), (&config, &None));
        // Converters leave the type to the tensors in phi3 files.
        let without: Vec<_> = said.iter().filter(|(k, _)| !k.ends_with("scaling.type")).cloned().collect();
        assert_eq!(written(&without, &tensors).unwrap().config, config);
        // Half of it is none of it.
        for (missing, kept) in [(ROPE_FACTORS_SHORT, 1..2), (ROPE_FACTORS_LONG, 2..3)] {
            let some = [&tensors[..1], &tensors[kept]].concat();
            let error = written(&said, &some).unwrap_err().to_string();
            assert!(error.contains(&format!("expected a tensor \"{missing}\", found none")), "{error}");
        }
        let error = written(&said, &tensors[..1]).unwrap_err().to_string();
        assert!(error.contains(ROPE_FACTORS_SHORT), "{error}");
    }
    let other = ModelConfig {
        rope_scaling: RopeScaling::LongRope {
            short_factor: vec![1.0; 16],
            long_factor: vec![1.0; 16],
            original_max_position_embeddings: 512,
            attention_factor: 1.0,
        },
        ..shape("qwen3")
    };
    assert!(inexpressible(&other).unwrap().contains("architecture qwen3"));
}

#[test]
fn llama3_scaling_is_recognized_by_its_divisors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let embedding = vec![0.0; 97 * 64];
    let scaling = |factor, low, original| RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original,
    };
    for (written, key, recognized) in [
        (scaling(32.0, 1.0, 8192), true, true),
        (scaling(8.0, 1.0, 8192), false, true),
        (scaling(8.0, 1.0, 64), true, true),
        (scaling(8.0, 2.0, 8192), true, false),
    ] {
        let mut config = shape("llama");
        (config.rope_theta, config.rope_scaling) = (500_000.0, written.clone());
        let factors = divisors(&config);
        assert_eq!(factors.len(), 16);
        let mut metadata = metadata(&config);
        metadata.retain(|(k, _)| key || !k.ends_with("original_context_length"));
        let tensors = [
            (EMBEDDING.0.to_string(), EMBEDDING.1, EMBEDDING.2.to_vec()),
            (ROPE_FACTORS.to_string(), TensorType::F32, vec![16]),
        ];
        write(&path, &metadata, &tensors, &mut |i, w| {
            let mut data = Vec::new();
            quantize_row(tensors[i].1, if i == 0 { &embedding } else { &factors }, &mut data);
            w.write_all(&data)
        })
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let found = model(&parse(&path, &bytes).unwrap(), &bytes).unwrap();
        assert_eq!(found.rope_factors.as_deref(), Some(&factors[..]));
        let expected = if recognized { written } else { RopeScaling::Default };
        assert_eq!(found.config.rope_scaling, expected);
    }
    assert_eq!(rope_tensors(&shape("llama")), []);
}

/// The divisors of Llama 3.2 (factor 32, base 500 000, heads of 64), computed with transformers' formula.
#[test]
fn llama3_divisors_are_the_known_ones() {
    let mut config = shape("llama");
    (config.rope_theta, config.head_dim, config.rotary_dim) = (500_000.0, 64, 64);
    config.rope_scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let factors = divisors(&config);
    assert_eq!(factors[..15], [1.0; 15]);
    assert_eq!(factors[18..], [32.0; 14]);
    for (found, expected) in factors[15..18].iter().zip([1.651_329, 3.292_262, 9.666_729]) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

/// As llama.cpp's `load_hparams` takes them: a factor without a type is linear, the older key stands in for a factor
/// that is not there, 0 is none, the type "none" switches scaling off; numbers may be lists, one for each layer.
#[test]
fn older_keys_are_read_as_llama_cpp_reads_them() {
    let scaling = |pairs: &[(&str, Value)]| {
        let mut metadata = metadata(&shape("llama"));
        metadata.extend(pairs.iter().map(|(key, v)| (format!("llama.rope.{key}"), v.clone())));
        read(&metadata, &[EMBEDDING]).unwrap().config.rope_scaling
    };
    let [factor, old, kind] = ["scaling.factor", "scale_linear", "scaling.type"];
    let linear = |factor| RopeScaling::Linear { factor };
    assert_eq!(scaling(&[(factor, Value::F32(4.0))]), linear(4.0));
    assert_eq!(scaling(&[(old, Value::F32(2.0))]), linear(2.0));
    assert_eq!(scaling(&[(factor, Value::F32(4.0)), (old, Value::F32(2.0))]), linear(4.0));
    assert_eq!(scaling(&[(factor, Value::F32(0.0)), (old, Value::F32(2.0))]), RopeScaling::Default);
    assert_eq!(scaling(&[(kind, "none".into()), (factor, Value::F32(4.0))]), RopeScaling::Default);
    assert_eq!(scaling(&[(kind, "linear".into())]), RopeScaling::Default);

    let mut listed = metadata(&shape("llama"));
    for (key, value) in &mut listed {
        if let (true, Some(n)) =
            (key.ends_with("head_count") || key.ends_with("forward_length"), value.as_i64())
        {
            *value = Value::Array(Array::i32s(&[n as i32, n as i32]));
        }
    }
    assert_eq!(read(&listed, &[EMBEDDING]).unwrap().config, shape("llama"));
}

/// In phi3 files `rope.dimension_count` may be less than the head's width, and divisors are half as many.
#[test]
fn a_part_of_a_head_is_rotated_where_the_file_says_so() {
    let mut phi = shape("phi3");
    (phi.rotary_dim, phi.rms_norm_eps) = (24, 1e-5);
    let found = read(&metadata(&phi), &[EMBEDDING]).unwrap().config;
    assert_eq!(found, phi);
    for wrong in [0, 23, 34] {
        let mut metadata = metadata(&phi);
        let turned = metadata.iter_mut().find(|(key, _)| key.ends_with("dimension_count")).unwrap();
        turned.1 = Value::U32(wrong);
        let error = read(&metadata, &[EMBEDDING]).unwrap_err().to_string();
        assert!(error.contains(&format!("expected an even number up to 32, found {wrong}")), "{error}");
    }
}

#[test]
fn wrong_models_are_refused() {
    let good = metadata(&shape("llama"));
    let (arch, u32) = ("general.architecture", Value::U32);
    for (key, value, expected) in [
        (arch, None, "key \"general.architecture\": expected a value, found none"),
        (
            arch,
            Some("bert".into()),
            "expected one of \"llama\", \"qwen2\", \"qwen3\", \"gemma3\", \"smollm3\", \"phi3\", found \"bert\"",
        ),
        (arch, Some(u32(3)), "expected a string, found 3"),
        ("split.count", Some(Value::U16(2)), "expected a whole model, found part 1 of 2"),
        ("llama.expert_count", Some(u32(8)), "found one of 8 experts"),
        ("llama.block_count", None, "key \"llama.block_count\": expected a value"),
        ("llama.block_count", Some(Value::I32(-1)), "expected a whole number, zero or more, found -1"),
        ("llama.embedding_length", Some(u32(32)), "expected shape [vocabulary, 32], found [97, 64]"),
        ("llama.attention.head_count", Some(u32(0)), "key \"llama.attention.head_count\": expected 1 to"),
        ("llama.block_count", Some(u32(u32::MAX)), "expected 1 to 10000, found 4294967295"),
        ("llama.block_count", Some(Value::U64(1 << 63)), "expected 1 to 10000, found 9223372036854775808"),
        ("llama.embedding_length", Some(Value::U64(u64::MAX)), "found 18446744073709551615"),
        ("llama.final_logit_softcapping", Some(Value::F32(30.0)), "expected none, or 0, found 30"),
        ("llama.attention.causal", Some(Value::Bool(false)), "expected true, found false"),
        (
            "general.type",
            Some("adapter".into()),
            "found \"adapter\"\n  It is an adapter: name it with ‘adapter’",
        ),
        ("general.type", Some("imatrix".into()), "found \"imatrix\"\n  It holds statistics"),
        ("llama.attention.head_count_kv", Some(u32(3)), "num_key_value_heads"),
        ("llama.attention.key_length", Some(u32(16)), "expected the width of keys, 16, found 32"),
        ("llama.rope.dimension_count", Some(u32(8)), "expected the head's width, 32, found 8"),
        ("llama.rope.scaling.type", Some("yarn".into()), "found \"yarn\""),
        ("llama.rope.scaling.factor", Some(Value::F32(-2.0)), "expected more than zero, found -2"),
        ("llama.rope.scaling.attn_factor", Some(Value::F32(1.5)), "attn_factor\": expected 1"),
        ("llama.rope.freq_base", Some(Value::F32(f32::NAN)), "expected a finite number, found NaN"),
        (
            "tokenizer.ggml.tokens",
            Some(Value::Array(Array::strings(["a"; 98]))),
            "expected at most 97 tokens",
        ),
        (
            "llama.feed_forward_length",
            Some(Value::Array(Array::i32s(&[96, 64]))),
            "expected one number for all layers",
        ),
    ] {
        let mut metadata = good.clone();
        metadata.retain(|(k, _)| k != key);
        metadata.extend(value.map(|v| (key.to_string(), v)));
        let error = read(&metadata, &[EMBEDDING]).unwrap_err().to_string();
        assert!(error.starts_with("model.gguf: ") && error.contains(expected), "{key}: {error}");
    }
    let error = read(&good, &[]).unwrap_err().to_string();
    assert!(error.contains("\"token_embd.weight\", found none"), "{error}");
    for (bad, expected) in [
        (
            (ROPE_FACTORS, TensorType::F32, &[5usize] as &[usize]),
            "expected 16 numbers of F32, found shape [5]",
        ),
        ((ROPE_FACTORS, TensorType::F32, &[16]), "expected numbers above zero, found 0"),
    ] {
        let error = read(&good, &[EMBEDDING, bad]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn names_are_llama_cpps() {
    for (hf, expected) in [
        ("model.embed_tokens.weight", Some("token_embd.weight")),
        ("model.norm.weight", Some("output_norm.weight")),
        ("lm_head.weight", Some("output.weight")),
        ("model.layers.0.input_layernorm.weight", Some("blk.0.attn_norm.weight")),
        ("model.layers.11.post_attention_layernorm.weight", Some("blk.11.ffn_norm.weight")),
        ("model.layers.3.self_attn.q_proj.weight", Some("blk.3.attn_q.weight")),
        ("model.layers.3.self_attn.k_proj.bias", Some("blk.3.attn_k.bias")),
        ("model.layers.3.self_attn.o_proj.weight", Some("blk.3.attn_output.weight")),
        ("model.layers.3.self_attn.q_norm.weight", Some("blk.3.attn_q_norm.weight")),
        ("model.layers.3.mlp.down_proj.weight", Some("blk.3.ffn_down.weight")),
        ("model.layers.3.mlp.gate_proj.bias", Some("blk.3.ffn_gate.bias")),
        ("model.layers.3.input_layernorm.bias", None),
        ("model.layers.03.mlp.up_proj.weight", None),
        ("model.layers.x.mlp.up_proj.weight", None),
        ("model.layers.3.mlp.weight", None),
        ("model.rotary_emb.inv_freq", None),
        ("", None),
    ] {
        assert_eq!(tensor_name("llama", hf).as_deref(), expected, "{hf}");
    }
}

#[test]
fn row_orders_are_inverse_and_pair_neighbours() {
    assert_eq!(to_interleaved(2, 6), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    for (heads, dim) in [(1, 2), (3, 8), (4, 64)] {
        let (there, back) = (to_interleaved(heads, dim), to_halves(heads, dim));
        assert!(there.iter().enumerate().all(|(i, &j)| back[j] == i));
        // What Hugging Face rotates together stands side by side.
        assert!(there.chunks(2).all(|p| p[1] == p[0] + dim / 2));
    }
}

#[test]
fn file_types_are_told_apart() {
    let mut types: Vec<u32> = TensorType::ALL.into_iter().map(file_type).collect();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), TensorType::ALL.len());
}
