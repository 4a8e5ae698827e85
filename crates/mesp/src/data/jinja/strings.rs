//! Methods of texts.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::args::{self, Given};
use super::lexer::space;
use super::meter::{self, Buffer};
use super::value::{Text, Value};
use super::{Res, fault, format};

pub(super) const METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
pub(super) const REFUSED: &[&str] = &["isidentifier", "maketrans", "translate"];

/// Methods that do the same with a text that is marked as safe, which the result then is too.
const SAFE: &[&str] =
    &["capitalize", "lower", "lstrip", "rstrip", "strip", "swapcase", "title", "upper", "zfill"];

pub(super) fn call(text: &Text, name: &'static str, given: Given) -> Res<Value> {
    meter::work(4 + text.len() as u64 / 16)?;
    if text.markup() && !SAFE.contains(&name) {
        let asks =
            name.starts_with("is") || name.ends_with("with") || matches!(name, "find" | "rfind" | "count");
        if !asks {
            return fault(format!("str.{name}() of a text that is marked as safe is not supported"));
        }
    }
    let value = run(text, name, given)?;
    match value {
        Value::Str(result) if text.markup() => Ok(Value::Str(result.as_markup()?)),
        other => Ok(other),
    }
}

#[expect(clippy::too_many_lines, reason = "a method each")]
fn run(text: &Text, name: &'static str, given: Given) -> Res<Value> {
    let what = format!("str.{name}");
    match name {
        "format" => return format::braces(text, given),
        "format_map" => {
            let [Some(Value::Dict(map))] = given.plain(&what, 1)? else {
                return fault("str.format_map() of something other than a dict is not supported");
            };
            let mut all = Given::default();
            for (key, value) in &map.pairs {
                all.keywords.push((args::text(&what, key)?.into(), value.clone()));
            }
            return format::braces(text, all);
        }
        "split" | "rsplit" => {
            return split(text, name == "rsplit", given.bind(&what, ["sep", "maxsplit"], 0)?);
        }
        "splitlines" => {
            let [keep] = given.bind(&what, ["keepends"], 0)?;
            let keep = keep.is_some_and(|k| k.truth());
            let lines = lines(text, keep);
            let _room = meter::take(lines.len() * 128)?;
            return Value::list(lines.into_iter().map(Value::str).collect::<Res<_>>()?);
        }
        "encode" => return encode(text, given.bind(&what, ["encoding", "errors"], 0)?),
        "expandtabs" => {
            let [size] = given.bind(&what, ["tabsize"], 0)?;
            let size = size.map_or(Ok(8), |s| args::int(&what, &s))?;
            return expand_tabs(text, usize::try_from(size).unwrap_or(0));
        }
        _ => {}
    }
    let given: [Option<Value>; 3] = given.plain(&what, 0)?;
    let most = match name {
        "center" | "ljust" | "rjust" => 2,
        "count" | "find" | "rfind" | "index" | "rindex" | "startswith" | "endswith" | "replace" => 3,
        "strip" | "lstrip" | "rstrip" | "join" | "partition" | "rpartition" | "removeprefix"
        | "removesuffix" | "zfill" => 1,
        _ => 0,
    };
    let count = given.iter().flatten().count();
    let least = match name {
        "strip" | "lstrip" | "rstrip" => 0,
        "replace" => 2,
        _ => usize::from(most > 0),
    };
    if count > most || count < least {
        return fault(format!("{what}() takes {least} to {most} arguments, and {count} are given"));
    }
    let [first, second, third] = given;
    let string = |value: &Option<Value>| -> Res<String> {
        value.as_ref().map_or(Ok(String::new()), |v| args::text(&what, v).map(ToOwned::to_owned))
    };
    let written: Res<String> = match name {
        "upper" => Ok(text.to_uppercase()),
        "lower" => Ok(text.to_lowercase()),
        "casefold" if text.is_ascii() => Ok(text.to_lowercase()),
        "casefold" => return fault("str.casefold() of more than ASCII is not supported"),
        "capitalize" => Ok(capitalize(text)),
        "title" => Ok(title(text)),
        "swapcase" => Ok(swap_case(text)),
        "strip" | "lstrip" | "rstrip" => {
            let chars = match &first {
                None | Some(Value::None) => None,
                Some(chars) => Some(args::text(&what, chars)?),
            };
            Ok(strip(text, chars, name != "rstrip", name != "lstrip").to_owned())
        }
        "removeprefix" => Ok(text.strip_prefix(&*string(&first)?).unwrap_or(text).to_owned()),
        "removesuffix" => Ok(text.strip_suffix(&*string(&first)?).unwrap_or(text).to_owned()),
        "center" | "ljust" | "rjust" | "zfill" => {
            let width = args::int(&what, first.as_ref().unwrap_or(&Value::None))?;
            let fill = match &second {
                None => ' ',
                Some(fill) => {
                    let mut chars = args::text(&what, fill)?.chars();
                    match (chars.next(), chars.next()) {
                        (Some(c), None) => c,
                        _ => return fault("The fill character must be exactly one character long"),
                    }
                }
            };
            return Ok(Value::Str(pad(text, name, width, fill)?));
        }
        "replace" => {
            let count = third.map_or(Ok(-1), |c| args::int(&what, &c))?;
            return Ok(Value::Str(replace(text, &string(&first)?, &string(&second)?, count)?));
        }
        "join" => return Ok(Value::Str(join(text, &first.unwrap_or(Value::None).items()?)?)),
        "partition" | "rpartition" => {
            let separator = string(&first)?;
            if separator.is_empty() {
                return fault("empty separator");
            }
            let found = if name == "partition" { text.find(&separator) } else { text.rfind(&separator) };
            let parts = match found {
                Some(at) => [&text[..at], &separator, &text[at + separator.len()..]],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            return Value::tuple(parts.into_iter().map(Value::str).collect::<Res<_>>()?);
        }
        "startswith" | "endswith" => {
            let Some((from, to, _)) = bounds(text, second.as_ref(), third.as_ref(), &what)? else {
                return Ok(Value::Bool(false));
            };
            let part = &text[from..to];
            let one = |value: &Value| -> Res<bool> {
                let fix = args::text(&what, value)?;
                Ok(if name == "startswith" { part.starts_with(fix) } else { part.ends_with(fix) })
            };
            return Ok(Value::Bool(match &first {
                Some(Value::Tuple(items)) => {
                    let mut found = false;
                    for item in &items.list {
                        found |= one(item)?;
                    }
                    found
                }
                Some(value) => one(value)?,
                None => false,
            }));
        }
        "count" | "find" | "rfind" | "index" | "rindex" => {
            let part = string(&first)?;
            let found = match bounds(text, second.as_ref(), third.as_ref(), &what)? {
                None if name == "count" => return Ok(Value::Int(0)),
                None => None,
                Some((from, to, before)) => {
                    let within = &text[from..to];
                    if name == "count" {
                        let count = if part.is_empty() {
                            within.chars().count() + 1
                        } else {
                            within.matches(&*part).count()
                        };
                        return Ok(Value::Int(count as i128));
                    }
                    let at = if name.starts_with('r') { within.rfind(&*part) } else { within.find(&*part) };
                    at.map(|at| (before + within[..at].chars().count()) as i128)
                }
            };
            if found.is_none() && name.ends_with("index") {
                return fault("substring not found");
            }
            return Ok(Value::Int(found.unwrap_or(-1)));
        }
        _ => return asks(text, name).map(Value::Bool),
    };
    Value::str(written?)
}

fn asks(text: &str, name: &str) -> Res<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    Ok(match name {
        "isascii" => text.is_ascii(),
        "isspace" => all(space),
        "isalpha" => all(letter),
        "isprintable" => text.chars().all(super::show::printable),
        "isdecimal" => all(decimal),
        "isdigit" | "isnumeric" | "isalnum" => {
            let known = |c: char| c.is_ascii() || letter(c) || decimal(c) || !c.is_numeric();
            let spelled = name == "isnumeric" && text.chars().any(|c| !c.is_ascii() && letter(c));
            if !text.chars().all(known) || spelled {
                return fault(format!("str.{name}() of such digits is not supported"));
            }
            if name == "isalnum" { all(|c| letter(c) || decimal(c)) } else { all(decimal) }
        }
        "islower" => {
            text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || titled(c))
        }
        "isupper" => {
            text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || titled(c))
        }
        "istitle" => {
            let (mut cased, mut any) = (false, false);
            for c in text.chars() {
                let (upper, lower) = (c.is_uppercase() || titled(c), c.is_lowercase());
                if (upper && cased) || (lower && !cased) {
                    return Ok(false);
                }
                cased = upper || lower;
                any |= cased;
            }
            any
        }
        _ => return fault(format!("the method str.{name} is not supported")),
    })
}

/// Whether a character is a letter, by its category.
pub(super) fn letter(c: char) -> bool {
    static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{L}\z").ok());
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    c.is_alphabetic()
        && LETTER.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false))
}

/// Whether a character is a decimal digit, by its category.
pub(super) fn decimal(c: char) -> bool {
    static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\A\p{Nd}\z").ok());
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    c.is_numeric() && DIGIT.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false))
}

/// Digraphs of a capital and a small letter.
fn titled(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}'
        | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

/// The character as the first of a word.
fn capital(c: char, out: &mut String) {
    match c {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        'ŉ' => out.push_str("ʼN"),
        c => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    if let Some(first) = chars.next() {
        capital(first, &mut out);
    }
    // The last letter of a word, sigma, is told by what stands before it.
    let first = text.chars().next().map_or(0, char::len_utf8);
    let lower = text.to_lowercase();
    let skipped: usize = text[..first].chars().flat_map(char::to_lowercase).map(char::len_utf8).sum();
    out.push_str(lower.get(skipped..).unwrap_or_default());
    out
}

pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            capital(c, &mut out);
        }
        inside = c.is_lowercase() || c.is_uppercase() || titled(c);
    }
    out
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let matches = |c: char| chars.map_or_else(|| space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(matches) } else { text };
    if right { text.trim_end_matches(matches) } else { text }
}

/// `center`, `ljust`, `rjust` and `zfill`.
pub(super) fn pad(text: &str, how: &str, width: i128, fill: char) -> Res<Text> {
    let length = text.chars().count() as i128;
    let missing = width.saturating_sub(length).max(0);
    let (fill, before) = match how {
        "ljust" => (fill, 0),
        "rjust" => (fill, missing),
        "zfill" => ('0', missing),
        _ => (fill, missing / 2 + (missing & width & 1)),
    };
    let clamp = |n: i128| usize::try_from(n).unwrap_or(usize::MAX);
    let _room = meter::take(clamp(missing).saturating_add(text.len()))?;
    let mut out = Buffer::default();
    let sign = if how == "zfill" { text.find(['+', '-']).filter(|at| *at == 0).map_or(0, |_| 1) } else { 0 };
    out.push_str(&text[..sign])?;
    out.repeat(fill, clamp(before))?;
    out.push_str(&text[sign..])?;
    out.repeat(fill, clamp(missing - before))?;
    Ok(Text::from_buffer(out))
}

pub(super) fn replace(text: &str, old: &str, new: &str, count: i128) -> Res<Text> {
    let mut left = usize::try_from(count).unwrap_or(usize::MAX);
    let mut out = Buffer::default();
    let mut last = 0;
    for (at, found) in text.match_indices(old) {
        if left == 0 {
            break;
        }
        left -= 1;
        out.push_str(&text[last..at])?;
        out.push_str(new)?;
        last = at + found.len();
    }
    out.push_str(&text[last..])?;
    Ok(Text::from_buffer(out))
}

pub(super) fn join(separator: &str, items: &[Value]) -> Res<Text> {
    let mut out = Buffer::default();
    for (i, item) in items.iter().enumerate() {
        let Value::Str(text) = item else {
            return fault(format!("sequence item {i}: expected str instance, {} found", item.type_name()));
        };
        if text.markup() {
            return fault("str.join() of texts that are marked as safe is not supported");
        }
        if i > 0 {
            out.push_str(separator)?;
        }
        out.push_str(text)?;
    }
    Ok(Text::from_buffer(out))
}

fn split(text: &str, right: bool, given: [Option<Value>; 2]) -> Res<Value> {
    let [separator, most] = given;
    let most = most.map_or(Ok(-1), |m| args::int("str.split", &m))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match separator {
        None | Some(Value::None) => words(text, most, right),
        Some(separator) => {
            let separator = args::text("str.split", &separator)?;
            if separator.is_empty() {
                return fault("empty separator");
            }
            let _room = meter::take(text.matches(separator).count().min(most) * 128)?;
            if right {
                text.rsplitn(most + 1, separator).collect()
            } else {
                text.splitn(most + 1, separator).collect()
            }
        }
    };
    if right {
        parts.reverse();
    }
    let _room = meter::take(parts.len() * 128)?;
    Value::list(parts.into_iter().map(Value::str).collect::<Res<_>>()?)
}

/// Parts between white space; from the right they come in reverse.
fn words(text: &str, most: usize, right: bool) -> Vec<&str> {
    let (mut list, mut rest) = (Vec::new(), text);
    loop {
        rest = strip(rest, None, !right, right);
        if rest.is_empty() {
            return list;
        }
        if list.len() == most {
            list.push(rest);
            return list;
        }
        let cut = if right { rest.rfind(space) } else { rest.find(space) };
        match cut {
            None => {
                list.push(rest);
                return list;
            }
            Some(at) if right => {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                list.push(&rest[at + width..]);
                rest = &rest[..at];
            }
            Some(at) => {
                list.push(&rest[..at]);
                rest = &rest[at..];
            }
        }
    }
}

pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut list, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            list.push(rest);
            break;
        };
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        list.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    list
}

fn encode(text: &Text, given: [Option<Value>; 2]) -> Res<Value> {
    let [encoding, errors] = given;
    let encoding =
        encoding.map_or(Ok("utf-8".to_owned()), |e| args::text("str.encode", &e).map(str::to_lowercase))?;
    if errors.is_some() && !matches!(encoding.as_str(), "utf-8" | "utf8" | "utf_8") {
        return fault("str.encode() with `errors` is supported for utf-8");
    }
    match encoding.as_str() {
        "utf-8" | "utf8" | "utf_8" => Ok(Value::Bytes(Text::new(&**text)?)),
        "ascii" | "latin-1" | "latin1" if text.is_ascii() => Ok(Value::Bytes(Text::new(&**text)?)),
        other => fault(format!("str.encode() to `{other}` is not supported")),
    }
}

fn expand_tabs(text: &str, size: usize) -> Res<Value> {
    let mut out = Buffer::default();
    let mut column = 0_usize;
    for c in text.chars() {
        if c == '\t' {
            let width = column.checked_rem(size).map_or(0, |past| size - past);
            out.repeat(' ', width)?;
            column += width;
        } else {
            out.push(c)?;
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    Ok(Value::Str(Text::from_buffer(out)))
}

/// Bytes between two characters, with how many characters stand before; `None` where nothing can be found.
fn bounds(
    text: &str,
    start: Option<&Value>,
    end: Option<&Value>,
    what: &str,
) -> Res<Option<(usize, usize, usize)>> {
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text.len(), 0)));
    }
    let length = text.chars().count() as i128;
    let place = |value: Option<&Value>, default: i128| -> Res<i128> {
        let index = match value {
            None | Some(Value::None) => return Ok(default),
            Some(value) => args::int(what, value)?,
        };
        Ok(if index < 0 { (index.saturating_add(length)).max(0) } else { index })
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |index: i128| text.char_indices().nth(index as usize).map_or(text.len(), |(at, _)| at);
    Ok(Some((byte(start), byte(end), start as usize)))
}
