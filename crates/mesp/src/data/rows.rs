//! One row to tokens and labels. Problems are reported without a place; the caller knows file and line.

use std::ops::Range;

use serde_json::{Map, Value};

use super::forms::{self, FORMS, Form, Said};
use super::missing::{Missing, missing};
use super::remarks::{Part, Remark};
use super::turns::{DEVELOPER, given, type_of};
use super::{
    ChatFormat, Conversation, Marked, ReadOptions, TextEncoder, Token, TrainOn, UNTRAINED, in_vocabulary,
};
use crate::{Error, Result};

/// A row's tokens with a label beside each.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) form: Form,
    pub(super) tokens: Vec<u32>,
    pub(super) labels: Vec<i32>,
    pub(super) remarks: Vec<Remark>,
    /// Whether what is trained begins inside a token.
    pub(super) inside: bool,
}

/// Tokens, and whether each is trained.
type Trained = Vec<(u32, bool)>;

/// Pieces of a text that are trained, in order, while its tokens are gone through in order.
struct Spans<'a> {
    left: &'a [Range<usize>],
    /// Whether a piece began inside a token.
    inside: bool,
}

impl<'a> Spans<'a> {
    fn new(pieces: &'a [Range<usize>]) -> Self {
        Self { left: pieces, inside: false }
    }

    /// Whether a token has a byte of a piece. So the token in which a piece begins is trained, and the one in which
    /// it ends: transformers' `return_assistant_tokens_mask` has the same rule.
    fn hold(&mut self, token: &Range<usize>) -> bool {
        while let Some((first, rest)) = self.left.split_first()
            && first.end <= token.start
        {
            self.left = rest;
        }
        let begun = self.left.iter().take_while(|piece| piece.start < token.end);
        self.inside |= begun.clone().any(|piece| token.start < piece.start);
        begun.count() > 0
    }
}

pub(super) struct RowReader<'a> {
    encoder: Option<&'a TextEncoder>,
    options: &'a ReadOptions,
    /// Prepared at the first conversation: a model whose template is broken can still read other rows.
    chat: Option<ChatFormat>,
}

impl<'a> RowReader<'a> {
    pub(super) fn new(encoder: Option<&'a TextEncoder>, options: &'a ReadOptions) -> Self {
        Self { encoder, options, chat: None }
    }

    pub(super) fn chat(&self) -> Option<&ChatFormat> {
        self.chat.as_ref()
    }

    pub(super) fn encoder(&self) -> Result<&'a TextEncoder> {
        self.encoder.ok_or_else(|| {
            Error::usage("this is text, and the model directory has no tokenizer.json")
                .hint("add the model's tokenizer.json, or give rows with `input_ids`")
        })
    }

    pub(super) fn read(&mut self, row: &Value) -> Result<Row> {
        let chats = self.encoder.is_some_and(|encoder| encoder.info().chat_template.is_some());
        let mut remarks = Vec::new();
        let (form, said) = match row {
            Value::String(text) => (Form::Text, Said::Text(text)),
            Value::Object(row) => {
                let form = Form::of(row)?;
                let style = self.options.prompt_style;
                remarks.extend(forms::unread(form, row, style, chats)?);
                (form, forms::read(form, row, style, chats)?)
            }
            other => {
                return Err(Error::usage(format!("the row is {}; expected a JSON object", type_of(other)))
                    .hint(FORMS));
            }
        };
        let (tokens, inside) = match said {
            Said::Tokens(row) => return tokenized(row, self.options.vocab_size, remarks),
            Said::Text(text) => (self.text(text)?, false),
            Said::Pair { prompt, completion } => {
                remarks.extend(completion.trim().is_empty().then_some(Remark::EmptyAnswer));
                self.pair(&prompt, &completion)?
            }
            Said::Turns(conversation) => self.conversation(conversation, &mut remarks)?,
        };
        self.in_vocabulary(tokens.iter().map(|token| token.0))?;
        let label = |&(id, trained): &(u32, bool)| if trained { id.cast_signed() } else { UNTRAINED };
        let labels = tokens.iter().map(label).collect();
        let tokens = tokens.into_iter().map(|token| token.0).collect();
        Ok(Row { form, tokens, labels, remarks, inside })
    }

    /// A text of its own: every token is trained, the one that ends the text included.
    fn text(&self, text: &str) -> Result<Trained> {
        let encoder = self.encoder()?;
        let mut tokens = encoder.encode(text, true)?;
        tokens.extend(self.missing_end(encoder, tokens.last().copied()));
        Ok(tokens.into_iter().map(|id| (id, true)).collect())
    }

    /// The whole of a plain text file.
    pub(super) fn document(&self, text: &str) -> Result<Vec<Token>> {
        let encoder = self.encoder()?;
        let mut tokens = encoder.encode_with_offsets(text, true)?;
        let end = self.missing_end(encoder, tokens.last().map(|token| token.id));
        tokens.extend(end.map(|id| Token { id, bytes: None }));
        self.in_vocabulary(tokens.iter().map(|token| token.id))?;
        Ok(tokens)
    }

    /// The token that ends a text, unless the text spells it already.
    fn missing_end(&self, encoder: &TextEncoder, last: Option<u32>) -> Option<u32> {
        encoder.eos_id().filter(|&eos| self.options.append_eos && last != Some(eos))
    }

    /// The tokens, and whether the completion begins inside one.
    fn pair(&self, prompt: &str, completion: &str) -> Result<(Trained, bool)> {
        let encoder = self.encoder()?;
        // As one text: tokenized apart, the two would meet in tokens that the joined text does not have.
        let text = format!("{prompt}{completion}");
        let tokens = encoder.encode_with_offsets(&text, true)?;
        let end = self.missing_end(encoder, tokens.last().map(|token| token.id));
        let all = self.options.train_on == TrainOn::All;
        let completion = prompt.len()..text.len();
        let pieces = if completion.is_empty() { &[][..] } else { std::slice::from_ref(&completion) };
        let mut spans = Spans::new(pieces);
        let mut begun = false;
        let mut row: Trained = Vec::with_capacity(tokens.len() + 1);
        for Token { id, bytes } in tokens {
            // A token without bytes begins or ends the text; the end belongs to the completion.
            let trained = bytes.as_ref().map_or(begun, |bytes| spans.hold(bytes));
            begun |= bytes.is_some();
            row.push((id, trained || all));
        }
        row.extend(end.map(|id| (id, true)));
        Ok((row, spans.inside && !all))
    }

    /// The tokens, and whether a turn begins inside one.
    fn conversation(
        &mut self,
        mut conversation: Conversation,
        remarks: &mut Vec<Remark>,
    ) -> Result<(Trained, bool)> {
        let encoder = self.encoder()?;
        let chat = match &mut self.chat {
            Some(chat) => chat,
            none => none.insert(ChatFormat::for_encoder(encoder)?),
        };
        if self.options.train_on == TrainOn::Last {
            conversation.train_last();
        }
        let all = self.options.train_on == TrainOn::All;
        // Where all is trained it need not be known where the turns are.
        let mark = |conversation: &Conversation| {
            if all {
                chat.render(conversation, false).map(Marked::whole)
            } else {
                chat.mark(conversation, encoder)
            }
        };
        let Written { conversation, marked, missing } = written(chat, conversation, &mark)?;
        if let Some(turn) = missing.emptied {
            return Err(silenced(turn));
        }
        remarks.extend(unread_variables(encoder, chat, &conversation));
        remarks.extend(missing.remarks);
        let beginning = chat.beginning(encoder).map(|id| (id, all));
        let mut spans = Spans::new(&marked.spans);
        let mut tokens: Trained = beginning.into_iter().collect();
        for Token { id, bytes } in encoder.encode_with_offsets(&marked.text, false)? {
            tokens.push((id, bytes.is_some_and(|bytes| spans.hold(&bytes)) || all));
        }
        let inside = spans.inside;
        let last = conversation.trained.last().is_some_and(|trained| *trained || all);
        let end = encoder.eos_id().filter(|_| chat.open_ended(encoder)).map(|id| (id, last));
        tokens.extend(end);
        remarks.extend(conversation.remarks);
        Ok((tokens, inside))
    }

    fn in_vocabulary(&self, tokens: impl Iterator<Item = u32>) -> Result<()> {
        in_vocabulary(tokens, self.options.vocab_size)
    }
}

/// A conversation as it was given to the template, and what became of it.
struct Written {
    conversation: Conversation,
    marked: Marked,
    missing: Missing,
}

/// Renders a conversation. Where turns of developers do not come through, or the template refuses it, they are given
/// to it as turns of the system: most templates know no developer.
fn written(
    chat: &ChatFormat,
    conversation: Conversation,
    mark: &dyn Fn(&Conversation) -> Result<Marked>,
) -> Result<Written> {
    let attempt = |conversation: Conversation| {
        let marked = mark(&conversation)?;
        let missing = missing(chat, &conversation, &marked.text);
        Ok(Written { conversation, marked, missing })
    };
    let lacks = |outcome: &Result<Written>, parts: &[Part]| match outcome {
        Ok(written) => parts.iter().any(|part| written.missing.part(part)),
        Err(_) => true,
    };
    let parts = [DEVELOPER, "system"].map(|role| Part::Role(role.to_owned()));
    let as_system = conversation.with_developer_as_system();
    let given = attempt(conversation);
    match as_system.filter(|_| lacks(&given, &parts)).map(attempt) {
        Some(other) if !lacks(&other, &parts) => other,
        _ => given,
    }
}

fn silenced(turn: usize) -> Error {
    let problem = format!(
        "the model's chat template leaves out the tool call of turn {} of the conversation, and an empty answer would be \
         trained in its place",
        turn + 1
    );
    Error::usage(problem).hint(
        "take a model whose chat template writes tool calls, or put one that does into chat_template.jinja of the model \
         directory; or give the turn \"weight\": 0",
    )
}

/// Variables of a row that stand nowhere in the template's source.
fn unread_variables<'a>(
    encoder: &'a TextEncoder,
    chat: &'a ChatFormat,
    conversation: &'a Conversation,
) -> impl Iterator<Item = Remark> + 'a {
    let info = encoder.info();
    let sources = [&info.chat_template, &info.tool_template].map(Option::as_deref);
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let reads = move |name: &str| {
        chat.has_template()
            && sources
                .into_iter()
                .flatten()
                .any(|source| source.split(|c| !inside(c)).any(|word| word == name))
    };
    conversation.variables.keys().filter(move |name| !reads(name)).cloned().map(Remark::Variable)
}

/// A row that another program tokenized. Nothing is added to it.
fn tokenized(row: &Map<String, Value>, vocab_size: usize, remarks: Vec<Remark>) -> Result<Row> {
    let size = i64::from(i32::try_from(vocab_size).unwrap_or(i32::MAX));
    let tokens = integers("input_ids", &row["input_ids"], |id| (0..size).contains(&id), vocab_size)?;
    if tokens.is_empty() {
        return Err(Error::usage("`input_ids` is empty; expected at least one token"));
    }
    let labels = match given(row, "labels") {
        None => tokens.iter().map(|&id| id as i32).collect(),
        Some(labels) => {
            let allowed = |label| label == i64::from(UNTRAINED) || (0..size).contains(&label);
            integers("labels", labels, allowed, vocab_size)?
                .into_iter()
                .map(|label| label as i32)
                .collect::<Vec<_>>()
        }
    };
    if labels.len() != tokens.len() {
        let problem = format!(
            "`labels` has {} values and `input_ids` has {}; expected one label beside each token",
            labels.len(),
            tokens.len()
        );
        return Err(
            Error::usage(problem).hint("labels align with input_ids; -100 marks a token that is not trained")
        );
    }
    let padded = row
        .get("attention_mask")
        .and_then(Value::as_array)
        .and_then(|mask| mask.iter().position(|value| value.as_i64() == Some(0)));
    if let Some(at) = padded {
        let problem = format!("`attention_mask[{at}]` is 0: the row is padded");
        return Err(Error::usage(problem).hint("store the row without padding; rows may differ in length"));
    }
    Ok(Row {
        form: Form::Tokens,
        tokens: tokens.into_iter().map(|id| id as u32).collect(),
        labels,
        remarks,
        inside: false,
    })
}

fn integers(key: &str, list: &Value, allowed: impl Fn(i64) -> bool, vocab_size: usize) -> Result<Vec<i64>> {
    let Some(values) = list.as_array() else {
        return Err(Error::usage(format!("`{key}` is {}; expected a list of integers", type_of(list))));
    };
    let one = |(index, value): (usize, &Value)| {
        value.as_i64().filter(|&number| allowed(number)).ok_or_else(|| {
            let found = if value.is_number() { value.to_string() } else { type_of(value).to_owned() };
            let also = if key == "labels" { " or -100 (not trained)" } else { "" };
            let problem = format!(
                "`{key}[{index}]` is {found}; expected an integer from 0 to {} (the model's vocabulary){also}",
                vocab_size.saturating_sub(1)
            );
            Error::usage(problem).hint("tokenize the rows with this model's tokenizer")
        })
    };
    values.iter().enumerate().map(one).collect()
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "masks_tests.rs"]
mod masks_tests;
