//! What a reader of the log should know about a data file, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::forms::Form;
use super::remarks::Remark;
use super::rows::RowReader;
use super::{ChatFormat, LongRows, PromptStyle, ReadOptions, TrainOn, told};

/// Lines that are kept where all are not asked for: more than any message names.
const NAMED: usize = 16;

/// Lines of rows: their number, and the first of them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    count: usize,
    first: Vec<usize>,
    last: Option<usize>,
    /// Whether all are kept.
    whole: bool,
}

impl Lines {
    /// Takes a line, once where it comes again at once.
    pub(super) fn add(&mut self, line: usize) {
        if self.last.replace(line) == Some(line) {
            return;
        }
        self.count += 1;
        if self.whole || self.first.len() < NAMED {
            self.first.push(line);
        }
    }

    /// Their number.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The first of them, or all.
    pub(super) fn list(&self) -> &[usize] {
        &self.first
    }

    /// The same.
    pub(super) fn into_list(self) -> Vec<usize> {
        self.first
    }
}

/// What was counted while a file was read.
#[derive(Default)]
pub(super) struct Tally {
    /// Rows of each [`Form`].
    pub(super) forms: [usize; Form::ALL.len()],
    /// The tokens of a plain text, and its windows.
    pub(super) document: Option<(usize, usize)>,
    /// In a plain text that begins like JSON, the lines that are JSON objects, and all lines.
    pub(super) objects: Option<(usize, usize)>,
    /// The lines of rows longer than the limit, and the length of the longest.
    pub(super) long: Lines,
    pub(super) longest: usize,
    /// Rows that splitting added.
    pub(super) pieces: usize,
    /// The lines of rows with nothing to train.
    pub(super) bare: Lines,
    /// What is to be told of rows, with their lines.
    pub(super) remarks: BTreeMap<Remark, Lines>,
    /// The lines of rows in which what is trained begins inside a token.
    pub(super) inside: Lines,
    /// Files, where there are several, and how many lines lie before each: places are counted through all of them.
    files: Vec<(usize, String)>,
    /// The furthest place.
    furthest: usize,
    /// Tokens of each row as it is in the file, where they are asked for.
    pub(super) lengths: Option<Vec<usize>>,
    /// Whether all lines are kept.
    whole: bool,
}

impl Tally {
    /// Keeps the length of every row, and all lines.
    pub(super) fn whole() -> Self {
        let lines = || Lines { whole: true, ..Lines::default() };
        let (long, bare, inside) = (lines(), lines(), lines());
        Self { long, bare, inside, lengths: Some(Vec::new()), whole: true, ..Self::default() }
    }

    /// Goes on to another of several files.
    pub(super) fn file(&mut self, path: &Path) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.files.push((self.furthest, name));
    }

    /// The place of a line: its number, after the lines of earlier files.
    pub(super) fn place(&mut self, line: usize) -> usize {
        let place = self.files.last().map_or(0, |(before, _)| *before) + line;
        self.furthest = self.furthest.max(place);
        place
    }

    /// Counts a row.
    pub(super) fn row(&mut self, form: Form, length: usize, long: bool, remarks: Vec<Remark>, line: usize) {
        self.forms[form as usize] += 1;
        if let Some(lengths) = &mut self.lengths {
            lengths.push(length);
        }
        if long {
            self.long.add(line);
            self.longest = self.longest.max(length);
        }
        for remark in remarks {
            self.remark(remark, line);
        }
    }

    /// Counts a remark on a row, once.
    pub(super) fn remark(&mut self, remark: Remark, line: usize) {
        let whole = self.whole;
        self.remarks.entry(remark).or_insert_with(|| Lines { whole, ..Lines::default() }).add(line);
    }

    /// The lines of rows of which the template leaves something out.
    pub(super) fn left_out(&self) -> Vec<usize> {
        let parts = self.remarks.iter().filter(|(remark, _)| matches!(remark, Remark::LeftOut(_)));
        let mut lines: Vec<usize> = parts.flat_map(|(_, lines)| lines.list()).copied().collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// Rows of the file.
    pub(super) fn rows(&self) -> usize {
        self.document.map_or_else(|| self.forms.iter().sum(), |(_, windows)| windows)
    }

    /// Why there is nothing to train, where no row has anything.
    pub(super) fn why_nothing(&self) -> String {
        let unheard = self.remarks.iter().filter_map(|(remark, lines)| match remark {
            Remark::NoAssistant(roles) => Some((roles, lines.count())),
            _ => None,
        });
        let (mut roles, mut rows) = (BTreeSet::new(), 0);
        for (these, count) in unheard {
            roles.extend(these);
            rows += count;
        }
        if rows > 0 && rows == self.rows() {
            let roles: Vec<String> = roles.into_iter().map(|role| format!("`{role}`")).collect();
            return format!(
                "no turn has the role `assistant`, and only such turns are trained; found the roles {}: name the model's \
                 turns `assistant`, or give ‘train_on’ all",
                roles.join(", ")
            );
        }
        let turns = [Form::Messages, Form::ShareGpt].iter().any(|form| self.forms[*form as usize] > 0);
        let marked = if turns { ", or every turn is marked as not trained" } else { "" };
        format!(
            "every label is -100, stands first in its row, or was cut off by ‘max_seq_len’{marked}; expected at least one \
             token to predict"
        )
    }

    /// What is to be said of the file.
    pub(super) fn notes(&self, reader: &RowReader<'_>, options: &ReadOptions) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some((tokens, windows)) = self.document {
            let divided = match options.max_seq_len {
                Some(length) => {
                    let windows = counted(windows, "window");
                    format!("{windows} of up to {length}; each begins with the last token of the one before")
                }
                None => "one row".to_owned(),
            };
            notes.push(format!("plain text, read as one document of {tokens} tokens in {divided}"));
        }
        if let Some((objects, lines)) = self.objects {
            notes.push(format!(
                "the text begins like JSON, and {objects} of its {lines} lines are JSON objects; if they are meant as rows, \
                 put one object on each line and name the file .jsonl"
            ));
        }
        for form in Form::ALL {
            let count = self.forms[form as usize];
            if count > 0 {
                notes.push(format!("{}: {}", counted(count, form.name()), treated(form, reader, options)));
            }
        }
        self.warnings(reader, options, &mut notes);
        notes
    }

    fn warnings(&self, reader: &RowReader<'_>, options: &ReadOptions, notes: &mut Vec<String>) {
        let rows = self.rows();
        if let Ok(encoder) = reader.encoder() {
            let of = |form: Form| self.forms[form as usize];
            let texts = self.document.is_some() || of(Form::Text) + of(Form::Prompt) > 0;
            if texts && options.append_eos && encoder.eos_id().is_none() {
                notes.push(
                    "the model names no end-of-text token: a text has no end the model could learn"
                        .to_owned(),
                );
            }
            if reader.chat().is_some_and(|chat| chat.spells_markers(encoder)) {
                notes.push(
                    "this vocabulary has no ChatML markers: they are spelled as text, and turns end with the \
                     end-of-text token where there is one"
                        .to_owned(),
                );
            }
        }
        told::tell(self, rows, reader.chat().is_some_and(ChatFormat::has_template), notes);
        if self.inside.count() > 0 {
            notes.push(format!(
                "{} of {rows} rows: a completion or a turn begins inside a token that begins before it; the token is \
                 trained, but a prompt that ends there has other tokens ({}); begin completions with the white space at \
                 the prompt's end",
                self.inside.count(),
                self.lines(&self.inside)
            ));
        }
        let (limit, longest) = (options.max_seq_len.unwrap_or_default(), self.longest);
        let long = self.long.count();
        match options.long_rows {
            _ if long == 0 => {}
            LongRows::Split => notes.push(format!(
                "{long} of {rows} rows split into {} of up to {limit} tokens (the longest has {longest}); each begins with \
                 the last token of the one before",
                long + self.pieces
            )),
            LongRows::Truncate | LongRows::Error => notes.push(format!(
                "{long} of {rows} rows cut to {limit} tokens (the longest has {longest}); ‘max_seq_len’ {longest} keeps \
                 them whole"
            )),
        }
        if self.bare.count() > 0 {
            notes.push(format!(
                "{} of {rows} rows have nothing to train ({})",
                self.bare.count(),
                self.lines(&self.bare)
            ));
        }
    }
}

impl Tally {
    /// A line, with its file where there are several.
    pub(super) fn named(&self, place: usize) -> String {
        match self.files.iter().rev().find(|(before, _)| *before < place) {
            Some((before, name)) => format!("{name}:{}", place - before),
            None => place.to_string(),
        }
    }

    /// Some lines, the first five.
    pub(super) fn lines(&self, lines: &Lines) -> String {
        let shown: Vec<String> = lines.list().iter().take(5).map(|place| self.named(*place)).collect();
        let more = if lines.count() > shown.len() { ", ..." } else { "" };
        let word = if lines.count() == 1 { "line" } else { "lines" };
        format!("{word} {}{more}", shown.join(", "))
    }
}

/// How rows of a form become text, and what of it is trained.
fn treated(form: Form, reader: &RowReader<'_>, options: &ReadOptions) -> String {
    let chat = reader.chat();
    let style = if chat.is_some_and(ChatFormat::has_template) {
        "the model's chat template"
    } else {
        "ChatML (the model has no chat template)"
    };
    let both = options.train_on == TrainOn::All;
    let turns = match options.train_on {
        TrainOn::Assistant => "the assistant's turns are trained, the other turns are not",
        TrainOn::Last => "the assistant's last turn is trained, the other turns are not",
        TrainOn::All => "the assistant's turns are trained, the other turns too",
    };
    let pair = if options.preferences {
        "completions are compared"
    } else if both {
        "both are trained"
    } else {
        "the completion is trained"
    };
    let answer = |headings: &str, answer: &str| {
        let what = if both { "everything is trained".to_owned() } else { format!("the {answer} is trained") };
        match (options.prompt_style, chat) {
            (PromptStyle::Raw, _) | (PromptStyle::Auto, None) => {
                format!("written under the headings {headings}, without a chat template; {what}")
            }
            _ => format!("written with {style}; {what}"),
        }
    };
    match form {
        Form::Tokens => "used as they are".to_owned(),
        Form::Text => "every token is trained".to_owned(),
        Form::Messages | Form::ShareGpt => format!("written with {style}; {turns}"),
        Form::Question => answer("`Question:` and `Answer:`", "answer"),
        Form::Instruction => answer("`### Instruction:` and `### Response:`", "output"),
        Form::Prompt => match (options.prompt_style, chat) {
            (PromptStyle::Chat, _) => format!("written with {style}; {pair}"),
            (_, None) => format!("joined as they stand, without a chat template; {pair}"),
            // Rows may give both as lists of messages, and those always go through the chat format.
            (_, Some(_)) => format!("texts are joined as they stand, messages written with {style}; {pair}"),
        },
    }
}

/// A number with its noun.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
