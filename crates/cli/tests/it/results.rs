//! What commands give: documents with the promised fields, and the right numbers in them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;

use mesp::settings::{Settings, UpdateWhen};
use mesp::{Dataset, Model, Trainer};
use serde_json::Value;

use crate::support::{demo_model, events, golden, mesp, read_json, temporary, tensors};

fn has(value: &Value, pointers: &[&str]) {
    for pointer in pointers {
        assert!(value.pointer(pointer).is_some(), "{pointer} in {value:#}");
    }
}

#[test]
fn a_run_leaves_what_the_contract_says() {
    let dir = temporary();
    let (model, rows, run) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"), dir.path().join("run"));
    let train: [&dyn AsRef<OsStr>; 15] = [
        &"train",
        &"--model",
        &model,
        &"--data",
        &rows,
        &"--eval-data",
        &rows,
        &"--output",
        &run,
        &"--steps",
        &"6",
        &"--save-every",
        &"3",
        &"--json",
        &"--learning-rate=0.01",
    ];
    let document = mesp(&train).ok().json();
    assert_eq!(document, read_json(&run.join("run.json")));
    has(
        &document,
        &[
            "/model/path",
            "/model/base",
            "/policy/within",
            "/compute",
            "/seconds/total",
            "/seconds/prepare",
            "/seconds/step_median",
            "/memory/budget_bytes",
            "/memory/rss_anon_peak_bytes",
            "/memory/rss_peak_bytes",
            "/memory/ledger/adapter",
        ],
    );
    assert_eq!(document["schema"], 1);
    assert_eq!(document["model"]["arch"], "qwen2");
    assert_eq!(document["adapter"]["parameters"], 13440);
    assert_eq!(document["steps"], 6);
    // Every setting with its value, chosen or not.
    let settings = &document["settings"];
    assert_eq!(settings["learning_rate"], document["learning_rate"]);
    assert_eq!(
        (&settings["rank"], &settings["alpha"], &settings["train"], &settings["optimizer"]),
        (&8.into(), &16.0.into(), &"lora".into(), &"adamw".into())
    );
    assert_eq!((&settings["update"], &settings["save_every"]), (&"accumulate".into(), &3.into()));
    assert_eq!(document["seconds"]["steps"].as_array().expect("a list").len(), 6);
    let loss = |key: &str| document["loss"][key].as_f64().expect("a loss");
    assert!(loss("eval_after") < loss("eval_before"));
    assert!(run.join("checkpoints/step-3/state.json").is_file());
    assert!(run.join("adapter_config.json").is_file() && run.join("adapter_model.safetensors").is_file());

    let events = events(&run);
    let types: Vec<&str> = events.iter().map(|e| e["type"].as_str().expect("a type")).collect();
    assert_eq!((types[0], types[types.len() - 1]), ("run", "end"));
    for expected in ["memory", "eval", "train", "event"] {
        assert!(types.contains(&expected), "{expected} in {types:?}");
    }
    let step = events.iter().find(|e| e["type"] == "train").expect("a step");
    for key in ["step", "epoch", "loss", "learning_rate", "grad_norm", "num_tokens", "tokens_per_second"] {
        assert!(step[key].is_number(), "{key} in {step}");
    }

    // The plan is what the run planned, and the heap stays within it.
    let mut plan = train;
    plan[0] = &"plan";
    let planned = mesp(&plan).ok().json();
    has(
        &planned,
        &["/method", "/policy", "/memory/least_bytes", "/memory/fits", "/work/multiply_adds_per_step"],
    );
    let memory = &document["memory"];
    assert_eq!(planned["memory"]["planned_bytes"], memory["planned_bytes"]);
    assert_eq!(planned["memory"]["ledger"], memory["ledger"]);
    let bytes = |key: &str| memory[key].as_u64().expect("bytes");
    // Before the run, reading the command line takes most of a megabyte, more than this model trains in.
    assert!(bytes("heap_training_peak_bytes") <= bytes("planned_bytes"), "{memory:#}");
    assert!(bytes("heap_peak_bytes") <= bytes("planned_bytes").max(1_200_000), "{memory:#}");

    let inspected = mesp(&[&"inspect", &run, &"--json"]).ok().json();
    assert_eq!((inspected["kind"].as_str(), &inspected["run"]), (Some("run"), &document));
    let checkpoint = mesp(&[&"inspect", &run.join("checkpoints/step-3"), &"--json"]).ok().json();
    assert_eq!((checkpoint["kind"].as_str(), checkpoint["step"].as_u64()), (Some("checkpoint"), Some(3)));
}

/// What chooses settings.
type Choose = fn(&mut Settings);

/// The library plans what the program plans: as many bytes, for the same purposes.
#[test]
fn the_librarys_plan_is_the_programs() {
    let (model, rows) = (golden("qwen2/model"), golden("qwen2/rows.jsonl"));
    let opened = Model::open(&model).expect("a model");
    let data = Dataset::read(&rows, &opened).expect("rows");
    let held_out = data.clone().with_eval(&Dataset::read(&rows, &opened).expect("rows"));
    let cases: [(&[&str], Choose, &Dataset); 5] = [
        (&[], |_| {}, &data),
        (
            &["--batch-size=2", "--rank=4", "--optimizer=sgd", "--update=per-block"],
            |s| {
                s.training.batch_size = Some(2);
                s.training.optimizer = Some("sgd".to_owned());
                s.adapter.rank = Some(4);
                s.method.update = Some(UpdateWhen::PerBlock);
            },
            &data,
        ),
        (&["--checkpoints=bf16"], |s| s.method.checkpoints = Some("bf16".to_owned()), &data),
        (&["--method=mezo"], |s| s.method.method = Some("mezo".to_owned()), &data),
        (
            &["--eval-data", rows.to_str().expect("a path"), "--batch-tokens=64"],
            |s| s.training.batch_tokens = Some(64),
            &held_out,
        ),
    ];
    for (options, choose, data) in cases {
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"plan", &"--model", &model, &"--data", &rows, &"--json"];
        args.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        let programs = &mesp(&args).ok().json()["memory"];
        let mut settings = Settings::default();
        choose(&mut settings);
        let plan = Trainer::builder(&opened, data).settings(settings).threads(2).plan().expect("a plan");
        assert_eq!(programs["planned_bytes"], plan.planned(), "{options:?}");
        let ledger: BTreeMap<&str, u64> = plan.ledger.iter().map(|(class, n)| (class.name(), *n)).collect();
        assert_eq!(programs["ledger"], serde_json::json!(ledger), "{options:?}");
    }
}

#[test]
fn gradients_equal_the_goldens() {
    let dir = temporary();
    for arch in ["qwen2", "qwen3", "llama"] {
        for (more, file) in [(&["--batch-size", "2"][..], "grads"), (&["--compute", "f64"], "grads_f64")] {
            let (model, rows) = (golden(arch).join("model"), golden(arch).join("rows.jsonl"));
            let (adapter, output) = (golden(arch).join("adapter"), dir.path().join("grads.safetensors"));
            let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"grads", &"--model", &model, &"--data", &rows];
            args.extend([
                &"--adapter" as &dyn AsRef<OsStr>,
                &adapter,
                &"--output",
                &output,
                &"--json",
                &"--overwrite",
            ]);
            args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
            let said = mesp(&args).ok().json();
            let (ours, metadata) = tensors(&output);
            let (reference, about) = tensors(&golden(arch).join(format!("{file}.safetensors")));
            assert_eq!(metadata["target_tokens"], about["target_tokens"]);
            let number = |text: &str| text.parse::<f64>().expect("a number");
            assert_eq!(said["loss"].as_f64(), Some(number(&metadata["loss"])));
            // The bounds.
            let (loss, expected) = (number(&metadata["loss"]), number(&about["loss"]));
            assert!((loss - expected).abs() <= 1e-6 * expected, "{arch}: {loss} {expected}");
            assert_eq!(ours.keys().collect::<Vec<_>>(), reference.keys().collect::<Vec<_>>());
            for (name, theirs) in &reference {
                let square = |x: f32| f64::from(x).powi(2);
                let difference: f64 = ours[name].iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
                let norm: f64 = theirs.iter().map(|x| square(*x)).sum();
                assert!((difference / norm).sqrt() <= 1e-5, "{arch} {name}");
            }
        }
    }
}

#[test]
fn eval_gives_the_goldens_losses() {
    let losses = read_json(&golden("qwen3/losses.json"));
    let (model, rows) = (golden("qwen3/model"), golden("qwen3/rows.jsonl"));
    let adapter = golden("qwen3/adapter");
    let bare = mesp(&[&"eval", &"--model", &model, &"--data", &rows, &"--json"]).ok().json();
    let close = |a: &Value, b: f64| (a.as_f64().expect("a number") - b).abs() < 2e-6 * b;
    assert!(close(&bare["loss"], losses["loss_without_adapter"].as_f64().expect("a loss")), "{bare:#}");
    assert!(close(&bare["perplexity"], bare["loss"].as_f64().expect("a loss").exp()));
    let adapted = [&"eval" as &dyn AsRef<OsStr>, &"--model", &model, &"--data", &rows, &"--json"];
    let more: [&dyn AsRef<OsStr>; 4] = [&"--adapter", &adapter, &"--batch-size", &"3"];
    let adapted = mesp(&[&adapted[..], &more[..]].concat()).ok().json();
    assert!(close(&adapted["loss"], losses["loss"].as_f64().expect("a loss")), "{adapted:#}");
    let rows = adapted["rows"].as_array().expect("rows");
    let counts: Vec<u64> = rows.iter().map(|r| r["target_tokens"].as_u64().expect("a count")).collect();
    assert_eq!((counts, adapted["target_tokens"].as_u64()), (vec![11, 0, 24, 1, 3], Some(39)));
    assert!(rows[1]["loss"].is_null(), "a row without targets has no loss");
    let human = mesp(&[&"eval", &"--model", &model, &"--data", &golden("qwen3/rows.jsonl")]).ok();
    assert!(human.stdout.contains("target tokens       39"), "{}", human.stdout);
}

#[test]
fn generation_speaks() {
    let model = demo_model();
    let ask = |more: &[&str]| {
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"generate", &"--model", &model];
        args.extend(more.iter().map(|a| a as &dyn AsRef<OsStr>));
        mesp(&args).ok()
    };
    let prompt = ["--prompt", "Who is Lina?", "--max-tokens", "24"];
    let document = ask(&[&prompt[..], &["--json"]].concat());
    let json = document.json();
    let text = json["text"].as_str().expect("text");
    assert!(text.contains("Lina"), "{text}");
    assert!(json["seconds"].is_number() && !json["token_ids"].as_array().expect("ids").is_empty());
    let streamed = ask(&prompt);
    assert_eq!(streamed.stdout, format!("{text}\n"));
    assert!(streamed.stderr.contains("chat template"), "{}", streamed.stderr);
    assert!(!ask(&[&prompt[..], &["--raw"]].concat()).stderr.contains("chat template"));
    let warm = |seed: &str| ask(&[&prompt[..], &["--temperature", "1.5", "--seed", seed]].concat()).stdout;
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(warm("1"), warm("2"));
}

#[test]
fn a_made_model_is_trained_inspected_and_planned() {
    let dir = temporary();
    let (model, run) = (dir.path().join("tiny"), dir.path().join("run"));
    let made =
        mesp(&[&"init-model", &"--preset", &"tiny", &"--type", &"f32", &"--output", &model, &"--json"]);
    let parameters = made.ok().json()["parameters"].as_u64().expect("a count");
    let again = mesp(&[&"init-model", &"--preset", &"tiny", &"--output", &model]);
    insta::assert_snapshot!("a_model_is_there", again.failure(dir.path()));
    let data = model.join("random_rows.jsonl");
    for method in ["mesp", "store-all", "mebp", "mesp-paper", "mesp-paper-store-h", "auto"] {
        let options: [&dyn AsRef<OsStr>; 6] =
            [&"--method", &method, &"--max-seq-len", &"64", &"--steps", &"2"];
        let files: [&dyn AsRef<OsStr>; 8] =
            [&"train", &"--model", &model, &"--data", &data, &"--output", &run, &"--overwrite"];
        mesp(&[&files[..], &options[..]].concat()).ok();
    }
    let per_block: [&dyn AsRef<OsStr>; 11] = [
        &"train",
        &"--model",
        &model,
        &"--data",
        &data,
        &"--output",
        &run,
        &"--overwrite",
        &"--steps=2",
        &"--update=per-block",
        &"--base=bf16",
    ];
    let document = mesp(&[&per_block[..], &[&"--json"]].concat()).ok().json();
    assert_eq!(
        (document["update"].as_str(), document["model"]["base"].as_str()),
        (Some("per-block"), Some("bf16"))
    );

    let inspected = mesp(&[&"inspect", &model, &"--json"]).ok().json();
    assert_eq!(
        (inspected["kind"].as_str(), inspected["parameters"].as_u64()),
        (Some("model"), Some(parameters))
    );
    assert_eq!((inspected["dtype"].as_str(), inspected["tokenizer"].as_bool()), (Some("f32"), Some(false)));
    let file = mesp(&[&"inspect", &model.join("model.safetensors"), &"--json"]).ok().json();
    assert_eq!((file["kind"].as_str(), file["parameters"].as_u64()), (Some("safetensors"), Some(parameters)));
    let adapter = mesp(&[&"inspect", &golden("qwen2/adapter"), &"--json"]).ok().json();
    assert_eq!((adapter["kind"].as_str(), adapter["rank"].as_u64()), (Some("adapter"), Some(4)));
    insta::assert_snapshot!("inspect_adapter", mesp(&[&"inspect", &golden("qwen2/adapter")]).ok().stdout);
    insta::assert_snapshot!("nothing_to_inspect", mesp(&[&"inspect", &dir.path()]).failure(dir.path()));

    // A plan needs the configuration only.
    fs::remove_file(model.join("model.safetensors")).expect("removed");
    let plan = mesp(&[&"plan", &"--model", &model, &"--max-seq-len", &"128", &"--json"]).ok().json();
    assert_eq!(plan["memory"]["fits"], true);
    let preset = mesp(&[&"plan", &"--preset", &"tiny", &"--max-seq-len", &"128", &"--json"]).ok().json();
    assert_eq!(plan["memory"]["planned_bytes"], preset["memory"]["planned_bytes"]);
    let tight = mesp(&[&"plan", &"--preset", &"tiny", &"--memory-budget", &"1kB", &"--json"]);
    assert_eq!((tight.code, tight.json()["memory"]["fits"].as_bool()), (3, Some(false)));
}

#[test]
fn help_is_there() {
    insta::assert_snapshot!("help", mesp_help());
}

/// The page of `mesp --help`; it takes no `--threads`.
fn mesp_help() -> String {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_mesp")).arg("--help").output().expect("it starts");
    String::from_utf8(output.stdout).expect("text")
}
