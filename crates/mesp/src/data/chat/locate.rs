//! Where in a rendering a turn stands. A template renders whole conversations, and many refuse parts of one: each way
//! to find a turn is tried, and a rendering of a part that fails or differs says nothing about the whole.

use std::cell::LazyCell;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::{ChatFormat, OTHER_TEMPLATE, Part, with_stop, without_separator};
use crate::data::{Conversation, TextEncoder};
use crate::{Error, ErrorKind, Result};

/// A content that no conversation has.
pub(super) const PROBE: &str = "\u{F1A03}\u{F1A04}\u{F1A03}";

/// A reasoning that no conversation has.
const REASON: &str = "\u{F1A05}\u{F1A04}\u{F1A05}";

/// Variables by which templates switch the reasoning on and off.
const THINKING: [&str; 2] = ["enable_thinking", "thinking"];

impl ChatFormat {
    /// The bytes of a turn of the model, with its stop token.
    pub(super) fn turn(
        &self,
        conversation: &Conversation,
        text: &str,
        turn: usize,
        encoder: &TextEncoder,
    ) -> Result<Range<usize>> {
        let around = LazyCell::new(|| self.around(conversation, turn));
        let full = LazyCell::new(|| self.full_probe(conversation, turn));
        let start = self
            .prompt_before(conversation, text, turn)
            .or_else(|| (*around).as_ref().and_then(|(head, _)| text.starts_with(head).then_some(head.len())))
            .or_else(|| self.other_prompt_before(conversation, text, turn))
            .or_else(|| {
                (*full).as_ref().and_then(|full| self.header_before(conversation, text, full, encoder))
            });
        let Some(start) = start else {
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!(
                    "the chat template renders the turns before messages[{turn}] differently once \
                        that turn is there, so the text to train cannot be found"
                ),
            )
            .hint(OTHER_TEMPLATE));
        };
        let end = self
            .render_part(&Part { messages: &conversation.messages[..=turn], ..Part::whole(conversation) })
            .and_then(Result::ok)
            .filter(|through| through.len() > start && text.starts_with(through.as_str()))
            .map(|through| without_separator(text, start..through.len(), encoder))
            .or_else(|| {
                // Some templates render a last turn in another way than the same turn inside a conversation.
                let (_, tail) = (*around).as_ref().filter(|(_, tail)| text.ends_with(tail))?;
                Some(with_stop(text, text.len() - tail.len(), encoder)).filter(|end| *end >= start)
            })
            .or_else(|| {
                // Without its calls, the turns that answer them may be refused. They stand before the turn's end.
                let last = |text: &str, probe: &str| text.rfind(probe).map(|at| at + probe.len());
                let full = (*full).as_ref()?;
                let after = last(full, PROBE).max(last(full, REASON))?;
                let tail = Some(&full[after..]).filter(|tail| text.ends_with(tail))?;
                let (from, stop) = (text.len() - tail.len(), self.turn_end(encoder)?);
                text[from..].find(&stop).map(|at| from + at + stop.len()).filter(|end| *end >= start)
            });
        end.map(|end| start..end).ok_or_else(|| {
            Error::usage(
                ErrorKind::Unsupported,
                format!("the chat template changes the text of messages[{turn}], so its end cannot be found"),
            )
            .hint(OTHER_TEMPLATE)
        })
    }

    /// A turn begins where the rendering of what comes before it ends, the beginning of an answer included.
    fn prompt_before(&self, conversation: &Conversation, text: &str, turn: usize) -> Option<usize> {
        self.prompt_with(conversation, text, turn, &conversation.variables)
    }

    fn prompt_with(
        &self,
        conversation: &Conversation,
        text: &str,
        turn: usize,
        variables: &Map<String, Value>,
    ) -> Option<usize> {
        let messages = &conversation.messages[..turn];
        let part = Part { messages, variables, prompt: true, ..Part::whole(conversation) };
        let before = self.render_part(&part)?.ok()?;
        text.starts_with(&before).then_some(before.len())
    }

    /// The same with the reasoning switched another way. A template that asks for an answer without reasoning writes
    /// an empty one first, and the turn that is there may have another.
    fn other_prompt_before(&self, conversation: &Conversation, text: &str, turn: usize) -> Option<usize> {
        let other =
            |value: Option<bool>| self.prompt_with(conversation, text, turn, &switched(conversation, value));
        [None, Some(true), Some(false)].into_iter().find_map(other)
    }

    /// Where the beginning of an answer, as the template writes it for some other conversation, stands last before
    /// what the turn says. `full` is the rendering with the turn's texts replaced.
    fn header_before(
        &self,
        conversation: &Conversation,
        text: &str,
        full: &str,
        encoder: &TextEncoder,
    ) -> Option<usize> {
        let said = full.find(PROBE).into_iter().chain(full.find(REASON)).min()?;
        if !text.starts_with(&full[..said]) {
            return None;
        }
        let mut other = Conversation::default();
        other.push("user", "a");
        let header = |value: Option<bool>| -> Option<usize> {
            let variables = &switched(conversation, value);
            let part = Part { variables, ..Part::whole(&other) };
            let asked = self.render_part(&Part { prompt: true, ..part })?.ok()?;
            let header = asked.strip_prefix(&self.render_part(&part)?.ok()?)?.to_owned();
            let start = text[..said].rfind(&header)? + header.len();
            // Not that of an earlier turn: no turn ends in between.
            let between = &text[start..said];
            let ends = self.turn_end(encoder).is_some_and(|end| between.contains(&end));
            (!header.is_empty() && !ends).then_some(start)
        };
        Some([None, Some(true), Some(false)].into_iter().find_map(header).unwrap_or(said))
    }

    /// What the template writes before and after the content of a turn, found by giving that turn a content
    /// that cannot be confused with any other text.
    pub(super) fn around(&self, conversation: &Conversation, turn: usize) -> Option<(String, String)> {
        let mut messages = conversation.messages.clone();
        messages[turn] = json!({ "role": conversation.role(turn), "content": PROBE });
        let text = self.render_part(&Part { messages: &messages, ..Part::whole(conversation) })?.ok()?;
        let (head, tail) = text.split_once(PROBE)?;
        (!tail.contains(PROBE)).then(|| (head.to_owned(), tail.to_owned()))
    }

    /// The rendering where a turn keeps all it has, with other texts: the reasoning and the content.
    fn full_probe(&self, conversation: &Conversation, turn: usize) -> Option<String> {
        let mut messages = conversation.messages.clone();
        let message = messages[turn].as_object_mut()?;
        for key in ["reasoning_content", "thinking", "reasoning"] {
            if message.get(key).is_some_and(Value::is_string) {
                message.insert(key.to_owned(), REASON.into());
            }
        }
        let reasons = conversation.content(turn).contains("</think>");
        let content =
            if reasons { format!("<think>\n{REASON}\n</think>\n\n{PROBE}") } else { PROBE.to_owned() };
        message.insert("content".to_owned(), content.into());
        let text = self.render_part(&Part { messages: &messages, ..Part::whole(conversation) })?.ok()?;
        // What is written twice says nothing of where the turn is.
        let once = |probe: &str| text.matches(probe).count() <= 1;
        (once(PROBE) && once(REASON)).then_some(text)
    }
}

/// A conversation's variables with the reasoning left to the template, or switched on or off.
fn switched(conversation: &Conversation, value: Option<bool>) -> Map<String, Value> {
    let mut variables = conversation.variables.clone();
    for key in THINKING {
        match value {
            None => variables.remove(key),
            Some(on) => variables.insert(key.to_owned(), on.into()),
        };
    }
    variables
}
