//! Finds the data file and cuts it into rows, each with the line it begins on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// How the bytes of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One JSON object a line.
    Lines,
    /// One JSON array of objects.
    Array,
    /// One plain text.
    Document,
}

/// The file that `path` means: itself, or in a directory the one named `in_directory`.
pub(super) fn locate(path: &Path, in_directory: &str) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join(in_directory);
    if file.is_file() {
        return Ok(file);
    }
    let mut names: Vec<String> = fs::read_dir(path)
        .map_err(|e| mesp_formats::Error::io("read", path, e))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let more = if names.len() > 8 { ", ..." } else { "" };
    names.truncate(8);
    let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") + more };
    Err(Error::data(path, None, format!("expected a file {in_directory} in this directory, found {found}"))
        .hint("name the data file itself"))
}

/// Decides by name, and by the first character where the name leaves it open.
pub(crate) fn kind(path: &Path) -> Result<Kind> {
    match by_name(path)? {
        Ok(kind) => Ok(kind),
        Err(extension) => Ok(by_content(&extension, first_character(path, open(path)?)?)),
    }
}

/// The kind that a name stands for, or the extension that leaves it open.
fn by_name(path: &Path) -> Result<std::result::Result<Kind, String>> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "jsonl" | "ndjson" => Ok(Ok(Kind::Lines)),
        "txt" | "text" | "md" => Ok(Ok(Kind::Document)),
        // Read as a document these would train on separators or binary noise without a word.
        "csv" | "tsv" | "parquet" | "arrow" | "xlsx" | "zip" | "gz" | "zst" => {
            let problem =
                format!("a .{extension} file; expected JSON lines (.jsonl), a JSON array or plain text");
            Err(Error::data(path, None, problem)
                .hint("convert it to JSON lines with `text`, `prompt` and `completion`, or `messages`"))
        }
        _ => Ok(Err(extension)),
    }
}

/// As [`kind`], with the content at hand.
pub(super) fn kind_of(name: &Path, content: &[u8]) -> Result<Kind> {
    match by_name(name)? {
        Ok(kind) => Ok(kind),
        Err(extension) => Ok(by_content(&extension, first_character(name, content)?)),
    }
}

fn by_content(extension: &str, first: Option<u8>) -> Kind {
    match first {
        Some(b'[') if extension == "json" => Kind::Array,
        Some(b'{') => Kind::Lines,
        _ if extension == "json" => Kind::Lines,
        _ => Kind::Document,
    }
}

fn first_character(path: &Path, mut reader: impl BufRead) -> Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf().map_err(|e| mesp_formats::Error::io("read", path, e))?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let mark = |b: &&u8| !b.is_ascii_whitespace() && !BOM.contains(*b);
        if let Some(&byte) = buffer.iter().find(mark) {
            return Ok(Some(byte));
        }
        let read = buffer.len();
        reader.consume(read);
    }
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).map_err(|e| mesp_formats::Error::io("open", path, e))?))
}

/// The whole file as text.
pub(super) fn text(path: &Path) -> Result<String> {
    text_of(path, fs::read(path).map_err(|e| mesp_formats::Error::io("read", path, e))?)
}

/// Bytes as text.
pub(super) fn text_of(path: &Path, mut bytes: Vec<u8>) -> Result<String> {
    if bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + newlines(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        not_text(path, line)
    })
}

fn not_text(path: &Path, line: usize) -> Error {
    Error::data(path, Some(line), "these bytes are not UTF-8 text").hint("save the file as UTF-8")
}

/// The number of line ends.
pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.split(|&b| b == b'\n').count() - 1
}

/// Calls `row` with the line and the text of each row; blank lines are no rows.
pub(crate) fn each_row(
    path: &Path,
    kind: Kind,
    row: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    if kind == Kind::Array {
        return each_element(path, &text(path)?, row);
    }
    // Line by line: the file may be larger than the memory there is.
    each_line(path, open(path)?, row)
}

/// As [`each_row`], with the content at hand.
pub(super) fn each_row_of(
    path: &Path,
    kind: Kind,
    content: &[u8],
    row: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    if kind == Kind::Array {
        return each_element(path, &text_of(path, content.to_vec())?, row);
    }
    each_line(path, content, row)
}

fn each_line(
    path: &Path,
    mut reader: impl BufRead,
    row: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let read =
            reader.read_until(b'\n', &mut buffer).map_err(|e| mesp_formats::Error::io("read", path, e))?;
        if read == 0 {
            break;
        }
        let bytes = if line == 1 { buffer.strip_prefix(BOM).unwrap_or(&buffer) } else { &buffer };
        let text = std::str::from_utf8(bytes).map_err(|_| not_text(path, line))?.trim();
        if !text.is_empty() {
            row(line, text)?;
        }
    }
    Ok(())
}

/// Cuts a JSON array into its elements without parsing them, because a parser would not keep their
/// lines. What is wrong inside an element is found when it is parsed.
fn each_element(path: &Path, text: &str, row: &mut dyn FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let (mut depth, mut line, mut quoted, mut escaped) = (0usize, 1usize, false, false);
    let (mut start, mut start_line, mut closed) = (None, 1, false);
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            line += 1;
        }
        if quoted {
            (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if closed {
            return Err(Error::data(path, Some(line), "text after the end of the JSON array"));
        }
        let ends = depth == 1 && (byte == b',' || byte == b']');
        if ends {
            match start.take() {
                Some(begin) => row(start_line, text[begin..at].trim_end())?,
                None if byte == b',' => {
                    return Err(Error::data(path, Some(line), "an empty place in the JSON array"));
                }
                None => {}
            }
        } else if depth >= 1 && start.is_none() {
            (start, start_line) = (Some(at), line);
        }
        match byte {
            b'"' => quoted = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        closed = depth == 0;
    }
    if closed {
        return Ok(());
    }
    Err(Error::data(path, Some(line), "the file ends inside the JSON array")
        .hint("the file may be cut short"))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
