//! Attributes, items and slices.

use super::meter::{self, Buffer};
use super::value::{Range, Text, Value};
use super::{Res, containers, fault, strings};
use std::rc::Rc;

/// `value.name` of a template: the attribute before the item.
pub(super) fn attribute(value: &Value, name: &str) -> Res<Value> {
    if let Value::Undefined(missing) = value {
        return fault(missing.message.clone());
    }
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.get_str(name)
    {
        return Ok(found.clone());
    }
    Ok(no_attribute(value, name))
}

/// `value[key]` of a template: the item before the attribute.
pub(super) fn item(value: &Value, key: &Value) -> Res<Value> {
    match (value, key) {
        (Value::Undefined(missing), _) => return fault(missing.message.clone()),
        (Value::Dict(dict), key) if !matches!(key, Value::List(_) | Value::Dict(_)) => {
            if let Some(found) = dict.get(key)? {
                return Ok(found.clone());
            }
        }
        (Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) | Value::Bytes(_), key) => {
            if let Some(index) = key.as_int()
                && let Some(found) = at(value, index)?
            {
                return Ok(found);
            }
        }
        _ => {}
    }
    if let Value::Str(name) = key {
        if let Some(found) = own_attribute(value, name)? {
            return Ok(found);
        }
        return Ok(no_attribute(value, name));
    }
    let mut shown = Buffer::default();
    super::show::repr(key, &mut shown)?;
    Ok(Value::undefined(format!("{} has no element {}", kind(value), shown.text())))
}

fn at(value: &Value, index: i128) -> Res<Option<Value>> {
    let length = value.len().unwrap_or(0) as i128;
    let index = if index < 0 { index + length } else { index };
    let Some(place) = usize::try_from(index).ok().filter(|_| index < length) else { return Ok(None) };
    Ok(match value {
        Value::List(items) | Value::Tuple(items) => Some(items.list[place].clone()),
        Value::Str(text) => {
            meter::work(place as u64 / 16)?;
            text.chars().nth(place).map(|c| part(text, c.to_string())).transpose()?
        }
        Value::Bytes(text) => Some(Value::Int(text.as_bytes()[place].into())),
        Value::Range(range) => Some(Value::Int(range.start + index * range.step)),
        _ => None,
    })
}

fn part(of: &Text, text: String) -> Res<Value> {
    let text = Text::new(text)?;
    Ok(Value::Str(if of.markup() { text.as_markup()? } else { text }))
}

fn kind(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Namespace(_) => "transformers.utils.chat_template_utils.TemplateNamespace object".to_owned(),
        other => format!("{} object", other.type_name()),
    }
}

fn no_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{}' has no attribute '{name}'", kind(value)))
}

/// An attribute that Python's object has itself.
fn own_attribute(value: &Value, name: &str) -> Res<Option<Value>> {
    let method = |names: &[&'static str]| names.iter().find(|n| **n == name).copied();
    let unsafe_one = || {
        let problem = format!("access to attribute '{name}' of '{}' object is unsafe", value.type_name());
        Ok(Some(Value::undefined(problem)))
    };
    if let Value::Namespace(space) = value {
        return Ok(space.fields.borrow().iter().find(|(n, _)| **n == *name).map(|(_, v)| v.clone()));
    }
    if name.starts_with("__") && name.ends_with("__") {
        return unsafe_one();
    }
    let (known, refused): (&[&'static str], &[&str]) = match value {
        Value::Str(_) => (strings::METHODS, strings::REFUSED),
        Value::List(_) => {
            if containers::CHANGES_LIST.contains(&name) {
                return unsafe_one();
            }
            (containers::LIST, &["copy"])
        }
        Value::Dict(_) => {
            if containers::CHANGES_DICT.contains(&name) {
                return unsafe_one();
            }
            (containers::DICT, &["fromkeys"])
        }
        Value::Tuple(items) => {
            if items.group && (name == "grouper" || name == "list") {
                return Ok(Some(items.list[usize::from(name == "list")].clone()));
            }
            (containers::LIST, &[])
        }
        Value::Bytes(_) => (&["decode"], &["hex", "split", "strip", "replace", "find", "join", "startswith"]),
        Value::Int(_) | Value::Bool(_) => {
            if matches!(name, "real" | "numerator") {
                return Ok(Some(Value::Int(value.as_int().unwrap_or(0))));
            }
            (
                &[],
                &[
                    "imag",
                    "denominator",
                    "bit_length",
                    "conjugate",
                    "to_bytes",
                    "from_bytes",
                    "as_integer_ratio",
                    "bit_count",
                ],
            )
        }
        Value::Float(_) => {
            (&["is_integer"], &["real", "imag", "conjugate", "hex", "fromhex", "as_integer_ratio"])
        }
        Value::Range(_) => (&["index", "count"], &["start", "stop", "step"]),
        Value::Cycler(c) => {
            match name {
                "current" => return Ok(Some(c.items[c.at.get()].clone())),
                "items" => return Ok(Some(Value::tuple(c.items.clone())?)),
                "pos" => return Ok(Some(Value::Int(c.at.get() as i128))),
                _ => {}
            }
            (&["next", "reset"], &[])
        }
        Value::Joiner(j) => {
            return Ok(match name {
                "sep" => Some(j.separator.clone()),
                "used" => Some(Value::Bool(j.used.get())),
                _ => None,
            });
        }
        Value::Macro(m) => {
            return match name {
                "name" => Ok(Some(Value::str(&*m.definition.name)?)),
                "arguments" => {
                    let names = m.definition.params.iter().map(|p| Value::str(&**p));
                    Ok(Some(Value::tuple(names.collect::<Res<_>>()?)?))
                }
                "caller" => Ok(Some(Value::Bool(m.definition.uses.caller))),
                "catch_kwargs" => Ok(Some(Value::Bool(m.definition.uses.kwargs))),
                "catch_varargs" => Ok(Some(Value::Bool(m.definition.uses.varargs))),
                _ => Ok(None),
            };
        }
        Value::Loop(_) => return containers::loop_attribute(value, name),
        Value::View(..) => (&[], &["mapping", "isdisjoint"]),
        Value::Iter(..) => (&[], &["send", "throw", "close"]),
        _ => (&[], &[]),
    };
    if let Some(name) = method(known) {
        return Ok(Some(Value::Method(Rc::new(value.clone()), name)));
    }
    if refused.contains(&name) {
        return fault(format!("the method or attribute {}.{name} is not supported", value.type_name()));
    }
    Ok(None)
}

/// `value[start:stop:step]`, or that there is no such thing.
pub(super) fn slice(value: &Value, bounds: [Option<Value>; 3]) -> Res<Value> {
    let length = match value {
        Value::Undefined(missing) => return fault(missing.message.clone()),
        Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) | Value::Bytes(_) => {
            value.len().unwrap_or(0) as i128
        }
        Value::Dict(_) => return fault("unhashable type: 'slice'"),
        other => return fault(format!("a slice of '{}' is not supported", other.type_name())),
    };
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(&bounds) {
        *number = match bound {
            None | Some(Value::None) => None,
            Some(bound) => match bound.as_int() {
                Some(i) => Some(i),
                None => return fault("a slice whose bounds are not integers or none is not supported"),
            },
        };
    }
    let step = numbers[2].unwrap_or(1);
    if step == 0 {
        return fault("slice step cannot be zero");
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |number: Option<i128>, default: i128| match number {
        None => default,
        Some(i) if i < 0 => (i.saturating_add(length)).clamp(low, high),
        Some(i) => i.clamp(low, high),
    };
    let (start, stop) = if step > 0 {
        (place(numbers[0], 0), place(numbers[1], length))
    } else {
        (place(numbers[0], length - 1), place(numbers[1], -1))
    };
    let step = step.clamp(-(length + 1), length + 1);
    let range = Range { start, stop, step };
    let count = range.len();
    meter::work(count as u64 / 8 + length as u64 / 32)?;
    let places = (0..count).map(|i| (start + i * step) as usize);
    match value {
        Value::Str(text) if step == 1 => {
            let from = text.char_indices().nth(start as usize).map_or(text.len(), |(i, _)| i);
            let to = text[from..].char_indices().nth(count as usize).map_or(text.len(), |(i, _)| from + i);
            let _room = meter::take(to - from)?;
            part(text, text[from..to].to_owned())
        }
        Value::Str(text) => {
            let _room = meter::take(text.len() * 5)?;
            let chars: Vec<char> = text.chars().collect();
            part(text, places.map(|i| chars[i]).collect())
        }
        Value::Bytes(_) => fault("slices of bytes are not supported"),
        Value::List(items) | Value::Tuple(items) => {
            let _room = meter::take(count as usize * size_of::<Value>())?;
            let list = places.map(|i| items.list[i].clone()).collect();
            if matches!(value, Value::List(_)) { Value::list(list) } else { Value::tuple(list) }
        }
        Value::Range(r) => Ok(Value::Range(Rc::new(Range {
            start: r.start + start * r.step,
            stop: r.start + stop * r.step,
            step: r.step * step,
        }))),
        _ => fault("no slices here"),
    }
}
