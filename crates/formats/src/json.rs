//! Reading JSON objects with errors that name the file, the key, what was expected and what was found.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result, regular};

/// How much of a found value an error message repeats.
const SHOWN_CHARS: usize = 80;

/// A configuration's text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    regular::read_text(path, regular::CONFIG_LIMIT)
}

/// A text of so many bytes at most, or `None` where there is no such file.
pub(crate) fn read_text_if_present(path: &Path, limit: u64) -> Result<Option<String>> {
    match regular::read_text(path, limit) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Parses a text whose outermost value must be an object.
pub(crate) fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>> {
    let value: Value = serde_json::from_str(text).map_err(|e| {
        Error::invalid(path, ErrorKind::Malformed)
            .expected("JSON")
            .found(format!("something else: {e}"))
            .hint("The file is damaged or cut short: get it again.")
    })?;
    match value {
        Value::Object(map) => Ok(map),
        other => {
            Err(Error::invalid(path, ErrorKind::WrongType).expected("a JSON object {…}").found(shown(&other)))
        }
    }
}

/// A name for an error message: quoted, control characters escaped, cut where it is very long.
pub(crate) fn quoted(name: &str) -> String {
    format!("{:?}", cut(name))
}

/// A value for an error message, cut where it is long.
pub(crate) fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_string(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The keys of one object. A key with the value `null` counts as absent, as it does in transformers.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) path: &'a Path,
    /// Where this object stands in the file: empty, or `rope_scaling.`.
    pub(crate) prefix: &'a str,
    pub(crate) map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: "", map }
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about a key.
    pub(crate) fn error(&self, key: &str, kind: ErrorKind) -> Error {
        let key = format!("{}{key}", self.prefix);
        Error::invalid(self.path, kind).what(format!("key `{key}`")).key(key)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.error(key, ErrorKind::WrongType).expected(expected).found(shown(found))
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(key).map(|v| convert(v).ok_or_else(|| self.wrong(key, expected, v))).transpose()
    }

    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number, zero or more", |v| usize::try_from(v.as_u64()?).ok())
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.read(key, "an object {…}", Value::as_object)
    }

    /// A token id, or none.
    pub(crate) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.read(key, "a token id", as_token_id)
    }

    /// A token id, a list of them, or none.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let ids = self.read(key, "a token id or a list of token ids", |v| match v {
            Value::Array(list) => list.iter().map(as_token_id).collect(),
            one => as_token_id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, ErrorKind::Missing).expected("a value").found("none"))
    }
}

fn as_token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}
