//! Rows of Parquet files, as `datasets`, pandas and the like write them, one row group after another.
//!
//! One page and one dictionary a column are in memory. Values are those of `pyarrow`'s `to_pylist`; moments,
//! decimals and UUIDs become the texts that Python's `isoformat` and `str` give. Fields of structures without a value
//! are left out, as TRL's `remove_none_values` does: a table has every field in every structure.

mod pages;
mod schema;
mod thrift;
mod values;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parquet::column::reader::get_column_reader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use serde_json::{Map, Value};

use super::columns::{self, Columns};
use super::compressed::ROW_LIMIT;
use super::dataset::{at_file, located};
use super::forms::cell;
use super::source::Raw;
use super::wall::walled;
use crate::{Error, ErrorKind, Result};
use pages::Pages;
use schema::{Kind, Node, Schema};
use thrift::{Found, walk};
use values::Column;

/// The bytes of a footer; it tells of every column of every row group.
const FOOTER_LIMIT: u64 = 64 << 20;
/// The deepest that structures and lists lie in each other, and the columns of a file.
const DEEPEST: usize = 32;
const COLUMNS_LIMIT: usize = 10_000;

/// Calls `row` with the number of each row, from 1, and the row.
pub(super) fn each_row<R: ChunkReader + 'static>(
    path: &Path,
    input: R,
    columns: &Columns,
    row: &mut dyn FnMut(usize, Raw<'_>) -> Result<()>,
) -> Result<()> {
    let input = Arc::new(input);
    let metadata = footer(path, &input)?;
    let descriptor = metadata.file_metadata().schema_descr();
    let schema = Schema::new(descriptor.root_schema());
    if schema.kinds.len() != descriptor.num_columns() {
        return Err(damaged(path, None, "its schema and its columns differ"));
    }
    let names = || schema.parts.iter().map(|(name, _)| name.as_str());
    if let Some(missing) = columns.missing(names()) {
        return Err(at_file(columns::not_there(missing, names()), path));
    }
    // What no form can use need not be read: pictures and sounds lie beside texts.
    let read: Vec<&(String, Node)> = schema
        .parts
        .iter()
        .filter(|(name, node)| cell(columns.renamed(name)).is_some() || !has_bytes(node, &schema.kinds))
        .collect();
    let mut number = 0;
    for group in metadata.row_groups() {
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let mut open = open(path, &input, group, &schema, &read)?;
        for _ in 0..rows {
            number += 1;
            if open.iter().all(Option::is_none) {
                return Err(damaged(path, None, "no column that can be read"));
            }
            for column in open.iter_mut().flatten() {
                let advanced = walled(|| column.advance());
                match advanced.map_err(ParquetError::General).flatten() {
                    Ok(true) => {}
                    Ok(false) => {
                        let problem = format!("column `{}` ends before its row group does", column.name);
                        return Err(damaged(path, Some(number), &problem));
                    }
                    Err(e) => {
                        return Err(damaged(
                            path,
                            Some(number),
                            &format!("column `{}`: {}", column.name, said(e)),
                        ));
                    }
                }
            }
            row(number, assembled(path, number, &read, &mut open)?)?;
        }
    }
    Ok(())
}

fn has_bytes(node: &Node, kinds: &[Kind]) -> bool {
    match node {
        Node::Leaf(column) => matches!(kinds[*column], Kind::Bytes | Kind::Other(_)),
        Node::Struct { fields, .. } => fields.iter().any(|(_, node)| has_bytes(node, kinds)),
        Node::List { element, .. } => has_bytes(element, kinds),
        Node::Map { key, value, .. } => has_bytes(key, kinds) || has_bytes(value, kinds),
    }
}

fn columns_of(node: &Node, found: &mut Vec<usize>) {
    match node {
        Node::Leaf(column) => found.push(*column),
        Node::Struct { fields, .. } => fields.iter().for_each(|(_, node)| columns_of(node, found)),
        Node::List { element, .. } => columns_of(element, found),
        Node::Map { key, value, .. } => [key, value].into_iter().for_each(|node| columns_of(node, found)),
    }
}

/// The columns of a row group that are read, by their numbers.
fn open<R: ChunkReader + 'static>(
    path: &Path,
    input: &Arc<R>,
    group: &RowGroupMetaData,
    schema: &Schema,
    read: &[&(String, Node)],
) -> Result<Vec<Option<Column>>> {
    let all = Arc::new(AtomicUsize::new(0));
    let mut wanted = Vec::new();
    for (_, node) in read {
        columns_of(node, &mut wanted);
    }
    let mut open: Vec<Option<Column>> = schema.kinds.iter().map(|_| None).collect();
    for number in wanted {
        let made = walled(|| {
            let column =
                group.columns().get(number).ok_or_else(|| ParquetError::General("missing".into()))?;
            if column.file_path().is_some() {
                return Err(ParquetError::General("its values lie in another file".into()));
            }
            let about = column.column_descr_ptr();
            let pages = Pages::new(Arc::clone(input), column, Arc::clone(&all))?;
            let (name, highest) = (about.path().string(), about.max_def_level());
            let reader = get_column_reader(about, Box::new(pages));
            Ok(Column::new(name, schema.kinds[number], reader, highest))
        });
        let made = made.map_err(ParquetError::General).flatten();
        open[number] = Some(made.map_err(|e| damaged(path, None, &format!("column {number}: {}", said(e))))?);
    }
    Ok(open)
}

/// The row whose entries the columns have at hand.
fn assembled(
    path: &Path,
    number: usize,
    read: &[&(String, Node)],
    columns: &mut [Option<Column>],
) -> Result<Raw<'static>> {
    let mut row = Map::new();
    let mut assembly = Assembly { columns, bytes: 0 };
    for (name, node) in read {
        match assembly.read(node) {
            Ok(value) => row.insert(name.clone(), value),
            Err(Fault::Damaged(problem)) => return Err(damaged(path, Some(number), &problem)),
            Err(Fault::Row(error)) => return Ok(Raw::Bad(located(error, path, number))),
        };
    }
    match columns.iter().flatten().find(|column| column.peek().is_some()) {
        Some(column) => {
            let problem = format!("column `{}` has more values than the row", column.name);
            Err(damaged(path, Some(number), &problem))
        }
        None => Ok(Raw::Cells(row)),
    }
}

/// Why a row cannot be put together.
enum Fault {
    /// The columns do not fit together.
    Damaged(String),
    /// This row alone cannot be used.
    Row(Error),
}

struct Assembly<'a> {
    columns: &'a mut [Option<Column>],
    /// About as many as the row takes.
    bytes: usize,
}

impl Assembly<'_> {
    fn column(&mut self, number: usize) -> std::result::Result<&mut Column, Fault> {
        self.columns[number].as_mut().ok_or_else(|| Fault::Damaged(format!("column {number} is not read")))
    }

    /// The level and repetition of what comes next in a part.
    fn peek(&self, node: &Node) -> Option<(i16, i16)> {
        match node {
            Node::Leaf(column) => self.columns[*column].as_ref()?.peek(),
            Node::Struct { fields, .. } => fields.iter().find_map(|(_, node)| self.peek(node)),
            Node::List { element, .. } => self.peek(element),
            Node::Map { key, .. } => self.peek(key),
        }
    }

    fn next_level(&self, node: &Node) -> std::result::Result<i16, Fault> {
        let next = self.peek(node).map(|(level, _)| level);
        next.ok_or_else(|| Fault::Damaged("a column has fewer values than the row".to_owned()))
    }

    fn count(&mut self, bytes: usize) -> std::result::Result<(), Fault> {
        self.bytes += bytes;
        if self.bytes <= ROW_LIMIT {
            return Ok(());
        }
        Err(Fault::Row(
            Error::usage(ErrorKind::OutOfRange, format!("the row has more than {} MB", ROW_LIMIT >> 20))
                .hint("divide it into several rows"),
        ))
    }

    /// Takes one entry of every column below a part that is not there.
    fn pass(&mut self, node: &Node) -> std::result::Result<(), Fault> {
        let mut below = Vec::new();
        columns_of(node, &mut below);
        for number in below {
            if self.column(number)?.take().is_none() {
                return Err(Fault::Damaged("a column has fewer values than the row".to_owned()));
            }
        }
        Ok(())
    }

    fn read(&mut self, node: &Node) -> std::result::Result<Value, Fault> {
        match node {
            Node::Leaf(number) => {
                let column = self.column(*number)?;
                if column.peek().is_none() {
                    return Err(Fault::Damaged(format!(
                        "column `{}` has fewer values than the row",
                        column.name
                    )));
                }
                let value = column.take().ok_or_else(|| {
                    Fault::Row(
                        Error::usage(
                            ErrorKind::Malformed,
                            format!(
                                "column `{}` is of {}, and this value is not UTF-8 text",
                                column.name,
                                column.kind.name()
                            ),
                        )
                        .hint("store texts as UTF-8 strings"),
                    )
                })?;
                self.count(size_of::<Value>() + value.as_str().map_or(0, str::len))?;
                Ok(value)
            }
            Node::Struct { level, fields } => {
                if self.next_level(node)? < *level {
                    self.pass(node)?;
                    return Ok(Value::Null);
                }
                let mut object = Map::new();
                for (name, node) in fields {
                    let value = self.read(node)?;
                    if !value.is_null() {
                        self.count(name.len() + 2 * size_of::<Value>())?;
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Value::Object(object))
            }
            Node::List { level, repeats, element } => {
                let mut list = Vec::new();
                match self.begins(node, *level)? {
                    Begin::Absent => return Ok(Value::Null),
                    Begin::Empty => {}
                    Begin::Full => loop {
                        list.push(self.read(element)?);
                        if !self.goes_on(node, *repeats) {
                            break;
                        }
                    },
                }
                Ok(Value::Array(list))
            }
            Node::Map { level, repeats, key, value } => {
                let mut object = Map::new();
                match self.begins(node, *level)? {
                    Begin::Absent => return Ok(Value::Null),
                    Begin::Empty => {}
                    Begin::Full => loop {
                        let name = match self.read(key)? {
                            Value::String(name) => name,
                            other => other.to_string(),
                        };
                        self.count(2 * size_of::<Value>())?;
                        let value = self.read(value)?;
                        object.insert(name, value);
                        if !self.goes_on(node, *repeats) {
                            break;
                        }
                    },
                }
                Ok(Value::Object(object))
            }
        }
    }

    /// Whether a list is there, and has elements; its entry is taken where it has none.
    fn begins(&mut self, node: &Node, level: i16) -> std::result::Result<Begin, Fault> {
        let next = self.next_level(node)?;
        if next > level {
            return Ok(Begin::Full);
        }
        self.pass(node)?;
        Ok(if next == level { Begin::Empty } else { Begin::Absent })
    }

    /// Whether the next entry is another element of this list.
    fn goes_on(&self, node: &Node, repeats: i16) -> bool {
        self.peek(node).is_some_and(|(_, next)| next == repeats)
    }
}

/// How a list begins.
enum Begin {
    Absent,
    Empty,
    Full,
}

/// Reads what the end of the file tells of it.
fn footer<R: ChunkReader>(path: &Path, input: &Arc<R>) -> Result<ParquetMetaData> {
    let length = input.len();
    let short = "expected a Parquet file, which ends in PAR1; found something else";
    if length < 12 {
        return Err(damaged(path, None, short));
    }
    let read =
        |at: u64, count: u64| input.get_bytes(at, count as usize).map_err(|e| damaged(path, None, &said(e)));
    let end = read(length - 8, 8)?;
    let size = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    match &end[4..] {
        b"PAR1" => {}
        b"PARE" => {
            return Err(Error::data(
                path,
                None,
                ErrorKind::Unsupported,
                "an encrypted Parquet file, which cannot be read",
            )
            .hint("write it without encryption"));
        }
        _ => {
            return Err(damaged(path, None, short));
        }
    }
    if size > (length - 8).min(FOOTER_LIMIT) {
        return Err(damaged(path, None, &format!("its footer is said to have {size} bytes")));
    }
    let bytes = read(length - 8 - size, size)?;
    check_schema(&bytes).map_err(|problem| damaged(path, None, &problem))?;
    let metadata = walled(|| ParquetMetaDataReader::decode_metadata(&bytes));
    metadata.map_err(ParquetError::General).flatten().map_err(|e| damaged(path, None, &said(e)))
}

/// Checks the counts in a schema before something is allocated for them: each part says how many of those after it are
/// its own. The crate reads a field by its number alone, whatever type it is said to have: so each field up to the
/// schema's end must have the type that it has in parquet-format, or the two would read different counts.
fn check_schema(mut footer: &[u8]) -> std::result::Result<(), String> {
    let (mut inner, mut last) = (Vec::new(), 0i64);
    let (mut schemas, mut wrong) = (0, None);
    walk(&mut footer, &mut |path, found| match (path, found) {
        ([1], Found::Field(I32)) => {}
        ([2], Found::Field(LIST)) if schemas == 0 => schemas = 1,
        ([_], Found::Field(_)) if schemas == 1 && path[0] > 2 => {}
        ([2, ..], Found::Field(kind))
            if path.len() > 1 && type_of(path).is_none_or(|t| t.contains(&kind)) => {}
        ([2, ..] | [_], Found::Field(_)) | ([2], Found::Elements(0..=11 | 13..)) => {
            wrong.get_or_insert_with(|| path.to_vec());
        }
        // FileMetaData.schema, SchemaElement.num_children.
        ([2, 5], Found::Number(number)) => last = number,
        ([2], Found::End) => inner.push(std::mem::take(&mut last)),
        _ => {}
    })
    .map_err(|e| format!("its footer cannot be read: {e}"))?;
    if let Some(path) = wrong {
        return Err(format!("field {path:?} of its footer has another place or type than Parquet gives it"));
    }
    if inner.len() > COLUMNS_LIMIT {
        return Err(format!("a schema of {} parts; at most {COLUMNS_LIMIT} are read", inner.len()));
    }
    let mut open: Vec<i64> = Vec::new();
    for (at, &count) in inner.iter().enumerate() {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if count < 0 || count > (inner.len() - at - 1) as i64 {
            return Err(format!("a part of its schema is said to have {count} parts"));
        }
        if count > 0 {
            open.push(count);
        }
        if open.len() > DEEPEST {
            return Err(format!("its structures lie deeper than {DEEPEST} in each other"));
        }
    }
    Ok(())
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Types in the compact protocol that a field of a schema's part may have, by parquet-format; none where it does not say.
fn type_of(path: &[i16]) -> Option<&'static [u8]> {
    Some(match path {
        // SchemaElement's numbers; DecimalType's; GeographyType.algorithm.
        [2, 1 | 2 | 3 | 5..=9] | [2, 10, 5, 1 | 2] | [2, 10, 18, 2] => &[I32],
        // SchemaElement.name; the reference systems of GeometryType and GeographyType.
        [2, 4] | [2, 10, 17 | 18, 1] => &[8],
        // LogicalType, its variants, and the units of TimeType and TimestampType.
        [2, 10] | [2, 10, _] | [2, 10, 7 | 8, 2] | [2, 10, 7 | 8, 2, _] => &[STRUCT],
        // isAdjustedToUTC, isSigned.
        [2, 10, 7 | 8, 1] | [2, 10, 10, 2] => &[1, 2],
        // IntType.bitWidth, VariantType.specification_version.
        [2, 10, 10 | 16, 1] => &[3],
        _ => return None,
    })
}

/// What an error of the crate says, without its category.
fn said(error: ParquetError) -> String {
    match error {
        ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::NYI(text) => text,
        other => other.to_string(),
    }
}

fn damaged(path: &Path, row: Option<usize>, problem: &str) -> Error {
    Error::data(path, row, ErrorKind::Malformed, format!("this Parquet file cannot be read: {problem}"))
        .hint("fetch or write the file again; pyarrow.parquet.read_table says whether others can read it")
}

#[cfg(test)]
mod tests;
