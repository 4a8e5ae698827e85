//! `mesp replay`: a run of estimates again from its log.

use std::fs;

use crate::support::{Ran, command, golden, mesp, temporary};

/// Cores without a vector instruction of another make the same adapter of a log, and two runs write the same log.
#[test]
fn a_log_means_the_same_on_other_machines() {
    let dir = temporary();
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let train = |name: &str, noise: &str, modules: &str| {
        let run = dir.path().join(name);
        let noise = format!("--noise={noise}");
        mesp(&[
            &"train",
            &"--method=mezo",
            &"--steps=30",
            &"--momentum=0.9",
            &"--target-modules",
            &modules,
            &noise,
            &"--model",
            &model,
            &"--data",
            &rows,
            &"--output",
            &run,
        ])
        .ok();
        run
    };
    for (noise, modules) in [("gaussian", "all-linear,lm_head,embed_tokens"), ("rademacher", "all-linear")] {
        let [run, other] = [1, 2].map(|n| train(&format!("{noise}-{n}"), noise, modules));
        let read = |path: std::path::PathBuf| fs::read(path).expect("a file");
        assert_eq!(read(run.join("slopes.replay")), read(other.join("slopes.replay")), "{noise}");
        let adapter = read(run.join("adapter_model.safetensors"));
        for isa in ["avx512", "avx2", "portable"] {
            let again = dir.path().join(format!("{noise}-{isa}"));
            let output = command(&[&"replay", &run, &"--model", &model, &"--output", &again])
                .env("MESP_ISA", isa)
                .output();
            Ran::of(output.expect("the program starts")).ok();
            assert!(read(again.join("adapter_model.safetensors")) == adapter, "{noise}, {isa}");
        }
    }
}
