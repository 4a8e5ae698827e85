//! What is wrong, in parts: a program reads the fields, a person the one message that is composed of them.

use std::fmt;

/// What sort of thing is wrong: what a program would do something different for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something that is needed is not there: a file, a tensor, a key, a setting.
    Missing,
    /// A name that is none of those known.
    Unknown,
    /// A number, a size or a length outside what is allowed.
    OutOfRange,
    /// A value of another type than is needed, or a file where a folder is needed.
    WrongType,
    /// Text or bytes that do not follow their format: damaged, cut short, written wrongly.
    Malformed,
    /// Two things that belong together differ: weights and their configuration, an adapter and its model.
    Mismatch,
    /// Things that exclude each other, of which more than one is there.
    Conflict,
    /// Sound, and not something that this library can do.
    Unsupported,
    /// Rows, a batch or a list that hold nothing to work on.
    Empty,
    /// Stored or computed values that are no finite numbers.
    NotFinite,
    /// A call at a time when it cannot be answered, such as a step after the last one.
    State,
    /// The operating system refused.
    System,
    /// The memory that may be used is too small.
    Memory,
    /// The run's numbers grew without bound.
    Diverged,
}

/// What is wrong, in parts. Its text is one message: what, expected, found, and the hint on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Problem {
    /// What sort of thing is wrong.
    pub kind: ErrorKind,
    /// What is wrong, or what `found` was found at. A setting stands between ‘ and ’ in it. It is empty where a whole file
    /// is meant.
    pub what: String,
    /// What was expected.
    pub expected: Option<String>,
    /// What was found.
    pub found: Option<String>,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// The name of the tensor it is about.
    pub tensor: Option<String>,
    /// The key it is about: of a JSON file, of a GGUF file's metadata, of a row.
    pub key: Option<String>,
    /// The verb between `what` and `found`, in a message that says what is found before what was expected.
    verb: Option<&'static str>,
}

impl Problem {
    /// A problem of a kind, and what it is: a sentence, or what `found` will say more of. One name between backticks and
    /// nothing else is a key, and set as such.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        let what = what.into();
        let name = what.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let key = name.filter(|name| !name.contains('`')).map(str::to_owned);
        Self { kind, what, expected: None, found: None, hint: None, tensor: None, key, verb: None }
    }

    /// Sets what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.expected = Some(expected.to_string());
        self
    }

    /// Sets what was found, for a message that reads “`what`: expected …, found …”.
    #[must_use]
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }

    /// Sets what was found, for a message that reads “`what` is …, expected …”.
    #[must_use]
    pub fn is(mut self, found: impl fmt::Display) -> Self {
        self.verb = Some("is");
        self.found(found)
    }

    /// Sets what was found, for a message that reads “`what` has …, expected …”.
    #[must_use]
    pub fn has(mut self, found: impl fmt::Display) -> Self {
        self.verb = Some("has");
        self.found(found)
    }

    /// Sets what the user can do.
    #[must_use]
    pub fn hint(mut self, advice: impl Into<String>) -> Self {
        self.hint = Some(advice.into());
        self
    }

    /// Sets the tensor that it is about; where nothing else is said yet the message begins with it.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if self.what.is_empty() {
            self.what = format!("tensor {}", crate::json::quoted(&name));
        }
        self.tensor = Some(name);
        self
    }

    /// Sets the key that it is about.
    #[must_use]
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.key = Some(name.into());
        self
    }

    /// Says more of what is wrong, behind a place that is said already.
    #[must_use]
    pub fn what(mut self, what: impl fmt::Display) -> Self {
        self.what = if self.what.is_empty() { what.to_string() } else { format!("{}: {what}", self.what) };
        self
    }

    /// The settings at fault, by the library's names: those that stand between ‘ and ’ in [`what`](Self::what), in its
    /// order. Settings that only the hint names are no part of them.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        let name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        self.what
            .split('‘')
            .skip(1)
            .filter_map(|rest| rest.split_once('’'))
            .map(|(text, _)| text)
            .filter(move |text| name(text))
    }

    /// The message without the hint.
    pub fn message(&self) -> String {
        let Self { what, expected, found, verb, .. } = self;
        let place = if what.is_empty() { String::new() } else { format!("{what}: ") };
        match (verb, expected, found) {
            (Some(verb), Some(expected), Some(found)) => {
                format!("{what} {verb} {found}, expected {expected}")
            }
            (Some(verb), None, Some(found)) => format!("{what} {verb} {found}"),
            (_, Some(expected), Some(found)) => format!("{place}expected {expected}, found {found}"),
            (_, Some(expected), None) if what.is_empty() => format!("expected {expected}"),
            (_, Some(expected), None) => format!("{what}, expected {expected}"),
            (_, None, Some(found)) => format!("{place}found {found}"),
            (_, None, None) => what.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_one_message() {
        let new = || Problem::new(ErrorKind::OutOfRange, "‘rank’");
        let none = || Problem::new(ErrorKind::WrongType, "");
        for (problem, text) in [
            (new().is(0).expected("1 or more"), "‘rank’ is 0, expected 1 or more"),
            (new().found(0).expected("1 or more"), "‘rank’: expected 1 or more, found 0"),
            (new().has("a hole").hint("mend it"), "‘rank’ has a hole\n  mend it"),
            (new().expected("1 or more"), "‘rank’, expected 1 or more"),
            (new(), "‘rank’"),
            (none().expected("a folder"), "expected a folder"),
            (none().expected("a folder").found("a file"), "expected a folder, found a file"),
            (none().found("a file"), "found a file"),
            (none().tensor("a\"").expected("F32").found("U8"), "tensor \"a\\\"\": expected F32, found U8"),
            (
                none().tensor("a").what("its bytes").expected(1).found(2),
                "tensor \"a\": its bytes: expected 1, found 2",
            ),
        ] {
            assert_eq!(problem.to_string(), text);
        }
    }

    #[test]
    fn settings_are_what_stands_between_marks() {
        let of = |what: &str| {
            let problem = Problem::new(ErrorKind::Conflict, what).hint("leave ‘eps’ out");
            problem.settings().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("‘update’ per-block cannot be combined with ‘grad_accum’ 4"), ["update", "grad_accum"]);
        assert_eq!(of("‘A b’ and ‘’ and ‘rank"), [""; 0]);
        assert_eq!(of("nothing"), [""; 0]);
    }

    #[test]
    fn a_name_between_backticks_is_a_key() {
        let key = |what: &str| Problem::new(ErrorKind::WrongType, what).key;
        assert_eq!(key("`messages[0].role`").as_deref(), Some("messages[0].role"));
        assert_eq!(key("`a` and `b`"), None);
        assert_eq!(key("`"), None);
    }
}
