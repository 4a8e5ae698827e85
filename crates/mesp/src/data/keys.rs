//! Keys of a row that its form does not read: marks of a bad answer, which are refused, and others, which are told.

use serde_json::{Map, Value};

use super::Form;
use super::remarks::Remark;
use super::turns::{CONTEXT, is_blank};
use crate::{Error, ErrorKind, Result};

/// Keys that say how good an answer is: `label` (KTO in TRL, ms-swift), `kto_tag` (LLaMA-Factory), rewards, and
/// answers that were not chosen.
const JUDGEMENTS: [&str; 19] = [
    "label",
    "kto_tag",
    "weight",
    "score",
    "scores",
    "rating",
    "ratings",
    "reward",
    "rewards",
    "quality",
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_messages",
    "rejected_answer",
    "score_chosen",
    "score_rejected",
    "chosen-rating",
    "rejected-rating",
];

/// Keys of what is no text.
const MEDIA: [&str; 8] =
    ["image", "images", "image_path", "video", "videos", "audio", "audios", "pixel_values"];

/// Keys by which forms are known.
const FORMS: [&str; 10] = [
    "input_ids",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "output",
    "text",
    "question",
    "answer",
];

/// Keys that change nothing of a tokenized row.
const IDLE: [&str; 4] = ["token_type_ids", "position_ids", "length", "special_tokens_mask"];

impl Form {
    /// The keys that are read of a row of this form; `turns` where it becomes a conversation.
    fn reads(self, key: &str, turns: bool) -> bool {
        let own: &[&str] = match self {
            Self::Tokens => &["input_ids", "labels", "attention_mask"],
            Self::Messages => &["messages"],
            Self::ShareGpt => &["conversations"],
            Self::Prompt => &["prompt", "completion"],
            Self::Instruction => &["instruction", "input", "output", "instances", "history", "system"],
            Self::Text => &["text"],
            Self::Question => &["question", "answer"],
        };
        own.contains(&key)
            || (turns && CONTEXT.contains(&key))
            || (self == Self::Tokens && IDLE.contains(&key))
    }

    fn answers(self) -> bool {
        !matches!(self, Self::Tokens | Self::Text)
    }
}

/// What is to be told of a row's keys.
///
/// # Errors
/// When the row says that its answer is a bad one: training makes it likelier.
pub(super) fn unread(form: Form, row: &Map<String, Value>, turns: bool) -> Result<Vec<Remark>> {
    let keys = row.iter().filter(|(key, value)| !is_blank(value) && !form.reads(key, turns));
    let mut remarks = Vec::new();
    for (key, value) in keys {
        let name = key.clone();
        let lower = key.to_lowercase();
        let known = |list: &[&str]| list.contains(&lower.as_str());
        if form.answers() && known(&JUDGEMENTS) {
            bad(&lower, value)?;
            let good = *value == Value::Bool(true) || (lower == "weight" && value.as_f64() == Some(1.0));
            remarks.extend((!good).then_some(Remark::Judgement(name)));
        } else if known(&MEDIA) {
            remarks.push(Remark::Medium(name));
        } else if known(&FORMS) {
            remarks.push(Remark::OtherForm(name));
        } else {
            remarks.push(Remark::RowKey(name));
        }
    }
    Ok(remarks)
}

/// Refuses a row that is marked as one not to learn from. A weight multiplies the row's loss (Fireworks).
fn bad(key: &str, value: &Value) -> Result<()> {
    let is_bad = match key {
        "label" | "kto_tag" => *value == Value::Bool(false),
        "weight" => value.as_f64().is_some_and(|weight| weight <= 0.0),
        _ => false,
    };
    if !is_bad {
        return Ok(());
    }
    Err(Error::usage(
        ErrorKind::Unsupported,
        format!("`{key}` is {value}: the answer is marked as one not to learn, and training would teach it"),
    )
    .hint("leave out such rows, or give ‘objective’ preference and ‘loss_type’ kto, which learn from both"))
}
