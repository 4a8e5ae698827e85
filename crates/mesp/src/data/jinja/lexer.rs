//! Source to tokens, by the rules of jinja2's lexer with `trim_blocks` and `lstrip_blocks`.

use super::{Fault, Res};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum T {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    /// An operator, as it is written.
    Op(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: T,
}

/// The longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// What Python calls white space.
pub(super) fn space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Tokens of a whole template.
pub(super) fn tokens(source: &str) -> Res<Vec<Token>> {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    let mut lexer = Lexer { text: &text, at: 0, line: 1, fresh: true, out: Vec::new() };
    while lexer.at < text.len() {
        lexer.data()?;
    }
    Ok(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    /// Whether what was read last ends with the end of a line.
    fresh: bool,
    out: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: T) {
        self.out.push(Token { line: self.line, kind });
    }

    fn skip(&mut self, bytes: usize) {
        let passed = &self.text[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.fresh = passed.ends_with('\n');
        self.at += bytes;
    }

    fn error<X>(&self, text: impl Into<String>) -> Res<X> {
        Err(Fault::new(text.into()).at(self.line))
    }

    /// Text up to the next tag, and the tag.
    fn data(&mut self) -> Res<()> {
        let rest = self.rest();
        let begins = |at: usize| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
        let Some(at) = rest.match_indices('{').map(|(at, _)| at).find(|at| begins(*at)) else {
            let text = rest.to_owned();
            self.push(T::Data(text));
            self.skip(self.text.len() - self.at);
            return Ok(());
        };
        let kind = rest.as_bytes()[at + 1];
        let sign = rest.as_bytes().get(at + 2).copied().filter(|c| matches!(c, b'-' | b'+'));
        let text = self.before(&rest[..at], sign, kind != b'{');
        if !text.is_empty() {
            self.push(T::Data(text));
        }
        let length = 2 + usize::from(sign.is_some());
        if kind == b'%'
            && let Some(raw) = raw_tag(&rest[at..], length)
        {
            self.skip(at + raw);
            return self.raw();
        }
        self.skip(at + length);
        match kind {
            b'#' => self.comment(),
            b'{' => {
                self.push(T::VariableBegin);
                self.inside("}}", T::VariableEnd)
            }
            _ => {
                self.push(T::BlockBegin);
                self.inside("%}", T::BlockEnd)
            }
        }
    }

    /// The text before a tag, without the white space that the tag takes.
    fn before(&self, text: &str, sign: Option<u8>, block: bool) -> String {
        if sign == Some(b'-') {
            return text.trim_end_matches(space).to_owned();
        }
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        let whole = start > 0 || self.fresh;
        if block && sign.is_none() && whole && text[start..].chars().all(space) {
            return text[..start].to_owned();
        }
        text.to_owned()
    }

    /// How long the end of a tag is at this place, with what it takes.
    fn end(rest: &str, mark: &str) -> Option<usize> {
        if let Some(after) = rest.strip_prefix('-').and_then(|r| r.strip_prefix(mark)) {
            return Some(rest.len() - after.trim_start_matches(space).len());
        }
        let plus = rest.strip_prefix('+').filter(|_| mark != "}}").and_then(|r| r.strip_prefix(mark));
        if plus.is_some() {
            return Some(1 + mark.len());
        }
        let after = rest.strip_prefix(mark)?;
        Some(mark.len() + usize::from(mark != "}}" && after.starts_with('\n')))
    }

    fn comment(&mut self) -> Res<()> {
        let rest = self.rest();
        let found = rest.match_indices("#}").next().map(|(at, _)| at);
        let Some(at) = found else { return self.error("a comment `{#` has no end `#}`") };
        let sign = at.checked_sub(1).filter(|s| matches!(rest.as_bytes()[*s], b'-' | b'+'));
        let start = sign.unwrap_or(at);
        let length = Self::end(&rest[start..], "#}").unwrap_or(2);
        self.skip(start + length);
        Ok(())
    }

    fn raw(&mut self) -> Res<()> {
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let sign = rest.as_bytes().get(at + 2).copied().filter(|c| matches!(c, b'-' | b'+'));
            let inner = rest[at + 2 + usize::from(sign.is_some())..].trim_start_matches(space);
            let Some(after) = inner.strip_prefix("endraw") else { continue };
            let after = after.trim_start_matches(space);
            if let Some(length) = Self::end(after, "%}") {
                let whole = rest.len() - after.len() + length;
                let text = self.before(&rest[..at], sign, true);
                self.push(T::Data(text));
                self.skip(whole);
                return Ok(());
            }
        }
        self.error("`{% raw %}` has no `{% endraw %}`")
    }

    /// Tokens up to the end of a tag.
    fn inside(&mut self, mark: &str, last: T) -> Res<()> {
        let mut open: Vec<&str> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty()
                && let Some(length) = Self::end(rest, mark)
            {
                self.push(last);
                self.skip(length);
                return Ok(());
            }
            let Some(c) = rest.chars().next() else {
                return self.error(format!("the template ends inside a tag; expected `{mark}`"));
            };
            if space(c) {
                let length = rest.len() - rest.trim_start_matches(space).len();
                self.skip(length);
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphanumeric() {
                let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                let name = rest[..length].to_owned();
                self.push(T::Name(name));
                self.skip(length);
            } else if c == '"' || c == '\'' {
                self.string(c)?;
            } else if let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) {
                match op {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if expected == op => {}
                        Some(expected) => {
                            return self.error(format!("unexpected `{op}`, expected `{expected}`"));
                        }
                        None => return self.error(format!("unexpected `{op}`")),
                    },
                    _ => {}
                }
                self.push(T::Op(op));
                self.skip(op.len());
            } else {
                return self.error(format!("unexpected character {c:?}"));
            }
        }
    }

    fn number(&mut self) -> Res<()> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let radix = match bytes.get(1).filter(|_| bytes[0] == b'0') {
            Some(b'x' | b'X') => 16,
            Some(b'o' | b'O') => 8,
            Some(b'b' | b'B') => 2,
            _ => 10,
        };
        if radix != 10 {
            let length = 2 + digits(&bytes[2..], radix, true);
            if length > 2 {
                return self.integer(2, length, radix);
            }
        }
        let mut length = digits(bytes, 10, false);
        let whole = length;
        let after_dot = self.at > 0 && self.text.as_bytes()[self.at - 1] == b'.';
        let (mut float, mut end) = (false, length);
        if bytes.get(end) == Some(&b'.') {
            let more = digits(&bytes[end + 1..], 10, false);
            if more > 0 {
                (float, end) = (true, end + 1 + more);
            }
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let more = bytes.get(end + 1 + sign..).map_or(0, |b| digits(b, 10, false));
            if more > 0 {
                (float, end) = (true, end + 1 + sign + more);
            }
        }
        if float && !after_dot {
            let value = rest[..end].replace('_', "").parse().unwrap_or(f64::NAN);
            self.push(T::Float(value));
            self.skip(end);
            return Ok(());
        }
        if bytes[0] == b'0' {
            length = bytes[..whole].iter().take_while(|b| matches!(b, b'0' | b'_')).count();
        }
        self.integer(0, length, 10)
    }

    fn integer(&mut self, from: usize, length: usize, radix: u32) -> Res<()> {
        let text = self.rest()[from..length].replace('_', "");
        let Ok(value) = i128::from_str_radix(&text, radix) else {
            return self.error("an integer of more than 127 bits");
        };
        self.push(T::Int(value));
        self.skip(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Res<()> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let found = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            found
        });
        let Some((end, _)) = end else { return self.error(format!("a text has no end {quote}")) };
        let value = unescape(&rest[1..end]).map_err(|e| e.at(self.line))?;
        self.push(T::Str(value));
        self.skip(end + 1);
        Ok(())
    }
}

/// How many bytes of digits there are, with single underscores between them.
fn digits(bytes: &[u8], radix: u32, first: bool) -> usize {
    let digit = |at: usize| bytes.get(at).is_some_and(|b| char::from(*b).is_digit(radix));
    let mut at = 0;
    while digit(at) || (bytes.get(at) == Some(&b'_') && (at > 0 || first) && digit(at + 1)) {
        at += 1;
    }
    at
}

/// The length of `{% raw %}` at the beginning of a text. No line's end is taken after it.
fn raw_tag(text: &str, from: usize) -> Option<usize> {
    let inner = text[from..].trim_start_matches(space).strip_prefix("raw")?.trim_start_matches(space);
    if let Some(after) = inner.strip_prefix("-%}") {
        return Some(text.len() - after.trim_start_matches(space).len());
    }
    inner.strip_prefix("%}").map(|after| text.len() - after.len())
}

/// Python's escapes in a text.
fn unescape(text: &str) -> Res<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(code) = chars.next() else {
            return Err(Fault::new("a text ends with a single backslash".into()));
        };
        let mut hex = |count: usize| {
            let mut value = 0;
            for _ in 0..count {
                let digit = chars.next().and_then(|c| c.to_digit(16));
                value = value * 16
                    + digit.ok_or_else(|| Fault::new(format!("an escape \\{code} is cut short")))?;
            }
            char::from_u32(value).ok_or_else(|| Fault::new(format!("\\{code}{value:04x} is no character")))
        };
        match code {
            '\n' => {}
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            '\\' | '\'' | '"' => out.push(code),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'v' => out.push('\x0b'),
            'x' => out.push(hex(2)?),
            'u' => out.push(hex(4)?),
            'U' => out.push(hex(8)?),
            'N' => return Err(Fault::new("escapes \\N{name} are not supported".into())),
            '0'..='7' => {
                let mut value = code as u32 - '0' as u32;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.extend(char::from_u32(value));
            }
            other => out.extend(['\\', other]),
        }
    }
    Ok(out)
}
