//! Any text is refused as a chat template, or renders a conversation, or refuses the conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesp::data::{ChatFormat, Conversation, TokenizerInfo};

fuzz_target!(|template: &str| {
    let info = TokenizerInfo { chat_template: Some(template.to_owned()), ..TokenizerInfo::default() };
    let Ok(chat) = ChatFormat::new(&info) else { return };
    let mut conversation = Conversation::default();
    conversation.push("user", "Hi");
    conversation.push("assistant", "Hello");
    let _ = chat.render(&conversation, true);
});
