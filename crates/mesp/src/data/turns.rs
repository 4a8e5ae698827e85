//! Conversations as rows give them.

use serde_json::{Map, Value, json};

use super::sharegpt;
use crate::{Error, Result};

/// The turns of a conversation, and which of them are trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Objects with at least `role` and `content`, as chat templates read them.
    pub(super) messages: Vec<Value>,
    pub(super) tools: Option<Value>,
    /// More variables for the template, such as `enable_thinking`.
    pub(super) variables: Map<String, Value>,
    /// Beside each message: whether it is a turn of the model that is trained.
    pub(super) trained: Vec<bool>,
    /// Arguments of calls that the row gives as a JSON text: their values, which stand in the messages, and the text.
    pub(super) written: Vec<(Value, String)>,
}

impl Conversation {
    /// Adds a turn; turns of the role `assistant` are trained.
    pub fn push(&mut self, role: &str, content: &str) {
        self.messages.push(json!({ "role": role, "content": content }));
        self.trained.push(role == "assistant");
    }

    /// The number of turns.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no turn yet.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn role(&self, index: usize) -> &str {
        self.messages[index]["role"].as_str().unwrap_or_default()
    }

    pub(super) fn content(&self, index: usize) -> &str {
        self.messages[index]["content"].as_str().unwrap_or_default()
    }

    /// Reads the `messages` of a row, and what stands beside them.
    pub(super) fn from_messages(row: &Map<String, Value>) -> Result<Self> {
        let mut conversation = Self::default();
        conversation.extend("messages", &row["messages"])?;
        conversation.with_context(row)
    }

    /// Reads `prompt` and `completion` given as messages; only turns of the completion are trained.
    pub(super) fn from_prompt_and_completion(row: &Map<String, Value>) -> Result<Self> {
        let mut conversation = Self::default();
        conversation.extend("prompt", &row["prompt"])?;
        conversation.trained.fill(false);
        conversation.extend("completion", &row["completion"])?;
        conversation.with_context(row)
    }

    /// Reads `conversations`, lists of `from` and `value`; some files have messages under that name.
    pub(super) fn from_sharegpt(row: &Map<String, Value>) -> Result<Self> {
        let key = "conversations";
        let list = row[key].as_array().filter(|list| !list.is_empty());
        let mut conversation = Self::default();
        match list {
            Some(list) if list[0].get("from").is_some() => {
                let turns =
                    list.iter().enumerate().map(|(i, turn)| sharegpt::message(&format!("{key}[{i}]"), turn));
                conversation.extend(key, &turns.collect::<Result<Value>>()?)?;
            }
            _ => conversation.extend(key, &row[key])?,
        }
        conversation.with_context(row)
    }

    /// Adds what a row gives beside its turns: `system`, `tools`, `chat_template_kwargs`.
    pub(super) fn with_context(mut self, row: &Map<String, Value>) -> Result<Self> {
        self.tools = tools(row)?;
        if let Some(value) = row.get("system").filter(|value| !value.is_null()) {
            let Some(system) = value.as_str() else {
                return Err(Error::usage(format!("`system` is {}; expected a text", type_of(value))));
            };
            if !system.is_empty() && self.messages.first().is_none_or(|first| first["role"] != "system") {
                self.messages.insert(0, json!({ "role": "system", "content": system }));
                self.trained.insert(0, false);
            }
        }
        match row.get("chat_template_kwargs") {
            None | Some(Value::Null) => {}
            Some(Value::Object(variables)) => self.variables.clone_from(variables),
            Some(other) => {
                let problem = format!("`chat_template_kwargs` is {}; expected an object", type_of(other));
                return Err(Error::usage(problem).hint("these are variables of the chat template"));
            }
        }
        Ok(self)
    }

    /// Leaves only the last of the turns that are trained.
    pub(super) fn train_last(&mut self) {
        if let Some(last) = self.trained.iter().rposition(|trained| *trained) {
            self.trained[..last].fill(false);
        }
    }

    /// Whether something that the model's turns say is missing in a rendering. Templates of models that reason
    /// leave the reasoning of earlier turns out.
    pub(super) fn left_out_of(&self, text: &str) -> bool {
        let trained = self.messages.iter().zip(&self.trained).filter(|(_, trained)| **trained);
        let mut said = trained.flat_map(|(message, _)| {
            [message.get("reasoning_content"), message.get("content")]
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
        });
        said.any(|said| {
            let parts = said.split("</think>").map(|part| part.trim().trim_start_matches("<think>").trim());
            parts.into_iter().any(|part| !text.contains(part))
        })
    }

    fn extend(&mut self, key: &str, list: &Value) -> Result<()> {
        let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
            let problem = format!("`{key}` is {}; expected a list of messages", type_of(list));
            return Err(Error::usage(problem).hint(SHAPE));
        };
        for (index, message) in list.iter().enumerate() {
            let place = format!("{key}[{index}]");
            let Some(object) = message.as_object() else {
                return Err(Error::usage(format!("`{place}` is {}; expected an object", type_of(message)))
                    .hint(SHAPE));
            };
            let (message, trained) = read_message(&place, object, &mut self.written)?;
            self.messages.push(message);
            self.trained.push(trained);
        }
        Ok(())
    }
}

const SHAPE: &str = r#"a message is {"role": "user" or "assistant" or "system", "content": "text"}"#;

fn read_message(
    place: &str,
    object: &Map<String, Value>,
    written: &mut Vec<(Value, String)>,
) -> Result<(Value, bool)> {
    // Keys without a value stand for absent ones; files made from tables have every key in every turn.
    let mut message: Map<String, Value> =
        object.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let Some(role) = object.get("role").and_then(Value::as_str).filter(|role| !role.is_empty()) else {
        let found = object.get("role").map_or("missing", type_of);
        return Err(
            Error::usage(format!("`{place}.role` is {found}; expected a text such as `user`")).hint(SHAPE)
        );
    };
    // Templates ask whether there is content; an empty text answers as null does and can be joined.
    let data =
        |value: &Value| DATA_ROLES.contains(&role) && !value.as_array().is_some_and(|list| has_parts(list));
    let content: Value = match object.get("content") {
        None | Some(Value::Null) => String::new().into(),
        Some(Value::String(text)) => text.clone().into(),
        // What a function gave back may be data; the chat format writes it.
        Some(value) if data(value) => value.clone(),
        Some(Value::Array(parts)) => text_of_parts(place, parts)?.into(),
        Some(other) => {
            let problem = format!("`{place}.content` is {}; expected a text", type_of(other));
            return Err(Error::usage(problem).hint(SHAPE));
        }
    };
    let calls_tools = object.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let absent = object.get("content").is_none_or(Value::is_null);
    if absent && !calls_tools {
        return Err(Error::usage(format!("`{place}` has no content; expected a text")).hint(SHAPE));
    }
    message.insert("content".into(), content);
    if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
        written.extend(calls.iter_mut().filter_map(open_arguments));
    }
    // Other names of what templates read as `reasoning_content`.
    let reasoning =
        ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(|key| message.get(key));
    if let Some(reasoning) = reasoning.cloned() {
        if !message.contains_key("thinking") {
            // In front, where transformers puts it: templates may walk over a message.
            message.shift_insert(0, "thinking".into(), reasoning.clone());
        }
        message.insert("reasoning_content".into(), reasoning);
    }
    let trained = match object.get("weight").or_else(|| object.get("train")) {
        None | Some(Value::Null) => role == "assistant",
        Some(Value::Bool(train)) => *train && role == "assistant",
        Some(weight) => match weight.as_f64() {
            Some(0.0) => false,
            Some(1.0) => role == "assistant",
            _ => {
                let problem =
                    format!("`{place}.weight` is {weight}; expected 0 (not trained) or 1 (trained)");
                return Err(Error::usage(problem));
            }
        },
    };
    Ok((Value::Object(message), trained))
}

fn text_of_parts(place: &str, parts: &[Value]) -> Result<String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let Some(piece) = part.get("text").and_then(Value::as_str) else {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
            let problem = format!("`{place}.content[{index}]` is of type {kind}; only text can be trained");
            return Err(Error::usage(problem));
        };
        text.push_str(piece);
    }
    Ok(text)
}

/// Roles of turns that give back what a function returned.
const DATA_ROLES: [&str; 3] = ["tool", "function", "ipython"];

/// Whether a list is a content in parts, of texts or of what cannot be trained, and not data.
fn has_parts(list: &[Value]) -> bool {
    const PARTS: [&str; 9] =
        ["text", "input_text", "output_text", "image", "image_url", "audio", "input_audio", "video", "file"];
    list.iter().any(|part| part.get("type").and_then(Value::as_str).is_some_and(|kind| PARTS.contains(&kind)))
}

/// Arguments travel as a JSON text; templates print a mapping. Gives back both where they were a text.
fn open_arguments(call: &mut Value) -> Option<(Value, String)> {
    let call = if call.get("function").is_some() { &mut call["function"] } else { call };
    let text = call.get("arguments").and_then(Value::as_str)?.to_owned();
    let arguments: Value = serde_json::from_str(&text).ok().filter(Value::is_object)?;
    call["arguments"] = arguments.clone();
    Some((arguments, text))
}

fn tools(row: &Map<String, Value>) -> Result<Option<Value>> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(list @ Value::Array(_)) => Ok(Some(list.clone())),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(list @ Value::Array(_)) => Ok(Some(list)),
            _ => Err(Error::usage("`tools` is a text that is not a JSON list; expected a list of tools")),
        },
        Some(other) => Err(Error::usage(format!("`tools` is {}; expected a list", type_of(other)))),
    }
}

/// What a JSON value is, for messages.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(list) if list.is_empty() => "an empty list",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
