use proptest::prelude::*;

use super::*;

fn parse(json: &str) -> Result<AdapterConfig> {
    AdapterConfig::parse(Path::new(CONFIG_FILE), json)
}

fn example() -> AdapterConfig {
    AdapterConfig {
        base_model: Some("Qwen/Qwen2.5-0.5B-Instruct".to_string()),
        r: 16,
        lora_alpha: 32.0,
        use_rslora: false,
        use_dora: false,
        lora_dropout: 0.0,
        target_modules: vec!["q_proj".to_string(), "down_proj".to_string()],
        places: None,
        rank_pattern: Pattern::none(),
        alpha_pattern: Pattern::none(),
        layers: None,
    }
}

#[test]
fn scale_is_alpha_over_rank_or_its_root() {
    let mut config = example();
    assert!((config.scale() - 2.0).abs() < 1e-12);
    config.use_rslora = true;
    assert!((config.scale() - 8.0).abs() < 1e-12);
}

#[test]
fn keys_are_sorted_and_alpha_is_whole() {
    let text = example().to_json();
    assert!(text.starts_with("{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n"), "{text}");
    assert!(
        text.contains("\n  \"lora_alpha\": 32,\n") && text.contains("\n  \"lora_dropout\": 0.0,\n"),
        "{text}"
    );
    assert!(!text.contains("peft_version"));
    let keys: Vec<_> = text.lines().filter(|l| l.starts_with("  \"")).collect();
    assert!(keys.is_sorted(), "{text}");
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    example().write(dir.path()).unwrap();
    assert_eq!(AdapterConfig::read(dir.path()).unwrap(), example());
}

#[test]
fn patterns_and_layers_are_kept_in_order() {
    let json = r#"{"peft_type":"LORA","target_modules":["v_proj","q_proj"],"layers_to_transform":[2,0,2],
        "rank_pattern":{"self_attn.v_proj":2,"q_proj":3},"alpha_pattern":{"[qv]_proj":5},"layers_pattern":"layers"}"#;
    let config = parse(json).unwrap();
    assert_eq!(config.layers, Some(vec![0, 2]));
    let ranks: Vec<_> = config.rank_pattern.entries().iter().map(|(name, r)| (name.as_str(), *r)).collect();
    assert_eq!(ranks, [("self_attn.v_proj", 2), ("q_proj", 3)]);
    let text = config.to_json();
    assert!(text.contains("\"[qv]_proj\": 5\n"), "{text}");
    assert_eq!(parse(&text).unwrap(), config);
    let one = r#"{"peft_type":"LORA","target_modules":["q_proj"],"layers_to_transform":1}"#;
    assert_eq!(parse(one).unwrap().layers, Some(vec![1]));
}

#[test]
fn files_of_peft_are_read() {
    let json = r#"{"peft_type":"LORA","target_modules":"all-linear","r":4,"lora_alpha":8,"lora_dropout":0.05,
        "peft_version":"0.20.0","modules_to_save":null,"rank_pattern":{},"eva_config":null,"qalora_group_size":16,
        "bias":"none","init_lora_weights":"gaussian","loftq_config":{},"task_type":"CAUSAL_LM"}"#;
    let config = parse(json).unwrap();
    assert_eq!(config.target_modules, MODULES);
    assert!((config.lora_dropout - 0.05).abs() < 1e-12);
    assert!(config.to_json().contains("\"lora_dropout\": 0.05,"), "it is kept");
    assert_eq!(config.base_model, None);
}

#[test]
fn what_would_not_be_reproduced_is_refused() {
    for (entry, key) in [
        (r#""peft_type":"IA3""#, "peft_type"),
        (r#""peft_type":null"#, "peft_type"),
        (r#""use_dora":1"#, "use_dora"),
        (r#""bias":"all""#, "bias"),
        (r#""modules_to_save":["lm_head"]"#, "modules_to_save"),
        (r#""rank_pattern":{"q_proj":0}"#, "rank_pattern"),
        (r#""rank_pattern":{"q_proj":1.5}"#, "rank_pattern"),
        (r#""rank_pattern":{"(":4}"#, "rank_pattern"),
        (r#""rank_pattern":[4]"#, "rank_pattern"),
        (r#""alpha_pattern":{"q_proj":"4"}"#, "alpha_pattern"),
        (r#""layers_to_transform":[-1]"#, "layers_to_transform"),
        (r#""layers_to_transform":"1""#, "layers_to_transform"),
        (r#""layers_to_transform":[1],"layers_pattern":["blocks"]"#, "layers_pattern"),
        (r#""trainable_token_indices":[1]"#, "trainable_token_indices"),
        (r#""lora_bias":true"#, "lora_bias"),
        (r#""init_lora_weights":"pissa_niter_4""#, "init_lora_weights"),
        (r#""target_modules":".*_proj(""#, "target_modules"),
        (r#""target_modules":"q_proj""#, "target_modules"),
        (r#""target_modules":["Wqkv","norm"]"#, "target_modules"),
        (r#""target_modules":"(?:(?:[a-z_.0-9]+)+)+(?=!)""#, "target_modules"),
        (r#""target_modules":".*q_proj","layers_to_transform":[0]"#, "layers_to_transform"),
        (r#""exclude_modules":"(""#, "exclude_modules"),
        (r#""exclude_modules":3"#, "exclude_modules"),
        (r#""exclude_modules":[3]"#, "exclude_modules"),
        (r#""exclude_modules":".*q_proj""#, "exclude_modules"),
        (r#""exclude_modules":["self_attn.q_proj"]"#, "exclude_modules"),
        (r#""rank_pattern":{"(?=(a+)+b)*":4}"#, "rank_pattern"),
        (r#""target_modules":["proj"]"#, "target_modules"),
        (r#""target_modules":[]"#, "target_modules"),
        (r#""target_modules":null"#, "target_modules"),
        (r#""target_modules":[3]"#, "target_modules"),
        (r#""r":0"#, "r"),
        (r#""r":-1"#, "r"),
        (r#""lora_alpha":"x""#, "lora_alpha"),
    ] {
        // The last of two equal keys counts, so the entry overrules the sound one before it.
        let json = format!(r#"{{"peft_type":"LORA","target_modules":["q_proj"],{entry}}}"#);
        let text = parse(&json).unwrap_err().to_string();
        assert!(text.contains(&format!("key `{key}`: expected")), "{entry}: {text}");
    }
}

/// Which modules of two layers PEFT 0.21.2 takes for these keys: the cases were put to its
/// `check_target_module_exists`.
#[test]
fn modules_are_those_of_peft() {
    let modules = |entries: &str| -> Vec<String> {
        let config = parse(&format!(r#"{{"peft_type":"LORA",{entries}}}"#)).unwrap();
        // What is written says the same.
        let again = parse(&config.to_json()).unwrap();
        assert_eq!(again, config, "{entries}");
        let all = (0..2).flat_map(|l| MODULES.map(|m| (l, m)));
        let inside = all.filter(|(l, m)| config.has(*l, m)).map(|(l, m)| format!("{l}.{m}"));
        let outside = OUTSIDE_BLOCKS.into_iter().filter(|(m, _)| config.has(0, m)).map(|(m, _)| m.to_owned());
        inside.chain(outside).collect()
    };
    let qv = ["0.q_proj", "0.v_proj", "1.q_proj", "1.v_proj"];
    for (entries, expected) in [
        // Names that no module has are passed over where another is found.
        (r#""target_modules":["Wqkv","v_proj","c_attn","query_key_value","q_proj"]"#, &qv[..]),
        (r#""target_modules":["v_proj","q_proj"],"exclude_modules":".*(vision|visual|audio).*""#, &qv),
        (r#""target_modules":["v_proj","q_proj"],"exclude_modules":["vision_tower","up_proj"]"#, &qv),
        (r#""target_modules":["v_proj","q_proj"],"exclude_modules":"""#, &qv),
        (r#""target_modules":["v_proj","q_proj"],"exclude_modules":[]"#, &qv),
        (r#""target_modules":"^(?!.*visual).*\\.(q_proj|v_proj)""#, &qv),
        (r#""target_modules":"^(model(?=\\.).*\\.(q_proj|v_proj))$""#, &qv),
        (
            r#""target_modules":["v_proj","q_proj"],"fan_in_fan_out":true,"modules_to_save":[],"lora_bias":false"#,
            &qv,
        ),
        (r#""target_modules":["v_proj","q_proj"],"modules_to_save":null,"a_key_of_later":{"x":1}"#, &qv),
        (r#""target_modules":["v_proj","q_proj"],"corda_config":{"corda_method":"ipm"}"#, &qv),
        (
            r#""target_modules":["q_proj","up_proj"],"exclude_modules":["q_proj"]"#,
            &["0.up_proj", "1.up_proj"],
        ),
        (
            r#""target_modules":["q_proj"],"exclude_modules":["model.layers.1.self_attn.q_proj"]"#,
            &["0.q_proj"],
        ),
        (r#""target_modules":["q_proj"],"exclude_modules":".*layers\\.0\\..*""#, &["1.q_proj"]),
        (r#""target_modules":".*\\.q_proj","exclude_modules":".*layers\\.0\\..*""#, &["1.q_proj"]),
        (r#""target_modules":["q_proj","v_proj"],"layers_to_transform":[1]"#, &["1.q_proj", "1.v_proj"]),
        (r#""target_modules":["q_proj","lm_head"],"layers_to_transform":1"#, &["1.q_proj", "lm_head"]),
        (r#""target_modules":["q_proj","embed_tokens"],"layers_to_transform":1"#, &["1.q_proj"]),
        (
            r#""target_modules":["q_proj","model.embed_tokens","k_proj"],"layers_to_transform":1,"exclude_modules":["k_proj"]"#,
            &["1.q_proj", "embed_tokens"],
        ),
        (r#""target_modules":["q_proj"],"layers_to_transform":[1],"layers_pattern":"layers""#, &["1.q_proj"]),
        (
            r#""target_modules":["q_proj"],"layers_to_transform":[1],"layers_pattern":["h","lay.*s"]"#,
            &["1.q_proj"],
        ),
        // A whole path counts in whatever layer it is.
        (
            r#""target_modules":["v_proj","model.layers.0.self_attn.q_proj"],"layers_to_transform":[1]"#,
            &["0.q_proj", "1.v_proj"],
        ),
        // So it does outside of layers, where `lm_head` is one.
        (
            r#""target_modules":["model.layers.0.self_attn.q_proj","lm_head","v_proj","embed_tokens","9.mlp.up_proj"],
                "layers_to_transform":[1]"#,
            &["0.q_proj", "1.v_proj", "lm_head"],
        ),
        (
            r#""target_modules":["v_proj","model.layers.0.mlp.up_proj","model.layers.300.mlp.up_proj"],
                "layers_to_transform":[1,299]"#,
            &["0.up_proj", "1.v_proj"],
        ),
        (
            r#""target_modules":["embed_tokens","q_proj"],"exclude_modules":["embed_tokens"]"#,
            &["0.q_proj", "1.q_proj"],
        ),
    ] {
        assert_eq!(modules(entries), expected, "{entries}");
    }
    let all = modules(r#""target_modules":"All-Linear""#);
    assert_eq!(all.len(), 2 * MODULES.len(), "and no head: {all:?}");
    let some = modules(r#""target_modules":"all-linear","exclude_modules":["mlp.down_proj","k_proj"]"#);
    assert!(
        some.len() == 2 * (MODULES.len() - 2) && !some.iter().any(|m| m.contains("down") || m.contains("k_"))
    );
}

/// `LoraLayer` takes the first key of a pattern that matches, and alpha over r or its root.
#[test]
fn ranks_and_factors_of_modules_are_those_of_peft() {
    let config = parse(
        r#"{"peft_type":"LORA","target_modules":["q_proj","v_proj"],"r":4,"lora_alpha":8,"use_rslora":true,
        "rank_pattern":{"(?!.*layers\\.0\\.).*q_proj":9,"(?<=layers\\.1\\.self_attn\\.)v_proj":1},
        "alpha_pattern":{"^model\\.layers\\.0\\.(?=self_attn).*":6}}"#,
    )
    .unwrap();
    let of = |layer: usize, module: &str| config.of(&path(layer, module));
    assert_eq!(of(0, "q_proj"), (9, 2.0));
    assert_eq!(of(1, "q_proj"), (9, 8.0 / 3.0));
    assert_eq!(of(0, "v_proj"), (4, 3.0));
    assert_eq!(of(1, "v_proj"), (1, 8.0));
}

#[test]
fn another_kind_of_adapter_is_named() {
    let text = parse(r#"{"peft_type":"IA3","target_modules":["q_proj"]}"#).unwrap_err().to_string();
    assert!(text.contains("expected \"LORA\", found \"IA3\": of PEFT's adapters"), "{text}");
}

#[test]
fn a_folder_without_an_adapter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = AdapterConfig::read(dir.path()).unwrap_err().to_string();
    assert!(text.contains("expected an adapter folder, found no adapter_config.json"), "{text}");
}

#[test]
fn tensor_names_are_those_of_peft() {
    assert_eq!(
        tensor_name(3, "q_proj", Matrix::A),
        "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"
    );
    assert_eq!(
        tensor_name(12, "down_proj", Matrix::B),
        "base_model.model.model.layers.12.mlp.down_proj.lora_B.weight"
    );
    let with_adapter_name = "base_model.model.model.layers.3.mlp.up_proj.lora_B.default.weight";
    assert_eq!(parse_tensor_name(with_adapter_name), Some((3, "up_proj".to_string(), Matrix::B)));
    let magnitudes = "base_model.model.model.layers.3.mlp.up_proj.lora_magnitude_vector";
    assert_eq!(tensor_name(3, "up_proj", Matrix::M), magnitudes);
    for name in [magnitudes.to_owned(), format!("{magnitudes}.default"), format!("{magnitudes}.weight")] {
        assert_eq!(parse_tensor_name(&name), Some((3, "up_proj".to_string(), Matrix::M)));
    }
    for other in [
        "",
        "base_model.model.model.layers.3.mlp.up_proj.lora_magnitude_vector.x",
        "model.layers.3.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.3.mlp.q_proj.lora_A.weight",
        "base_model.model.model.layers.03.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.+3.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers..self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.3.self_attn.q_proj.lora_A",
        "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight.x",
        "base_model.model.model.layers.3.self_attn.q_proj.lora_A.other.weight",
        "base_model.model.model.layers.99999999999999999999999.self_attn.q_proj.lora_A.weight",
        "base_model.model.lm_head.lora_A",
        "base_model.model.lm_head.lora_embedding_A",
        "base_model.model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A.weight",
        "base_model.model.model.embed_tokens.base_layer.weight",
    ] {
        assert_eq!(parse_tensor_name(other), None, "{other}");
    }
    assert_eq!(tensor_name(0, "lm_head", Matrix::M), "base_model.model.lm_head.lora_magnitude_vector");
    let first = "base_model.model.model.embed_tokens.lora_embedding_A";
    assert_eq!(tensor_name(0, "embed_tokens", Matrix::B), first);
    assert_eq!(
        parse_tensor_name(&format!("{first}.default")),
        Some((0, "embed_tokens".to_owned(), Matrix::B))
    );
}

/// Which modules these are was asked of `peft.tuners.tuners_utils.check_target_module_exists`, 0.21.
#[test]
fn modules_are_named_as_in_peft() {
    let on = |entry: &str, extra: &str| {
        let json = format!(r#"{{"peft_type":"LORA","target_modules":{entry}{extra}}}"#);
        let config = parse(&json).unwrap();
        assert_eq!(parse(&config.to_json()).unwrap(), config, "{entry}");
        (config.target_modules.join(" "), config.places)
    };
    let some = r#","layers_to_transform":[0]"#;
    assert_eq!(on(r#"["lm_head","q_proj","embed_tokens"]"#, "").0, "lm_head q_proj embed_tokens");
    assert_eq!(on(r#"["lm_head","q_proj","embed_tokens"]"#, some).0, "lm_head q_proj");
    assert_eq!(on(r#"["q_proj","model.embed_tokens"]"#, some), ("q_proj embed_tokens".to_owned(), None));
    // So PEFT writes it, with tensors of both.
    assert_eq!(
        on(r#"["embed_tokens","model.embed_tokens"]"#, r#","ensure_weight_tying":true"#).0,
        "embed_tokens lm_head"
    );
    for (entry, modules, there, not) in [
        (
            r#""model\\.layers\\.[01]\\.self_attn\\.(q|v)_proj""#,
            "q_proj v_proj",
            "0.self_attn.v_proj",
            "2.self_attn.q_proj",
        ),
        (
            r#"".*layers\\.(0|3)\\.mlp.*|lm_head""#,
            "gate_proj up_proj down_proj gate_up_proj lm_head",
            "3.mlp.up_proj",
            "1.mlp.up_proj",
        ),
        (r#"["0.self_attn.q_proj","mlp.up_proj"]"#, "q_proj up_proj", "9.mlp.up_proj", "1.self_attn.q_proj"),
        (r#"["model.layers.11.mlp.up_proj"]"#, "up_proj", "11.mlp.up_proj", "1.mlp.up_proj"),
    ] {
        let (found, places) = on(entry, "");
        let has = |path: &str| places.as_ref().unwrap().has(&format!("model.layers.{path}"));
        assert_eq!(found, modules);
        let again = places.as_ref().and_then(|places| Places::from_json(&places.to_json()));
        assert_eq!(again, places);
        assert!(has(there) && !has(not), "{entry}");
    }
}

proptest! {
    #[test]
    fn configurations_round_trip(
        base_model in any::<Option<String>>(),
        r in 1usize..1024,
        lora_alpha in -1e18f64..1e18,
        use_rslora: bool,
        target_modules in proptest::sample::subsequence(MODULES.map(str::to_string).to_vec(), 1..=9),
    ) {
        let config = AdapterConfig { base_model, r, lora_alpha, use_rslora, target_modules, ..example() };
        prop_assert_eq!(parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn tensor_names_round_trip(
        layer: usize,
        module in proptest::sample::select(&MODULES[..]),
        matrix in proptest::sample::select(&[Matrix::A, Matrix::B, Matrix::M][..]),
    ) {
        let name = tensor_name(layer, module, matrix);
        prop_assert_eq!(parse_tensor_name(&name), Some((layer, module.to_string(), matrix)));
    }

    #[test]
    fn any_text_is_no_panic(text in any::<String>(), name in any::<String>()) {
        let _ = parse(&text);
        let _ = parse_tensor_name(&text);
        let _ = parse_tensor_name(&format!("base_model.model.model.layers.{name}"));
    }

    #[test]
    fn any_value_of_a_key_is_no_panic(
        key in proptest::sample::select(&["r", "lora_alpha", "target_modules", "peft_type", "init_lora_weights"][..]),
        value in proptest::sample::select(&["null", "-1", "1e400", "[]", "[[]]", "{}", "\"\"", "18446744073709551616"][..]),
    ) {
        let _ = parse(&format!(r#"{{"peft_type":"LORA","target_modules":["q_proj"],"{key}":{value}}}"#));
    }
}
