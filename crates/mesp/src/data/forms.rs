//! The forms a row may have, and what each of them says: tokens, one text, a prompt with its completion, or a
//! conversation.

use serde_json::{Map, Value};

use super::remarks::Remark;
use super::turns::{given, is_blank, type_of};
use super::{Conversation, PromptStyle, keys};
use crate::{Error, ErrorKind, Result};

/// The forms, in the order in which they are looked for: a row with the keys of two is taken for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// `input_ids`, perhaps with `labels`.
    Tokens,
    /// `messages`, perhaps with `tools`: a conversation as OpenAI and Hugging Face write it.
    Messages,
    /// `conversations` of `from` and `value`, as `ShareGPT` writes them.
    ShareGpt,
    /// `prompt` and `completion`.
    Prompt,
    /// `instruction`, perhaps `input`, and `output`, as Alpaca writes them.
    Instruction,
    /// `text`, or a JSON string.
    Text,
    /// `question` and `answer`.
    Question,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 7] = [
        Self::Tokens,
        Self::Text,
        Self::Messages,
        Self::ShareGpt,
        Self::Prompt,
        Self::Instruction,
        Self::Question,
    ];

    /// What a row of this form is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokenized row",
            Self::Messages => "conversation",
            Self::ShareGpt => "ShareGPT conversation",
            Self::Prompt => "prompt/completion row",
            Self::Instruction => "instruction row",
            Self::Text => "text row",
            Self::Question => "question/answer row",
        }
    }

    /// The form of a row.
    ///
    /// # Errors
    /// When it has none; the message says what would give it one.
    pub(super) fn of(row: &Map<String, Value>) -> Result<Self> {
        let has = |key: &str| row.get(key).is_some_and(|value| !value.is_null());
        let pairs = has("chosen") && has("rejected");
        if has("input_ids") {
            Ok(Self::Tokens)
        } else if has("messages") {
            Ok(Self::Messages)
        } else if has("conversations") && !pairs {
            Ok(Self::ShareGpt)
        } else if has("prompt") && has("completion") {
            Ok(Self::Prompt)
        } else if has("instruction") && (has("output") || has("instances")) {
            Ok(Self::Instruction)
        } else if has("text") {
            Ok(Self::Text)
        } else if has("question") && has("answer") {
            Ok(Self::Question)
        } else {
            Err(unknown(row))
        }
    }
}

/// What a row says, its form set aside.
pub(super) enum Said<'a> {
    Tokens(&'a Map<String, Value>),
    Text(&'a str),
    Pair { prompt: String, completion: String },
    Turns(Conversation),
}

/// Reads a row. `chats` says whether the model has a chat template of its own.
pub(super) fn read(
    form: Form,
    row: &Map<String, Value>,
    style: PromptStyle,
    chats: bool,
) -> Result<Said<'_>> {
    let as_turns = becomes_turns(form, row, style, chats);
    Ok(match form {
        Form::Tokens => Said::Tokens(row),
        Form::Text => Said::Text(string(row, "text")?),
        Form::Messages => Said::Turns(Conversation::from_messages(row)?),
        Form::ShareGpt => Said::Turns(Conversation::from_sharegpt(row)?),
        Form::Prompt if is_messages(row) => Said::Turns(Conversation::from_prompt_and_completion(row)?),
        Form::Prompt => {
            let (prompt, completion) = (string(row, "prompt")?, string(row, "completion")?);
            if as_turns {
                Said::Turns(turns(prompt, completion).with_context(row)?)
            } else {
                Said::Pair { prompt: prompt.to_owned(), completion: completion.to_owned() }
            }
        }
        Form::Question => {
            let (question, answer) = (string(row, "question")?, string(row, "answer")?);
            if as_turns {
                Said::Turns(turns(question, answer).with_context(row)?)
            } else {
                // The space belongs to the answer: its first word is then one token with it.
                Said::Pair {
                    prompt: format!("Question: {question}\nAnswer:"),
                    completion: format!(" {answer}"),
                }
            }
        }
        Form::Instruction => instruction(row, as_turns)?,
    })
}

/// What is to be told of the keys that [`read`] does not read.
pub(super) fn unread(
    form: Form,
    row: &Map<String, Value>,
    style: PromptStyle,
    chats: bool,
) -> Result<Vec<Remark>> {
    keys::unread(form, row, becomes_turns(form, row, style, chats))
}

/// Whether a row becomes a conversation.
fn becomes_turns(form: Form, row: &Map<String, Value>, style: PromptStyle, chats: bool) -> bool {
    let asked = style == PromptStyle::Chat;
    match form {
        Form::Tokens | Form::Text => false,
        Form::Messages | Form::ShareGpt => true,
        Form::Prompt => asked || is_messages(row),
        Form::Question => asked || (style == PromptStyle::Auto && chats),
        Form::Instruction => {
            asked || (style == PromptStyle::Auto && chats) || given(row, "history").is_some()
        }
    }
}

/// Whether prompt and completion are lists of messages.
fn is_messages(row: &Map<String, Value>) -> bool {
    row["prompt"].is_array() && row["completion"].is_array()
}

fn turns(prompt: &str, completion: &str) -> Conversation {
    let mut conversation = Conversation::default();
    conversation.push("user", prompt);
    conversation.push("assistant", completion);
    conversation
}

/// An instruction with its input, after the turns of `history` where there are any.
fn instruction(row: &Map<String, Value>, as_turns: bool) -> Result<Said<'static>> {
    let optional = |row: &Map<String, Value>, key: &str| -> Result<String> {
        match given(row, key) {
            None => Ok(String::new()),
            Some(_) => string(row, key).map(str::to_owned),
        }
    };
    let asked = string(row, "instruction")?;
    let instances = row.get("instances").filter(|_| row.get("output").is_none_or(Value::is_null));
    let (input, output) = match instances {
        None => (optional(row, "input")?, string(row, "output")?.to_owned()),
        Some(list) => {
            let one = list.as_array().filter(|list| list.len() == 1).and_then(|list| list[0].as_object());
            let Some(one) = one.filter(|one| one.contains_key("output")) else {
                return Err(Error::usage(
                    ErrorKind::WrongType,
                    "`instances` is not a list of one object with `input` and `output`",
                )
                .hint("give each instance a row of its own, with `instruction`, `input` and `output`"));
            };
            (optional(one, "input")?, string(one, "output")?.to_owned())
        }
    };
    let history = history(row)?;
    if as_turns {
        let mut conversation = Conversation::default();
        for (question, answer) in &history {
            conversation.push("user", question);
            conversation.push("assistant", answer);
        }
        let asked = if input.is_empty() { asked.to_owned() } else { format!("{asked}\n{input}") };
        conversation.push("user", &asked);
        conversation.push("assistant", &output);
        return Ok(Said::Turns(conversation.with_context(row)?));
    }
    let mut prompt = optional(row, "system")?;
    let sections = [("Instruction", asked), ("Input", &input), ("Response", "")];
    for (name, text) in sections.into_iter().filter(|(name, text)| *name != "Input" || !text.is_empty()) {
        prompt += if prompt.is_empty() { "" } else { "\n\n" };
        prompt.extend(["### ", name, ":\n", text]);
    }
    Ok(Said::Pair { prompt, completion: output })
}

/// Earlier turns, as pairs of what was asked and what was answered.
fn history(row: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let Some(list) = given(row, "history") else { return Ok(Vec::new()) };
    let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(asked), Value::String(said)]) => Some((asked.clone(), said.clone())),
        _ => None,
    };
    list.as_array().and_then(|list| list.iter().map(pair).collect()).ok_or_else(|| {
        Error::usage(ErrorKind::WrongType, "`history`")
            .is("not a list of pairs of texts")
            .expected("[[\"question\", \"answer\"], ...]")
    })
}

pub(super) fn string<'a>(row: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
    let value = row.get(key).unwrap_or(&Value::Null);
    value.as_str().ok_or_else(|| {
        Error::usage(ErrorKind::WrongType, format!("`{key}`"))
            .is(type_of(value))
            .expected("a text")
            .hint(FORMS)
    })
}

pub(super) const FORMS: &str = "a row is {\"messages\": [...]}, {\"conversations\": [...]}, {\"prompt\": \"...\", \"completion\": \"...\"}, \
                     {\"instruction\": \"...\", \"input\": \"...\", \"output\": \"...\"}, {\"question\": \"...\", \"answer\": \"...\"}, \
                     {\"text\": \"...\"}, or {\"input_ids\": [...], \"labels\": [...]}";

/// Names under which other files have what is asked, what it is asked of, and the answer.
const ASKED: [&str; 9] =
    ["prompt", "instruction", "question", "query", "problem", "user", "human", "request", "input"];
const OF_IT: [&str; 4] = ["input", "context", "inputs", "passage"];
const ANSWERED: [&str; 12] = [
    "completion",
    "output",
    "answer",
    "response",
    "chosen",
    "target",
    "solution",
    "reply",
    "assistant",
    "answers",
    "outputs",
    "gpt",
];

/// Rows of other shapes are named with what turns them into a known one.
fn unknown(row: &Map<String, Value>) -> Error {
    let found =
        |list: &[&'static str]| list.iter().copied().find(|key| row.get(*key).is_some_and(Value::is_string));
    let has = |key: &str| row.contains_key(key);
    let advice = if has("chosen") && has("rejected") {
        "give ‘objective’ preference to train on pairs, or keep the chosen answer as `completion`".to_owned()
    } else if let (Some(asked), Some(answer)) = (found(&ASKED), found(&ANSWERED)) {
        let of_it = found(&OF_IT).filter(|key| *key != asked);
        let names = if asked == "instruction" || of_it.is_some() {
            [(Some(asked), "instruction"), (of_it, "input"), (Some(answer), "output")]
        } else {
            [(Some(asked), "prompt"), (None, ""), (Some(answer), "completion")]
        };
        let renamed =
            names.into_iter().filter_map(|(from, to)| from.filter(|from| *from != to).zip(Some(to)));
        let list: Vec<String> = renamed.map(|(from, to)| format!("`{from}` to `{to}`")).collect();
        format!("rename {}", list.join(" and "))
    } else if let Some(turns) = ["conversation", "dialogue", "dialog", "turns", "chat"]
        .into_iter()
        .find(|key| row.get(*key).is_some_and(Value::is_array))
    {
        format!("rename `{turns}` to `messages`, a list of turns with `role` and `content`")
    } else if let Some(text) = found(&["content", "document", "story", "body", "passage"]) {
        format!("rename `{text}` to `text`")
    } else {
        FORMS.to_owned()
    };
    let shown = |(key, value): (&String, &Value)| {
        if is_blank(value) { format!("`{key}` ({})", type_of(value)) } else { format!("`{key}`") }
    };
    let mut found: Vec<String> = row.iter().take(8).map(shown).collect();
    if found.is_empty() {
        found.push("none".to_owned());
    } else if row.len() > found.len() {
        found.push("...".to_owned());
    }
    let expected = "`messages`, `conversations`, `prompt` with `completion`, `instruction` with `output`, \
                    `question` with `answer`, `text` or `input_ids`";
    Error::usage(ErrorKind::Unknown, "the row has no form that can be trained")
        .expected(expected)
        .found(format!("the keys {}", found.join(", ")))
        .hint(advice)
}

/// How a table, whose cells are texts, holds the values of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// A text.
    Text,
    /// A list or an object, as JSON.
    Json,
    /// A text, or a list of messages as JSON.
    TextOrTurns,
    /// Whether an answer is good: a truth value or a number.
    Mark,
}

/// Every name that a form or a question reads, beside [`Form`]; what `--columns` may give a column, what tells a
/// table's header from its first row, and how a table holds its values.
pub(super) const KEYS: [(&str, Cell); 29] = [
    ("prompt", Cell::TextOrTurns),
    ("completion", Cell::TextOrTurns),
    ("messages", Cell::Json),
    ("text", Cell::Text),
    ("instruction", Cell::Text),
    ("input", Cell::Text),
    ("output", Cell::Text),
    ("question", Cell::Text),
    ("answer", Cell::Text),
    ("choices", Cell::Json),
    ("system", Cell::Text),
    ("conversations", Cell::Json),
    ("tools", Cell::Json),
    ("functions", Cell::Json),
    ("history", Cell::Json),
    ("instances", Cell::Json),
    ("chat_template_kwargs", Cell::Json),
    ("input_ids", Cell::Json),
    ("labels", Cell::Json),
    ("attention_mask", Cell::Json),
    ("label", Cell::Mark),
    ("kto_tag", Cell::Mark),
    ("weight", Cell::Mark),
    ("chosen", Cell::TextOrTurns),
    ("rejected", Cell::TextOrTurns),
    ("prompt_input_ids", Cell::Json),
    ("completion_input_ids", Cell::Json),
    ("chosen_input_ids", Cell::Json),
    ("rejected_input_ids", Cell::Json),
];

/// How a table holds the values of a name, if it is one that is read.
pub(super) fn cell(name: &str) -> Option<Cell> {
    KEYS.iter().find(|(key, _)| *key == name).map(|(_, cell)| *cell)
}
