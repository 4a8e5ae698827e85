//! Conversations to text, and which bytes of the text are trained.

use std::ops::Range;

use serde_json::{Map, Value};

use super::date::Date;
use super::template::{Inputs, MARKS, Template};
use super::{Conversation, TextEncoder, TokenizerInfo};
use crate::{Error, ErrorKind, Result};

mod locate;
mod settle;

/// How a model spells conversations: by its own chat template, or in `ChatML` when it has none.
pub struct ChatFormat {
    template: Option<Template>,
    /// The template of conversations with tools, where the model has one for them.
    tool_template: Option<Template>,
    /// Special tokens by name, as `apply_chat_template` of transformers has them as variables.
    tokens: Vec<(String, Value)>,
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
        let ends = [("bos_token", &info.bos_token), ("eos_token", &info.eos_token)];
        let mut tokens: Vec<(String, Value)> = ends
            .into_iter()
            .filter_map(|(name, token)| Some((name, token.as_ref().filter(|text| !text.is_empty())?)))
            .map(|(name, text)| (name.to_owned(), text.as_str().into()))
            .collect();
        let others = info.named_tokens.iter().filter(|(name, _)| ends.iter().all(|(end, _)| end != name));
        tokens.extend(others.map(|(name, text)| (name.clone(), text.as_str().into())));
        Ok(Self {
            template: compiled(&info.chat_template)?,
            tool_template: compiled(&info.tool_template)?,
            tokens,
            eos: info.eos_token.clone().unwrap_or_default(),
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
        self.render_all(&*self.settled(conversation)?, generation_prompt)
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

    /// The tokens at which an answer ends: those that end a text, and the one that the template puts after a
    /// turn of the model, which is what is trained.
    pub fn stop_ids(&self, encoder: &TextEncoder) -> Vec<u32> {
        let end = if self.has_template() {
            self.turn_end(encoder).and_then(|end| encoder.token_id(&end))
        } else {
            encoder.token_id(END)
        };
        let mut ids = encoder.end_ids().to_vec();
        ids.extend(end.filter(|id| !ids.contains(id)));
        ids
    }

    /// The marker that follows what the model says.
    fn turn_end(&self, encoder: &TextEncoder) -> Option<String> {
        let mut conversation = Conversation::default();
        conversation.push("user", "a");
        conversation.push("assistant", "b");
        let (_, tail) = self.around(&conversation, 1)?;
        let (start, end) = (tail.len() - tail.trim_start().len(), with_stop(&tail, 0, encoder));
        (end > start).then(|| tail[start..end].to_owned())
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
        let conversation = &*self.settled(conversation)?;
        let Some(template) = self.template(conversation) else {
            return Ok(self.chatml(conversation, conversation.len(), false));
        };
        let text = self.render_all(conversation, false)?;
        if template.marks_generation
            && let Some(spans) = self.tagged(conversation, &text)
        {
            let spans = self.of_trained_turns(conversation, &text, spans, encoder)?;
            return Ok(Marked { text, spans });
        }
        let mut spans: Vec<Range<usize>> = Vec::new();
        for turn in (0..conversation.len()).filter(|&turn| conversation.trained[turn]) {
            let span = self.turn(conversation, &text, turn, encoder)?;
            if spans.last().is_some_and(|last| last.end > span.start) {
                return Err(Error::usage(
                    ErrorKind::Unsupported,
                    format!("the text of messages[{turn}] overlaps that of an earlier turn"),
                )
                .hint(OTHER_TEMPLATE));
            }
            spans.push(span);
        }
        Ok(Marked { text, spans })
    }

    /// All turns as text. Only here is a refusal of the template one of the conversation.
    fn render_all(&self, conversation: &Conversation, prompt: bool) -> Result<String> {
        let all = Part { prompt, ..Part::whole(conversation) };
        let rendered = self
            .render_part(&all)
            .unwrap_or_else(|| Ok(self.chatml(conversation, conversation.len(), prompt).text));
        let first =
            (0..conversation.len()).find(|turn| !["system", "developer"].contains(&conversation.role(*turn)));
        rendered.map_err(|error| match first.map(|turn| conversation.role(turn)) {
            Some("assistant") => {
                error.hint("the conversation begins with an assistant turn; begin it with a user turn")
            }
            _ => error,
        })
    }

    /// Messages in a conversation's template, or `None` where there is no template.
    fn render_part(&self, part: &Part<'_>) -> Option<Result<String>> {
        let template = self.template(part.conversation)?;
        Some(template.render(&Inputs {
            messages: part.messages,
            tools: part.conversation.tools.as_ref(),
            variables: part.variables,
            tokens: &self.tokens,
            generation_prompt: part.prompt,
            marks: part.marks,
        }))
    }

    /// What the template marks itself as the model's text, with `{% generation %}`; none where the marks, which are
    /// text to the template, change what it writes.
    fn tagged(&self, conversation: &Conversation, text: &str) -> Option<Vec<Range<usize>>> {
        let marked = self.render_part(&Part { marks: true, ..Part::whole(conversation) })?.ok()?;
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
        let same =
            at == text.len() && marked.chars().filter(|&c| c != MARKS.0 && c != MARKS.1).eq(text.chars());
        same.then_some(spans)
    }

    /// Among what the template marks, the pieces that belong to trained turns.
    fn of_trained_turns(
        &self,
        conversation: &Conversation,
        text: &str,
        mut spans: Vec<Range<usize>>,
        encoder: &TextEncoder,
    ) -> Result<Vec<Range<usize>>> {
        let turns: Vec<usize> =
            (0..conversation.len()).filter(|&turn| conversation.role(turn) == "assistant").collect();
        if turns.iter().all(|&turn| conversation.trained[turn]) {
            return Ok(spans);
        }
        if spans.len() == turns.len() {
            let mut turns = turns.iter();
            spans.retain(|_| turns.next().is_some_and(|&turn| conversation.trained[turn]));
            return Ok(spans);
        }
        let mut trained = Vec::new();
        for turn in turns.into_iter().filter(|&turn| conversation.trained[turn]) {
            trained.push(self.turn(conversation, text, turn, encoder)?);
        }
        spans.retain(|span| trained.iter().any(|turn| span.start < turn.end && turn.start < span.end));
        Ok(spans)
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

/// Some of a conversation's messages, and what the template is given beside them.
#[derive(Clone, Copy)]
struct Part<'a> {
    conversation: &'a Conversation,
    messages: &'a [Value],
    variables: &'a Map<String, Value>,
    /// Whether the beginning of the model's turn follows.
    prompt: bool,
    /// Whether to leave [`MARKS`] in the text.
    marks: bool,
}

impl<'a> Part<'a> {
    fn whole(conversation: &'a Conversation) -> Self {
        let Conversation { messages, variables, .. } = conversation;
        Self { conversation, messages, variables, prompt: false, marks: false }
    }
}

const OTHER_TEMPLATE: &str = "put a chat_template.jinja with {% generation %} tags around the assistant's text in the \
                              model directory, or train with prompt/completion rows";

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
mod tests;

#[cfg(test)]
mod parts_tests;
