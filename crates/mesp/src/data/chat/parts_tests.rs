//! Templates that refuse or change parts of a conversation, and what they read in one form only.

use serde_json::json;

use super::super::ReadOptions;
use super::super::rows::RowReader;
use super::super::test_util::{encoder, encoder_with, info, shared};
use super::*;

fn format(template: &str) -> ChatFormat {
    let info = TokenizerInfo { chat_template: Some(template.to_owned()), ..info() };
    ChatFormat::new(&info).unwrap().with_date(Date::from_unix(1_721_952_000))
}

/// A file of the shared collection as a chat format.
fn published(name: &str) -> Option<ChatFormat> {
    Some(format(&std::fs::read_to_string(shared(name)?).unwrap()))
}

fn conversation(row: &Value) -> Conversation {
    Conversation::from_messages(row.as_object().unwrap()).unwrap()
}

/// A row of the case files.
fn case(name: &str) -> Option<Conversation> {
    let text = std::fs::read_to_string(shared(&format!("../cases/{name}"))?).unwrap();
    Some(conversation(&serde_json::from_str(text.lines().next().unwrap()).unwrap()))
}

fn said(chat: &ChatFormat, conversation: &Conversation) -> Vec<String> {
    let marked = chat.mark(conversation, &encoder()).unwrap();
    marked.spans.iter().map(|span| marked.text[span.clone()].to_owned()).collect()
}

/// It asks for a question as Qwen3.5's does, looks at the first message as Qwen2.5's does, and writes reasoning after
/// the last question only, as Qwen3's does.
const STRICT: &str = "{%- set asked = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}\
                      {% set asked.last = loop.index0 %}{% endif %}{% endfor %}\
                      {%- if asked.last < 0 %}{{ raise_exception('nobody asks') }}{% endif %}\
                      {%- if messages[0]['role'] == 'system' %}{{ '[' + messages[0].content + ']' }}{% endif %}\
                      {%- for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>\
                      {%- if m.role == 'assistant' and loop.index0 > asked.last %}<think>{{ m.reasoning_content }}</think>\
                      {%- endif %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}\
                      {%- if add_generation_prompt %}<assistant>{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}";

#[test]
fn only_the_whole_can_be_refused() {
    let chat = format(STRICT);
    let system = json!({"role": "system", "content": "S"});
    let user = json!({"role": "user", "content": "u"});
    let turn = |text: &str| json!({"role": "assistant", "content": text});
    let thought =
        |text: &str, why: &str| json!({"role": "assistant", "content": text, "reasoning_content": why});
    for (messages, expected) in [
        (json!([turn("a"), user, turn("b")]), ["a<|im_end|>", "<think></think>b<|im_end|>"]),
        (json!([system, turn("a"), user, turn("b")]), ["a<|im_end|>", "<think></think>b<|im_end|>"]),
        (json!([system, turn("a"), user, thought("b", "r")]), ["a<|im_end|>", "<think>r</think>b<|im_end|>"]),
    ] {
        let row = json!({"messages": messages});
        assert_eq!(said(&chat, &conversation(&row)), expected, "{row}");
    }
    let refused = conversation(&json!({"messages": [turn("a")]}));
    let error = chat.mark(&refused, &encoder()).unwrap_err().to_string();
    assert!(error.contains("nobody asks") && error.contains("begins with an assistant turn"), "{error}");
}

/// The beginning of an answer without reasoning is not that of the answer that is there.
#[test]
fn reasoning_is_trained_though_it_is_switched_off() {
    let chat = format(
        "{%- for m in messages %}<{{ m.role }}>\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}\
         {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% if enable_thinking is false %}\
         <think></think>{% endif %}{% endif %}",
    );
    let row = json!({"chat_template_kwargs": {"enable_thinking": false}, "messages": [
        {"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "reasoning_content": "r"},
        {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]});
    assert_eq!(said(&chat, &conversation(&row)), ["<think>r</think>a<|im_end|>", "b<|im_end|>"]);
}

#[test]
fn published_templates_take_parts_for_parts() {
    let files = [
        "tokenizers/qwen2.5/chat_template.jinja",
        "chat_templates/trl/qwen3.jinja",
        "chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja",
        "chat_templates/llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja",
        "chat_templates/llama.cpp/meta-llama-Llama-3.2-3B-Instruct.jinja",
    ];
    for file in files {
        let Some(chat) = published(file) else { continue };
        let end = if file.contains("llama-Llama") { "<|eot_id|>" } else { "<|im_end|>" };
        let think = if file.contains("wen3") { "<think>\n\n</think>\n\n" } else { "" };
        let Some(first) = case("assistant-first/af.jsonl") else { return };
        let expected = [format!("Welcome to the shop. How can I help?{end}"), format!("{think}We do.{end}")];
        assert_eq!(said(&chat, &first), expected, "{file}");
        let Some(first) = case("assistant-first/sys_first.jsonl") else { return };
        assert_eq!(said(&chat, &first), [format!("Welcome!{end}"), format!("{think}Hello{end}")], "{file}");
    }
    let off = json!({"chat_template_kwargs": {"enable_thinking": false}, "messages": [
        {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning_content": "One and one."}]});
    for file in ["chat_templates/trl/qwen3.jinja", "chat_templates/llama.cpp/Qwen-Qwen3-0.6B.jinja"] {
        let Some(chat) = published(file) else { continue };
        assert_eq!(
            said(&chat, &conversation(&off)),
            ["<think>\nOne and one.\n</think>\n\n2<|im_end|>"],
            "{file}"
        );
    }
}

/// Where the marks are more or fewer than the turns, each is told to belong to a turn by where it stands.
#[test]
fn marks_belong_to_turns() {
    let chat = format(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}|\
         {% generation %}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}<assistant>{% endif %}",
    );
    let row = json!({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 0},
                                  {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]});
    assert_eq!(said(&chat, &conversation(&row)), ["b", "<|im_end|>"]);
    // Marks that change the text are no help; the turns are found without them.
    let changed = format(
        "{% for m in messages %}{% set turn %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}\
         <{{ m.role }}>{{ turn | length }}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    );
    assert_eq!(said(&changed, &conversation(&row)), ["1b<|im_end|>"]);
}

fn calling(content: &Value, arguments: &Value) -> Value {
    json!({"messages": [
        {"role": "user", "content": "T?"},
        {"role": "assistant", "content": content, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "assistant", "content": "4."}]})
}

/// A template writes calls where the content is none and takes their arguments for a text, as `DeepSeek`'s does; or
/// where there is no content, as some of Mistral's do.
#[test]
fn calls_reach_a_template_that_asks_for_no_content() {
    for asks in ["m.content is none", "m.content is not defined", "m.content == ''", "m.tool_calls"] {
        let chat = format(&format!(
            "{{% for m in messages %}}<{{{{ m.role }}}}>{{% if m.tool_calls is defined and ({asks}) %}}\
             {{% for c in m.tool_calls %}}{{{{ c.function.name + '=' + c.function.arguments }}}}{{% endfor %}}\
             {{% else %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>{{% endfor %}}{{% if add_generation_prompt %}}<assistant>{{% endif %}}"
        ));
        let text = json!("{\"x\":1}");
        for row in [calling(&Value::Null, &text), calling(&json!(""), &text)] {
            assert_eq!(
                said(&chat, &conversation(&row)),
                ["f={\"x\":1}<|im_end|>", "4.<|im_end|>"],
                "{asks}: {row}"
            );
        }
    }
    // As a mapping where that is what the template prints.
    let chat = format(
        "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}\
         {{ '' + m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    );
    for arguments in [json!("{\"x\":1}"), json!({"x": 1})] {
        let row = conversation(&calling(&Value::Null, &arguments));
        assert_eq!(said(&chat, &row), ["{\"x\": 1}<|im_end|>", "4.<|im_end|>"]);
    }
    // A template without calls still writes the rest, and never the word None.
    let plain = format(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    );
    assert_eq!(
        said(&plain, &conversation(&calling(&Value::Null, &json!({})))),
        ["<|im_end|>", "4.<|im_end|>"]
    );
}

#[test]
fn chatml_refuses_what_it_has_no_form_for() {
    let encoder = encoder();
    let read = |row: &Value| {
        RowReader::new(Some(&encoder), &ReadOptions::new(262)).read(row).unwrap_err().to_string()
    };
    let error = read(&calling(&Value::Null, &json!({"x": 1})));
    assert!(error.contains("messages[1] calls functions") && error.contains("no chat template"), "{error}");
    let tools = json!({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
                       "tools": [{"type": "function", "function": {"name": "f"}}]});
    let error = read(&tools);
    assert!(error.contains("`tools`") && error.contains("chat_template.jinja"), "{error}");
    // What a function gave back is text.
    let data =
        json!({"messages": [{"role": "tool", "content": {"t": 4}}, {"role": "assistant", "content": "a"}]});
    let row = RowReader::new(Some(&encoder), &ReadOptions::new(262)).read(&data).unwrap();
    let text = encoder.decode(&row.tokens, false).unwrap();
    assert!(text.starts_with("<|im_start|>tool\n{\"t\": 4}<|im_end|>\n"), "{text}");
}

#[test]
fn data_of_functions_reaches_the_template() {
    let row = |content: &Value| {
        conversation(
            &json!({"messages": [{"role": "user", "content": "u"}, {"role": "tool", "content": content},
                                          {"role": "assistant", "content": "a"}]}),
        )
    };
    let chat = |content: &str| {
        format(&format!("{{% for m in messages %}}<{{{{ m.role }}}}>{content}<|im_end|>{{% endfor %}}"))
    };
    let asks =
        chat("{{ m.content | tojson if m.content is mapping or m.content is iterable else m.content }}");
    let joins = chat("{{ 'r:' + m.content }}");
    for (content, json) in [
        (json!({"temp": 4, "ok": true}), "{\"temp\": 4, \"ok\": true}"),
        (json!([{"city": "Zürich"}, 2.5]), "[{\"city\": \"Zürich\"}, 2.5]"),
        (json!(7), "7"),
    ] {
        let text = asks.render(&row(&content), false).unwrap();
        assert!(text.contains(&format!("<tool>{json}<|im_end|>")), "{text}");
        let text = joins.render(&row(&content), false).unwrap();
        assert!(text.contains(&format!("<tool>r:{json}<|im_end|>")), "{text}");
    }
    let parts = row(&json!([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]));
    assert!(joins.render(&parts, false).unwrap().contains("<tool>r:xy<|im_end|>"));
    let picture = json!({"messages": [{"role": "tool", "content": [{"type": "image"}]}]});
    let error = Conversation::from_messages(picture.as_object().unwrap()).unwrap_err().to_string();
    assert!(error.contains("is of type image"), "{error}");
    // Expected text: transformers 5.24.
    for file in ["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"] {
        let (Some(chat), Some(row)) = (
            published(&format!("chat_templates/llama.cpp/{file}.jinja")),
            case("tool-content-object/row.jsonl"),
        ) else {
            continue;
        };
        let text = chat.render(&row, false).unwrap();
        let end = "<|start_header_id|>ipython<|end_header_id|>\n\n{\"temp\": 4, \"ok\": true}<|eot_id|>\
                   <|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|>";
        assert!(text.ends_with(end), "{file}: {text}");
        assert_eq!(said(&chat, &row).last().unwrap(), "It is 4.<|eot_id|>");
    }
}

/// The end of a turn is found though a template refuses its calls to be taken away.
#[test]
fn a_turn_ends_after_its_calls() {
    let chat = format(
        "{% if not messages[-1].content %}{{ raise_exception('unfinished') }}{% endif %}\
         {% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}\
         {{ raise_exception('no call') }}{% endif %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls %}({{ c.function.name }})\
         {% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    );
    let row = conversation(&calling(&json!(""), &json!({})));
    assert_eq!(said(&chat, &row), ["(f)<|im_end|>", "4.<|im_end|>"]);
    let marked = chat.mark(&row, &encoder_with(info(), false)).unwrap();
    assert_eq!(&marked.text[..marked.spans[0].start], "<user>T?<|im_end|><assistant>");
}
