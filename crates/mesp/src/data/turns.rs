//! Conversations as rows give them.

mod calls;
pub(super) mod marks;
mod sharegpt;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::remarks::Remark;
use crate::{Error, ErrorKind, Result};

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
    /// What is worth knowing of how the row was read.
    pub(super) remarks: Vec<Remark>,
}

impl Conversation {
    /// Adds a turn; turns of the role `assistant` are trained.
    pub fn push(&mut self, role: &str, content: &str) {
        let turn =
            Turn { message: json!({ "role": role, "content": content }), trained: role == "assistant" };
        self.insert(self.len(), turn);
    }

    fn insert(&mut self, at: usize, turn: Turn) {
        self.messages.insert(at, turn.message);
        self.trained.insert(at, turn.trained);
    }

    /// Reads a row of `messages`, with what stands beside them.
    ///
    /// # Errors
    /// When the text is no such row.
    pub fn from_json(row: &str) -> Result<Self> {
        match serde_json::from_str(row) {
            Ok(Value::Object(row)) if row.contains_key("messages") => Self::from_messages(&row),
            Ok(_) => Err(Error::usage(ErrorKind::WrongType, "").expected("an object with `messages`")),
            Err(e) => Err(Error::usage(ErrorKind::Malformed, format!("not valid JSON: {e}"))),
        }
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
        Self::from_list("messages", row)
    }

    /// Reads `conversations`, lists of `from` and `value`; some files have messages under that name.
    pub(super) fn from_sharegpt(row: &Map<String, Value>) -> Result<Self> {
        Self::from_list("conversations", row)
    }

    fn from_list(key: &str, row: &Map<String, Value>) -> Result<Self> {
        let mut conversation = Self::default();
        conversation.extend(key, &row[key])?;
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

    /// Adds what a row gives beside its turns: the keys of [`CONTEXT`].
    pub(super) fn with_context(mut self, row: &Map<String, Value>) -> Result<Self> {
        self.tools = calls::tools(row)?;
        if let Some(value) = given(row, "system") {
            let Some(system) = value.as_str() else {
                return Err(Error::usage(ErrorKind::WrongType, "`system`")
                    .is(type_of(value))
                    .expected("a text"));
            };
            let begun = self.messages.first().filter(|first| first["role"] == "system");
            match begun.map(|first| first["content"] == *system) {
                Some(true) => {}
                Some(false) => self.remark(Remark::SecondSystem),
                None => {
                    let message = json!({ "role": "system", "content": system });
                    self.insert(0, Turn { message, trained: false });
                }
            }
        }
        match given(row, "chat_template_kwargs").map(calls::opened) {
            None | Some(Value::Null) => {}
            Some(Value::Object(variables)) => self.variables = variables,
            Some(other) => {
                return Err(Error::usage(ErrorKind::WrongType, "`chat_template_kwargs`")
                    .is(type_of(&other))
                    .expected("an object")
                    .hint("these are variables of the chat template"));
            }
        }
        self.look_over();
        Ok(self)
    }

    /// Remarks on turns that are read but teach little.
    fn look_over(&mut self) {
        if (0..self.len()).all(|turn| self.role(turn) != "assistant") {
            let mut roles: Vec<String> = (0..self.len()).map(|turn| self.role(turn).to_owned()).collect();
            roles.sort();
            roles.dedup();
            self.remark(Remark::NoAssistant(roles));
        }
        let says = |turn: &Value| {
            ["content", "reasoning_content", "tool_calls"].iter().any(|key| !is_blank(&turn[*key]))
        };
        if self.messages.iter().zip(&self.trained).any(|(turn, trained)| *trained && !says(turn)) {
            self.remark(Remark::EmptyAnswer);
        }
    }

    pub(super) fn remark(&mut self, remark: Remark) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Leaves only the last of the turns that are trained.
    pub(super) fn train_last(&mut self) {
        if let Some(last) = self.trained.iter().rposition(|trained| *trained) {
            self.trained[..last].fill(false);
        }
    }

    /// The same with developers as the system; `None` where there is no developer.
    pub(super) fn with_developer_as_system(&self) -> Option<Self> {
        let mut other = self.clone();
        for message in other.messages.iter_mut().filter(|message| message["role"] == DEVELOPER) {
            message["role"] = "system".into();
        }
        other.remark(Remark::DeveloperAsSystem);
        (0..self.len()).any(|turn| self.role(turn) == DEVELOPER).then_some(other)
    }

    fn extend(&mut self, key: &str, list: &Value) -> Result<()> {
        // In tables a list may stand as a JSON text.
        let list = if list.is_string() { Cow::Owned(calls::opened(list)) } else { Cow::Borrowed(list) };
        let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
            return Err(Error::usage(ErrorKind::WrongType, format!("`{key}`"))
                .is(type_of(&list))
                .expected("a list of messages")
                .hint(SHAPE));
        };
        for (index, message) in list.iter().enumerate() {
            let place = format!("{key}[{index}]");
            let Some(object) = message.as_object() else {
                return Err(Error::usage(ErrorKind::WrongType, format!("`{place}`"))
                    .is(type_of(message))
                    .expected("an object")
                    .hint(SHAPE));
            };
            let read;
            let object = if object.contains_key("from") && !object.contains_key("role") {
                read = sharegpt::message(&place, object)?;
                &read
            } else {
                object
            };
            let turn = self.read_message(&place, object)?;
            self.insert(self.len(), turn);
        }
        self.remarks.sort();
        self.remarks.dedup();
        Ok(())
    }
}

/// The role of those who build an application, between system and user.
pub(super) const DEVELOPER: &str = "developer";

/// Keys of a row that say something of its conversation.
pub(super) const CONTEXT: [&str; 4] = ["system", "tools", "functions", "chat_template_kwargs"];

/// Keys of a turn that are read here, or that only tie turns together.
pub(super) const TURN: [&str; 7] =
    ["role", "content", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"];

struct Turn {
    message: Value,
    trained: bool,
}

const SHAPE: &str = r#"a message is {"role": "user" or "assistant" or "system", "content": "text"}"#;

/// The role that templates know for a name of a speaker, in any case of letters.
pub(super) fn known_role(name: &str) -> Option<&'static str> {
    Some(match name.trim().to_lowercase().as_str() {
        "user" | "human" => "user",
        "assistant" | "gpt" | "model" | "bot" | "ai" | "chatgpt" | "bing" | "bard" => "assistant",
        "system" => "system",
        DEVELOPER => DEVELOPER,
        "tool" | "function" | "observation" | "function_response" => "tool",
        _ => return None,
    })
}

impl Conversation {
    fn read_message(&mut self, place: &str, object: &Map<String, Value>) -> Result<Turn> {
        // Keys without a value stand for absent ones; files made from tables have every key in every turn.
        let mut message: Map<String, Value> = object
            .iter()
            .filter(|(key, value)| !value.is_null() && *key != "function_call")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let Some(role) = object.get("role").and_then(Value::as_str).filter(|role| !role.trim().is_empty())
        else {
            let found = object.get("role").map_or("missing", type_of);
            return Err(Error::usage(ErrorKind::WrongType, format!("`{place}.role`"))
                .is(found)
                .expected("a text such as `user`")
                .hint(SHAPE));
        };
        let role = known_role(role).unwrap_or(role);
        message.insert("role".into(), role.into());
        // Templates ask whether there is content; an empty text answers as null does and can be joined.
        let data = |value: &Value| {
            DATA_ROLES.contains(&role) && !value.as_array().is_some_and(|list| has_parts(list))
        };
        let content: Value = match object.get("content") {
            None | Some(Value::Null) => String::new().into(),
            Some(Value::String(text)) => text.clone().into(),
            // What a function gave back may be data; the chat format writes it.
            Some(value) if data(value) => value.clone(),
            Some(Value::Array(parts)) => text_of_parts(place, parts)?.into(),
            Some(other) => {
                return Err(Error::usage(ErrorKind::WrongType, format!("`{place}.content`"))
                    .is(type_of(other))
                    .expected("a text")
                    .hint(SHAPE));
            }
        };
        let calls = calls::of_turn(place, object, &mut self.written)?;
        if object.get("content").is_none_or(Value::is_null) && calls.is_none() {
            return Err(Error::usage(ErrorKind::WrongType, format!("`{place}`"))
                .has("no content")
                .expected("a text")
                .hint(SHAPE));
        }
        message.insert("content".into(), content);
        match calls {
            Some((calls, odd)) => {
                message.insert("tool_calls".into(), calls);
                if odd {
                    self.remark(Remark::OddArguments);
                }
            }
            None => drop(message.shift_remove("tool_calls")),
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
        let mark = marks::read(place, object)?;
        let models = role == "assistant";
        if mark == Some(true) && !models {
            self.remark(Remark::MarkOfOthers);
        }
        Ok(Turn { message: message.into(), trained: models && mark != Some(false) })
    }
}

fn text_of_parts(place: &str, parts: &[Value]) -> Result<String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let Some(piece) = part.get("text").and_then(Value::as_str) else {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
            return Err(Error::usage(
                ErrorKind::Unsupported,
                format!("`{place}.content[{index}]` is of type {kind}; only text can be trained"),
            ));
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

/// The value of a key, unless it is null or empty: files made from tables have every key in every row.
pub(super) fn given<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !is_blank(value))
}

/// Whether a value says nothing.
pub(super) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
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
