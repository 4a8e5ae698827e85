use serde_json::json;

use super::super::test_util::{VOCAB, encoder_with, info, shared, write};
use super::super::{FileRows, ReadOptions, TokenizerInfo, TrainOn};
use super::*;

/// Prints roles, contents, calls and tools.
const ALL: &str = "{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}{% for m in messages %}<{{ m.role }}>\
                   {{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function | tojson }}){% endfor %}<|im_end|>{% endfor %}";
/// Prints what users and the assistant say, and nothing else.
const LITTLE: &str = "{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' %}<{{ m.role }}>\
                      {{ m.content }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

fn read_with(template: Option<&str>, rows: &[Value], train_on: TrainOn) -> crate::Result<FileRows> {
    let info = TokenizerInfo { chat_template: template.map(str::to_owned), ..info() };
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let directory = write("r.jsonl", lines.join("\n"));
    let options = ReadOptions { train_on, ..ReadOptions::new(VOCAB) };
    FileRows::read(&directory.path().join("r.jsonl"), Some(&encoder_with(info, false)), &options)
}

/// What is told of rows beside how they are written.
fn told(template: Option<&str>, rows: &[Value]) -> Vec<String> {
    let data = read_with(template, rows, TrainOn::Assistant).unwrap();
    let markers = "this vocabulary has no ChatML markers";
    data.notes.into_iter().skip(1).filter(|note| !note.starts_with(markers)).collect()
}

fn refused(template: Option<&str>, row: Value) -> String {
    read_with(template, &[row], TrainOn::Assistant).unwrap_err().to_string()
}

fn call() -> Value {
    json!([{"id": "a", "type": "function", "function": {"name": "get_temp", "arguments": "{\"city\": \"Oslo\"}"}}])
}

fn with_call(content: Value) -> Value {
    json!({"messages": [
        {"role": "user", "content": "Temp in Oslo?"},
        {"role": "assistant", "content": content, "tool_calls": call()},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "assistant", "content": "It is 4."}],
        "tools": [{"type": "function", "function": {"name": "get_temp", "parameters": {}}}]})
}

#[test]
fn nothing_is_told_of_rows_that_are_whole() {
    assert_eq!(
        told(Some(ALL), &[with_call(json!("")), with_call(json!("I look.")), with_call(json!(null))]),
        [""; 0]
    );
    let plain =
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    assert_eq!(told(None, std::slice::from_ref(&plain)), [""; 0]);
    assert_eq!(told(Some(LITTLE), &[plain]), [""; 0]);
}

#[test]
fn an_empty_answer_in_place_of_a_call_is_refused() {
    let problem = refused(Some(LITTLE), with_call(json!("")));
    for words in [
        "r.jsonl:1: the model's chat template leaves out the tool call of turn 2",
        "empty answer",
        "\"weight\": 0",
    ] {
        assert!(problem.contains(words), "{words}: {problem}");
    }
    let problem = refused(None, with_call(json!(null)));
    assert!(
        problem.contains("messages[1] calls functions (`tool_calls`)")
            && problem.contains("ChatML has no form for"),
        "{problem}"
    );
    let sharegpt = json!({"conversations": [
        {"from": "human", "value": "T?"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "{\"r\": 2}"},
        {"from": "gpt", "value": "2"}],
        "tools": "[{\"name\": \"f\", \"description\": \"d\", \"parameters\": {}}]"});
    assert!(refused(None, sharegpt).contains("messages[1] calls functions (`tool_calls`)"));
    let first = json!({"messages": [
        {"role": "user", "content": "T?"},
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"}],
        "functions": [{"name": "f", "parameters": {}}]});
    assert!(refused(Some(LITTLE), first.clone()).contains("leaves out the tool call of turn 2"));
    // The first format of OpenAI becomes the one that templates know.
    let data = read_with(Some(ALL), &[first], TrainOn::Assistant).unwrap();
    assert!(
        data.notes.iter().any(|note| note.contains("`name` (1 row, line 1), which change nothing")),
        "{:?}",
        data.notes
    );
    assert_eq!(data.notes.len(), 2, "{:?}", data.notes);
}

#[test]
fn calls_beside_a_text_and_in_untrained_turns_are_told() {
    let notes = told(Some(LITTLE), &[with_call(json!("I look."))]);
    assert_eq!(
        notes,
        [
            "1 of 1 rows: the chat template leaves out tool calls (line 1)",
            "1 of 1 rows: the chat template leaves out the list of tools (line 1)",
            "1 of 1 rows: the chat template leaves out text of the role `tool` (line 1)",
        ]
    );
    let mut untrained = with_call(json!(""));
    untrained["messages"][1]["weight"] = 0.into();
    assert!(told(Some(LITTLE), &[untrained])[0].contains("leaves out tool calls"));
    let last = read_with(Some(LITTLE), &[with_call(json!(""))], TrainOn::Last).unwrap();
    assert!(last.notes[1].contains("leaves out tool calls"), "{:?}", last.notes);
}

#[test]
fn a_text_that_is_elsewhere_too_does_not_hide_what_is_missing() {
    let row = json!({"messages": [
        {"role": "developer", "content": "Hi"}, {"role": "system", "content": "Hi"},
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]});
    let notes = told(Some(LITTLE), &[row]);
    assert_eq!(
        notes,
        [
            "1 of 1 rows: the chat template leaves out text of the role `developer` (line 1)",
            "1 of 1 rows: the chat template leaves out text of the role `system` (line 1)",
        ]
    );
}

/// Templates of Llama 3.1 and others print either the content or the calls of a turn.
#[test]
fn text_beside_a_call_that_is_left_out_is_told() {
    let either = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<{{ m.role }}>\
                  {% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}";
    assert_eq!(
        told(Some(either), &[with_call(json!("")), with_call(json!("I look."))]),
        [
            "1 of 2 rows: the chat template leaves out text of the assistant, which is not trained then (line 2)"
        ]
    );
}

/// As DeepSeek-R1's template asks for calls.
#[test]
fn null_reaches_a_template_that_asks_for_it() {
    let asks = "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}<call>{{ m.tool_calls[0].function.name }}\
                {{ m.tool_calls[0].function.arguments | tojson }}<|im_end|>{% elif m.role == 'assistant' %}<a>{{ m.content }}<|im_end|>\
                {% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}";
    let data = read_with(Some(asks), &[with_call(json!(null))], TrainOn::All).unwrap();
    let encoder = encoder_with(info(), false);
    assert_eq!(
        encoder.decode(&data.examples[0].tokens, false).unwrap(),
        "<user>Temp in Oslo?<call>get_temp{\"city\": \"Oslo\"}<|im_end|><tool>4<a>It is 4.<|im_end|>"
    );
    assert_eq!(data.notes[1..], ["1 of 1 rows: the chat template leaves out the list of tools (line 1)"]);
}

#[test]
fn developers_speak_as_the_system_where_a_template_knows_none() {
    let row = json!({"messages": [{"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]});
    let text = |template: Option<&str>| {
        let data = read_with(template, std::slice::from_ref(&row), TrainOn::All).unwrap();
        let text = encoder_with(info(), false).decode(&data.examples[0].tokens, false).unwrap();
        (text, data.notes[1..].to_vec())
    };
    let known = "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('role') }}\
                 {% endif %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}";
    let dropped = known.replace("{{ raise_exception('role') }}", "{% continue %}");
    let note = "1 of 1 rows: the chat template has no role `developer`; these turns are written as turns of the system (line 1)";
    for template in [known, &dropped] {
        let (text, notes) = text(Some(template));
        assert_eq!(text, "<system>Be brief.<|im_end|><user>Hi<|im_end|><assistant>Hello<|im_end|>");
        assert_eq!(notes, [note]);
    }
    let (as_it_is, notes) = text(Some(ALL));
    assert!(as_it_is.starts_with("<developer>Be brief.") && notes.is_empty(), "{as_it_is} {notes:?}");
    assert_eq!(
        told(Some(LITTLE), &[row]),
        ["1 of 1 rows: the chat template leaves out text of the role `developer` (line 1)"]
    );
}

#[test]
fn what_has_no_effect_is_told() {
    let row = json!({"chat_template_kwargs": {"mood": "x", "tone": "y"}, "messages": [
        {"role": "user", "content": "a", "name": "Bob", "index": 0}, {"role": "assistant", "content": "b", "weight": 1}]});
    let template = format!("{{{{ mood }}}}{ALL}");
    assert_eq!(
        told(Some(&template), std::slice::from_ref(&row)),
        [
            "not used: of the turns `index` (1 row, line 1), `name` (1 row, line 1), which change nothing of the text",
            "not used: of `chat_template_kwargs` `tone` (1 row, line 1), which the chat template does not read",
        ]
    );
    let named = "{{ mood }}{{ tone }}{% for m in messages %}<{{ m.name or m.role }}{{ m.index }}>{{ m.content }}<|im_end|>{% endfor %}";
    assert_eq!(told(Some(named), &[row]), [""; 0]);
}

/// The real templates and a row with every kind of part. Expected: what is not in the rendering by Jinja2.
#[test]
fn real_templates_leave_out_what_they_leave_out() {
    let (reasoning, answer) = ("leaves out reasoning", "leaves out text of the assistant");
    let (calls, tools) = ("leaves out tool calls", "leaves out the list of tools");
    let cases: [(&str, &[&str]); 12] = [
        ("tokenizers/qwen2.5/chat_template.jinja", &[reasoning]),
        ("chat_templates/llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja", &[answer, reasoning]),
        ("chat_templates/llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja", &[answer, reasoning]),
        ("chat_templates/llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja", &[reasoning]),
        ("chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja", &[reasoning]),
        (
            "chat_templates/llama.cpp/microsoft-Phi-3.5-mini-instruct.jinja",
            &[reasoning, calls, tools, "the role `tool`"],
        ),
        ("chat_templates/axolotl/chatml.jinja", &[reasoning, calls, tools]),
        ("chat_templates/axolotl/llama3.jinja", &[reasoning, calls, tools]),
        ("chat_templates/axolotl/qwen_25.jinja", &[reasoning]),
        ("chat_templates/trl/llama3_training.jinja", &[reasoning, calls, tools]),
        ("chat_templates/trl/qwen2_5_training.jinja", &[reasoning]),
        ("chat_templates/trl/qwen3.jinja", &[reasoning]),
    ];
    let mut row = with_call(json!("I look."));
    row["messages"][1]["reasoning_content"] = "The weather is known there.".into();
    for (role, said) in [("user", "And now?"), ("assistant", "The same.")] {
        row["messages"].as_array_mut().unwrap().push(json!({"role": role, "content": said}));
    }
    for (name, lacks) in cases {
        let Some(path) = shared(name) else { continue };
        let notes = told(Some(&std::fs::read_to_string(path).unwrap()), std::slice::from_ref(&row));
        let left: Vec<&String> = notes.iter().filter(|note| note.contains("leaves out")).collect();
        assert_eq!(left.len(), lacks.len(), "{name}: {notes:?}");
        for (note, part) in left.iter().zip(lacks) {
            assert!(note.contains(part), "{name}: {part}: {notes:?}");
        }
    }
}
