use proptest::prelude::*;

use super::*;

fn parse_str(json: &str) -> Result<ModelConfig> {
    parse(Path::new("config.json"), json)
}

/// A small sound configuration with further entries; the last of two equal keys counts.
fn with(entries: &str) -> String {
    let comma = if entries.is_empty() { "" } else { "," };
    format!(
        r#"{{"model_type":"llama","vocab_size":64,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,
            "num_attention_heads":4,"max_position_embeddings":128{comma}{entries}}}"#
    )
}

#[expect(clippy::print_stderr, reason = "a test that checks nothing says so")]
fn data() -> Option<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.is_dir() {
        eprintln!("skipped: the sample files are not in {}", dir.display());
        return None;
    }
    Some(dir)
}

#[test]
fn every_known_configuration_parses_and_round_trips() {
    let Some(data) = data() else { return };
    let mut count = 0;
    let configs = data.join("configs");
    for dir in std::fs::read_dir(&configs).unwrap().map(|e| e.unwrap().path()) {
        for file in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name != "config.json" && !name.ends_with(".config.json") {
                continue;
            }
            let result = parse(&file, &std::fs::read_to_string(&file).unwrap());
            if dir.ends_with("gemma-3-4b-it") {
                let text = result.unwrap_err().to_string();
                assert!(text.contains("multimodal"), "{text}");
                continue;
            }
            if name.starts_with("gemma2") {
                let text = result.unwrap_err().to_string();
                assert!(text.contains("`attn_logit_softcapping`: expected none, found 50"), "{text}");
                continue;
            }
            let config = result.unwrap();
            assert_eq!(parse_str(&config.to_json().to_string()).unwrap(), config, "{}", file.display());
            count += 1;
        }
    }
    assert!(count >= 12, "found only {count}");

    let config = ModelConfig::read(&configs.join("Llama-3.2-3B-Instruct")).unwrap();
    assert_eq!(config.eos_token_ids, [128_001, 128_008, 128_009]);
    let RopeScaling::Llama3 { factor, original_max_position_embeddings, .. } = config.rope_scaling else {
        panic!("{:?}", config.rope_scaling)
    };
    assert!((factor - 32.0).abs() < 1e-12 && original_max_position_embeddings == 8192);
    // The end tokens of generation_config.json come after those of config.json.
    let config = ModelConfig::read(&configs.join("Qwen2.5-7B-Instruct")).unwrap();
    assert_eq!(config.eos_token_ids, [151_645, 151_643]);
    let config = ModelConfig::read(&data.join("models/TinyStories-656K")).unwrap();
    assert_eq!((config.dtype, config.head_dim), (Some(Dtype::F32), 16));
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = parse_str(&with("")).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (4, 4));
    assert_eq!(config.rope_scaling, RopeScaling::Default);
    assert!((config.rope_theta - 10_000.0).abs() < 1e-9 && (config.rms_norm_eps - 1e-6).abs() < 1e-12);
    assert_eq!((config.hidden_act.as_str(), config.attention_bias, config.dtype), ("silu", None, None));
    assert!(!config.tie_word_embeddings && config.eos_token_ids.is_empty());
    let gemma = parse_str(&with(r#""model_type":"gemma3_text","hidden_act":"gelu","hidden_activation":"x""#))
        .unwrap();
    assert!(gemma.tie_word_embeddings && gemma.hidden_act == "x");
}

#[test]
fn old_and_new_keys_say_the_same() {
    let llama3 =
        r#""factor":32,"low_freq_factor":1,"high_freq_factor":4.0,"original_max_position_embeddings":64"#;
    let pairs = [
        (r#""torch_dtype":"bfloat16""#.to_string(), r#""dtype":"bfloat16""#.to_string()),
        (
            r#""rope_theta":5e5,"rope_scaling":null"#.to_string(),
            r#""rope_parameters":{"rope_theta":500000,"rope_type":"default"}"#.to_string(),
        ),
        (
            r#""rope_scaling":{"type":"linear","factor":2}"#.to_string(),
            r#""rope_parameters":{"rope_theta":10000.0,"rope_type":"linear","factor":2.0}"#.to_string(),
        ),
        (
            format!(r#""rope_theta":5e5,"rope_scaling":{{"rope_type":"llama3",{llama3}}}"#),
            format!(r#""rope_parameters":{{"rope_theta":5e5,"rope_type":"llama3",{llama3}}}"#),
        ),
    ];
    for (old, new) in pairs {
        let parsed = parse_str(&with(&old)).unwrap();
        assert_eq!(parsed, parse_str(&with(&new)).unwrap(), "{old}");
        assert_ne!(parsed, parse_str(&with("")).unwrap(), "{old}");
    }
}

/// `Phi3Config` of transformers 5: where it looks for the share of a head that is rotated, `int(head_dim * share)`, and
/// for the length the model was first trained for.
#[test]
fn a_part_of_a_head_may_be_rotated() {
    let phi = r#""model_type":"phi3","head_dim":16"#;
    let dim = |entries: &str| parse_str(&with(&format!("{phi}{entries}"))).unwrap().rotary_dim;
    assert_eq!(dim(""), 16);
    assert_eq!(dim(r#","partial_rotary_factor":0.75"#), 12);
    assert_eq!(dim(r#","rope_parameters":{"rope_type":"default","partial_rotary_factor":0.75}"#), 12);
    let nested =
        r#","partial_rotary_factor":1.0,"rope_parameters":{"rope_theta":5,"partial_rotary_factor":0.25}"#;
    assert_eq!(dim(nested), 4, "what is nested goes first");
    let longrope = r#","rope_parameters":{"rope_type":"longrope","partial_rotary_factor":0.75,
        "short_factor":[1,1,1,1,1,1],"long_factor":[2,2,2,2,2,2],"original_max_position_embeddings":32},
        "original_max_position_embeddings":64"#;
    let config = parse_str(&with(&format!("{phi}{longrope}"))).unwrap();
    let RopeScaling::LongRope { long_factor, original_max_position_embeddings, attention_factor, .. } =
        config.rope_scaling
    else {
        panic!("{:?}", config.rope_scaling)
    };
    assert_eq!((config.rotary_dim, long_factor.len(), original_max_position_embeddings), (12, 6, 64));
    // √(1 + ln(128/64) / ln 64) = √(7/6)
    assert!((attention_factor - (7.0f64 / 6.0).sqrt()).abs() < 1e-15);
}

/// The classes' defaults in transformers 5.24, for files without the keys.
#[test]
fn families_have_their_own_defaults() {
    let parsed = |entries: &str| parse_str(&with(entries)).unwrap();
    let qwen = r#""model_type":"qwen3","num_key_value_heads":2"#;
    assert_eq!(parsed(qwen).head_dim, 128);
    assert_eq!(parsed(&format!(r#"{qwen},"head_dim":null"#)).head_dim, 4);
    assert!((parsed(r#""model_type":"phi3""#).rms_norm_eps - 1e-5).abs() < 1e-15);
    let mistral = r#""model_type":"mistral","num_attention_heads":16,"head_dim":4"#;
    assert_eq!(parsed(mistral).num_key_value_heads, 8);
    assert_eq!(parsed(&format!(r#"{mistral},"num_key_value_heads":null"#)).num_key_value_heads, 16);
    let llama3 =
        r#""rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4}"#;
    let RopeScaling::Llama3 { original_max_position_embeddings, .. } = parsed(llama3).rope_scaling else {
        panic!("llama3")
    };
    assert_eq!(original_max_position_embeddings, 128, "max_position_embeddings");
    let gemma = parsed(
        r#""model_type":"gemma3_text","rope_theta":7.0,"rope_local_base_freq":3.0,
           "rope_parameters":{"full_attention":{"rope_type":"default"}}"#,
    );
    assert_eq!((gemma.rope_theta, gemma.layers.local_rope_theta), (7.0, Some(3.0)));
}

/// Who removes the whole object loses the base of the rotation with it.
#[test]
fn advice_about_scaling_keeps_the_base() {
    let hint = |entries: &str| parse_str(&with(entries)).unwrap_err().to_string();
    let text = hint(r#""rope_parameters":{"rope_type":"yarn","rope_theta":50000,"factor":4}"#);
    assert!(text.contains("set `rope_parameters.rope_type` to \"default\" and keep `rope_theta`"), "{text}");
    let text = hint(r#""rope_theta":50000,"rope_scaling":{"type":"yarn","factor":4}"#);
    assert!(text.contains("set `rope_scaling.type` to \"default\" to train"), "{text}");
}

#[test]
fn layers_differ_as_their_families_say() {
    let layers = |entries: &str| parse_str(&with(entries)).unwrap().layers;
    let gemma = layers(r#""model_type":"gemma3_text","num_hidden_layers":7,"sliding_window":5"#);
    assert_eq!(gemma.windowed, [true, true, true, true, true, false, true]);
    assert_eq!((gemma.local_rope_theta, gemma.query_pre_attn_scalar), (Some(10_000.0), Some(256.0)));
    let mistral = r#""model_type":"mistral","num_key_value_heads":2"#;
    let config = parse_str(&with(mistral)).unwrap();
    assert_eq!((config.sliding_window, config.layers.windowed), (Some(4096), vec![true; 2]));
    assert!(layers(&format!(r#"{mistral},"sliding_window":null"#)).windowed.is_empty());
    // Only with `use_sliding_window`, and only above the layers that are named.
    let qwen = r#""model_type":"qwen2","num_key_value_heads":2,"sliding_window":9,"max_window_layers":1"#;
    assert!(layers(qwen).windowed.is_empty());
    assert_eq!(layers(&format!(r#"{qwen},"use_sliding_window":true"#)).windowed, [false, true]);
    assert_eq!(
        layers(r#""model_type":"smollm3","num_hidden_layers":8"#).unrotated,
        [false, false, false, true, false, false, false, true]
    );
    assert_eq!(layers(r#""model_type":"smollm3","no_rope_layers":[0,1,1]"#).unrotated, [true, false]);
    assert_eq!(layers(r#""sliding_window":4"#), LayerTraits::default(), "llama has none of it");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong_values_are_named() {
    for (entry, expected) in [
        (r#""hidden_size":null"#, "key `hidden_size`: expected a value, found none"),
        (r#""hidden_size":"16""#, "key `hidden_size`: expected a whole number, zero or more, found \"16\""),
        (r#""hidden_size":-16"#, "key `hidden_size`"),
        (r#""hidden_size":18"#, "key `head_dim`: expected a value, or a hidden_size that"),
        (r#""num_attention_heads":0"#, "key `head_dim`"),
        (r#""num_key_value_heads":3"#, "key `num_key_value_heads`: expected a divisor"),
        (r#""num_key_value_heads":0"#, "key `num_key_value_heads`: expected 1 to"),
        (r#""head_dim":5"#, "key `head_dim`: expected an even number"),
        (r#""vocab_size":18446744073709551615"#, "key `vocab_size`: expected 1 to"),
        (r#""num_hidden_layers":100000"#, "key `num_hidden_layers`: expected 1 to 10000"),
        (
            r#""hidden_size":16777216,"intermediate_size":16777216,"head_dim":16777216,
               "num_attention_heads":16777216,"num_hidden_layers":9999"#,
            "key `num_hidden_layers`: expected a model this machine can address",
        ),
        (r#""rms_norm_eps":-1"#, "key `rms_norm_eps`"),
        (r#""rope_theta":0"#, "key `rope_theta`: expected more than zero"),
        (r#""eos_token_id":[1,-2]"#, "key `eos_token_id`: expected a token id or a list"),
        (r#""text_config":{}"#, "multimodal"),
        (r#""quantization_config":{"bits":4}"#, "found quantized ones"),
        (r#""partial_rotary_factor":0.5"#, "key `partial_rotary_factor`: expected 1, found 0.5"),
        (
            r#""rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5}"#,
            "key `rope_parameters.partial_rotary_factor`: expected 1, found 0.5: of llama models",
        ),
        (
            r#""model_type":"phi3","head_dim":12,"partial_rotary_factor":0.75"#,
            "key `partial_rotary_factor`: expected an even number of rotated values",
        ),
        (
            r#""model_type":"phi3","partial_rotary_factor":0"#,
            "key `partial_rotary_factor`: expected more than 0",
        ),
        (
            r#""model_type":"phi3","partial_rotary_factor":1e300"#,
            "key `partial_rotary_factor`: expected more",
        ),
        (
            r#""model_type":"phi3","head_dim":16,"rope_parameters":{"rope_type":"longrope",
               "partial_rotary_factor":0.75,"short_factor":[1,1,1,1,1,1,1,1],"long_factor":[1,1,1,1,1,1]}"#,
            "key `rope_parameters.short_factor`: expected 6 numbers, one for each pair of the 12 rotated values",
        ),
        (
            r#""model_type":"phi3","rope_scaling":{"type":"linear","factor":2}"#,
            "key `rope_scaling.type`: expected \"default\" or \"longrope\", found \"linear\"",
        ),
        (
            r#""rope_theta":500000,"rope_scaling":{"type":"linear","factor":2},
               "rope_parameters":{"rope_type":"default","rope_theta":500000}"#,
            "key `rope_scaling`: expected what `rope_parameters` says",
        ),
        (
            r#""model_type":"gemma3_text","rope_parameters":{"rope_type":"default","rope_theta":5}"#,
            "key `rope_parameters`: expected `full_attention` and `sliding_attention`",
        ),
        (
            r#""model_type":"mistral","num_key_value_heads":2,"layer_types":["sliding_attention","full_attention"]"#,
            "key `layer_types`: expected \"sliding_attention\" for each layer",
        ),
        (
            r#""model_type":"qwen2","num_key_value_heads":2,"sliding_window":9,
               "layer_types":["sliding_attention","full_attention"]"#,
            "key `layer_types`: expected \"full_attention\" for each layer, as `use_sliding_window` sets no window",
        ),
        (r#""model_type":"gemma3_text","sliding_window":null"#, "key `sliding_window`: expected 1 or more"),
        (r#""model_type":"qwen2""#, "without it qwen2 models have 32, which does not divide 4"),
        (
            r#""rope_scaling":{"rope_type":"yarn","factor":4}"#,
            "key `rope_scaling.rope_type`: expected \"default\", \"linear\", \"llama3\" or \"longrope\", found \"yarn\"",
        ),
        (r#""rope_scaling":{"type":"linear"}"#, "key `rope_scaling.factor`: expected a value"),
        (r#""rope_scaling":{"type":"linear","factor":0}"#, "key `rope_scaling.factor`"),
        (r#""rope_parameters":{"full_attention":{"rope_theta":1}}"#, "one for each kind of layer"),
        (r#""use_bidirectional_attention":true"#, "key `use_bidirectional_attention`: expected false"),
        (
            r#""model_type":"gemma3_text","layer_types":["full_attention"]"#,
            "key `layer_types`: expected \"full_attention\" or \"sliding_attention\" for each of 2 layers",
        ),
        (r#""model_type":"gemma3_text","sliding_window":0"#, "key `sliding_window`: expected 1 or more"),
        (r#""model_type":"gemma3_text","query_pre_attn_scalar":0"#, "key `query_pre_attn_scalar`"),
        (
            r#""model_type":"smollm3","no_rope_layers":[1]"#,
            "key `no_rope_layers`: expected 0 or 1 for each of 2",
        ),
        (
            r#""rope_scaling":{"type":"longrope","short_factor":[1,-1],"long_factor":[1,1]},
               "original_max_position_embeddings":64"#,
            "key `rope_scaling.short_factor`: expected a list of numbers above zero",
        ),
        (
            r#""rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,
               "original_max_position_embeddings":8}"#,
            "key `rope_scaling.high_freq_factor`: expected more than low_freq_factor",
        ),
    ] {
        let text = parse_str(&with(entry)).unwrap_err().to_string();
        assert!(text.contains(expected), "{entry}: {text}");
    }
    for (json, expected) in [("", "expected JSON"), ("[]", "expected a JSON object"), ("{", "expected JSON")]
    {
        assert!(parse_str(json).unwrap_err().to_string().contains(expected));
    }
}

use proptest::collection::vec;

fn rope_scaling() -> impl Strategy<Value = RopeScaling> {
    prop_oneof![
        Just(RopeScaling::Default),
        (1e-3..1e3).prop_map(|factor| RopeScaling::Linear { factor }),
        (1e-3..1e3, 0.1..1.0, 1.1..9.0, 1..1usize << 20).prop_map(|(factor, low, high, original)| {
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }
        }),
        (vec(1e-3..1e3, 128), vec(1e-3..1e3, 128), 2..1usize << 20, 0.5..2.0).prop_map(
            |(short_factor, long_factor, original, attention_factor)| RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor,
            }
        ),
    ]
}

prop_compose! {
    fn config()(
        model_type in proptest::sample::select(&["llama", "qwen2", "qwen3", "gemma3_text", "phi3", "other"][..]),
        (vocab_size, hidden_size, intermediate_size) in (1..1usize << 18, 1..1usize << 14, 1..1usize << 15),
        (num_hidden_layers, heads, groups, half_head) in (1..100usize, 1..64usize, 1..9usize, 1..128usize),
        (rms_norm_eps, rope_theta, rope_scaling) in (0.0..1.0, 1e-3..1e9, rope_scaling()),
        part in 0.0..1.0,
        max_position_embeddings in 1..1usize << 20,
        (tie_word_embeddings, mlp_bias, use_sliding_window) in any::<(bool, bool, bool)>(),
        attention_bias: Option<bool>,
        sliding_window: Option<u32>,
        bos_token_id: Option<u32>,
        eos_token_ids: Vec<u32>,
        dtype in proptest::option::of(proptest::sample::select(&[Dtype::F32, Dtype::F16, Dtype::BF16][..])),
        hidden_act in any::<String>(),
    ) -> ModelConfig {
        let phi = model_type == "phi3";
        let half_turned = if phi { ((half_head as f64 * part) as usize).max(1) } else { half_head };
        let mut rope_scaling = rope_scaling;
        match &mut rope_scaling {
            RopeScaling::LongRope { short_factor, long_factor, .. } => {
                short_factor.truncate(half_turned);
                long_factor.truncate(half_turned);
            }
            other if phi => *other = RopeScaling::Default,
            _ => {}
        }
        ModelConfig {
            model_type: model_type.to_string(),
            vocab_size, hidden_size, intermediate_size, num_hidden_layers,
            num_attention_heads: heads * groups,
            num_key_value_heads: heads,
            head_dim: 2 * half_head,
            rotary_dim: 2 * half_turned,
            rms_norm_eps, rope_theta, rope_scaling, max_position_embeddings, tie_word_embeddings,
            attention_bias, mlp_bias, hidden_act, use_sliding_window,
            sliding_window: sliding_window.map(|w| w as usize).filter(|_| !phi),
            layers: LayerTraits {
                query_pre_attn_scalar: (model_type == "gemma3_text").then_some(256.0),
                ..LayerTraits::default()
            },
            bos_token_id, eos_token_ids, dtype,
        }
    }
}

proptest! {
    #[test]
    fn configurations_round_trip(config in config()) {
        prop_assert_eq!(parse_str(&config.to_json().to_string()).unwrap(), config);
    }

    #[test]
    fn any_text_is_no_panic(text in any::<String>()) {
        let _ = parse_str(&text);
    }

    #[test]
    fn any_numbers_are_no_panic(
        key in proptest::sample::select(
            &["vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
              "head_dim", "num_hidden_layers", "rope_theta", "max_position_embeddings"][..]),
        value: u64,
        shift in 0..64u32,
    ) {
        let _ = parse_str(&with(&format!(r#""{key}":{}"#, value >> shift)));
    }
}
