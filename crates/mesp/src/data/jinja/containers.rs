//! Methods of lists, tuples, dictionaries and loops.

use super::args::{self, Given};
use super::value::{Dict, Value, View};
use super::{Res, fault, ops};
use std::rc::Rc;

pub(super) const LIST: &[&str] = &["index", "count"];
pub(super) const DICT: &[&str] = &["items", "keys", "values", "get", "copy"];
/// What the sandbox forbids.
pub(super) const CHANGES_LIST: &[&str] =
    &["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];
pub(super) const CHANGES_DICT: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];

/// A method of anything that is no text.
pub(super) fn call(value: &Value, name: &str, given: Given) -> Res<Value> {
    let what = format!("{}.{name}", value.type_name());
    match (value, name) {
        (Value::Dict(dict), "get") => {
            let [key, default] = given.plain(&what, 1)?;
            let found = dict.get(key.as_ref().unwrap_or(&Value::None))?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        (Value::Dict(dict), "items" | "keys" | "values" | "copy") => {
            let [] = given.plain(&what, 0)?;
            Ok(match name {
                "items" => Value::View(View::Items, dict.clone()),
                "keys" => Value::View(View::Keys, dict.clone()),
                "values" => Value::View(View::Values, dict.clone()),
                _ => Value::Dict(Dict::new(dict.pairs.clone())?),
            })
        }
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), "index") => {
            let [item, start, stop] = given.plain(&what, 1)?;
            let (item, list) = (item.unwrap_or(Value::None), value.items()?);
            let place = |bound: Option<Value>, default: usize| -> Res<usize> {
                let Some(bound) = bound else { return Ok(default) };
                let index = args::int(&what, &bound)?;
                let index = if index < 0 { index.saturating_add(list.len() as i128) } else { index };
                Ok(index.clamp(0, list.len() as i128) as usize)
            };
            let (start, stop) = (place(start, 0)?, place(stop, list.len())?);
            for (at, one) in list.iter().enumerate().take(stop).skip(start) {
                if ops::equal(one, &item)? {
                    return Ok(Value::Int(at as i128));
                }
            }
            fault("the value is not in the list")
        }
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), "count") => {
            let [item] = given.plain(&what, 1)?;
            let (item, mut count) = (item.unwrap_or(Value::None), 0);
            for one in value.items()? {
                count += i128::from(ops::equal(&one, &item)?);
            }
            Ok(Value::Int(count))
        }
        (Value::Bytes(text), "decode") => {
            let [encoding, _] = given.bind(&what, ["encoding", "errors"], 0)?;
            let encoding =
                encoding.map_or(Ok("utf-8".into()), |e| args::text(&what, &e).map(str::to_lowercase))?;
            if !matches!(encoding.as_str(), "utf-8" | "utf8" | "utf_8") {
                return fault(format!("bytes.decode() from `{encoding}` is not supported"));
            }
            Ok(Value::Str(text.clone()))
        }
        (Value::Float(x), "is_integer") => {
            let [] = given.plain(&what, 0)?;
            Ok(Value::Bool(x.fract() == 0.0))
        }
        (Value::Cycler(cycler), "next") => {
            let [] = given.plain(&what, 0)?;
            let at = cycler.at.get();
            cycler.at.set((at + 1) % cycler.items.len());
            Ok(cycler.items[at].clone())
        }
        (Value::Cycler(cycler), "reset") => {
            let [] = given.plain(&what, 0)?;
            cycler.at.set(0);
            Ok(Value::None)
        }
        (Value::Loop(l), "cycle") => {
            if given.positional.is_empty() || !given.keywords.is_empty() {
                return fault("no items for cycling given");
            }
            Ok(given.positional[l.index.get() % given.positional.len()].clone())
        }
        _ => fault(format!("the method {what} is not supported")),
    }
}

pub(super) fn loop_attribute(value: &Value, name: &str) -> Res<Option<Value>> {
    let Value::Loop(l) = value else { return Ok(None) };
    let (index, length) = (l.index.get(), l.items.len());
    if l.late && matches!(name, "revindex" | "revindex0" | "last" | "length" | "previtem" | "nextitem") {
        return fault(format!(
            "loop.{name} is not supported where the loop's `if` reads what the loop may change"
        ));
    }
    let int = |n: usize| Value::Int(n as i128);
    Ok(Some(match name {
        "index" => int(index + 1),
        "index0" => int(index),
        "revindex" => int(length - index),
        "revindex0" => int(length - index - 1),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 == length),
        "length" => int(length),
        "depth" => int(l.depth + 1),
        "depth0" => int(l.depth),
        "previtem" => match index.checked_sub(1) {
            Some(at) => l.items[at].clone(),
            None => Value::undefined("there is no previous item"),
        },
        "nextitem" => {
            l.items.get(index + 1).cloned().unwrap_or_else(|| Value::undefined("there is no next item"))
        }
        "cycle" => Value::Method(Rc::new(value.clone()), "cycle"),
        "changed" => Value::Method(Rc::new(value.clone()), "changed"),
        _ => return Ok(None),
    }))
}
