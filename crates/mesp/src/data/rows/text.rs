//! Rows of text: what becomes of a text, of a prompt with its completion, and of a conversation.

use std::ops::Range;

use super::{Row, RowReader, tokenized};
use crate::data::forms::{Form, Said};
use crate::data::missing::{Missing, missing};
use crate::data::remarks::{Part, Remark};
use crate::data::tokenizer::PART;
use crate::data::turns::DEVELOPER;
use crate::data::{
    ChatFormat, Conversation, LongRows, Marked, ReadOptions, TextEncoder, Token, TrainOn, UNTRAINED,
    in_vocabulary,
};
use crate::{Error, ErrorKind, Result};

/// What a text is answered where the model has no tokenizer.
pub(super) fn no_encoder() -> Error {
    Error::usage(ErrorKind::Missing, "this is text, and the model directory has no tokenizer.json")
        .hint("add the model's tokenizer.json, or give rows with `input_ids`")
}

/// Tokens and labels of a row that is being made.
struct Trained {
    tokens: Vec<u32>,
    labels: Vec<i32>,
    length: usize,
    /// The most that are kept.
    most: usize,
    vocab_size: usize,
    last: Option<u32>,
}

impl Trained {
    fn new(options: &ReadOptions) -> Self {
        let cut = options.max_seq_len.filter(|_| options.long_rows == LongRows::Truncate);
        Self {
            tokens: Vec::new(),
            labels: Vec::new(),
            length: 0,
            most: cut.unwrap_or(usize::MAX),
            vocab_size: options.vocab_size,
            last: None,
        }
    }

    /// Adds a token.
    fn push(&mut self, id: u32, trained: bool) -> Result<()> {
        in_vocabulary([id], self.vocab_size)?;
        if self.length < self.most {
            self.tokens.push(id);
            self.labels.push(if trained { id.cast_signed() } else { UNTRAINED });
        }
        self.length += 1;
        self.last = Some(id);
        Ok(())
    }
}

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

impl RowReader<'_> {
    /// The tokens of what a row says.
    pub(super) fn tokens_of(&mut self, form: Form, said: Said<'_>, mut remarks: Vec<Remark>) -> Result<Row> {
        let (row, inside) = match said {
            Said::Tokens(row) => return tokenized(row, self.options.vocab_size, remarks),
            Said::Text(text) => (self.text(text)?, false),
            Said::Pair { prompt, completion } => {
                remarks.extend(completion.trim().is_empty().then_some(Remark::EmptyAnswer));
                self.pair(&prompt, &completion)?
            }
            Said::Turns(conversation) => self.conversation(conversation, &mut remarks)?,
        };
        let Trained { tokens, labels, length, .. } = row;
        Ok(Row { form, tokens, labels, length, remarks, inside })
    }

    /// A text of its own: every token is trained, the one that ends the text included.
    fn text(&self, text: &str) -> Result<Trained> {
        let encoder = self.encoder()?;
        let mut row = Trained::new(self.options);
        if text.len() <= PART {
            // The faster way, without the places of tokens.
            encoder.encode(text, true)?.into_iter().try_for_each(|id| row.push(id, true))?;
        } else {
            encoder.encode_each(text, true, &mut |token| row.push(token.id, true))?;
        }
        if let Some(end) = self.missing_end(encoder, row.last) {
            row.push(end, true)?;
        }
        Ok(row)
    }

    /// The whole of a plain text file, token by token.
    pub(in crate::data) fn document(
        &self,
        text: &str,
        take: &mut dyn FnMut(Token) -> Result<()>,
    ) -> Result<()> {
        let encoder = self.encoder()?;
        let mut last = None;
        encoder.encode_each(text, true, &mut |token| {
            in_vocabulary([token.id], self.options.vocab_size)?;
            last = Some(token.id);
            take(token)
        })?;
        match self.missing_end(encoder, last) {
            Some(id) => take(Token { id, bytes: None }),
            None => Ok(()),
        }
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
        let all = self.options.train_on == TrainOn::All;
        let completion = prompt.len()..text.len();
        let pieces = if completion.is_empty() { &[][..] } else { std::slice::from_ref(&completion) };
        let mut spans = Spans::new(pieces);
        let mut begun = false;
        let mut row = Trained::new(self.options);
        encoder.encode_each(&text, true, &mut |Token { id, bytes }| {
            // A token without bytes begins or ends the text; the end belongs to the completion.
            let trained = bytes.as_ref().map_or(begun, |bytes| spans.hold(bytes));
            begun |= bytes.is_some();
            row.push(id, trained || all)
        })?;
        if let Some(end) = self.missing_end(encoder, row.last) {
            row.push(end, true)?;
        }
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
        let mut row = Trained::new(self.options);
        if let Some(id) = chat.beginning(encoder) {
            row.push(id, all)?;
        }
        let mut spans = Spans::new(&marked.spans);
        encoder.encode_each(&marked.text, false, &mut |Token { id, bytes }| {
            row.push(id, bytes.is_some_and(|bytes| spans.hold(&bytes)) || all)
        })?;
        let inside = spans.inside;
        let last = conversation.trained.last().is_some_and(|trained| *trained || all);
        if let Some(end) = encoder.eos_id().filter(|_| chat.open_ended(encoder)) {
            row.push(end, last)?;
        }
        remarks.extend(conversation.remarks);
        Ok((row, inside))
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
    Error::usage(ErrorKind::Unsupported, problem).hint(
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
