//! A conversation in the form that its template reads. Rows leave the content of a turn that calls a function out, or
//! give it as null or as an empty text; they give arguments as a mapping or as a JSON text, and what a function gave
//! back as data or as a text. Templates ask for one or the other, and write no call, or nothing, where it is another.

use std::borrow::Cow;

use serde_json::Value;

use super::locate::PROBE;
use super::{ChatFormat, Part};
use crate::data::Conversation;
use crate::data::python::float;
use crate::{Error, ErrorKind, Result};

/// How a turn that only calls functions has no content.
#[derive(Clone, Copy, PartialEq)]
enum Absent {
    Empty,
    Null,
    /// The key is not there, as transformers has it.
    Missing,
}

/// One way to write what rows write in several.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    absent: Absent,
    /// Whether arguments are the text that the row gives.
    text_arguments: bool,
    /// Whether what a function gave back is a JSON text.
    text_data: bool,
}

impl ChatFormat {
    /// The conversation in the first of the forms in which the template writes all that is in it: calls of functions
    /// above all. Where it writes it all in none, the one in which it writes most.
    pub(super) fn settled<'a>(&self, conversation: &'a Conversation) -> Result<Cow<'a, Conversation>> {
        let silent = (0..conversation.len()).any(|turn| is_silent(conversation, turn));
        let data =
            conversation.messages.iter().filter_map(|m| m.get("content")).filter(|c| !c.is_string()).count();
        let plain = Way { absent: Absent::Empty, text_arguments: false, text_data: false };
        if self.template(conversation).is_none() {
            refuse_calls(conversation)?;
            let text = Way { text_data: true, ..plain };
            return Ok(if data == 0 {
                Cow::Borrowed(conversation)
            } else {
                Cow::Owned(written(conversation, text))
            });
        }
        if !silent && data == 0 && conversation.written.is_empty() {
            return Ok(Cow::Borrowed(conversation));
        }
        let calls: usize =
            if silent { conversation.messages.iter().map(|m| calls_of(m).len()).sum() } else { 0 };
        let all = calls + data + conversation.written.len();
        let absent: &[Absent] =
            if silent { &[Absent::Empty, Absent::Null, Absent::Missing] } else { &[Absent::Empty] };
        let both: &[bool] = &[false, true];
        let mut best: Option<(usize, Conversation)> = None;
        for &absent in absent {
            for &text_arguments in if conversation.written.is_empty() { &both[..1] } else { both } {
                for &text_data in if data == 0 { &both[..1] } else { both } {
                    let tried = written(conversation, Way { absent, text_arguments, text_data });
                    let Some(count) = self.count(conversation, &tried, silent) else { continue };
                    if count == all {
                        return Ok(Cow::Owned(tried));
                    }
                    if best.as_ref().is_none_or(|(most, _)| count > *most) {
                        best = Some((count, tried));
                    }
                }
            }
        }
        // Where the template refuses all of them, its words about the first are as good as any.
        Ok(Cow::Owned(best.map_or_else(|| written(conversation, plain), |(_, tried)| tried)))
    }

    /// How many of a conversation's calls, arguments and data a form of it has in its rendering; none where the
    /// template refuses it.
    fn count(&self, given: &Conversation, tried: &Conversation, silent: bool) -> Option<usize> {
        let text = self.render_part(&Part::whole(tried))?.ok()?;
        let arguments =
            given.written.iter().filter(|(value, raw)| text.contains(raw.as_str()) || has(&text, value));
        let data = given.messages.iter().filter_map(|m| m.get("content")).filter(|c| !c.is_string());
        let mut count = arguments.count() + data.filter(|value| has(&text, value)).count();
        if silent {
            // By name, other text may say the same: the list of the functions has their names too.
            let mut messages = tried.messages.clone();
            for call in messages.iter_mut().flat_map(calls_of_mut) {
                let call = if call.get("function").is_some() { &mut call["function"] } else { call };
                call["name"] = PROBE.into();
            }
            let probed = self.render_part(&Part { messages: &messages, ..Part::whole(tried) })?.ok();
            count += probed.map_or(0, |text| text.matches(PROBE).count());
        }
        Some(count)
    }
}

/// `ChatML` has turns only; what would be left out of a row is refused.
fn refuse_calls(conversation: &Conversation) -> Result<()> {
    const HINT: &str = "put the chat_template.jinja of a model that calls functions in the model directory, or leave \
                        them out of the row";
    let caller = conversation.messages.iter().position(|message| !calls_of(message).is_empty());
    if let Some(turn) = caller {
        return Err(Error::usage(
            ErrorKind::Unsupported,
            format!(
                "messages[{turn}] calls functions (`tool_calls`), and the model has no chat template: \
                    ChatML has no form for calls"
            ),
        )
        .hint(HINT));
    }
    if conversation.tools.is_some() {
        return Err(Error::usage(
            ErrorKind::Unsupported,
            "the row lists `tools`, and the model has no chat template: ChatML has no form for them",
        )
        .hint(HINT));
    }
    Ok(())
}

fn calls_of(message: &Value) -> &[Value] {
    message.get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn calls_of_mut(message: &mut Value) -> &mut [Value] {
    message.get_mut("tool_calls").and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Whether a turn calls functions and says nothing.
fn is_silent(conversation: &Conversation, turn: usize) -> bool {
    let message = &conversation.messages[turn];
    !calls_of(message).is_empty() && message.get("content").is_some_and(|content| content == "")
}

/// The conversation in one way.
fn written(conversation: &Conversation, way: Way) -> Conversation {
    let mut out = conversation.clone();
    for turn in 0..out.len() {
        let silent = is_silent(conversation, turn);
        let Some(message) = out.messages[turn].as_object_mut() else { continue };
        match way.absent {
            Absent::Null if silent => drop(message.insert("content".to_owned(), Value::Null)),
            Absent::Missing if silent => drop(message.shift_remove("content")),
            _ => {}
        }
        if let Some(content) = message
            .get_mut("content")
            .filter(|content| way.text_data && !content.is_string() && !content.is_null())
        {
            *content = dumped(content, ", ", ": ").into();
        }
        let arguments = |call: &mut Value| {
            let call = if call.get("function").is_some() { &mut call["function"] } else { call };
            let given = conversation.written.iter().find(|(value, _)| call.get("arguments") == Some(value));
            if let Some((_, text)) = given {
                call["arguments"] = text.as_str().into();
            }
        };
        if way.text_arguments {
            calls_of_mut(&mut out.messages[turn]).iter_mut().for_each(arguments);
        }
    }
    out
}

/// Whether a text has a value in one of the usual spellings.
fn has(text: &str, value: &Value) -> bool {
    text.contains(&dumped(value, ", ", ": ")) || text.contains(&dumped(value, ",", ":"))
}

/// `json.dumps` with `ensure_ascii=False`.
fn dumped(value: &Value, item: &str, key: &str) -> String {
    let joined = |parts: Vec<String>| parts.join(item);
    match value {
        Value::Array(list) => format!("[{}]", joined(list.iter().map(|v| dumped(v, item, key)).collect())),
        Value::Object(map) => {
            let pair = |(name, v): (&String, &Value)| {
                format!("{}{key}{}", Value::from(name.as_str()), dumped(v, item, key))
            };
            format!("{{{}}}", joined(map.iter().map(pair).collect()))
        }
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}
