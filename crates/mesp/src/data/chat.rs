//! Conversations to text, and which bytes of the text are trained.

use std::ops::Range;

use serde_json::{Value, json};

use super::date::Date;
use super::template::{Inputs, MARKS, Template};
use super::{Conversation, TextEncoder, TokenizerInfo};
use crate::{Error, Result};

/// How a model spells conversations: by its own chat template, or in `ChatML` when it has none.
pub struct ChatFormat {
    template: Option<Template>,
    /// The template of conversations with tools, where the model has one for them.
    tool_template: Option<Template>,
    bos: String,
    eos: String,
    /// What ends a turn in `ChatML`.
    end: String,
}

/// A conversation as text, with the byte ranges that are trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The text.
    pub text: String,
    /// What the model is to say: each trained turn with its stop token, in order.
    pub spans: Vec<Range<usize>>,
}

impl Marked {
    /// A text of which it is not asked what is whose.
    pub(super) fn whole(text: String) -> Self {
        Self { text, spans: Vec::new() }
    }
}

const BEGIN: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

impl ChatFormat {
    /// Prepares the template that `info` holds.
    ///
    /// # Errors
    /// When the template is not one this program understands.
    pub fn new(info: &TokenizerInfo) -> Result<Self> {
        let compiled = |source: &Option<String>| source.as_deref().map(Template::new).transpose();
        let text = |token: &Option<String>| token.clone().unwrap_or_default();
        Ok(Self {
            template: compiled(&info.chat_template)?,
            tool_template: compiled(&info.tool_template)?,
            bos: text(&info.bos_token),
            eos: text(&info.eos_token),
            end: END.to_owned(),
        })
    }

    /// As [`new`](Self::new), for a tokenizer. A vocabulary without `ChatML`'s markers could spell the end of a
    /// turn, but generation would not stop there: turns then end with the token that ends a text.
    ///
    /// # Errors
    /// When a template is not one this program understands.
    pub fn for_encoder(encoder: &TextEncoder) -> Result<Self> {
        let mut chat = Self::new(encoder.info())?;
        if encoder.token_id(END).is_none() && !chat.eos.is_empty() {
            // Some tokenizers do not find their own markers inside a text.
            let found = encoder.encode(&format!("a{}", chat.eos), false)?.last().copied() == encoder.eos_id();
            if found {
                chat.end.clone_from(&chat.eos);
            }
        }
        Ok(chat)
    }

    /// Whether no token ends a turn, and one has to follow the text.
    pub(super) fn open_ended(&self, encoder: &TextEncoder) -> bool {
        self.spells_markers(encoder) && self.end == END
    }

    /// Lets templates that print the date print this one, in place of the day it is.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        for template in [&mut self.template, &mut self.tool_template].into_iter().flatten() {
            template.date = Some(date);
        }
        self
    }

    fn template(&self, conversation: &Conversation) -> Option<&Template> {
        let tools = self.tool_template.as_ref().filter(|_| conversation.tools.is_some());
        tools.or(self.template.as_ref())
    }

    /// Whether the model brought a template of its own.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Whether turns end in `ChatML`'s markers though `encoder` has no such tokens, so that they are
    /// spelled out as ordinary text.
    pub fn spells_markers(&self, encoder: &TextEncoder) -> bool {
        !self.has_template() && (encoder.token_id(BEGIN).is_none() || encoder.token_id(END).is_none())
    }

    /// The conversation as text; with `generation_prompt` up to where the model's next turn begins.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn render(&self, conversation: &Conversation, generation_prompt: bool) -> Result<String> {
        self.render_first(conversation, conversation.len(), generation_prompt, false)
    }

    /// The tokens from which the model is to go on.
    ///
    /// # Errors
    /// When the template refuses the conversation, or the tokenizer the text.
    pub fn prompt_tokens(&self, encoder: &TextEncoder, conversation: &Conversation) -> Result<Vec<u32>> {
        self.encode(encoder, &self.render(conversation, true)?)
    }

    /// The tokens of a rendering.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, encoder: &TextEncoder, rendering: &str) -> Result<Vec<u32>> {
        let mut ids = encoder.encode(rendering, false)?;
        ids.splice(..0, self.beginning(encoder));
        Ok(ids)
    }

    /// The tokens at which an answer ends: the one that ends a text, and the one that the template puts after a
    /// turn of the model, which is what is trained.
    pub fn stop_ids(&self, encoder: &TextEncoder) -> Vec<u32> {
        let end = if self.has_template() { self.turn_end(encoder) } else { encoder.token_id(END) };
        let mut ids: Vec<u32> = encoder.eos_id().into_iter().chain(end).collect();
        ids.dedup();
        ids
    }

    /// The marker that follows what the model says.
    fn turn_end(&self, encoder: &TextEncoder) -> Option<u32> {
        let mut conversation = Conversation::default();
        conversation.push("user", "a");
        conversation.push("assistant", "b");
        let (_, tail) = self.around(&conversation, 1)?;
        let (start, end) = (tail.len() - tail.trim_start().len(), with_stop(&tail, 0, encoder));
        (end > start).then(|| encoder.token_id(&tail[start..end]))?
    }

    /// The token to put before a rendering. A template writes it itself; `ChatML` knows nothing of it.
    pub(super) fn beginning(&self, encoder: &TextEncoder) -> Option<u32> {
        encoder.bos_id().filter(|_| !self.has_template() && encoder.wants_bos())
    }

    /// The conversation as text, with what is trained.
    ///
    /// # Errors
    /// When the template refuses the conversation, or it cannot be told which text is the model's.
    pub fn mark(&self, conversation: &Conversation, encoder: &TextEncoder) -> Result<Marked> {
        match self.template(conversation) {
            None => Ok(self.chatml(conversation, conversation.len(), false)),
            Some(template) if template.marks_generation => self.mark_by_tags(conversation),
            Some(_) => self.mark_by_prefixes(conversation, encoder),
        }
    }

    fn render_first(
        &self,
        conversation: &Conversation,
        count: usize,
        prompt: bool,
        marks: bool,
    ) -> Result<String> {
        self.render_messages(conversation, &conversation.messages[..count], prompt, marks)
            .unwrap_or_else(|| Ok(self.chatml(conversation, count, prompt).text))
    }

    /// Messages in a conversation's template, or `None` where there is no template.
    fn render_messages(
        &self,
        conversation: &Conversation,
        messages: &[Value],
        prompt: bool,
        marks: bool,
    ) -> Option<Result<String>> {
        let template = self.template(conversation)?;
        Some(template.render(&Inputs {
            messages,
            tools: conversation.tools.as_ref(),
            variables: &conversation.variables,
            bos: &self.bos,
            eos: &self.eos,
            generation_prompt: prompt,
            marks,
        }))
    }

    /// The template marks the model's text itself, with `{% generation %}`.
    fn mark_by_tags(&self, conversation: &Conversation) -> Result<Marked> {
        let text = self.render(conversation, false)?;
        let marked = self.render_first(conversation, conversation.len(), false, true)?;
        let mut spans = Vec::new();
        let (mut at, mut begun) = (0, None);
        for c in marked.chars() {
            if c == MARKS.0 {
                begun = Some(at);
            } else if c == MARKS.1 {
                spans.extend(begun.take().map(|start| start..at));
            } else {
                at += c.len_utf8();
            }
        }
        // The marks are text to the template: it may have cut, joined or compared them.
        if at != text.len() || marked.chars().filter(|&c| c != MARKS.0 && c != MARKS.1).ne(text.chars()) {
            return Err(
                Error::usage("the chat template's generation marks change its text").hint(OTHER_TEMPLATE)
            );
        }
        let turns: Vec<usize> =
            (0..conversation.len()).filter(|&i| conversation.role(i) == "assistant").collect();
        if turns.iter().any(|&turn| !conversation.trained[turn]) {
            if spans.len() != turns.len() {
                let problem = format!(
                    "the chat template marks {} pieces of text in {} assistant turns; expected one each to leave a turn untrained",
                    spans.len(),
                    turns.len()
                );
                return Err(Error::usage(problem).hint(OTHER_TEMPLATE));
            }
            spans = turns
                .iter()
                .zip(spans)
                .filter(|(turn, _)| conversation.trained[**turn])
                .map(|(_, s)| s)
                .collect();
        }
        Ok(Marked { text, spans })
    }

    /// A turn begins where the rendering of what comes before it ends, and ends where what comes after it begins.
    fn mark_by_prefixes(&self, conversation: &Conversation, encoder: &TextEncoder) -> Result<Marked> {
        let text = self.render(conversation, false)?;
        let mut spans: Vec<Range<usize>> = Vec::new();
        for turn in (0..conversation.len()).filter(|&turn| conversation.trained[turn]) {
            let before =
                self.render_first(conversation, turn, true, false).map_err(|e| first_turn(e, turn))?;
            let around = self.around(conversation, turn);
            // Some templates begin an answer in another way when they ask for it than when they repeat it.
            let start = if text.starts_with(&before) {
                before.len()
            } else if let Some((head, _)) = around.as_ref().filter(|(head, _)| text.starts_with(head)) {
                head.len()
            } else {
                let problem = format!(
                    "the chat template renders the turns before messages[{turn}] differently once that turn is there, \
                     so the text to train cannot be found"
                );
                return Err(Error::usage(problem).hint(OTHER_TEMPLATE));
            };
            let through = self.render_first(conversation, turn + 1, false, false).ok();
            let end = through
                .filter(|through| through.len() > start && text.starts_with(through.as_str()))
                .map(|through| without_separator(&text, start..through.len(), encoder))
                .or_else(|| {
                    // Some templates render a last turn in another way than the same turn inside a conversation.
                    let (_, tail) = around.filter(|(_, tail)| text.ends_with(tail))?;
                    Some(with_stop(&text, text.len() - tail.len(), encoder)).filter(|end| *end >= start)
                });
            let Some(end) = end else {
                let problem = format!(
                    "the chat template changes the text of messages[{turn}], so its end cannot be found"
                );
                return Err(Error::usage(problem).hint(OTHER_TEMPLATE));
            };
            if spans.last().is_some_and(|last| last.end > start) {
                let problem = format!("the text of messages[{turn}] overlaps that of an earlier turn");
                return Err(Error::usage(problem).hint(OTHER_TEMPLATE));
            }
            spans.push(start..end);
        }
        Ok(Marked { text, spans })
    }

    /// What the template writes before and after the content of a turn, found by giving that turn a content
    /// that cannot be confused with any other text.
    fn around(&self, conversation: &Conversation, turn: usize) -> Option<(String, String)> {
        let mut messages = conversation.messages.clone();
        messages[turn] = json!({ "role": conversation.role(turn), "content": PROBE });
        let text = self.render_messages(conversation, &messages, false, false)?.ok()?;
        let (head, tail) = text.split_once(PROBE)?;
        (!tail.contains(PROBE)).then(|| (head.to_owned(), tail.to_owned()))
    }

    fn chatml(&self, conversation: &Conversation, count: usize, prompt: bool) -> Marked {
        let (mut text, mut spans) = (String::new(), Vec::new());
        for turn in 0..count {
            text.extend([BEGIN, conversation.role(turn), "\n"]);
            let start = text.len();
            text.extend([conversation.content(turn), &self.end]);
            if conversation.trained[turn] {
                spans.push(start..text.len());
            }
            text.push('\n');
        }
        if prompt {
            text.extend([BEGIN, "assistant\n"]);
        }
        Marked { text, spans }
    }
}

/// A content that no conversation has.
const PROBE: &str = "\u{F1A03}\u{F1A04}\u{F1A03}";

const OTHER_TEMPLATE: &str = "put a chat_template.jinja with {% generation %} tags around the assistant's text in the \
                              model directory, or train with prompt/completion rows";

fn first_turn(error: Error, turn: usize) -> Error {
    if turn == 0 {
        return error.hint("the conversation begins with an assistant turn; begin it with a user turn");
    }
    error
}

/// The end of a turn without the white space that only separates it from the next.
fn without_separator(text: &str, turn: Range<usize>, encoder: &TextEncoder) -> usize {
    let said = text[turn.clone()].trim_end();
    let stops = encoder.special_tokens().iter().any(|token| said.ends_with(token.as_str()));
    if stops { turn.start + said.len() } else { turn.end }
}

/// The end of a text with the stop token that follows it.
fn with_stop(text: &str, end: usize, encoder: &TextEncoder) -> usize {
    let rest = &text[end..];
    let follows = rest.trim_start();
    // The longest, because one special token may begin as another does.
    let matching = encoder.special_tokens().iter().filter(|token| follows.starts_with(token.as_str()));
    let stop = matching.map(String::len).max();
    stop.map_or(end, |length| end + (rest.len() - follows.len()) + length)
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
