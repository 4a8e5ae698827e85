//! Any text is refused as a chat template, or renders a conversation, or refuses the conversation. What follows the
//! first character that no template has is a conversation of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesp::data::{ChatFormat, Conversation, TokenizerInfo};

const CONVERSATION: &str = r#"{"messages": [
    {"role": "system", "content": " Be <brief>. "},
    {"role": "user", "content": "Hi \u00e9 \ud83d\ude42"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]},
    {"role": "tool", "name": "f", "content": "1"},
    {"role": "assistant", "content": "<think>x</think>Hello"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}}],
    "chat_template_kwargs": {"enable_thinking": false, "n": 3}}"#;

fuzz_target!(|input: &str| {
    let (template, row) = input.split_once('\u{1}').unwrap_or((input, CONVERSATION));
    let info = TokenizerInfo {
        chat_template: Some(template.to_owned()),
        bos_token: Some("<s>".to_owned()),
        eos_token: Some("</s>".to_owned()),
        ..TokenizerInfo::default()
    };
    let Ok(chat) = ChatFormat::new(&info) else { return };
    let Ok(conversation) = Conversation::from_json(row) else { return };
    for prompt in [true, false] {
        if let Ok(text) = chat.render(&conversation, prompt) {
            assert!(text.len() <= (16 << 20) + 200 * input.len() + (1 << 20));
        }
    }
});
