//! The two streams: results on standard output, everything for people on standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Context as _;
use serde_json::Value;

/// A line for people. That nobody reads it is no reason to end a run.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Text of a result.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    // Whoever closed it has seen enough.
    stream(text).map(|_| ())
}

/// A piece of text that goes on; false when nobody reads it any more.
pub(crate) fn stream(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true).context("cannot write to standard output"),
    }
}

/// A result for people: on standard output, unless that is taken by a JSON document.
pub(crate) fn result(json: bool, text: &str) -> anyhow::Result<()> {
    if json {
        note(text.trim_end());
        return Ok(());
    }
    print(text)
}

/// The document of `--json`.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

/// Whether a person watches standard error.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether the terminal shows more than ASCII.
pub(crate) fn unicode() -> bool {
    let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8") || std::env::var_os("WT_SESSION").is_some()
}

/// Rows of a table, the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
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
