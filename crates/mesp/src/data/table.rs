//! Tables as text: CSV and TSV. The first line names the columns; every cell is a text, an empty one is absent.
//!
//! RFC 4180 with what programs write beside it: line ends of either kind, blank lines, `;` between cells, a byte
//! order mark. Values are those that `datasets` has from pandas, but that no text is taken for a number.

use std::io::BufRead;
use std::path::Path;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::columns::{self, Columns};
use super::compressed::{ROW_LIMIT, read_line, unpacked_name, unreadable};
use super::dataset::located;
use super::forms::{Cell, cell};
use super::source::{BOM, Raw, json, not_text};
use crate::{Error, ErrorKind, Result};

/// Calls `row` with the line on which each row begins, and its cells by name.
pub(super) fn each_row(
    path: &Path,
    reader: impl BufRead,
    columns: &Columns,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    let mut records = Records::new(path, reader);
    let Some((header, delimiter)) = records.header(columns)? else { return Ok(()) };
    let mut cells = Vec::new();
    while let Some(line) = records.next(&mut cells)? {
        let blank = header.len() > 1 && matches!(cells.as_slice(), [cell] if cell.trim_ascii().is_empty());
        if !blank {
            row(line, object(path, line, &header, &cells, delimiter))?;
        }
    }
    Ok(())
}

/// A record as an object.
fn object(path: &Path, line: usize, header: &[String], cells: &[Vec<u8>], delimiter: u8) -> Raw<'static> {
    if cells.len() != header.len() {
        let hint = format!(
            "a text with {:?} or a line end in it stands in double quotes, a double quote in it is doubled",
            char::from(delimiter)
        );
        return Raw::Bad(
            Error::data(path, Some(line), ErrorKind::Mismatch, "the row")
                .has(format!("{} cells", cells.len()))
                .expected(format!("{}, one for each of the columns {}", header.len(), named(header)))
                .hint(hint),
        );
    }
    let mut object = Map::new();
    for (name, cell) in header.iter().zip(cells).filter(|(name, _)| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(cell) else { return Raw::Bad(not_text(path, line)) };
        object.insert(name.clone(), if text.is_empty() { Value::Null } else { text.into() });
    }
    Raw::Cells(object)
}

fn named(header: &[String]) -> String {
    let mut names: Vec<String> = header.iter().take(8).map(|name| format!("`{name}`")).collect();
    if header.len() > names.len() {
        names.push("...".to_owned());
    }
    names.join(", ")
}

/// The records of a file. Its lines are handed to the parser one at a time, so that the one a record begins on is
/// known.
struct Records<'a, R> {
    path: &'a Path,
    reader: R,
    parser: Reader,
    line: Vec<u8>,
    /// The number of `line`, from 1, and how much of it is parsed.
    number: usize,
    parsed: usize,
    /// The cells of a record, end to end, and where each ends.
    out: Vec<u8>,
    ends: Vec<usize>,
}

impl<'a, R: BufRead> Records<'a, R> {
    fn new(path: &'a Path, reader: R) -> Self {
        let (out, ends) = (vec![0; 4096], vec![0; 64]);
        Self { path, reader, parser: Reader::new(), line: Vec::new(), number: 0, parsed: 0, out, ends }
    }

    /// The names of the columns, and what stands between cells; `None` in an empty file.
    fn header(&mut self, columns: &Columns) -> Result<Option<(Vec<String>, u8)>> {
        loop {
            if !self.fill(1)? {
                return Ok(None);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let known = |name: &str| cell(columns.renamed(name)).is_some();
        let fits = |delimiter: &u8| {
            let names = cells_of(&self.line, *delimiter);
            (names.iter().filter(|name| known(name)).count(), names.len())
        };
        let tabs =
            Path::new(&unpacked_name(self.path)).extension().is_some_and(|extension| extension == "tsv");
        // The last of equals is taken.
        let candidates = if tabs { [b';', b',', b'\t'] } else { [b'\t', b';', b','] };
        let delimiter = candidates.into_iter().max_by_key(fits).unwrap_or(b',');
        self.parser = ReaderBuilder::new().delimiter(delimiter).build();
        let mut cells = Vec::new();
        let Some(line) = self.next(&mut cells)? else { return Ok(None) };
        let name = |cell: &Vec<u8>| std::str::from_utf8(cell).map(|name| name.trim().to_owned());
        let header: Vec<String> = cells
            .iter()
            .map(name)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| not_text(self.path, line))?;
        let twice =
            header.iter().enumerate().find(|(i, name)| !name.is_empty() && header[..*i].contains(name));
        if let Some((_, name)) = twice {
            return Err(Error::data(
                self.path,
                Some(line),
                ErrorKind::Conflict,
                format!("two columns are named `{name}`"),
            )
            .expected("different names"));
        }
        let names = || header.iter().map(String::as_str);
        if let Some(missing) = columns.missing(names()) {
            return Err(located(columns::not_there(missing, names()), self.path, line));
        }
        if !header.iter().any(|name| known(name)) {
            return Err(Error::data(self.path, Some(line), ErrorKind::Unknown, "the first line names no column that is known")
                .expected("for example `prompt` and `completion`, or `text`")
                .found(named(&header))
                .hint(
                "the first line names the columns; ‘columns’ prompt=NAME,completion=NAME says which columns of \
                 other names are meant",
            ));
        }
        Ok(Some((header, delimiter)))
    }

    /// Reads the next line for a record that began on line `start`; `false` at the end of the file.
    fn fill(&mut self, start: usize) -> Result<bool> {
        let line = self.number + 1;
        let read = read_line(&mut self.reader, &mut self.line, ROW_LIMIT)
            .map_err(|e| unreadable(self.path, Some(line), e))?;
        match read {
            None => return Err(self.too_long(start.max(1))),
            Some(false) => return Ok(false),
            Some(true) => {}
        }
        self.number = line;
        self.parsed = if line == 1 && self.line.starts_with(BOM) { BOM.len() } else { 0 };
        // The last line has its end too, so that an open quote is one that nothing closes.
        if self.line.last() != Some(&b'\n') {
            self.line.push(b'\n');
        }
        Ok(true)
    }

    fn too_long(&self, start: usize) -> Error {
        Error::data(
            self.path,
            Some(start),
            ErrorKind::OutOfRange,
            format!("the row has more than {} MB", ROW_LIMIT >> 20),
        )
        .hint("a double quote that is not closed makes one row of all that follows; or divide the row")
    }

    /// The cells of the next record, and the line on which it begins.
    fn next(&mut self, cells: &mut Vec<Vec<u8>>) -> Result<Option<usize>> {
        let (mut written, mut fields, mut start) = (0, 0, self.number);
        loop {
            if self.parsed >= self.line.len() {
                let begun = written + fields > 0;
                if !self.fill(start)? {
                    if begun {
                        return Err(Error::data(
                            self.path,
                            Some(start),
                            ErrorKind::Malformed,
                            "a double quote opens a cell of this row, and nothing closes it",
                        )
                        .hint("double the quotes inside a quoted text"));
                    }
                    return Ok(None);
                }
                if !begun {
                    start = self.number;
                }
            }
            let (result, read, bytes, ends) = self.parser.read_record(
                &self.line[self.parsed..],
                &mut self.out[written..],
                &mut self.ends[fields..],
            );
            self.parsed += read;
            written += bytes;
            fields += ends;
            if written > ROW_LIMIT || fields > ROW_LIMIT / size_of::<usize>() {
                return Err(self.too_long(start));
            }
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.out.resize(2 * self.out.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => {
                    cells.clear();
                    let mut begin = 0;
                    for end in &self.ends[..fields] {
                        cells.push(self.out[begin..*end].to_vec());
                        begin = *end;
                    }
                    return Ok(Some(start));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}

/// The cells of one line, as texts.
fn cells_of(line: &[u8], delimiter: u8) -> Vec<String> {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    let (mut out, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 1]);
    let mut parser = ReaderBuilder::new().delimiter(delimiter).build();
    let (_, _, _, fields) = parser.read_record(line, &mut out, &mut ends);
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let cell = |(begin, end): (usize, &usize)| String::from_utf8_lossy(&out[begin..*end]).trim().to_owned();
    begins.zip(&ends[..fields]).map(cell).collect()
}

/// Reads the cells that hold JSON where the row's forms ask for more than a text; says whether they hold a number
/// that JSON does not have.
pub(super) fn open_cells(row: &mut Map<String, Value>) -> Result<bool> {
    let mut odd = false;
    for (name, value) in row.iter_mut() {
        let Some(text) = value.as_str().map(str::trim) else { continue };
        match cell(name) {
            Some(Cell::Json) if text.starts_with(['[', '{']) => {
                let (opened, not_numbers) = json(text).map_err(|e| not_json(name, text, &e))?;
                *value = opened;
                odd |= not_numbers;
            }
            Some(Cell::TextOrTurns) if text.starts_with('[') => {
                // A text may begin like this too.
                let list = json::<Vec<Map<String, Value>>>(text).ok();
                let turns =
                    |(list, _): &(Vec<Map<_, _>>, _)| list.iter().all(|turn| turn.contains_key("role"));
                if let Some((list, not_numbers)) = list.filter(turns) {
                    *value = list.into_iter().map(Value::Object).collect();
                    odd |= not_numbers;
                }
            }
            // As pandas reads a column of truth values or of numbers.
            Some(Cell::Mark) => {
                *value = match text {
                    "true" | "True" | "TRUE" => true.into(),
                    "false" | "False" | "FALSE" => false.into(),
                    other => match (other.parse::<i64>(), other.parse::<f64>()) {
                        (Ok(number), _) => number.into(),
                        (_, Ok(number)) => number.into(),
                        _ => continue,
                    },
                };
            }
            _ => {}
        }
    }
    Ok(odd)
}

fn not_json(name: &str, text: &str, error: &serde_json::Error) -> Error {
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    let python = text.contains("{'") || text.contains("['") || text.contains("None");
    Error::usage(
        ErrorKind::Malformed,
        format!("the cell of column `{name}` holds no valid JSON at character {}: {reason}", error.column()),
    )
    .hint(if python {
        "this is a Python value as `str` writes it; write the column with json.dumps"
    } else {
        "lists and objects stand in a table as JSON texts"
    })
}

#[cfg(test)]
mod tests;
