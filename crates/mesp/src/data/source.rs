//! Decides what kind of file a data file is, and cuts it into rows, each with the line it begins on.

use std::io::{BufRead, Read};
use std::path::Path;

use mesp_device::Mapping;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::columns::{Columns, Seen};
use super::compressed::{
    self, ROW_LIMIT, TEXT_LIMIT, is_packed, packing, read_line, unpacked, unpacked_name, unreadable,
};
use super::dataset::located;
use super::long_row::{LONG, Line, is_of_tokens};
use super::table;
use crate::{Error, ErrorKind, Result};

/// How the bytes of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One JSON object a line.
    Lines,
    /// One JSON array of objects.
    Array,
    /// One plain text.
    Document,
    /// A table as text, its columns named in the first line.
    Table,
    /// A Parquet file.
    Parquet,
}

/// What a name says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Lines,
    Json,
    Text,
    Table,
    Parquet,
    Open,
}

/// What the extensions of data files stand for, in the order in which files of one name are preferred. Behind each
/// may stand `.gz` or `.zst`. Every other place that lists data files asks here.
pub(super) const EXTENSIONS: [(&str, Name); 11] = [
    ("jsonl", Name::Lines),
    ("ndjson", Name::Lines),
    ("json", Name::Json),
    ("txt", Name::Text),
    ("text", Name::Text),
    ("md", Name::Text),
    ("parquet", Name::Parquet),
    ("pq", Name::Parquet),
    ("csv", Name::Table),
    ("tsv", Name::Table),
    ("tab", Name::Table),
];

/// Files that would be read as plain text, and train on binary noise without a word, with what to do about them.
pub(super) const REFUSED: [(&str, &str); 11] = [
    ("arrow", ARROW),
    ("feather", ARROW),
    ("orc", "write it as .parquet, for example with pandas.read_orc and to_parquet"),
    ("avro", "write it as .parquet or .jsonl"),
    ("pkl", "write it as .parquet, for example with pandas.read_pickle and to_parquet"),
    ("xlsx", "save the sheet as .csv"),
    ("xls", "save the sheet as .csv"),
    ("ods", "save the sheet as .csv"),
    ("zip", "unpack it; .gz and .zst are read as they are"),
    ("bz2", "unpack it; .gz and .zst are read as they are"),
    ("xz", "unpack it; .gz and .zst are read as they are"),
];
const ARROW: &str = "write it as Parquet: python -c \"from datasets import Dataset; \
                     Dataset.from_file('FILE.arrow').to_parquet('train.parquet')\"";

/// A row as it lies in a file.
pub(crate) enum Raw<'a> {
    /// JSON, not parsed yet.
    Json(&'a str),
    /// The cells of a table by column.
    Cells(Map<String, Value>),
    /// A row of tokens too long to be held, see [`long_row`]; JSON, not parsed yet.
    Tokens(&'a mut dyn Read),
    /// A row that cannot be read; the rows after it can.
    Bad(Error),
}

impl Raw<'_> {
    /// The row, its columns under the names that forms know, and whether it holds a number that JSON does not have.
    pub(crate) fn value(
        self,
        path: &Path,
        line: usize,
        columns: &Columns,
        seen: &mut Seen,
    ) -> Result<(Value, bool)> {
        let mut odd = false;
        let (mut value, cells) = match self {
            Raw::Json(text) => {
                let value;
                (value, odd) = json(text).map_err(|e| not_json(path, line, &e))?;
                (value, false)
            }
            Raw::Cells(row) => (Value::Object(row), true),
            Raw::Bad(error) => return Err(error),
            Raw::Tokens(_) => return Err(row_too_long(path, line)),
        };
        if let Value::Object(row) = &mut value {
            if !columns.is_empty() {
                seen.row(columns, row);
                columns.apply(row);
            }
            if cells {
                odd |= table::open_cells(row).map_err(|e| located(e, path, line))?;
            }
        }
        Ok((value, odd))
    }
}

fn not_json(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    // An element of an array may run over several lines.
    Error::data(
        path,
        Some(line + error.line().saturating_sub(1)),
        ErrorKind::Malformed,
        format!("not valid JSON at column {}: {reason}", error.column()),
    )
    .hint("expected one JSON object on each line, or in a .json file one array of objects")
}

/// Decides by name and content: JSON is read as rows also in a file whose name says that it is text.
pub(crate) fn kind(path: &Path) -> Result<Kind> {
    kind_with(path, None)
}

/// As [`kind`], with the content at hand.
pub(super) fn kind_of(name: &Path, content: &[u8]) -> Result<Kind> {
    kind_with(name, Some(content))
}

/// Whether reading a file takes memory beside that of its rows, by its name: pages, windows of what was packed.
pub fn unpacks(path: &Path) -> bool {
    is_packed(path) || matches!(by_name(path), Ok(Name::Parquet))
}

fn by_name(path: &Path) -> Result<Name> {
    let name = unpacked_name(path);
    let extension = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    if let Some((_, advice)) = REFUSED.iter().find(|(refused, _)| *refused == extension) {
        return Err(Error::data(path, None, ErrorKind::Unsupported, format!("a .{extension} file"))
            .expected("JSON lines (.jsonl), a JSON array (.json), .csv, .tsv, .parquet or plain text")
            .hint(*advice));
    }
    Ok(EXTENSIONS.iter().find(|(known, _)| *known == extension).map_or(Name::Open, |(_, name)| *name))
}

fn kind_with(path: &Path, content: Option<&[u8]>) -> Result<Kind> {
    let name = by_name(path)?;
    match name {
        Name::Table => return Ok(Kind::Table),
        Name::Parquet => return Ok(Kind::Parquet),
        // A text may begin with any letters.
        Name::Text => {}
        Name::Lines | Name::Json | Name::Open => {
            let mut reader = reader(path, content)?;
            let start = reader.fill_buf().map_err(|e| unreadable(path, None, e))?;
            if start.starts_with(b"PAR1") {
                return Ok(Kind::Parquet);
            }
            if start.starts_with(b"ARROW1\0\0") {
                return Err(Error::data(path, None, ErrorKind::Unsupported, "an Arrow file")
                    .expected("JSON lines, .csv, .parquet or plain text")
                    .hint(ARROW));
            }
        }
    }
    let first = first_characters(path, reader(path, content)?)?;
    Ok(match (name, first) {
        (Name::Json, [Some(b'['), _]) => Kind::Array,
        (Name::Lines | Name::Open, [Some(b'['), Some(b'{')]) => {
            // A list a line is no array of rows.
            if several_lists(path, reader(path, content)?)? { Kind::Lines } else { Kind::Array }
        }
        (Name::Lines | Name::Json, _) | (Name::Open, [Some(b'{'), _]) => Kind::Lines,
        (Name::Text, [Some(b'['), Some(b'{')]) if begins_an_array(path, reader(path, content)?) => {
            Kind::Array
        }
        (Name::Text, [Some(b'{'), _])
            if objects(path, reader(path, content)?)?.is_some_and(|(n, all)| n == all) =>
        {
            Kind::Lines
        }
        _ => Kind::Document,
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

/// Whether a text begins as an array whose first element is an object. What else is wrong is found where it is read.
fn begins_an_array(path: &Path, reader: impl BufRead) -> bool {
    let mut object = false;
    // The first element ends the search.
    let _ = each_element(path, reader, &mut |_, element| {
        object = matches!(element, Raw::Json(text) if is_object(text));
        Err(Error::usage(ErrorKind::State, "found"))
    });
    object
}

/// How many lines are JSON objects, and how many there are; `None` when some line is no text, or too long for a row.
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

/// Calls `line` with the lines that are not blank until it says no; false where a line is no text, or too long.
fn some_lines(path: &Path, mut reader: impl BufRead, line: &mut dyn FnMut(&str) -> bool) -> Result<bool> {
    let mut buffer = Vec::new();
    loop {
        match read_line(&mut reader, &mut buffer, ROW_LIMIT).map_err(|e| unreadable(path, None, e))? {
            Some(true) => {}
            Some(false) => return Ok(true),
            None => return Ok(false),
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
        let buffer = reader.fill_buf().map_err(|e| unreadable(path, None, e))?;
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

pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A file's content, or content that is at hand, unpacked.
fn reader<'a>(path: &Path, content: Option<&'a [u8]>) -> Result<Box<dyn BufRead + 'a>> {
    match content {
        Some(bytes) => unpacked(bytes).map_err(|e| unreadable(path, None, e)),
        None => compressed::open(path),
    }
}

/// The whole of a plain text: mapped where it lies in a file as it is.
#[derive(Debug)]
pub(super) enum Text {
    Mapped(Mapping),
    Owned(Vec<u8>),
}

impl Text {
    fn bytes(&self) -> &[u8] {
        let bytes = match self {
            Self::Mapped(map) => map.bytes(),
            Self::Owned(bytes) => bytes,
        };
        bytes.strip_prefix(BOM).unwrap_or(bytes)
    }

    /// The text, if it is one.
    pub(super) fn as_str(&self, path: &Path) -> Result<&str> {
        let bytes = self.bytes();
        std::str::from_utf8(bytes).map_err(|e| not_text(path, 1 + newlines(&bytes[..e.valid_up_to()])))
    }
}

/// The bytes of a plain text at most.
const PLAIN_LIMIT: u64 = 4 << 30;

/// The whole of a plain text.
pub(super) fn text(path: &Path, content: Option<&[u8]>) -> Result<Text> {
    text_up_to(path, content, TEXT_LIMIT)
}

fn text_up_to(path: &Path, content: Option<&[u8]>, limit: usize) -> Result<Text> {
    let failed = |e| mesp_formats::Error::io("read", path, e);
    let text = if let Some(bytes) = content {
        Text::Owned(bytes.to_vec())
    } else {
        match mesp_formats::regular::open(path)?.metadata().map_err(failed)?.len() {
            // An empty file cannot be mapped.
            0 => Text::Owned(Vec::new()),
            size if size > PLAIN_LIMIT => {
                return Err(Error::data(path, None, ErrorKind::OutOfRange, "the text")
                    .has(format!("{size} bytes"))
                    .expected(format!("at most {} GB", PLAIN_LIMIT >> 30))
                    .hint("divide it into several files"));
            }
            _ => Text::Mapped(Mapping::open(path).map_err(failed)?),
        }
    };
    if packing(text.bytes()).is_none() {
        return Ok(text);
    }
    let mut bytes = Vec::new();
    let read = unpacked(text.bytes()).and_then(|r| r.take(limit as u64 + 1).read_to_end(&mut bytes));
    if read.map_err(|e| unreadable(path, None, e))? > limit {
        return Err(Error::data(
            path,
            None,
            ErrorKind::OutOfRange,
            format!("the packed text has more than {} MB", limit >> 20),
        )
        .hint("divide it into rows, {\"text\": \"...\"} a line"));
    }
    Ok(Text::Owned(bytes))
}

pub(super) fn not_text(path: &Path, line: usize) -> Error {
    Error::data(path, Some(line), ErrorKind::Malformed, "these bytes are not UTF-8 text")
        .hint("save the file as UTF-8")
}

/// The number of line ends.
pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.split(|&b| b == b'\n').count() - 1
}

/// Calls `row` with the line and the content of each row; blank lines are no rows. `content` is read in place of the
/// file where it is given. Row by row: the file may be larger than the memory there is.
pub(crate) fn each_row(
    path: &Path,
    kind: Kind,
    content: Option<&[u8]>,
    columns: &Columns,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    match kind {
        Kind::Parquet => parquet_rows(path, content, columns, row),
        Kind::Table => table::each_row(path, reader(path, content)?, columns, row),
        Kind::Array => each_element(path, reader(path, content)?, row),
        Kind::Lines | Kind::Document => each_line(path, reader(path, content)?, columns, row),
    }
}

#[cfg(feature = "parquet")]
fn parquet_rows(
    path: &Path,
    content: Option<&[u8]>,
    columns: &Columns,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    if is_packed(path) {
        return Err(Error::data(
            path,
            None,
            ErrorKind::Unsupported,
            "a packed Parquet file; its rows lie at places that packing hides",
        )
        .hint("unpack it with gunzip or unzstd; Parquet files are compressed in themselves"));
    }
    if let Some(bytes) = content {
        return super::parquet::each_row(path, bytes::Bytes::copy_from_slice(bytes), columns, row);
    }
    let file = super::layout::open(path)?;
    super::parquet::each_row(path, file, columns, row)
}

#[cfg(not(feature = "parquet"))]
fn parquet_rows(
    path: &Path,
    _: Option<&[u8]>,
    _: &Columns,
    _: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    Err(Error::data(
        path,
        None,
        ErrorKind::Unsupported,
        "a Parquet file; this program was built without the feature `parquet`",
    )
    .hint("build it with default features, or write the rows as .jsonl"))
}

fn row_too_long(path: &Path, line: usize) -> Error {
    Error::data(
        path,
        Some(line),
        ErrorKind::OutOfRange,
        format!("the row has more than {} MB", ROW_LIMIT >> 20),
    )
    .hint("divide it into several rows")
}

fn each_line(
    path: &Path,
    mut reader: impl BufRead,
    columns: &Columns,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::new();
    for line in 1.. {
        let failed = |e| unreadable(path, Some(line), e);
        match read_line(&mut reader, &mut buffer, LONG).map_err(failed)? {
            Some(true) => {}
            Some(false) => break,
            None if columns.is_empty() && is_of_tokens(&buffer) => {
                let start = if line == 1 { buffer.strip_prefix(BOM).unwrap_or(&buffer) } else { &buffer };
                let mut content = Line::new(start, &mut reader);
                row(line, Raw::Tokens(&mut content))?;
                content.pass().map_err(failed)?;
                continue;
            }
            None if buffer.ends_with(b"\n") => {}
            None => {
                let left = (ROW_LIMIT - LONG) as u64;
                reader.by_ref().take(left).read_until(b'\n', &mut buffer).map_err(failed)?;
                if buffer.len() > ROW_LIMIT {
                    return Err(row_too_long(path, line));
                }
            }
        }
        let bytes = if line == 1 { buffer.strip_prefix(BOM).unwrap_or(&buffer) } else { &buffer };
        let text = std::str::from_utf8(bytes).map_err(|_| not_text(path, line))?.trim();
        if !text.is_empty() {
            row(line, Raw::Json(text))?;
        }
    }
    Ok(())
}

/// Cuts a JSON array into its elements without parsing them, because a parser would not keep their
/// lines. What is wrong inside an element is found when it is parsed.
fn each_element(
    path: &Path,
    mut reader: impl BufRead,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    let (mut depth, mut line, mut quoted, mut escaped) = (0usize, 1usize, false, false);
    let (mut element, mut start_line, mut closed, mut at) = (Vec::new(), 1, false, 0usize);
    loop {
        let chunk = reader.fill_buf().map_err(|e| unreadable(path, Some(line), e))?;
        let read = chunk.len();
        if read == 0 {
            break;
        }
        for &byte in chunk {
            at += 1;
            if byte == b'\n' {
                line += 1;
            }
            if quoted {
                (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
                element.push(byte);
                continue;
            }
            if byte.is_ascii_whitespace() || (at <= BOM.len() && BOM.contains(&byte)) {
                if !element.is_empty() {
                    element.push(byte);
                }
                continue;
            }
            if closed {
                return Err(Error::data(
                    path,
                    Some(line),
                    ErrorKind::Malformed,
                    "text after the end of the JSON array",
                ));
            }
            if depth == 1 && (byte == b',' || byte == b']') {
                if !element.is_empty() {
                    row(start_line, Raw::Json(element_text(path, start_line, &element)?))?;
                    element.clear();
                } else if byte == b',' {
                    return Err(Error::data(
                        path,
                        Some(line),
                        ErrorKind::Malformed,
                        "an empty place in the JSON array",
                    ));
                }
            } else if depth >= 1 {
                if element.is_empty() {
                    start_line = line;
                }
                element.push(byte);
            }
            match byte {
                b'"' => quoted = true,
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            closed = depth == 0;
        }
        reader.consume(read);
        if element.len() > ROW_LIMIT {
            return Err(row_too_long(path, start_line));
        }
    }
    if closed {
        return Ok(());
    }
    Err(Error::data(path, Some(line), ErrorKind::Malformed, "the file ends inside the JSON array")
        .hint("the file may be cut short"))
}

fn element_text<'a>(path: &Path, line: usize, element: &'a [u8]) -> Result<&'a str> {
    match std::str::from_utf8(element) {
        Ok(text) => Ok(text.trim_end()),
        Err(e) => Err(not_text(path, line + newlines(&element[..e.valid_up_to()]))),
    }
}

#[cfg(test)]
mod tests;
