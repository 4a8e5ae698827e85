//! What a reader of the log should know about a data file, in words.

use super::rows::{Form, RowReader};
use super::{ChatFormat, PromptStyle, ReadOptions};

/// What was counted while a file was read.
#[derive(Default)]
pub(super) struct Tally {
    /// Rows of each [`Form`].
    pub(super) forms: [usize; 4],
    /// The tokens of a plain text.
    pub(super) document: Option<usize>,
    /// Rows longer than the limit, and the length of the longest.
    pub(super) cut: usize,
    pub(super) longest: usize,
    /// The lines of rows with nothing to train.
    pub(super) bare: Vec<usize>,
}

impl Tally {
    /// The notes on a file of so many rows.
    pub(super) fn notes(&self, rows: usize, reader: &RowReader<'_>, options: &ReadOptions) -> Vec<String> {
        let mut notes = Vec::new();
        let of = |form: Form| Some(self.forms[form as usize]).filter(|&count| count > 0);
        if let Some(tokens) = self.document {
            let windows = counted(rows, "window");
            let divided = match options.max_seq_len {
                Some(length) => {
                    format!("{windows} of up to {length}; each begins with the last token of the one before")
                }
                None => "one row".to_owned(),
            };
            notes.push(format!("plain text, read as one document of {tokens} tokens in {divided}"));
        }
        if let Some(count) = of(Form::Tokens) {
            notes.push(format!("{}: used as they are", counted(count, "tokenized row")));
        }
        if let Some(count) = of(Form::Text) {
            notes.push(format!("{}: every token is trained", counted(count, "text row")));
        }
        let chat = reader.chat();
        let others = if options.train_on_prompt { "the other turns too" } else { "the other turns are not" };
        let style = if chat.is_some_and(ChatFormat::has_template) {
            "the model's chat template"
        } else {
            "ChatML (the model has no chat template)"
        };
        if let Some(count) = of(Form::Messages) {
            let rows = counted(count, "conversation");
            notes.push(format!("{rows}: written with {style}; the assistant's turns are trained, {others}"));
        }
        if let Some(count) = of(Form::Prompt) {
            let style = match (options.prompt_style, chat) {
                (PromptStyle::Raw, None) => "joined as they stand, without a chat template".to_owned(),
                // Rows may give both as lists of messages, and those always go through the chat format.
                (PromptStyle::Raw, Some(_)) => {
                    format!("texts are joined as they stand, messages written with {style}")
                }
                (PromptStyle::Chat, _) => format!("written with {style}"),
            };
            let trained =
                if options.train_on_prompt { "both are trained" } else { "the completion is trained" };
            notes.push(format!("{}: {style}; {trained}", counted(count, "prompt/completion row")));
        }
        self.warnings(rows, reader, options, &mut notes);
        notes
    }

    fn warnings(&self, rows: usize, reader: &RowReader<'_>, options: &ReadOptions, notes: &mut Vec<String>) {
        if let Ok(encoder) = reader.encoder() {
            let texts = self.document.is_some()
                || self.forms[Form::Text as usize] + self.forms[Form::Prompt as usize] > 0;
            if texts && options.append_eos && encoder.eos_id().is_none() {
                notes.push(
                    "the model names no end-of-text token: a text has no end the model could learn"
                        .to_owned(),
                );
            }
            if reader.chat().is_some_and(|chat| chat.spells_markers(encoder)) {
                notes.push(
                    "this vocabulary has no ChatML markers: <|im_start|> and <|im_end|> are spelled as text"
                        .to_owned(),
                );
            }
        }
        if self.cut > 0 {
            let limit = options.max_seq_len.unwrap_or_default();
            let longest = self.longest;
            notes.push(format!(
                "{} of {rows} rows cut to {limit} tokens (the longest has {longest}); --max-seq-len {longest} keeps them whole",
                self.cut
            ));
        }
        if !self.bare.is_empty() {
            let lines: Vec<String> = self.bare.iter().take(5).map(ToString::to_string).collect();
            let more = if self.bare.len() > lines.len() { ", ..." } else { "" };
            let word = if self.bare.len() == 1 { "line" } else { "lines" };
            let lines = lines.join(", ");
            notes.push(format!(
                "{} of {rows} rows have nothing to train ({word} {lines}{more})",
                self.bare.len()
            ));
        }
    }
}

/// A number with its noun.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
