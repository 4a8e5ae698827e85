//! Finds the data file and cuts it into rows, each with the line it begins on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::Folder;
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

/// The file that `path` means: itself, or in a directory the one named `in_directory`, or one of its kind.
pub(super) fn locate(path: &Path, in_directory: &str) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join(in_directory);
    if file.is_file() {
        return Ok(file);
    }
    if let Some(file) = Folder::open(path)?.named(in_directory) {
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

/// What a name says of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Lines,
    Json,
    Text,
    Open,
}

fn by_name(path: &Path) -> Result<Name> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "jsonl" | "ndjson" => Ok(Name::Lines),
        "json" => Ok(Name::Json),
        "txt" | "text" | "md" => Ok(Name::Text),
        // Read as a document these would train on separators or binary noise without a word.
        "csv" | "tsv" | "parquet" | "arrow" | "xlsx" | "zip" | "gz" | "zst" => {
            let problem =
                format!("a .{extension} file; expected JSON lines (.jsonl), a JSON array or plain text");
            Err(Error::data(path, None, problem)
                .hint("convert it to JSON lines with `text`, `prompt` and `completion`, or `messages`"))
        }
        _ => Ok(Name::Open),
    }
}

/// Decides by name and content: JSON is read as rows also in a file whose name says that it is text.
pub(crate) fn kind(path: &Path) -> Result<Kind> {
    let name = by_name(path)?;
    by_content(path, name, &|| Ok(Box::new(open(path)?)))
}

/// As [`kind`], with the content at hand.
pub(super) fn kind_of(path: &Path, content: &[u8]) -> Result<Kind> {
    by_content(path, by_name(path)?, &|| Ok(Box::new(content)))
}

/// A reader from the beginning of a file.
type Opened<'a> = &'a dyn Fn() -> Result<Box<dyn BufRead + 'a>>;

fn by_content(path: &Path, name: Name, opened: Opened<'_>) -> Result<Kind> {
    let first = first_characters(path, opened()?)?;
    Ok(match (name, first) {
        (Name::Json, [Some(b'['), _]) => Kind::Array,
        (Name::Lines | Name::Open, [Some(b'['), Some(b'{')]) => {
            // A list a line is no array of rows.
            if several_lists(path, opened()?)? { Kind::Lines } else { Kind::Array }
        }
        (Name::Lines | Name::Json, _) | (Name::Open, [Some(b'{'), _]) => Kind::Lines,
        (Name::Text, [Some(b'['), Some(b'{')]) if begins_an_array(path, opened()?)? => Kind::Array,
        (Name::Text, [Some(b'{'), _]) if objects(path, opened()?)?.is_some_and(|(n, all)| n == all) => {
            Kind::Lines
        }
        (Name::Text | Name::Open, _) => Kind::Document,
    })
}

/// Whether the first line is a whole list, and others follow.
fn several_lists(path: &Path, reader: impl BufRead) -> Result<bool> {
    let (mut lists, mut lines) = (false, 0);
    some_lines(path, reader, &mut |text| {
        lines += 1;
        lists |= lines == 1 && serde_json::from_str::<Vec<IgnoredAny>>(text).is_ok();
        lines < 2 && lists
    })?;
    Ok(lists && lines > 1)
}

/// Whether a text begins as an array whose first element is an object.
fn begins_an_array(path: &Path, mut reader: impl BufRead) -> Result<bool> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|e| mesp_formats::Error::io("read", path, e))?;
    let Ok(text) = text_of(path, bytes) else { return Ok(false) };
    let mut object = None;
    // The first element ends the search.
    let _ = each_element(path, &text, &mut |_, element| {
        object = Some(is_object(element));
        Err(Error::usage("found"))
    });
    Ok(object == Some(true))
}

/// How many lines are JSON objects, and how many there are; `None` when some line is no text.
fn objects(path: &Path, reader: impl BufRead) -> Result<Option<(usize, usize)>> {
    let (mut found, mut lines) = (0, 0);
    let text = some_lines(path, reader, &mut |text| {
        lines += 1;
        found += usize::from(is_object(text));
        true
    })?;
    Ok(text.then_some((found, lines)))
}

/// For a text that is read as one document though it begins like JSON: how many of how many lines are objects.
pub(super) fn objects_in(text: &str) -> Option<(usize, usize)> {
    text.trim_start().starts_with('{').then(|| objects(Path::new(""), text.as_bytes()).ok().flatten())?
}

fn is_object(text: &str) -> bool {
    text.starts_with('{') && json::<IgnoredAny>(text).is_ok()
}

/// Calls `line` with the lines that are not blank until it says no; false where a line is no text.
fn some_lines(path: &Path, mut reader: impl BufRead, line: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let read =
            reader.read_until(b'\n', &mut buffer).map_err(|e| mesp_formats::Error::io("read", path, e))?;
        if read == 0 {
            return Ok(true);
        }
        let Ok(text) = std::str::from_utf8(buffer.strip_prefix(BOM).unwrap_or(&buffer)) else {
            return Ok(false);
        };
        if !text.trim().is_empty() && !line(text.trim()) {
            return Ok(true);
        }
    }
}

/// A JSON value. `NaN`, `Infinity` and `-Infinity`, which Python writes and JSON does not have, are read as null; the
/// second value says whether there were some.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> serde_json::Result<(T, bool)> {
    serde_json::from_str(text).map(|value| (value, false)).or_else(|error| {
        let Some(mended) = without_nan(text) else { return Err(error) };
        serde_json::from_str(&mended).map(|value| (value, true)).map_err(|_| error)
    })
}

/// A text with null in place of Python's numbers that are none; nothing if there is no such number.
fn without_nan(text: &str) -> Option<String> {
    const NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut out = String::new();
    let (mut quoted, mut escaped, mut done) = (false, false, 0);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if quoted {
            (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
        } else if byte == b'"' {
            quoted = true;
        } else if let Some(number) = NUMBERS.iter().find(|n| bytes[at..].starts_with(n.as_bytes())) {
            out.push_str(&text[done..at]);
            out.push_str("null");
            at += number.len();
            done = at;
            continue;
        }
        at += 1;
    }
    (done > 0).then(|| out + &text[done..])
}

/// The first two characters that are no white space.
fn first_characters(path: &Path, mut reader: impl BufRead) -> Result<[Option<u8>; 2]> {
    let mut found = [None, None];
    loop {
        let buffer = reader.fill_buf().map_err(|e| mesp_formats::Error::io("read", path, e))?;
        if buffer.is_empty() {
            return Ok(found);
        }
        for byte in buffer.iter().filter(|b| !b.is_ascii_whitespace() && !BOM.contains(*b)) {
            match found {
                [None, _] => found[0] = Some(*byte),
                [first, None] => return Ok([first, Some(*byte)]),
                both => return Ok(both),
            }
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
