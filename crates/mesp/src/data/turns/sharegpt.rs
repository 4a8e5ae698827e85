//! Turns as `ShareGPT` writes them, `{"from": "human", "value": "..."}`, to messages.

use serde_json::{Map, Value};

use super::{known_role, type_of};
use crate::{Error, ErrorKind, Result};

const SHAPE: &str =
    r#"a turn is {"from": "human" or "gpt" or "system" or "tool" or "function_call", "value": "text"}"#;

/// The message of a turn; `place` is for messages.
pub(super) fn message(place: &str, turn: &Map<String, Value>) -> Result<Map<String, Value>> {
    let text = |key: &str| {
        turn.get(key).and_then(Value::as_str).ok_or_else(|| {
            let found = turn.get(key).map_or("missing", type_of);
            Error::usage(ErrorKind::WrongType, format!("`{place}.{key}`"))
                .is(found)
                .expected("a text")
                .hint(SHAPE)
        })
    };
    let (from, value) = (text("from")?, text("value")?);
    // What stands beside a turn, such as its weight.
    let mut message: Map<String, Value> = turn
        .iter()
        .filter(|(key, _)| *key != "from" && *key != "value")
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if from == "function_call" {
        message.insert("tool_calls".into(), calls(place, value)?);
        message.insert("content".into(), Value::Null);
        message.insert("role".into(), "assistant".into());
        return Ok(message);
    }
    let Some(role) = known_role(from) else {
        return Err(Error::usage(ErrorKind::Unknown, format!("`{place}.from`"))
            .is(format!("{from:?}"))
            .expected("a known speaker")
            .hint(SHAPE));
    };
    message.insert("role".into(), role.into());
    message.insert("content".into(), value.into());
    Ok(message)
}

/// Calls of functions, written as JSON in the turn's text: an object, or a list of them.
fn calls(place: &str, text: &str) -> Result<Value> {
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) if !calls.is_empty() => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => Vec::new(),
    };
    if calls.is_empty() || !calls.iter().all(|call| call.get("name").is_some_and(Value::is_string)) {
        return Err(Error::usage(ErrorKind::Malformed, format!("`{place}.value` is no call of a function"))
            .hint(r#"expected the text of {"name": "...", "arguments": {...}}"#));
    }
    Ok(calls.into())
}
