//! `mesp bench generate` on the tiny shape.

use std::ffi::OsStr;

use crate::support::{mesp, read_json, temporary};

#[test]
fn tokens_are_timed_beside_a_sum() {
    let dir = temporary();
    let (cache, output) = (dir.path().join("cache"), dir.path().join("results"));
    let mut args: Vec<&dyn AsRef<OsStr>> =
        vec![&"bench", &"generate", &"--preset=tiny", &"--types=bf16,q8_0"];
    args.extend([&"--cache" as &dyn AsRef<OsStr>, &cache, &"--output", &output]);
    args.extend([
        &"--tokens=4" as &dyn AsRef<OsStr>,
        &"--rounds=2",
        &"--prompt-tokens=8",
        &"--name=a",
        &"--json",
    ]);
    let ran = mesp(&args).ok();
    let document = ran.json();
    assert_eq!(document, read_json(&output.join("generate-a.json")));
    let shape = read_json(&cache.join("tiny-bf16/config.json"));
    let size = |key: &str| shape[key].as_u64().expect("a size");
    let (layers, d, i) = (size("num_hidden_layers"), size("hidden_size"), size("intermediate_size"));
    let head = d / size("num_attention_heads");
    let (q, kv) = (d, head * size("num_key_value_heads"));
    let values = layers * (2 * q * d + 2 * kv * d + 3 * i * d) + size("vocab_size") * d;
    let models = document["models"].as_array().expect("models");
    assert_eq!(models.len(), 2);
    assert_eq!(models[0]["weight_bytes_per_token"], 2 * values);
    // 32 values and their scale in 34 bytes.
    assert_eq!(models[1]["weight_bytes_per_token"], values / 32 * 34);
    for model in models {
        assert_eq!(model["token_seconds"].as_array().expect("times").len(), 2 * 4);
        let number = |key: &str| model[key].as_f64().expect("a figure");
        assert!(number("share_of_read_rate") > 0.0);
        assert_eq!(model["token_cpu_seconds"].as_array().expect("times").len(), 2);
        assert!(
            (number("bytes_per_second") / number("tokens_per_second") - number("weight_bytes_per_token"))
                .abs()
                < 1.0
        );
    }
    assert!(
        ran.stderr.contains("of the read rate") && ran.stderr.contains("prompt tokens/s"),
        "{}",
        ran.stderr
    );
    let none = mesp(&[&"bench", &"generate", &"--tokens=0"]);
    assert_eq!(none.code, 2, "{}", none.stderr);
}
