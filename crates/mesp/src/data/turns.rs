//! Conversations as rows give them.

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The turns of a conversation, and which of them are trained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Objects with at least `role` and `content`, as chat templates read them.
    pub(super) messages: Vec<Value>,
    pub(super) tools: Option<Value>,
    /// Beside each message: whether it is a turn of the model that is trained.
    pub(super) trained: Vec<bool>,
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

    /// Reads the `messages` (and `tools`) of a row.
    pub(super) fn from_messages(row: &Map<String, Value>) -> Result<Self> {
        let mut conversation = Self { tools: tools(row)?, ..Self::default() };
        conversation.extend("messages", &row["messages"])?;
        Ok(conversation)
    }

    /// Reads `prompt` and `completion` given as messages; only turns of the completion are trained.
    pub(super) fn from_prompt_and_completion(row: &Map<String, Value>) -> Result<Self> {
        let mut conversation = Self { tools: tools(row)?, ..Self::default() };
        conversation.extend("prompt", &row["prompt"])?;
        conversation.trained.fill(false);
        conversation.extend("completion", &row["completion"])?;
        Ok(conversation)
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
            let (message, trained) = read_message(&place, object)?;
            self.messages.push(message);
            self.trained.push(trained);
        }
        Ok(())
    }
}

const SHAPE: &str = r#"a message is {"role": "user" or "assistant" or "system", "content": "text"}"#;

fn read_message(place: &str, object: &Map<String, Value>) -> Result<(Value, bool)> {
    let mut message = object.clone();
    let Some(role) = object.get("role").and_then(Value::as_str).filter(|role| !role.is_empty()) else {
        let found = object.get("role").map_or("missing", type_of);
        return Err(
            Error::usage(format!("`{place}.role` is {found}; expected a text such as `user`")).hint(SHAPE)
        );
    };
    // Templates ask whether there is content; an empty text answers as null does and can be joined.
    let content = match object.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => text_of_parts(place, parts)?,
        Some(other) => {
            let problem = format!("`{place}.content` is {}; expected a text", type_of(other));
            return Err(Error::usage(problem).hint(SHAPE));
        }
    };
    let calls_tools = object.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let absent = !matches!(object.get("content"), Some(Value::String(_) | Value::Array(_)));
    if absent && !calls_tools {
        return Err(Error::usage(format!("`{place}` has no content; expected a text")).hint(SHAPE));
    }
    message.insert("content".into(), content.into());
    if let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(open_arguments);
    }
    let trained = match object.get("weight") {
        None | Some(Value::Null) => role == "assistant",
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

/// Arguments travel as a JSON text; templates print a mapping.
fn open_arguments(call: &mut Value) {
    let call = if call.get("function").is_some() { &mut call["function"] } else { call };
    let opened =
        call.get("arguments").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    if let Some(arguments @ Value::Object(_)) = opened {
        call["arguments"] = arguments;
    }
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
pub(super) fn type_of(value: &Value) -> &'static str {
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
