//! `mesp generate` and `mesp chat`: what is said, what ends it, how it is read and stopped.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Ran, command, demo_model, edit_json, mesp, temporary};

const QUESTION: &str = "What do you know about the wolf?";
const ANSWER: &str = "The wolf is gray and proud. It lives in the mountains near Highcairn.";

fn generate(model: &Path, more: &[&dyn AsRef<OsStr>]) -> Ran {
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"generate", &"--model", &model, &"--prompt", &QUESTION];
    args.extend(more);
    mesp(&args)
}

fn talk(more: &[&dyn AsRef<OsStr>], lines: &str) -> Ran {
    let model = demo_model();
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"chat", &"--model", &model];
    args.extend(more);
    let mut child = command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("written");
    Ran::of(child.wait_with_output().expect("it ends"))
}

/// An adapter of a few steps on the demo's data.
fn adapter(dir: &Path) -> PathBuf {
    let (model, run) = (demo_model(), dir.join("run"));
    let data = model.join("../train.jsonl");
    mesp(&[
        &"train",
        &"--model",
        &model,
        &"--data",
        &data,
        &"--output",
        &run,
        &"--steps=20",
        &"--batch-size=8",
        &"--learning-rate=3e-3",
    ])
    .ok();
    run
}

fn copy(model: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(model).expect("a model") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    to.to_path_buf()
}

/// The demo's model without any token that ends a text.
fn endless(dir: &Path) -> PathBuf {
    let model = copy(&demo_model(), &dir.join("endless"));
    fs::remove_file(model.join("generation_config.json")).expect("removed");
    // ChatML's turns would end at this token.
    let tokenizer = model.join("tokenizer.json");
    let renamed = fs::read_to_string(&tokenizer).expect("a tokenizer").replace("<|im_end|>", "<|other|>");
    fs::write(&tokenizer, renamed).expect("written");
    for (file, keys) in
        [("config.json", &["eos_token_id"][..]), ("tokenizer_config.json", &["eos_token", "chat_template"])]
    {
        edit_json(&model.join(file), |value| {
            for key in keys {
                value.as_object_mut().expect("an object").remove(*key);
            }
        });
    }
    model
}

/// A generation without an end, after its first text came.
fn going(dir: &Path) -> (Child, std::process::ChildStdout) {
    let model = endless(dir);
    let args: [&dyn AsRef<OsStr>; 7] = [
        &"generate",
        &"--model",
        &model,
        &"--prompt=The wolf",
        &"--raw",
        &"--temperature=1",
        &"--max-tokens=30000",
    ];
    let mut child =
        command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 8]).expect("some text");
    (child, out)
}

/// Its end, which has to come long before the text would be complete.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        assert!(started.elapsed() < Duration::from_secs(20), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut stderr = String::new();
    child.stderr.take().expect("its errors").read_to_string(&mut stderr).expect("text");
    (child.wait().expect("a child").code(), stderr)
}

#[test]
fn an_answer_and_what_ends_it() {
    let model = demo_model();
    let ran = generate(&model, &[]).ok();
    assert_eq!(ran.stdout, format!("{ANSWER}\n"));
    assert!(
        ran.stderr.contains("tokens/s; prompt of ") && ran.stderr.contains("; planned "),
        "{}",
        ran.stderr
    );

    let document = generate(&model, &[&"--json"]).ok().json();
    assert_eq!((document["text"].as_str(), document["finish"].as_str()), (Some(ANSWER), Some("stop")));
    let ids = document["token_ids"].as_array().expect("tokens");
    assert!(!ids.contains(&2.into()), "the token that ends a turn is no part of the answer");
    assert!(
        document["tokens_per_second"].as_f64() > Some(0.0) && document["planned_bytes"].as_u64() > Some(0)
    );

    let five = generate(&model, &[&"--json", &"--max-tokens=5"]).ok().json();
    assert_eq!(five["token_ids"].as_array().expect("tokens"), &ids[..5]);
    assert_eq!(five["finish"], "length");

    // An end that lies across tokens is not printed, nor is what comes with it.
    let cut = generate(&model, &[&"--stop", &"d. It l", &"--stop", &"Highcairn"]).ok();
    assert_eq!(cut.stdout, "The wolf is gray and prou\n");
    assert_eq!(generate(&model, &[&"--stop", &"d. It l", &"--json"]).ok().json()["finish"], "stop-text");

    // Any of a list of end tokens ends it.
    let dir = temporary();
    let listed = copy(&model, &dir.path().join("listed"));
    edit_json(&listed.join("generation_config.json"), |config| {
        config["eos_token_id"] = serde_json::json!([0, ids[3], 2]);
    });
    let short = generate(&listed, &[&"--json"]).ok().json();
    assert_eq!(short["token_ids"].as_array().expect("tokens"), &ids[..3]);

    // So does each that a GGUF file names, wherever it stands in the list. The demo's way to split words has no
    // name in GGUF, so its tokenizer.json lies in the file.
    for (i, list) in [[ids[3].clone(), 0.into()], [0.into(), ids[3].clone()]].into_iter().enumerate() {
        edit_json(&listed.join("generation_config.json"), |config| {
            config["eos_token_id"] = list.to_vec().into();
        });
        let file = dir.path().join(format!("listed-{i}.gguf"));
        mesp(&[&"quantize", &"--model", &listed, &"--type=bf16", &"--output", &file]).ok();
        let here = generate(&file, &[&"--json"]).ok().json();
        let there = generate(&listed, &[&"--json"]).ok().json();
        assert_eq!(
            (&here["token_ids"], &here["finish"]),
            (&there["token_ids"], &there["finish"]),
            "{list:?}"
        );
    }

    // And texts are made into tokens by it, in a process of their own.
    let (file, rows) = (dir.path().join("listed-0.gguf"), model.join("../eval.jsonl"));
    mesp(&[&"eval", &"--model", &file, &"--data", &rows]).ok();

    let long = generate(&model, &[&"--max-tokens=600"]).ok();
    assert!(
        long.stderr.contains("600 more are") && long.stderr.contains("was made for 512"),
        "{}",
        long.stderr
    );
}

#[test]
fn choices_follow_their_options() {
    let model = demo_model();
    let said = |more: &[&dyn AsRef<OsStr>]| {
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"--json", &"--max-tokens=24"];
        args.extend(more);
        generate(&model, &args).ok().json()["text"].clone()
    };
    let greedy = said(&[]);
    let wild = said(&[&"--temperature=3", &"--seed=1"]);
    assert_ne!(wild, greedy);
    assert_eq!(wild, said(&[&"--temperature=3", &"--seed=1"]), "a seed says the same again");
    assert_ne!(wild, said(&[&"--temperature=3", &"--seed=2"]));
    for one in ["--top-k=1", "--min-p=1", "--top-p=0.0001"] {
        assert_eq!(said(&[&"--temperature=3", &one]), greedy, "{one} leaves the likeliest");
    }
    assert_ne!(said(&[&"--repetition-penalty=8"]), greedy, "tokens of the prompt are taken less often");
    assert_eq!(said(&[&"--repetition-penalty=1"]), greedy);
    // In a conversation and as a text.
    assert_eq!(said(&[&"--chat"]), greedy);
    assert_ne!(said(&[&"--raw"]), greedy);
    let tokens = |more: &[&dyn AsRef<OsStr>]| {
        let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"--json", &"--max-tokens=1"];
        args.extend(more);
        generate(&model, &args).ok().json()["prompt_tokens"].as_u64().expect("a number")
    };
    assert!(tokens(&[&"--system", &"Be brief and purple."]) > tokens(&[]));

    let dir = temporary();
    let wrong = |option: &str| generate(&model, &[&option]).failure(dir.path());
    assert_snapshot!("top_p", wrong("--top-p=0"));
    assert_snapshot!("min_p", wrong("--min-p=2"));
    assert_snapshot!("repetition_penalty", wrong("--repetition-penalty=0"));
    assert_snapshot!("empty_stop", wrong("--stop="));
}

#[test]
fn an_adapter_has_a_scale_on_any_base() {
    let dir = temporary();
    let (model, adapter) = (demo_model(), adapter(dir.path()));
    let gguf = dir.path().join("demo.gguf");
    mesp(&[&"quantize", &"--model", &model, &"--type=q8_0", &"--output", &gguf]).ok();
    // The file's own tokenizer is of a kind that is not written; it may lie beside it.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(file), dir.path().join(file)).expect("copied");
    }
    for base in [&model, &gguf] {
        let said = |more: &[&dyn AsRef<OsStr>]| {
            let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"--json", &"--max-tokens=24"];
            args.extend(more);
            generate(base, &args).ok().json()["token_ids"].clone()
        };
        let (plain, adapted) = (said(&[]), said(&[&"--adapter", &adapter]));
        assert_ne!(plain, adapted, "{}", base.display());
        assert_eq!(said(&[&"--adapter", &adapter, &"--adapter-scale=0"]), plain);
        assert_eq!(said(&[&"--adapter", &adapter, &"--adapter-scale=1"]), adapted);
        assert_ne!(said(&[&"--adapter", &adapter, &"--adapter-scale=-1"]), adapted);
    }
    let alone = generate(&model, &[&"--adapter-scale=2"]);
    assert!(
        alone.code == 2 && alone.stderr.contains("--adapter <DIR|FILE.gguf|ORG/NAME>"),
        "{}",
        alone.stderr
    );
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_quietly() {
    let dir = temporary();
    let (child, out) = going(dir.path());
    drop(out);
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_said() {
    let dir = temporary();
    let (child, mut out) = going(dir.path());
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("whole characters");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(
        rest.ends_with('\n') && stderr.contains("tokens/s") && stderr.contains("interrupted"),
        "{stderr}"
    );
}

#[test]
fn a_conversation_goes_on_in_the_cache() {
    let lines = format!("{QUESTION}\n\nTell me a short story.\n/reset\n{QUESTION}\n/what\n/exit\nnot read\n");
    let ran = talk(&[&"--json"], &lines).ok();
    let document = ran.json();
    let turns = document["turns"].as_array().expect("turns");
    assert_eq!(turns.len(), 3);
    let number = |turn: &Value, key: &str| turn[key].as_u64().expect("a number");
    assert_eq!((turns[0]["text"].as_str(), turns[0]["finish"].as_str()), (Some(ANSWER), Some("stop")));
    // The first turn and its answer are there; the token that ended it was never fed.
    let answered = turns[0]["token_ids"].as_array().expect("tokens").len() as u64;
    assert_eq!(number(&turns[1], "kept_tokens"), number(&turns[0], "prompt_tokens") + answered);
    // The same question begins anew with the same prompt, all of which but the last token is still there.
    assert_eq!(turns[2]["text"], turns[0]["text"]);
    assert!(number(&turns[2], "kept_tokens") > 0);
    assert!(ran.stderr.contains("a new conversation") && ran.stderr.contains("/exit ends"), "{}", ran.stderr);
    assert!(ran.stderr.contains(ANSWER), "what is said is seen while it is made");

    let plain = talk(&[], &lines).ok();
    assert_eq!(plain.stdout.lines().next(), Some(ANSWER));
    assert_eq!(plain.stdout.lines().count(), 3);
    assert!(plain.stderr.contains(" of them kept in "), "{}", plain.stderr);
}

/// A conversation that goes on without an end, after the first text of its answer.
fn talking(dir: &Path) -> (Child, std::process::ChildStdout) {
    let model = endless(dir);
    let args: [&dyn AsRef<OsStr>; 6] =
        [&"chat", &"--model", &model, &"--temperature=1", &"--context=30000", &"--max-tokens=30000"];
    let mut command = command(&args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    writeln!(child.stdin.as_mut().expect("its input"), "Hi").expect("written");
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 8]).expect("some text");
    (child, out)
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_an_answer_and_not_the_conversation() {
    let dir = temporary();
    let (mut child, mut out) = talking(dir.path());
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        let mut next = [0; 1];
        out.read_exact(&mut next).expect("the answer ends");
        said.extend(next);
    }
    // The input closes, and with it the conversation.
    drop(child.stdin.take());
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("the answer was interrupted"), "{stderr}");
    assert!(stderr.contains("turns are written in ChatML"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_conversation_that_nobody_reads_ends() {
    let dir = temporary();
    let (child, out) = talking(dir.path());
    drop(out);
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_full_context_is_said() {
    let ran = talk(&[&"--context=30"], &format!("{QUESTION}\n{QUESTION}\n/reset\n{QUESTION}\n")).ok();
    assert!(ran.stderr.contains("room for 30 tokens, planned "), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("the context of 30 tokens is full: /reset").count(), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("and there is room for 30: /reset begins anew"), "{}", ran.stderr);
    let cut = talk(&[&"--max-tokens=3"], &format!("{QUESTION}\n")).ok();
    assert!(cut.stderr.contains("the answer was cut after 3 tokens (--max-tokens)"), "{}", cut.stderr);
    let told = talk(
        &[&"--system", &"Talk like a pirate.", &"--json"],
        &format!("{QUESTION}\n/system\n{QUESTION}\n"),
    );
    let document = told.ok().json();
    let tokens = |turn: usize| document["turns"][turn]["prompt_tokens"].as_u64().expect("a number");
    assert!(tokens(0) > tokens(1), "the system prompt is part of the conversation until it is taken away");
    let dir = temporary();
    assert_snapshot!("no_context", talk(&[&"--context=0"], "").failure(dir.path()));
}

#[test]
fn help_of_both() {
    assert_snapshot!("generate_help", mesp(&[&"generate", &"--help"]).ok().stdout);
    assert_snapshot!("chat_help", mesp(&[&"chat", &"--help"]).ok().stdout);
}
