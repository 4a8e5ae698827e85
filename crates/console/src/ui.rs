//! The two streams: results on standard output, everything for people on standard error. Texts of files reach a
//! terminal through [`visible`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Mutex;

use anyhow::Context as _;
use serde_json::Value;

use crate::flags;

/// A line for people. That nobody reads it is no reason to end a run.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(&flags::spelled(text.as_ref())));
}

/// Lines for people, each once however often there is cause for it.
pub fn note_once(texts: &[String]) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Ok(mut said) = SAID.lock() else { return };
    for text in texts {
        if said.insert(text.clone()) {
            note(text);
        }
    }
}

/// Text of a result.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_raw(&visible(text))
}

/// As [`print`], for text whose control characters are the program's own.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_raw(text: &str) -> anyhow::Result<()> {
    // Whoever closed it has seen enough.
    stream_raw(text).map(|_| ())
}

/// A piece of text that goes on; false when nobody reads it any more.
///
/// # Errors
/// When standard output cannot be written.
pub fn stream(text: &str) -> anyhow::Result<bool> {
    stream_raw(&visible(text))
}

/// A piece of text that goes on, on standard error.
pub fn stream_note(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(visible(text).as_bytes()).and_then(|()| out.flush());
}

/// Text in which nothing moves the cursor, colours a terminal or turns the direction of reading: control characters
/// and those that override the direction are spelled. Ends of lines and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn acts(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn stream_raw(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).context("cannot write to standard output"),
    }
}

/// A result for people: on standard output, unless that is taken by a JSON document.
///
/// # Errors
/// When standard output cannot be written.
pub fn result(json: bool, text: &str) -> anyhow::Result<()> {
    if json {
        note(text.trim_end());
        return Ok(());
    }
    print(text)
}

/// The document of `--json`.
///
/// # Errors
/// When standard output cannot be written.
pub fn json(value: &Value) -> anyhow::Result<()> {
    let mut text = String::new();
    // What is left of control characters stands in strings.
    for c in format!("{value:#}\n").chars() {
        if acts(c) {
            let _ = write!(text, "\\u{:04x}", c as u32);
        } else {
            text.push(c);
        }
    }
    print_raw(&text)
}

/// Whether a person watches standard error.
pub fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether the terminal shows more than ASCII.
pub fn unicode() -> bool {
    let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8") || std::env::var_os("WT_SESSION").is_some()
}

/// Rows of a table, the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| match c {
            0 => format!("  {cell:<w$}", w = widths[0]),
            _ => format!("  {cell:>w$}", w = widths[c]),
        });
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal() {
        assert_eq!(visible("a\tb\nü 日本 🙂\u{200f}"), "a\tb\nü 日本 🙂\u{200f}");
        let attack = "\u{1b}[2J\r\u{8}\u{7f}\u{9b}31m\0\u{202e}";
        assert_eq!(visible(attack), r"\u{1b}[2J\u{d}\u{8}\u{7f}\u{9b}31m\u{0}\u{202e}");
    }
}
