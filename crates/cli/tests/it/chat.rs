//! Nothing that is typed ends a conversation but /exit and the input's end: what cannot be done is said.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Ran, command, demo_model, temporary};

const QUESTION: &str = "What do you know about the wolf?";
const ANSWER: &str = "The wolf is gray and proud. It lives in the mountains near Highcairn.";

/// The demo's model with a template that has no place for system prompts, as Gemma 2's, and refuses one word.
fn strict(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).expect("a directory");
    for entry in fs::read_dir(demo_model()).expect("a model").flatten() {
        fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
    }
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}\
        {% endif %}{% if 'forbidden' in m.content %}{{ raise_exception('No such words') }}{% endif %}\
        {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    fs::write(model.join("chat_template.jinja"), template).expect("written");
    model
}

fn talk(model: &Path, more: &[&dyn AsRef<OsStr>], lines: &[u8]) -> Ran {
    let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"chat", &"--model", &model];
    args.extend(more);
    let mut child = command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may have ended before it reads.
    let _ = child.stdin.take().expect("its input").write_all(lines);
    Ran::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn what_the_template_refuses_is_said() {
    let dir = temporary();
    let model = strict(dir.path());
    let plain = talk(&demo_model(), &[], format!("{QUESTION}\n").as_bytes()).ok().stdout;
    let lines = format!("/system be brief\n{QUESTION}\nforbidden\n/reset\n{QUESTION}\n/system\n");
    let ran = talk(&model, &[], lines.as_bytes()).ok();
    assert_eq!(ran.stdout, plain.repeat(2), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("System role not supported").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("No such words").count(), 1, "{}", ran.stderr);

    // A turn that was refused is no part of the conversation: the second answer is that of two turns, not of three.
    let json = |lines: &str| talk(&model, &[&"--json"], lines.as_bytes()).ok().json();
    let with = json(&format!("{QUESTION}\nforbidden\n/system x\nAnd who are you?\n"));
    let without = json(&format!("{QUESTION}\nAnd who are you?\n"));
    let ids = |document: &serde_json::Value| {
        document["turns"]
            .as_array()
            .expect("turns")
            .iter()
            .map(|t| t["token_ids"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&with), ids(&without));
    let refused = with["refused"].as_array().expect("a list");
    assert_eq!(refused.iter().map(|r| r["line"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(3)]);
    assert_eq!(without["refused"], serde_json::json!([]));

    // As an option it is wrong from the beginning.
    let told = talk(&model, &[&"--system", &"be brief"], format!("{QUESTION}\n").as_bytes());
    assert!(told.code == 2 && told.stderr.contains("System role not supported"), "{}", told.stderr);
}

#[test]
fn what_cannot_be_read_or_does_not_fit_is_said() {
    let long = "word ".repeat(40_000);
    let wide = "The wolf is gray. ".repeat(400);
    let mut lines = Vec::new();
    lines.extend_from_slice(b"caf\xe9\n");
    lines.extend_from_slice(format!("{long}\n{wide}\n/system {wide}\n").as_bytes());
    lines.extend_from_slice(b"\n \n/help\n/sytem x\n/nothing\n\x00\x01\n");
    // The last line has no end.
    lines.extend_from_slice(format!("/reset\n{QUESTION}").as_bytes());
    let ran = talk(&demo_model(), &[&"--json"], &lines).ok();
    let document = ran.json();
    let turns = document["turns"].as_array().expect("turns");
    assert_eq!(turns.last().expect("a turn")["text"], ANSWER);
    let refused: Vec<&str> = document["refused"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|r| r["message"].as_str())
        .collect();
    for (at, part) in [
        (0, "expected UTF-8 text, found byte 0xE9 after 3 bytes"),
        (1, "expected a line that 512 tokens have room for, found 200001 bytes"),
        (2, "tokens, and there is room for 512"),
        (3, "the system prompt and a word take "),
    ] {
        assert!(refused[at].contains(part), "{part}: {refused:#?}");
    }
    assert_eq!(refused.len(), 4, "{refused:#?}");
    for note in ["/sytem is no command, the nearest is /system", "/nothing is no command"] {
        assert!(ran.stderr.contains(note), "{note}: {}", ran.stderr);
    }
    // Nothing at all is a conversation without turns.
    assert_eq!(talk(&demo_model(), &[&"--json"], b"").ok().json()["turns"], serde_json::json!([]));
}
