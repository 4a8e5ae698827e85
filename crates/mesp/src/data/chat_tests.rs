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
    ChatFormat::new(&TokenizerInfo { chat_template: template.map(ToOwned::to_owned), ..info() }).unwrap()
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
    // How many turns there are stands in front of them.
    let error = format(Some("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"));
    let error = error.mark(&greeting(), &encoder()).unwrap_err().to_string();
    assert!(error.contains("messages[2] differently") && error.contains("{% generation %}"), "{error}");
    let upper = format(Some(
        "{% for m in messages %}<{{ m.content | upper }}>{% endfor %}{% if not add_generation_prompt %}.{% endif %}",
    ));
    let error = upper.mark(&greeting(), &encoder()).unwrap_err().to_string();
    assert!(error.contains("changes the text of messages[2]"), "{error}");
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
