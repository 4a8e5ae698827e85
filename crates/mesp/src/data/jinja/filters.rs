//! Filters on single values.

use super::args::{self, Given};
use super::ast::Math;
use super::meter::{self, Buffer};
use super::show::{self, Json};
use super::value::{Text, Value};
use super::{Res, access, fault, format, number, ops, sequences, strings};

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "items",
    "map",
    "min",
    "max",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "tojson",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

#[expect(clippy::too_many_lines, reason = "a filter each")]
pub(super) fn apply(name: &str, value: &Value, given: Given) -> Res<Value> {
    // Most of them go through the text.
    meter::work(4 + value.as_str().map_or(0, |text| text.len() as u64 / 16))?;
    let what = format!("the filter `{name}`");
    match name {
        "default" | "d" => {
            let [other, boolean] = given.bind(&what, ["default_value", "boolean"], 0)?;
            let missing = matches!(value, Value::Undefined(_))
                || (boolean.is_some_and(|b| b.truth()) && !value.truth());
            if missing { other.map_or_else(|| Value::str(""), Ok) } else { Ok(value.clone()) }
        }
        "string" => {
            let [] = given.bind(&what, [], 0)?;
            Ok(Value::Str(show::text(value)?))
        }
        "safe" => {
            let [] = given.bind(&what, [], 0)?;
            Ok(Value::Str(show::text(value)?.as_markup()?))
        }
        "e" | "escape" | "forceescape" => {
            let [] = given.bind(&what, [], 0)?;
            let text = show::text(value)?;
            Ok(Value::Str(if text.markup() && name != "forceescape" { text } else { ops::escape(&text)? }))
        }
        "lower" | "upper" | "capitalize" => {
            let [] = given.bind(&what, [], 0)?;
            let method = ["lower", "upper", "capitalize"].into_iter().find(|m| *m == name).unwrap_or("lower");
            strings::call(&show::text(value)?, method, Given::default())
        }
        "trim" => {
            let [chars] = given.bind(&what, ["chars"], 0)?;
            let given = Given { positional: chars.into_iter().collect(), keywords: Vec::new() };
            strings::call(&show::text(value)?, "strip", given)
        }
        "center" => {
            let [width] = given.bind(&what, ["width"], 0)?;
            let width = width.map_or(Ok(80), |w| args::int(&what, &w))?;
            Ok(Value::Str(strings::pad(&plain(value, &what)?, "center", width, ' ')?))
        }
        "title" => {
            let [] = given.bind(&what, [], 0)?;
            title(&show::text(value)?)
        }
        "replace" => {
            let [old, new, count] = given.bind(&what, ["old", "new", "count"], 2)?;
            let part = |v: Option<Value>| show::text(&v.unwrap_or(Value::None));
            let count = match count {
                None | Some(Value::None) => -1,
                Some(count) => args::int(&what, &count)?,
            };
            Ok(Value::Str(strings::replace(&show::text(value)?, &part(old)?, &part(new)?, count)?))
        }
        "format" => {
            if !given.positional.is_empty() && !given.keywords.is_empty() {
                return fault("can't handle positional and keyword arguments at the same time");
            }
            let values = if given.keywords.is_empty() {
                Value::tuple(given.positional)?
            } else {
                let pairs = given.keywords.into_iter().map(|(name, value)| Ok((Value::str(&*name)?, value)));
                Value::Dict(super::value::Dict::new(pairs.collect::<Res<_>>()?)?)
            };
            format::percent(&show::text(value)?, &values)
        }
        "indent" => {
            let given = given.bind(&what, ["width", "first", "blank"], 0)?;
            indent(value, given)
        }
        "truncate" => {
            let given = given.bind(&what, ["length", "killwords", "end", "leeway"], 0)?;
            truncate(value, given)
        }
        "wordcount" => {
            let [] = given.bind(&what, [], 0)?;
            let word = |c: char| c == '_' || c.is_numeric() || strings::letter(c);
            let text = show::text(value)?;
            Ok(Value::Int(text.split(|c| !word(c)).filter(|w| !w.is_empty()).count() as i128))
        }
        "tojson" => {
            tojson(value, given.bind(&what, ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?)
        }
        "int" => {
            let [default, base] = given.bind(&what, ["default", "base"], 0)?;
            to_int(value, default.unwrap_or(Value::Int(0)), base)
        }
        "float" => {
            let [default] = given.bind(&what, ["default"], 0)?;
            let found = match value {
                Value::Undefined(missing) => return fault(missing.message.clone()),
                Value::Str(text) => number::parse_float(text),
                other => other.as_number(),
            };
            Ok(found.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            let [] = given.bind(&what, [], 0)?;
            match value {
                Value::Float(x) => Ok(Value::Float(x.abs())),
                Value::Int(i) if *i < 0 => ops::negative(value),
                other => match other.as_int() {
                    Some(i) => Ok(Value::Int(i)),
                    None => fault(format!("bad operand type for abs(): '{}'", other.type_name())),
                },
            }
        }
        "round" => round(value, given.bind(&what, ["precision", "method"], 0)?),
        "attr" => {
            let [name] = given.bind(&what, ["name"], 1)?;
            let name = show::text(&name.unwrap_or(Value::None))?;
            match value {
                Value::Dict(dict) => {
                    // An attribute, never an item.
                    let bare = Value::Dict(super::value::Dict::new(Vec::new())?);
                    let found = access::attribute(&bare, &name)?;
                    Ok(match found {
                        Value::Method(_, method) => {
                            Value::Method(std::rc::Rc::new(Value::Dict(dict.clone())), method)
                        }
                        other => other,
                    })
                }
                Value::Undefined(missing) => fault(missing.message.clone()),
                other => access::attribute(other, &name),
            }
        }
        "urlencode" => {
            let [] = given.bind(&what, [], 0)?;
            url_encode(value)
        }
        "filesizeformat" => {
            let [binary] = given.bind(&what, ["binary"], 0)?;
            file_size(value, binary.is_some_and(|b| b.truth()))
        }
        "pprint" | "random" | "striptags" | "urlize" | "wordwrap" | "xmlattr" => {
            fault(format!("{what} is not supported"))
        }
        name if exists(name) => sequences::apply(name, value, given),
        _ => fault(format!("No filter named '{name}'")),
    }
}

/// The text of a value, unless it is marked as safe, where the result depends on how it came to be so.
fn plain(value: &Value, what: &str) -> Res<Text> {
    let text = show::text(value)?;
    if text.markup() {
        return fault(format!("{what} on a text that is marked as safe is not supported"));
    }
    Ok(text)
}

fn title(text: &str) -> Res<Value> {
    let mut out = Buffer::default();
    let separates = |c: char| super::lexer::space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let kind = separates(first);
        let end = rest.find(|c| separates(c) != kind).unwrap_or(rest.len());
        let (item, after) = rest.split_at(end);
        let width = first.len_utf8();
        out.push_str(&item[..width].to_uppercase())?;
        out.push_str(&item[width..].to_lowercase())?;
        rest = after;
    }
    Ok(Value::Str(Text::from_buffer(out)))
}

fn indent(value: &Value, given: [Option<Value>; 3]) -> Res<Value> {
    let [width, first, blank] = given;
    let text = match value {
        Value::Str(text) => text,
        Value::Undefined(missing) => return fault(missing.message.clone()),
        other => return fault(format!("the filter `indent` expects a str, found '{}'", other.type_name())),
    };
    let indentation = match width {
        None => "    ".to_owned(),
        Some(Value::Str(text)) => text.to_string(),
        Some(width) => {
            let width =
                usize::try_from(args::int("the filter `indent`", &width)?.max(0)).unwrap_or(usize::MAX);
            let _room = meter::take(width)?;
            " ".repeat(width)
        }
    };
    let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
    let (first, blank) = (truth(first), truth(blank));
    let all = format!("{}\n", &**text);
    let mut out = Buffer::default();
    for (i, line) in strings::lines(&all, false).into_iter().enumerate() {
        if i > 0 {
            out.push('\n')?;
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation)?;
        }
        out.push_str(line)?;
    }
    let result = Text::from_buffer(out);
    Ok(Value::Str(if text.markup() { result.as_markup()? } else { result }))
}

fn truncate(value: &Value, given: [Option<Value>; 4]) -> Res<Value> {
    let what = "the filter `truncate`";
    let [length, kill, end, leeway] = given;
    let length = length.map_or(Ok(255), |l| args::int(what, &l))?;
    let end = end.map_or(Ok("...".to_owned()), |e| args::text(what, &e).map(ToOwned::to_owned))?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => args::int(what, &leeway)?,
    };
    let end_length = end.chars().count() as i128;
    if length < end_length || leeway < 0 {
        return fault(format!("expected length >= {end_length}, got {length}"));
    }
    let text = match value {
        Value::Str(text) if !text.markup() => text,
        Value::Undefined(_) => return Ok(value.clone()),
        other => return fault(format!("{what} of a '{}' is not supported", other.type_name())),
    };
    if text.chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let cut: String = text.chars().take((length - end_length) as usize).collect();
    let kept = if kill.is_some_and(|k| k.truth()) {
        cut.as_str()
    } else {
        cut.rsplit_once(' ').map_or(cut.as_str(), |(before, _)| before)
    };
    Value::str(format!("{kept}{end}"))
}

/// `json.dumps`, with `ensure_ascii=False` unless asked otherwise, which is what templates are written against.
fn tojson(value: &Value, given: [Option<Value>; 4]) -> Res<Value> {
    let what = "the filter `tojson`";
    let [ascii, indent, separators, sort] = given;
    let truth = |v: Option<Value>| v.is_some_and(|v| v.truth());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(indent) => {
            let width = usize::try_from(args::int(what, &indent)?.max(0)).unwrap_or(usize::MAX);
            let _room = meter::take(width)?;
            Some(" ".repeat(width))
        }
    };
    let (item, key) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let list = pair.items()?;
            let [item, key] = list.as_slice() else { return fault("not two separators to unpack") };
            (args::text(what, item)?.to_owned(), args::text(what, key)?.to_owned())
        }
    };
    let json = Json { indent, ascii: truth(ascii), sort: truth(sort), item, key };
    let mut out = Buffer::default();
    json.write(value, 0, &mut out)?;
    Ok(Value::Str(Text::from_buffer(out)))
}

fn to_int(value: &Value, default: Value, base: Option<Value>) -> Res<Value> {
    let base = base.map_or(Ok(10), |b| args::int("the filter `int`", &b))?;
    let found = match value {
        Value::Undefined(missing) => return fault(missing.message.clone()),
        Value::Str(text) => {
            let whole = match u32::try_from(base).ok().filter(|b| *b == 0 || (2..=36).contains(b)) {
                Some(base) => number::parse_int(text, base)?,
                None => None,
            };
            match (whole, number::parse_float(text)) {
                (None, Some(x)) if x.is_finite() => Some(number::truncated(x)?),
                (whole, _) => whole,
            }
        }
        Value::Float(x) if x.is_nan() => None,
        Value::Float(x) => Some(number::truncated(*x)?),
        other => other.as_int(),
    };
    Ok(found.map_or(default, Value::Int))
}

fn round(value: &Value, given: [Option<Value>; 2]) -> Res<Value> {
    let [precision, method] = given;
    let precision = precision.map_or(Ok(0), |p| args::int("the filter `round`", &p))?;
    let method = method.map_or(Ok("common".to_owned()), |m| show::text(&m).map(|t| t.to_string()))?;
    if !matches!(method.as_str(), "common" | "ceil" | "floor") {
        return fault("method must be common, ceil or floor");
    }
    if let Value::Undefined(missing) = value {
        return fault(missing.message.clone());
    }
    let Some(x) = value.as_number() else {
        return fault(format!("type {} doesn't define __round__ method", value.type_name()));
    };
    if method == "common" {
        return match value.as_int() {
            None => Ok(Value::Float(number::round(x, precision))),
            Some(i) if precision >= 0 => Ok(Value::Int(i)),
            Some(i) => {
                let Some(scale) = precision
                    .checked_neg()
                    .and_then(|p| u32::try_from(p).ok())
                    .and_then(|p| 10i128.checked_pow(p))
                else {
                    return Ok(Value::Int(0));
                };
                let (below, rest) = (i.div_euclid(scale), i.rem_euclid(scale));
                let up = rest * 2 > scale || (rest * 2 == scale && below % 2 != 0);
                Ok(Value::Int((below + i128::from(up)) * scale))
            }
        };
    }
    let scale = ops::math(Math::Pow, &Value::Int(10), &Value::Int(precision))?;
    let scaled = ops::math(Math::Mul, value, &scale)?;
    let whole = match scaled {
        Value::Float(x) => number::truncated(if method == "ceil" { x.ceil() } else { x.floor() })?,
        other => other.as_int().unwrap_or(0),
    };
    ops::math(Math::Div, &Value::Int(whole), &scale)
}

fn url_quote(value: &Value, query: bool, out: &mut Buffer) -> Res<()> {
    for byte in show::text(value)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte.into())?,
            b'/' if !query => out.push('/')?,
            b' ' if query => out.push('+')?,
            byte => out.push_str(&format!("%{byte:02X}"))?,
        }
    }
    Ok(())
}

fn url_encode(value: &Value) -> Res<Value> {
    let mut out = Buffer::default();
    if value.as_str().is_some() || !value.is_iterable() {
        url_quote(value, false, &mut out)?;
        return Ok(Value::Str(Text::from_buffer(out)));
    }
    let pairs = match value {
        Value::Dict(dict) => Value::View(super::value::View::Items, dict.clone()).items()?,
        other => other.items()?,
    };
    for (i, pair) in pairs.iter().enumerate() {
        let pair = pair.items()?;
        let [key, value] = pair.as_slice() else { return fault("not two values to unpack") };
        if i > 0 {
            out.push('&')?;
        }
        url_quote(key, true, &mut out)?;
        out.push('=')?;
        url_quote(value, true, &mut out)?;
    }
    Ok(Value::Str(Text::from_buffer(out)))
}

fn file_size(value: &Value, binary: bool) -> Res<Value> {
    let bytes = match value {
        Value::Str(text) => number::parse_float(text),
        other => other.as_number(),
    };
    let Some(bytes) = bytes else { return fault("could not convert the size to a float") };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Value::str("1 Byte");
    }
    if bytes < base {
        return Value::str(format!("{} Bytes", number::truncated(bytes)?));
    }
    let mut unit = base;
    let mut prefix = "";
    for (i, letter) in ["k", "M", "G", "T", "P", "E", "Z", "Y"].into_iter().enumerate() {
        prefix = letter;
        unit = base.powi(i as i32 + 2);
        if bytes < unit {
            break;
        }
    }
    let name = if binary { format!("{}iB", prefix.to_uppercase()) } else { format!("{prefix}B") };
    Value::str(format!("{:.1} {name}", base * bytes / unit))
}
