//! `text % values` and `text.format(…)`.

use super::args::Given;
use super::meter::{self, Buffer};
use super::value::{Text, Value};
use super::{Res, access, fault, number, show};

/// The most digits after the point.
const PRECISION: usize = 1000;

/// How a field is written; both notations have these parts.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `format % values`.
pub(super) fn percent(format: &Text, values: &Value) -> Res<Value> {
    if format.markup() {
        return fault("`%` with a text that is marked as safe is not supported");
    }
    let mut out = Buffer::default();
    let list: &[Value] = match values {
        Value::Tuple(items) => &items.list,
        one => std::slice::from_ref(one),
    };
    let mut next = list.iter();
    let mut named = false;
    let mut take =
        || next.next().cloned().map_or_else(|| fault("not enough arguments for format string"), Ok);
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c)?;
            continue;
        }
        let mut value = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let (mut name, mut open) = (String::new(), 1);
            for c in chars.by_ref() {
                open += i32::from(c == '(') - i32::from(c == ')');
                if open == 0 {
                    break;
                }
                name.push(c);
            }
            let Value::Dict(dict) = values else { return fault("format requires a mapping") };
            let Some(found) = dict.get_str(&name) else { return fault(format!("KeyError: '{name}'")) };
            (value, named) = (Some(found.clone()), true);
        }
        let mut spec = Spec::default();
        let mut left = false;
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => left = true,
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        let mut size = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Res<i128> {
            if chars.next_if_eq(&'*').is_some() {
                return match take()?.as_int() {
                    Some(size) => Ok(size),
                    None => fault("* wants int"),
                };
            }
            digits(chars)
        };
        let width = size(&mut chars)?;
        left |= width < 0;
        spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(size(&mut chars)?.max(0) as usize);
        }
        chars.next_if(|c| "hlL".contains(*c));
        spec.align = Some(if left { '<' } else { '>' });
        let Some(kind) = chars.next() else { return fault("incomplete format") };
        if kind == '%' {
            out.push('%')?;
            continue;
        }
        spec.zero &= !left && !matches!(kind, 's' | 'r' | 'a' | 'c');
        let value = match value {
            Some(value) => value,
            None => take()?,
        };
        one_percent(kind, spec, &value, &mut out)?;
    }
    let mapping = matches!(values, Value::Dict(_) | Value::List(_) | Value::Undefined(_) | Value::Range(_));
    if next.next().is_some() && !mapping && !named {
        return fault("not all arguments converted during string formatting");
    }
    Ok(Value::Str(Text::from_buffer(out)))
}

fn one_percent(kind: char, mut spec: Spec, value: &Value, out: &mut Buffer) -> Res<()> {
    let wrong =
        |wanted: &str| fault(format!("%{kind} format: {wanted} is required, not {}", value.type_name()));
    match kind {
        's' | 'r' | 'a' => {
            let mut text = Buffer::default();
            if kind == 's' {
                show::write(value, &mut text)?;
            } else {
                show::repr(value, &mut text)?;
            }
            if kind == 'a' && !text.text().is_ascii() {
                return fault("%a of more than ASCII is not supported");
            }
            text_field(text.text(), &spec, out)
        }
        'c' => match (value, value.as_int().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32)) {
            (_, Some(c)) => text_field(&c.to_string(), &spec, out),
            (Value::Str(text), _) if text.chars().count() == 1 => text_field(text, &spec, out),
            _ => wrong("an int or a char"),
        },
        'd' | 'i' | 'u' => {
            let int = match value {
                Value::Float(x) => number::truncated(*x)?,
                other => match other.as_int() {
                    Some(int) => int,
                    None => return wrong("a real number"),
                },
            };
            spec.kind = Some('d');
            whole(int, spec, true, out)
        }
        'x' | 'X' | 'o' => match value.as_int() {
            Some(int) => {
                spec.kind = Some(kind);
                whole(int, spec, true, out)
            }
            None => wrong("an integer"),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_number() {
            Some(x) => {
                spec.kind = Some(kind);
                float(x, &spec, out)
            }
            None => match value {
                Value::Undefined(missing) => fault(missing.message.clone()),
                _ => fault(format!("must be real number, not {}", value.type_name())),
            },
        },
        other => fault(format!("unsupported format character '{other}'")),
    }
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Res<i128> {
    let mut value: i128 = 0;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        value = value * 10 + i128::from(digit);
        if value > i128::from(i32::MAX) * 4 {
            return fault("a width or a precision is too large");
        }
    }
    Ok(value)
}

/// Fills up to the width.
fn field(sign: &str, body: &str, spec: &Spec, default: char, out: &mut Buffer) -> Res<()> {
    let length = sign.chars().count() + body.chars().count();
    let missing = spec.width.saturating_sub(length);
    let (align, fill) = match (spec.align, spec.zero) {
        (Some('<' | '>') | None, true) if spec.fill.is_none() => ('=', '0'),
        (align, _) => (align.unwrap_or(default), spec.fill.unwrap_or(' ')),
    };
    let _room = meter::take(missing)?;
    let (before, between, after) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    out.repeat(fill, before)?;
    out.push_str(sign)?;
    out.repeat(fill, between)?;
    out.push_str(body)?;
    out.repeat(fill, after)
}

fn text_field(text: &str, spec: &Spec, out: &mut Buffer) -> Res<()> {
    let cut = match spec.precision {
        Some(most) => text.char_indices().nth(most).map_or(text, |(at, _)| &text[..at]),
        None => text,
    };
    field("", cut, spec, '<', out)
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    }
}

/// An integer; `padded` with zeros up to the precision, as `%` does.
fn whole(value: i128, spec: Spec, padded: bool, out: &mut Buffer) -> Res<()> {
    let size = value.unsigned_abs();
    let (mut body, prefix) = match spec.kind {
        Some('x') => (format!("{size:x}"), "0x"),
        Some('X') => (format!("{size:X}"), "0X"),
        Some('o') => (format!("{size:o}"), "0o"),
        Some('b') => (format!("{size:b}"), "0b"),
        _ => (size.to_string(), ""),
    };
    if let (true, Some(precision)) = (padded, spec.precision) {
        let _room = meter::take(precision)?;
        if precision > PRECISION {
            return fault(format!("a precision above {PRECISION} is not supported"));
        }
        body = format!("{body:0>precision$}");
    }
    let decimal = !matches!(spec.kind, Some('x' | 'X' | 'o' | 'b'));
    if let Some(separator) = spec.group {
        body = grouped(&body, separator, if decimal { 3 } else { 4 });
        if spec.zero || (spec.align == Some('=') && spec.fill == Some('0')) {
            return fault("a field with zeros and separators is not supported");
        }
    }
    let mut signed = sign(value < 0, &spec).to_owned();
    if spec.alternate {
        signed.push_str(prefix);
    }
    field(&signed, &body, &spec, '>', out)
}

fn grouped(digits: &str, separator: char, size: usize) -> String {
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(size) {
            text.push(separator);
        }
        text.push(c);
    }
    text
}

/// A float in one of the notations e, f, g and %, or as `str` writes it when there is none.
fn float(x: f64, spec: &Spec, out: &mut Buffer) -> Res<()> {
    if spec.precision.is_some_and(|p| p > PRECISION) {
        return fault(format!("a precision above {PRECISION} is not supported"));
    }
    let negative = x.is_sign_negative() && !x.is_nan();
    let kind = spec.kind.unwrap_or('r');
    let (size, precision) = (x.abs(), spec.precision.unwrap_or(6));
    let mut body = if x.is_finite() {
        match kind.to_ascii_lowercase() {
            'f' => format!("{size:.precision$}"),
            '%' => format!("{:.precision$}%", size * 100.0),
            'e' => exponential(size, precision),
            'g' | 'n' => general(size, precision.max(1), spec.alternate, false),
            _ if spec.precision.is_none() => number::repr(size),
            _ => general(size, precision.max(1), spec.alternate, true),
        }
    } else {
        let text = if x.is_nan() { "nan" } else { "inf" };
        if kind == '%' { format!("{text}%") } else { text.to_owned() }
    };
    if spec.alternate && !body.contains('.') && x.is_finite() {
        let at = body.find(['e', '%']).unwrap_or(body.len());
        body.insert(at, '.');
    }
    if kind.is_ascii_uppercase() {
        body = body.to_uppercase();
    }
    if let Some(separator) = spec.group {
        if spec.zero || (spec.align == Some('=') && spec.fill == Some('0')) {
            return fault("a field with zeros and separators is not supported");
        }
        let end = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
        body = grouped(&body[..end], separator, 3) + &body[end..];
    }
    field(sign(negative, spec), &body, spec, '>', out)
}

fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, number) = exponent.strip_prefix('-').map_or(("+", exponent), |n| ("-", n));
    format!("{digits}e{sign}{number:0>2}")
}

/// The shorter of two notations, without zeros at the end; `dotted` as `format()` writes a float without a letter.
fn general(size: f64, precision: usize, zeros: bool, dotted: bool) -> String {
    let written = exponential(size, precision - 1);
    let exponent: i64 = written.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let limit = precision as i64 - i64::from(dotted);
    let fixed = (-4..limit).contains(&exponent);
    let trimmed = |text: &str| {
        if zeros || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if fixed {
        let places = (precision as i64 - 1 - exponent).max(0) as usize;
        let text = trimmed(&format!("{size:.places$}"));
        return if dotted && !text.contains('.') { text + ".0" } else { text };
    }
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "+00"));
    format!("{}e{exponent}", trimmed(digits))
}

/// `format.format(…)`.
pub(super) fn braces(format: &Text, given: Given) -> Res<Value> {
    let mut state = Braces { given, next: 0, named: false };
    let mut out = Buffer::default();
    state.write(format, 2, &mut out)?;
    Ok(Value::Str(Text::from_buffer(out)))
}

struct Braces {
    given: Given,
    next: usize,
    /// Whether a field has a number of its own.
    named: bool,
}

impl Braces {
    fn write(&mut self, format: &str, depth: usize, out: &mut Buffer) -> Res<()> {
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at])?;
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return fault("Single '}' encountered in format string");
            }
            let (mut open, mut end) = (1, None);
            for (at, c) in rest.char_indices() {
                open += i32::from(c == '{') - i32::from(c == '}');
                if open == 0 {
                    end = Some(at);
                    break;
                }
            }
            let Some(end) = end else { return fault("expected '}' before end of string") };
            self.field(&rest[..end], depth, out)?;
            rest = &rest[end + 1..];
        }
        out.push_str(rest)
    }

    fn field(&mut self, field: &str, depth: usize, out: &mut Buffer) -> Res<()> {
        if depth == 0 {
            return fault("Max string recursion exceeded");
        }
        let at = field.find([':', '!']).unwrap_or(field.len());
        let (name, mut rest) = field.split_at(at);
        let mut value = self.value(name)?;
        if let Some(after) = rest.strip_prefix('!') {
            let kind = after.chars().next();
            let mut text = Buffer::default();
            match kind {
                Some('s') => show::write(&value, &mut text)?,
                Some('r') => show::repr(&value, &mut text)?,
                _ => return fault("a conversion other than !s and !r is not supported"),
            }
            value = Value::Str(Text::from_buffer(text));
            rest = &after[1..];
            if !rest.is_empty() && !rest.starts_with(':') {
                return fault("expected ':' after conversion specifier");
            }
        }
        let mut spec = Buffer::default();
        self.write(rest.strip_prefix(':').unwrap_or_default(), depth - 1, &mut spec)?;
        one_brace(&value, spec.text(), out)
    }

    fn value(&mut self, name: &str) -> Res<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let place = if first.is_empty() {
            self.next += 1;
            Some(self.next - 1)
        } else if first.bytes().all(|b| b.is_ascii_digit()) {
            self.named = true;
            first.parse().ok()
        } else {
            None
        };
        if self.named && self.next > 0 {
            return fault("cannot switch between manual field specification and automatic field numbering");
        }
        let mut value = match place {
            Some(place) => match self.given.positional.get(place) {
                Some(value) => value.clone(),
                None => return fault("Replacement index out of range for positional args tuple"),
            },
            None => match self.given.keywords.iter().find(|(n, _)| **n == *first) {
                Some((_, value)) => value.clone(),
                None => return fault(format!("KeyError: '{first}'")),
            },
        };
        while !path.is_empty() {
            if let Some(after) = path.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = access::attribute(&value, &after[..end])?;
                path = &after[end..];
            } else {
                let Some((key, after)) = path[1..].split_once(']') else {
                    return fault("Missing ']' in format string");
                };
                let key = match key.parse::<u32>() {
                    Ok(index) if key.bytes().all(|b| b.is_ascii_digit()) => Value::Int(index.into()),
                    _ => Value::str(key)?,
                };
                value = access::item(&value, &key)?;
                path = after;
            }
        }
        Ok(value)
    }
}

fn one_brace(value: &Value, text: &str, out: &mut Buffer) -> Res<()> {
    if text.is_empty() {
        return show::write(value, out);
    }
    let spec = spec(text)?;
    let kind = spec.kind;
    match value {
        Value::Str(text) if matches!(kind, None | Some('s')) => {
            if spec.sign.is_some() || spec.alternate || spec.group.is_some() || spec.align == Some('=') {
                return fault("this is not allowed in the format of a str");
            }
            let zero = spec.zero && spec.fill.is_none();
            let spec = Spec { zero: false, fill: if zero { Some('0') } else { spec.fill }, ..spec };
            text_field(text, &spec, out)
        }
        Value::Int(_) | Value::Bool(_) => {
            let int = value.as_int().unwrap_or(0);
            match kind {
                None | Some('d' | 'x' | 'X' | 'o' | 'b') => {
                    if spec.precision.is_some() {
                        return fault("Precision not allowed in integer format specifier");
                    }
                    whole(int, spec, false, out)
                }
                Some('c') => match u32::try_from(int).ok().and_then(char::from_u32) {
                    Some(c) => field("", &c.to_string(), &spec, '<', out),
                    None => fault("%c arg not in range(0x110000)"),
                },
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => float(int as f64, &spec, out),
                Some(kind) => unknown(kind, value),
            }
        }
        Value::Float(x) => match kind {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => float(*x, &spec, out),
            Some(kind) => unknown(kind, value),
        },
        Value::Str(_) => unknown(kind.unwrap_or('s'), value),
        Value::Undefined(_) => fault("unsupported format string passed to Undefined.__format__"),
        other => fault(format!("unsupported format string passed to {}.__format__", other.type_name())),
    }
}

fn unknown(kind: char, value: &Value) -> Res<()> {
    fault(format!("Unknown format code '{kind}' for object of type '{}'", value.type_name()))
}

/// `[[fill]align][sign][#][0][width][group][.precision][type]`
fn spec(text: &str) -> Res<Spec> {
    let mut spec = Spec::default();
    let mut chars = text.chars().peekable();
    let is_align = |c: char| matches!(c, '<' | '>' | '^' | '=');
    let mut ahead = text.chars();
    match (ahead.next(), ahead.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            chars.next();
            chars.next();
        }
        (Some(align), _) if is_align(align) => {
            spec.align = Some(align);
            chars.next();
        }
        _ => {}
    }
    spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    if chars.next_if_eq(&'z').is_some() {
        return fault("the option `z` of a format is not supported");
    }
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zero = chars.next_if_eq(&'0').is_some();
    // Zeros stand before digits; with an alignment of its own they are only what fills.
    if spec.zero && spec.align.is_some() {
        spec.zero = false;
        spec.fill = spec.fill.or(Some('0'));
    }
    spec.width = digits(&mut chars)? as usize;
    spec.group = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        if !chars.peek().is_some_and(char::is_ascii_digit) {
            return fault("Format specifier missing precision");
        }
        spec.precision = Some(digits(&mut chars)? as usize);
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        return fault("Invalid format specifier");
    }
    Ok(spec)
}
