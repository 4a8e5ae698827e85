//! Other names for what rows call their parts.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::forms::{KEYS, cell};
use crate::{Error, ErrorKind, Result};

/// Which names the parts of a row have in a file: `prompt=question,completion=answer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(Vec<Renamed>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Renamed {
    /// The name that a form knows.
    to: String,
    /// The name in the file.
    from: String,
}

impl FromStr for Columns {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        let mut columns: Vec<Renamed> = Vec::new();
        for item in list.split(',').filter(|item| !item.trim().is_empty()) {
            let (to, from) = match item.split_once('=') {
                Some((to, from)) if !to.trim().is_empty() && !from.trim().is_empty() => {
                    (to.trim(), from.trim())
                }
                _ => {
                    let error = Error::usage(ErrorKind::Malformed, "").expected("NAME=COLUMN");
                    return Err(error
                        .found(format!("{item:?}"))
                        .hint("as in prompt=question,completion=answer"));
                }
            };
            if cell(to).is_none() {
                let names = nearest(to, &KEYS.map(|(name, _)| name));
                return Err(Error::usage(
                    ErrorKind::Unknown,
                    format!("no form of row has the name {to:?}; the names are {names}"),
                )
                .hint(
                    "the name that rows are to have stands first, the file's own second: prompt=question",
                ));
            }
            if columns.iter().any(|column| column.to == to) {
                return Err(
                    Error::usage(ErrorKind::Conflict, format!("{to:?} is given two columns")).expected("one")
                );
            }
            columns.push(Renamed { to: to.to_owned(), from: from.to_owned() });
        }
        if columns.is_empty() {
            return Err(Error::usage(ErrorKind::Empty, "the list of columns")
                .is("empty")
                .expected("NAME=COLUMN,..."));
        }
        Ok(Self(columns))
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Renamed { to, from }) in self.0.iter().enumerate() {
            write!(f, "{}{to}={from}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Columns {
    /// Whether every name stays as it is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name that a column gets.
    pub(super) fn renamed<'a>(&'a self, column: &'a str) -> &'a str {
        self.0.iter().find(|c| c.from == column).map_or(column, |c| &c.to)
    }

    /// Gives the parts of a row the names that forms know.
    pub(super) fn apply(&self, row: &mut Map<String, Value>) {
        let taken: Vec<Option<Value>> = self.0.iter().map(|c| row.get(&c.from).cloned()).collect();
        for c in self.0.iter().filter(|c| !self.0.iter().any(|other| other.to == c.from)) {
            row.shift_remove(&c.from);
        }
        for (c, value) in self.0.iter().zip(taken) {
            match value {
                Some(value) => {
                    row.insert(c.to.clone(), value);
                }
                // It went to another name, and nothing came in its place.
                None if self.0.iter().any(|other| other.from == c.to) => {
                    row.shift_remove(&c.to);
                }
                None => {}
            }
        }
    }

    /// The first column that is not among `names`.
    pub(super) fn missing<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.0.iter().map(|c| c.from.as_str()).find(|from| !names.clone().any(|name| name == *from))
    }
}

/// Which of the named columns rows have. Rows may lack one that their form can do without; a file may not.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    found: Vec<bool>,
    /// The names that the first row has.
    names: Vec<String>,
    /// What is to be said of the last row, should it have no form.
    missing: Option<Error>,
}

impl Seen {
    /// Looks at a row before its columns are renamed.
    pub(super) fn row(&mut self, columns: &Columns, row: &Map<String, Value>) {
        if self.found.is_empty() {
            self.found = vec![false; columns.0.len()];
            self.names = row.keys().cloned().collect();
        }
        for (found, column) in self.found.iter_mut().zip(&columns.0) {
            *found |= row.contains_key(&column.from);
        }
        let names = row.keys().map(String::as_str);
        self.missing = columns.missing(names.clone()).map(|column| not_there(column, names));
    }

    /// The better reason why the last row cannot be used.
    pub(super) fn instead(&mut self, error: Error) -> Error {
        self.missing.take().unwrap_or(error)
    }

    /// Refuses columns that no row had.
    pub(super) fn end(&self, columns: &Columns) -> Result<()> {
        let names = self.names.iter().map(String::as_str);
        match self.found.iter().zip(&columns.0).find(|(found, _)| !**found) {
            Some((_, column)) => Err(not_there(&column.from, names)),
            None => Ok(()),
        }
    }
}

/// What is said of a column that is not there.
pub(super) fn not_there<'a>(column: &str, names: impl IntoIterator<Item = &'a str>) -> Error {
    let names: Vec<&str> = names.into_iter().collect();
    let there = if names.is_empty() { "none".to_owned() } else { nearest(column, &names) };
    Error::usage(
        ErrorKind::Missing,
        format!("‘columns’ names the column {column:?}, which is not there; the columns are {there}"),
    )
    .hint("give ‘columns’ NAME=COLUMN with a column of the file")
}

/// Names, the nearest to one first, at most twenty.
fn nearest(name: &str, names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_by_key(|other| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase()));
    let more = if names.len() > 20 { ", ..." } else { "" };
    names.truncate(20);
    names.join(", ") + more
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renamed(list: &str, mut row: Value) -> Value {
        list.parse::<Columns>().unwrap().apply(row.as_object_mut().unwrap());
        row
    }

    #[test]
    fn columns_get_the_names_that_forms_know() {
        let row = json!({ "q": "a", "a": "b", "id": 3 });
        assert_eq!(
            renamed("prompt=q, completion=a", row),
            json!({ "prompt": "a", "completion": "b", "id": 3 })
        );
        // Two that change places, and one that goes to both.
        let row = json!({ "prompt": "a", "completion": "b" });
        assert_eq!(
            renamed("prompt=completion,completion=prompt", row),
            json!({ "prompt": "b", "completion": "a" })
        );
        assert_eq!(
            renamed("prompt=t,completion=t", json!({ "t": 1 })),
            json!({ "prompt": 1, "completion": 1 })
        );
        // A column that a row lacks takes nothing away.
        assert_eq!(renamed("system=s", json!({ "text": "a" })), json!({ "text": "a" }));
        assert_eq!(renamed("text=a=b", json!({ "a=b": 1 })), json!({ "text": 1 }));
    }

    #[test]
    fn what_is_written_is_read() {
        for list in ["prompt=question,completion=answer", "text=my text"] {
            let columns: Columns = list.parse().unwrap();
            assert_eq!(columns.to_string(), list);
            assert_eq!(columns.to_string().parse::<Columns>().unwrap(), columns);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (list, words) in [
            ("", "empty"),
            ("prompt", "NAME=COLUMN"),
            ("prompt=", "NAME=COLUMN"),
            ("promt=question", "the names are prompt, "),
            ("question=q,question=r", "two columns"),
        ] {
            let error = list.parse::<Columns>().unwrap_err().to_string();
            assert!(error.contains(words), "{list}: {error}");
        }
        let error = not_there("anwser", ["id", "question", "answer"]).to_string();
        assert!(error.contains("the columns are answer, "), "{error}");
    }
}
