//! Calls of tools and lists of tools, in the forms in which rows give them.

use serde_json::{Map, Value, json};

use super::{given, type_of};
use crate::{Error, ErrorKind, Result};

/// The calls of a turn, as templates read them, and whether some arguments are no JSON object. `function_call` is
/// the one call of OpenAI's first format. Arguments that the row gives as a JSON text go to `written`, with the text.
pub(super) fn of_turn(
    place: &str,
    turn: &Map<String, Value>,
    written: &mut Vec<(Value, String)>,
) -> Result<Option<(Value, bool)>> {
    let (key, calls) = match (given(turn, "tool_calls"), given(turn, "function_call")) {
        (Some(calls), _) => ("tool_calls", opened(calls)),
        (None, Some(call)) => ("function_call", Value::Array(vec![opened(call)])),
        (None, None) => return Ok(None),
    };
    let calls = match calls {
        Value::Array(calls) if calls.is_empty() => return Ok(None),
        Value::Array(calls) => calls,
        call @ Value::Object(_) => vec![call],
        other => {
            return Err(Error::usage(ErrorKind::WrongType, format!("`{place}.{key}`"))
                .is(type_of(&other))
                .expected("a list of calls")
                .hint(SHAPE));
        }
    };
    let mut odd = false;
    let calls = calls.into_iter().enumerate().map(|(index, call)| {
        let (call, opened) = one(call, written).ok_or_else(|| {
            Error::usage(ErrorKind::Missing, format!("`{place}.{key}[{index}]` names no function"))
                .hint(SHAPE)
        })?;
        odd |= !opened;
        Ok(call)
    });
    let calls = calls.collect::<Result<Vec<_>>>()?;
    Ok(Some((Value::Array(calls), odd)))
}

const SHAPE: &str = r#"a call is {"type": "function", "function": {"name": "...", "arguments": {...}}}"#;

/// One call with its function inside, and whether its arguments are an object.
fn one(call: Value, written: &mut Vec<(Value, String)>) -> Option<(Value, bool)> {
    let Value::Object(mut call) = call else { return None };
    if !call.contains_key("function") {
        let outer: Map<String, Value> = ["type", "id"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), call.shift_remove(key)?)))
            .collect();
        let function = std::mem::replace(&mut call, outer);
        call.insert("type".into(), "function".into());
        call.insert("function".into(), function.into());
    }
    let function = call.get_mut("function")?.as_object_mut()?;
    function.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let arguments = match given(function, "arguments").map(opened) {
        None | Some(Value::Null) => json!({}),
        Some(arguments) => arguments,
    };
    let object = arguments.is_object();
    if let Some(text) = function.get("arguments").and_then(Value::as_str).filter(|_| object) {
        written.push((arguments.clone(), text.to_owned()));
    }
    function.insert("arguments".into(), arguments);
    Some((Value::Object(call), object))
}

/// The tools of a row: `tools`, or `functions` of OpenAI's first format.
pub(super) fn tools(row: &Map<String, Value>) -> Result<Option<Value>> {
    let (key, value) = match (given(row, "tools"), given(row, "functions")) {
        (Some(tools), _) => ("tools", tools),
        (None, Some(functions)) => ("functions", functions),
        (None, None) => return Ok(None),
    };
    match opened(value) {
        Value::Null => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) if key == "functions" => {
            Ok(Some(list.into_iter().map(|f| json!({ "type": "function", "function": f })).collect()))
        }
        list @ Value::Array(_) => Ok(Some(list)),
        Value::String(_) => Err(Error::usage(ErrorKind::WrongType, format!("`{key}`"))
            .is("a text that is not a JSON list")
            .expected("a list of tools")),
        other => {
            Err(Error::usage(ErrorKind::WrongType, format!("`{key}`")).is(type_of(&other)).expected("a list"))
        }
    }
}

/// A value that may be written as a JSON text; other texts stay.
pub(super) fn opened(value: &Value) -> Value {
    let inner = value.as_str().and_then(|text| serde_json::from_str(text).ok());
    match inner {
        Some(inner @ (Value::Object(_) | Value::Array(_) | Value::Null)) => inner,
        _ => value.clone(),
    }
}
