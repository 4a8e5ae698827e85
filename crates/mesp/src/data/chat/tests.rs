use serde_json::json;

use super::super::test_util::{BOS, EOS, IM_END, encoder, encoder_with, info, shared};
use super::*;

fn talk(turns: &[(&str, &str)]) -> Conversation {
    let mut conversation = Conversation::default();
    for (role, content) in turns {
        conversation.push(role, content);
    }
    conversation
}

fn format(template: Option<&str>) -> ChatFormat {
    let info = TokenizerInfo { chat_template: template.map(ToOwned::to_owned), ..info() };
    // 26 July 2024.
    ChatFormat::new(&info).unwrap().with_date(Date::from_unix(1_721_952_000))
}

fn said(marked: &Marked) -> Vec<&str> {
    marked.spans.iter().map(|span| &marked.text[span.clone()]).collect()
}

/// A system turn, then two turns each; the model says `Hello!` and `Goodbye.`
fn greeting() -> Conversation {
    talk(&[
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Bye"),
        ("assistant", "Goodbye."),
    ])
}

const CHATML: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\
                      Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nGoodbye.<|im_end|>\n";

#[test]
fn a_model_without_a_template_speaks_chatml() {
    let (chat, encoder) = (format(None), encoder());
    let marked = chat.mark(&greeting(), &encoder).unwrap();
    assert_eq!(marked.text, CHATML);
    assert_eq!(said(&marked), ["Hello!<|im_end|>", "Goodbye.<|im_end|>"]);
    let question = talk(&[("user", "Hi")]);
    let prompt = chat.render(&question, true).unwrap();
    assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(chat.prompt_tokens(&encoder, &question).unwrap(), encoder.encode(&prompt, false).unwrap());
    assert_eq!(chat.prompt_tokens(&encoder_with(info(), true), &question).unwrap()[0], BOS);
    assert_eq!(chat.stop_ids(&encoder), [EOS, IM_END]);
    assert!(!chat.spells_markers(&encoder));
}

/// The text of transformers 5.24 for these special tokens, with `bos_token="<y>"` and `pad_token="<z>"` in the call.
#[test]
fn a_template_sees_every_special_token_by_its_name() {
    let template =
        "{{ eos_token }} {{ pad_token }} {{ bos_token }} {{ image_token }}{{ mask_token is defined }}";
    let named = [("pad_token", "<p>"), ("image_token", "<i>"), ("eos_token", "<another>")];
    let info = TokenizerInfo {
        chat_template: Some(template.to_owned()),
        named_tokens: named.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
        ..info()
    };
    let chat = ChatFormat::new(&info).unwrap();
    let row = json!({ "messages": [{ "role": "user", "content": "x" }] });
    let text = |row: &serde_json::Value| {
        chat.render(&Conversation::from_messages(row.as_object().unwrap()).unwrap(), false).unwrap()
    };
    assert_eq!(text(&row), "<|endoftext|> <p> <s> <i>False");
    let mut given = row.clone();
    given["chat_template_kwargs"] = json!({ "bos_token": "<y>", "pad_token": "<z>" });
    assert_eq!(text(&given), "<|endoftext|> <z> <y> <i>False");
}

#[test]
fn an_answer_ends_where_the_template_ends_a_turn() {
    let chat = |after: &str| {
        let turn = "{{ '<|im_start|>' + m.role + '\n' + m.content }}";
        format(Some(&format!("{{% for m in messages %}}{turn}{after}{{% endfor %}}")))
    };
    assert_eq!(chat("\n<|im_end|>\n").stop_ids(&encoder()), [EOS, IM_END]);
    assert_eq!(chat("{{ eos_token }}").stop_ids(&encoder()), [EOS]);
    assert_eq!(chat("\n").stop_ids(&encoder()), [EOS], "a turn that the next one ends");
}

#[test]
fn tags_of_the_template_decide() {
    let template = "{%- for m in messages %}\n[{{ m.role }}]\n    {%- if m.role == 'assistant' %}\n        \
                    {%- generation %}\n {{ m.content }}{{ eos_token }}\n{%- endgeneration %}\n    {%- else %} {{ m.content }}\n\
                    {%- endif %}\n{% endfor %}";
    let chat = format(Some(template));
    let mut conversation = greeting();
    let marked = chat.mark(&conversation, &encoder()).unwrap();
    assert_eq!(said(&marked), [" Hello!<|endoftext|>", " Goodbye.<|endoftext|>"]);
    assert!(!marked.text.contains(MARKS.0) && !marked.text.contains("generation"), "{}", marked.text);
    conversation.trained[2] = false;
    assert_eq!(said(&chat.mark(&conversation, &encoder()).unwrap()), [" Goodbye.<|endoftext|>"]);
}

#[test]
fn a_turn_that_cannot_be_found_is_an_error() {
    // How long the turns are stands in front of them.
    let error = format(Some(
        "{{ messages | map(attribute='content') | join | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    ));
    let error = error.mark(&greeting(), &encoder()).unwrap_err().to_string();
    assert!(error.contains("messages[2] differently") && error.contains("{% generation %}"), "{error}");
    // How long the turns are stands behind them.
    let counted = format(Some(
        "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if not add_generation_prompt %}{{ messages | map(attribute='content') | join | length }}{% endif %}",
    ));
    let error = counted.mark(&greeting(), &encoder()).unwrap_err().to_string();
    assert!(error.contains("changes the text of messages[2]"), "{error}");
}

#[test]
fn turns_that_a_template_changes_are_found() {
    let upper = format(Some(
        "{% for m in messages %}<{{ m.content | upper }}>{% endfor %}{% if not add_generation_prompt %}.{% endif %}",
    ));
    assert_eq!(said(&upper.mark(&greeting(), &encoder()).unwrap()), ["<HELLO!", "<GOODBYE.>."]);
    // The same words stand in the reasoning, which is left out of all turns but the last.
    let Some(path) = shared("chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja") else { return };
    let qwen3 = format(Some(&std::fs::read_to_string(path).unwrap()));
    let talk = talk(&[
        ("user", "2?"),
        ("assistant", "<think>\nNo.\n</think>\n\nYes."),
        ("user", "3?"),
        ("assistant", "<think>\nYes.\n</think>\n\nYes."),
    ]);
    let marked = qwen3.mark(&talk, &encoder()).unwrap();
    assert_eq!(said(&marked), ["Yes.<|im_end|>", "<think>\nYes.\n</think>\n\nYes.<|im_end|>"]);
}

#[test]
fn a_template_without_end_is_stopped() {
    let endless =
        format(Some("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"));
    let error = endless.render(&greeting(), false).unwrap_err().to_string();
    assert!(error.contains("refuses the conversation"), "{error}");
}

#[test]
fn conversations_with_tools_have_a_template_of_their_own() {
    let info = TokenizerInfo {
        chat_template: Some("plain{% for m in messages %}{{ m.content }}{% endfor %}".into()),
        tool_template: Some("tools{% for m in messages %}{{ m.content }}{% endfor %}".into()),
        ..info()
    };
    let chat = ChatFormat::new(&info).unwrap();
    let row = json!({"messages": [{"role": "user", "content": "u"}], "tools": [{"name": "f"}]});
    let mut conversation = Conversation::from_messages(row.as_object().unwrap()).unwrap();
    assert_eq!(chat.render(&conversation, false).unwrap(), "toolsu");
    conversation.tools = None;
    assert_eq!(chat.render(&conversation, false).unwrap(), "plainu");
}

/// What a row says of the template's variables reaches it, in place of the model's tokens too, as in transformers; the
/// conversation stays.
#[test]
fn rows_give_variables() {
    let chat = format(Some("{{ mood }}{{ bos_token }}{{ messages | length }}"));
    let row = json!({"messages": [{"role": "user", "content": "u"}], "chat_template_kwargs": {"mood": "x", "bos_token": "y", "messages": []}});
    let conversation = Conversation::from_messages(row.as_object().unwrap()).unwrap();
    assert_eq!(chat.render(&conversation, false).unwrap(), "xy1");
}

#[derive(serde::Deserialize)]
struct Renderings {
    date: i64,
    conversations: serde_json::Map<String, Value>,
    #[serde(rename = "renderings")]
    templates: std::collections::BTreeMap<String, serde_json::Map<String, Value>>,
}

/// Expected texts: transformers, by `golden/chat/generate.py`. Where a template marks what the model says, the
/// pieces are the same too; where it does not, every turn is found and holds what was said.
#[test]
fn templates_render_as_in_transformers() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/chat");
    let text = std::fs::read_to_string(golden.join("renderings.json")).unwrap();
    let all: Renderings = serde_json::from_str(&text).unwrap();
    let (mut compared, mut wrong) = (0, Vec::new());
    for (name, cases) in &all.templates {
        let path = match name.strip_prefix("shared/") {
            None => Some(golden.join("own_templates").join(name)),
            Some(name) => shared(&format!("chat_templates/{name}")),
        };
        let Some(path) = path else { continue };
        let source = std::fs::read_to_string(path).unwrap();
        let info = TokenizerInfo { chat_template: Some(source), ..info() };
        let chat = ChatFormat::new(&info).unwrap().with_date(Date::from_unix(all.date));
        for (case, expected) in cases {
            let row = all.conversations[case].as_object().unwrap();
            let conversation = Conversation::from_messages(row).unwrap();
            let prompt = row.get("add_generation_prompt") == Some(&true.into());
            let rendered = chat.render(&conversation, prompt);
            compared += 1;
            match (expected["text"].as_str(), rendered) {
                (Some(text), Ok(rendered)) if text == rendered => {
                    // A template of no conversation: which text is whose is not asked.
                    if name == "python_methods.jinja" || name == "values.jinja" {
                        continue;
                    }
                    let pieces = expected.get("generated").map(|list| list.as_array().unwrap().as_slice());
                    if let Err(problem) = check_marks(&chat, &conversation, prompt, pieces) {
                        wrong.push(format!("{name}, {case}: {problem}"));
                    }
                }
                (None, Err(_)) => {}
                (expected, rendered) => {
                    wrong.push(format!("{name}, {case}:\n  expected {expected:?}\n  found    {rendered:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 36);
}

fn check_marks(
    chat: &ChatFormat,
    conversation: &Conversation,
    prompt: bool,
    expected: Option<&[Value]>,
) -> std::result::Result<(), String> {
    if prompt {
        return Ok(());
    }
    let marked = chat.mark(conversation, &encoder()).map_err(|e| e.to_string())?;
    let said = said(&marked);
    if let Some(expected) = expected {
        return if said == *expected {
            Ok(())
        } else {
            Err(format!("{said:?} is marked, expected {expected:?}"))
        };
    }
    let turns: Vec<usize> = (0..conversation.len()).filter(|i| conversation.trained[*i]).collect();
    if said.len() != turns.len() && !said.is_empty() {
        return Err(format!("{} pieces are marked in {} turns", said.len(), turns.len()));
    }
    for (piece, turn) in said.iter().zip(turns) {
        let answer = conversation.content(turn).rsplit("</think>").next().unwrap().trim();
        if !piece.contains(answer) || piece.contains("user") {
            return Err(format!("{piece:?} is marked for messages[{turn}]"));
        }
        if marked.text.contains("<|im_end|>") && !piece.trim_end().ends_with("<|im_end|>") {
            return Err(format!("{piece:?} has no stop token"));
        }
    }
    Ok(())
}

#[test]
fn a_template_that_fails_is_quoted() {
    let refuses = format(Some("\n{{ raise_exception('no such role') }}"));
    let error = refuses.render(&greeting(), false).unwrap_err().to_string();
    assert!(error.contains("no such role (line 2 of the template)"), "{error}");
    let info = TokenizerInfo { chat_template: Some("{% if %}".into()), ..info() };
    let error = ChatFormat::new(&info).err().unwrap().to_string();
    assert!(error.contains("cannot be read") && error.contains("chat_template.jinja"), "{error}");
    let begins = format(Some("{{ messages[0].content }}{% for m in messages %}{{ m.content }}{% endfor %}"));
    let error = begins.mark(&talk(&[("assistant", "Hi")]), &encoder()).unwrap_err().to_string();
    assert!(error.contains("messages[0] differently"), "{error}");
    // Only where the whole is refused is the beginning to blame.
    let asks = format(Some("{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}x"));
    let error = asks.mark(&talk(&[("assistant", "Hi")]), &encoder()).unwrap_err().to_string();
    assert!(error.contains("begins with an assistant turn"), "{error}");
}

#[test]
fn python_idioms_work() {
    let template = "{%- set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' %}{% continue %}{% endif %}\
                    {% set ns.n = ns.n + 1 %}{{ m.content.strip('!').split(' ')[-1] }},{% endfor %}{{ ns.n }}\
                    {{ {'a': [1, 1.5, true, none, '<é>']} | tojson }}{{ [1] | tojson(indent=2) }}{{ missing }}";
    let text = format(Some(template)).render(&greeting(), false).unwrap();
    assert_eq!(text, "Goodbye.,Hello,brief.,3{\"a\": [1, 1.5, true, null, \"<é>\"]}[\n  1\n]");
}

const LLAMA: &str = "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: \
                     26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                     <|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|><|start_header_id|>user\
                     <|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nGoodbye.<|eot_id|>";
const GEMMA: &str = "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n\
                     <start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\nGoodbye.<end_of_turn>\n";
const QWEN3: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\
                     Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n\
                     Goodbye.<|im_end|>\n";
const PHI: &str = "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nBye<|end|>\n\
                   <|assistant|>\nGoodbye.<|end|>\n<|endoftext|>";

/// Expected texts: transformers 5, `apply_chat_template(..., tokenize=False)`, with this test's first and
/// last tokens put in for the model's, and for Llama with the date the template falls back to.
#[test]
fn real_templates_render_as_in_python() {
    let llama = ["Hello!<|eot_id|>", "Goodbye.<|eot_id|>"];
    let chatml = ["Hello!<|im_end|>", "Goodbye.<|im_end|>"];
    let qwen3 = ["Hello!<|im_end|>", "<think>\n\n</think>\n\nGoodbye.<|im_end|>"];
    let cases: [(&str, &str, [&str; 2]); 9] = [
        ("tokenizers/qwen2.5/chat_template.jinja", CHATML, chatml),
        (
            "chat_templates/trl/qwen2_5_training.jinja",
            CHATML,
            ["\nHello!<|im_end|>\n", "\nGoodbye.<|im_end|>\n"],
        ),
        ("chat_templates/axolotl/chatml.jinja", CHATML, chatml),
        ("chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja", QWEN3, qwen3),
        ("chat_templates/trl/qwen3.jinja", QWEN3, qwen3),
        ("chat_templates/llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja", LLAMA, llama),
        ("chat_templates/llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja", LLAMA, llama),
        ("chat_templates/trl/gemma3.jinja", GEMMA, ["Hello!<end_of_turn>\n", "Goodbye.<end_of_turn>\n"]),
        (
            "chat_templates/llama.cpp/microsoft-Phi-3.5-mini-instruct.jinja",
            PHI,
            ["Hello!", "Goodbye.<|end|>\n<|endoftext|>"],
        ),
    ];
    for (file, text, spans) in cases {
        let Some(path) = shared(file) else { continue };
        let chat = format(Some(&std::fs::read_to_string(path).unwrap()));
        let marked = chat.mark(&greeting(), &encoder()).unwrap();
        assert_eq!(marked.text, text, "{file}");
        assert_eq!(said(&marked), spans, "{file}");
    }
}

/// Expected text: as above, with `tools=`.
#[test]
fn tools_render_as_in_python() {
    let Some(path) = shared("tokenizers/qwen2.5/chat_template.jinja") else { return };
    let row = json!({
        "tools": [{"type": "function", "function": {"name": "f", "description": "<é>",
                   "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1.5, \"y\": [\"a\", true, null]}"}}]},
            {"role": "tool", "content": "ok"},
            {"role": "assistant", "content": "Done"}
        ]
    });
    let conversation = Conversation::from_messages(row.as_object().unwrap()).unwrap();
    let chat = format(Some(&std::fs::read_to_string(path).unwrap()));
    let marked = chat.mark(&conversation, &encoder()).unwrap();
    let described = "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"<é>\", \"parameters\": \
                     {\"type\": \"object\", \"properties\": {\"x\": {\"type\": \"number\"}}}}}\n</tools>";
    assert!(marked.text.contains(described), "{}", marked.text);
    let turns = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \
                 1.5, \"y\": [\"a\", true, null]}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nok\n\
                 </tool_response><|im_end|>\n<|im_start|>assistant\nDone<|im_end|>\n";
    assert!(marked.text.ends_with(turns), "{}", marked.text);
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1.5, \"y\": [\"a\", true, null]}}\n</tool_call><|im_end|>";
    assert_eq!(said(&marked), [call, "Done<|im_end|>"]);
}
