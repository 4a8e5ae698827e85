//! Turns as `ShareGPT` writes them, `{"from": "human", "value": "..."}`, to messages.

use serde_json::{Map, Value, json};

use super::turns::type_of;
use crate::{Error, Result};

const SHAPE: &str =
    r#"a turn is {"from": "human" or "gpt" or "system" or "tool" or "function_call", "value": "text"}"#;

/// The message of a turn; `place` is for messages.
pub(super) fn message(place: &str, turn: &Value) -> Result<Value> {
    let Some(object) = turn.as_object() else {
        return Err(Error::usage(format!("`{place}` is {}; expected an object", type_of(turn))).hint(SHAPE));
    };
    let text = |key: &str| {
        object.get(key).and_then(Value::as_str).ok_or_else(|| {
            let found = object.get(key).map_or("missing", type_of);
            Error::usage(format!("`{place}.{key}` is {found}; expected a text")).hint(SHAPE)
        })
    };
    let (from, value) = (text("from")?, text("value")?);
    let mut message = Map::new();
    // What stands beside a turn, such as its weight.
    message.extend(
        object.iter().filter(|(k, _)| *k != "from" && *k != "value").map(|(k, v)| (k.clone(), v.clone())),
    );
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" | "bing" | "bard" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        "function_call" => {
            message.insert("tool_calls".into(), calls(place, value)?);
            message.insert("content".into(), "".into());
            message.insert("role".into(), "assistant".into());
            return Ok(Value::Object(message));
        }
        other => {
            let problem = format!("`{place}.from` is {other:?}; expected a known speaker");
            return Err(Error::usage(problem).hint(SHAPE));
        }
    };
    message.insert("role".into(), role.into());
    message.insert("content".into(), value.into());
    Ok(Value::Object(message))
}

/// Calls of functions, written as JSON in the turn's text: an object, or a list of them.
fn calls(place: &str, text: &str) -> Result<Value> {
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) if !calls.is_empty() => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => Vec::new(),
    };
    if calls.is_empty() || !calls.iter().all(|call| call.get("name").is_some_and(Value::is_string)) {
        let problem = format!("`{place}.value` is no call of a function");
        return Err(Error::usage(problem).hint(r#"expected the text of {"name": "...", "arguments": {...}}"#));
    }
    Ok(calls.into_iter().map(|call| json!({ "type": "function", "function": call })).collect())
}
