//! Values as text: `str`, `repr` and `json.dumps`.

use super::meter::{self, Buffer};
use super::value::{Text, Value, View};
use super::{Res, fault, number};

/// `str(value)`.
pub(super) fn text(value: &Value) -> Res<Text> {
    if let Value::Str(text) = value {
        return Ok(text.clone());
    }
    let mut out = Buffer::default();
    write(value, &mut out)?;
    Ok(Text::from_buffer(out))
}

/// Adds `str(value)`.
pub(super) fn write(value: &Value, out: &mut Buffer) -> Res<()> {
    match value {
        Value::Str(text) => out.push_str(text),
        Value::Undefined(_) => Ok(()),
        other => repr(other, out),
    }
}

/// Adds `repr(value)`.
pub(super) fn repr(value: &Value, out: &mut Buffer) -> Res<()> {
    let _level = meter::deeper()?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::Float(x) => out.push_str(&number::repr(*x)),
        Value::Str(text) if text.markup() => {
            out.push_str("Markup(")?;
            quoted(text, false, out)?;
            out.push(')')
        }
        Value::Str(text) => quoted(text, false, out),
        Value::Bytes(text) => {
            out.push('b')?;
            quoted(text, true, out)
        }
        Value::List(items) => list("[", "]", items.list.iter(), out),
        Value::Tuple(items) if items.list.len() == 1 => list("(", ",)", items.list.iter(), out),
        Value::Tuple(items) => list("(", ")", items.list.iter(), out),
        Value::Dict(dict) => {
            out.push('{')?;
            for (i, (key, value)) in dict.pairs.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ")?;
                }
                repr(key, out)?;
                out.push_str(": ")?;
                repr(value, out)?;
            }
            out.push('}')
        }
        Value::View(View::Keys, dict) => list("dict_keys([", "])", dict.pairs.iter().map(|(k, _)| k), out),
        Value::View(View::Values, dict) => {
            list("dict_values([", "])", dict.pairs.iter().map(|(_, v)| v), out)
        }
        Value::View(View::Items, _) => list("dict_items([", "])", value.items()?.iter(), out),
        Value::Range(r) if r.step == 1 => out.push_str(&format!("range({}, {})", r.start, r.stop)),
        Value::Range(r) => out.push_str(&format!("range({}, {}, {})", r.start, r.stop, r.step)),
        Value::Namespace(space) => {
            out.push_str("<Namespace {")?;
            for (i, (name, value)) in space.fields.borrow().iter().enumerate() {
                if i > 0 {
                    out.push_str(", ")?;
                }
                quoted(name, false, out)?;
                out.push_str(": ")?;
                repr(value, out)?;
            }
            out.push_str("}>")
        }
        Value::Macro(m) => {
            out.push_str("<Macro ")?;
            if m.definition.name.as_ref() == "caller" {
                out.push_str("anonymous")?;
            } else {
                quoted(&m.definition.name, false, out)?;
            }
            out.push('>')
        }
        Value::Loop(l) => out.push_str(&format!("<LoopContext {}/{}>", l.index.get() + 1, l.items.len())),
        Value::Iter(..) | Value::Method(..) | Value::Function(_) | Value::Cycler(_) | Value::Joiner(_) => {
            fault(format!(
                "a {} is printed, which Python writes with its address in memory; a list is meant, or a call",
                value.type_name()
            ))
        }
    }
}

fn list<'a>(open: &str, close: &str, items: impl Iterator<Item = &'a Value>, out: &mut Buffer) -> Res<()> {
    out.push_str(open)?;
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(", ")?;
        }
        repr(item, out)?;
    }
    out.push_str(close)
}

/// `repr` of a text, or of bytes in UTF-8.
fn quoted(text: &str, bytes: bool, out: &mut Buffer) -> Res<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\")?,
            '\n' => out.push_str("\\n")?,
            '\r' => out.push_str("\\r")?,
            '\t' => out.push_str("\\t")?,
            c if c == quote => {
                out.push('\\')?;
                out.push(c)?;
            }
            ' '..='~' => out.push(c)?,
            c if bytes => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    out.push_str(&format!("\\x{byte:02x}"))?;
                }
            }
            c if printable(c) => out.push(c)?,
            c => out.push_str(&match c as u32 {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x10000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            })?,
        }
    }
    out.push(quote)
}

/// `str.isprintable` of a character: Rust escapes the same categories, inside of a text.
pub(super) fn printable(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || format!("a{c}").escape_debug().skip(1).eq([c])
}

/// How `json.dumps` writes.
pub(super) struct Json {
    /// What a line's indentation is made of.
    pub(super) indent: Option<String>,
    pub(super) ascii: bool,
    pub(super) sort: bool,
    pub(super) item: String,
    pub(super) key: String,
}

impl Json {
    pub(super) fn write(&self, value: &Value, depth: usize, out: &mut Buffer) -> Res<()> {
        let _level = meter::deeper()?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Int(i) => out.push_str(&i.to_string()),
            Value::Float(x) => out.push_str(&json_float(*x)),
            Value::Str(text) => self.string(text, out),
            Value::List(items) | Value::Tuple(items) => {
                out.push('[')?;
                for (i, item) in items.list.iter().enumerate() {
                    self.separate(i, depth + 1, out)?;
                    self.write(item, depth + 1, out)?;
                }
                self.close(items.list.is_empty(), depth, ']', out)
            }
            Value::Dict(dict) => {
                out.push('{')?;
                let mut pairs: Vec<&(Value, Value)> = dict.pairs.iter().collect();
                if self.sort {
                    super::ops::sort_by(&mut pairs, |pair| &pair.0)?;
                }
                for (i, (key, value)) in pairs.into_iter().enumerate() {
                    self.separate(i, depth + 1, out)?;
                    match key {
                        Value::Str(text) => self.string(text, out)?,
                        Value::None => out.push_str("\"null\"")?,
                        Value::Bool(b) => out.push_str(&format!("\"{b}\""))?,
                        Value::Int(i) => out.push_str(&format!("\"{i}\""))?,
                        Value::Float(x) => out.push_str(&format!("\"{}\"", json_float(*x)))?,
                        other => {
                            let found = other.type_name();
                            return fault(format!("keys must be str, int, float, bool or None, not {found}"));
                        }
                    }
                    out.push_str(&self.key)?;
                    self.write(value, depth + 1, out)?;
                }
                self.close(dict.pairs.is_empty(), depth, '}', out)
            }
            other => fault(format!("Object of type {} is not JSON serializable", other.type_name())),
        }
    }

    fn separate(&self, index: usize, depth: usize, out: &mut Buffer) -> Res<()> {
        if index > 0 {
            out.push_str(&self.item)?;
        }
        self.line(depth, out)
    }

    fn close(&self, empty: bool, depth: usize, close: char, out: &mut Buffer) -> Res<()> {
        if !empty {
            self.line(depth, out)?;
        }
        out.push(close)
    }

    fn line(&self, depth: usize, out: &mut Buffer) -> Res<()> {
        if let Some(indent) = &self.indent {
            out.push('\n')?;
            for _ in 0..depth {
                out.push_str(indent)?;
            }
        }
        Ok(())
    }

    fn string(&self, text: &str, out: &mut Buffer) -> Res<()> {
        out.push('"')?;
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\"")?,
                '\\' => out.push_str("\\\\")?,
                '\n' => out.push_str("\\n")?,
                '\r' => out.push_str("\\r")?,
                '\t' => out.push_str("\\t")?,
                '\u{8}' => out.push_str("\\b")?,
                '\u{c}' => out.push_str("\\f")?,
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"))?;
                    }
                }
                c => out.push(c)?,
            }
        }
        out.push('"')
    }
}

fn json_float(x: f64) -> String {
    match x {
        x if x.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        x => number::repr(x),
    }
}
