//! Jinja as Python's jinja2 runs it, in the environment in which transformers runs chat templates: blocks trimmed,
//! `break` and `continue`, a sandbox in which lists and dictionaries cannot be changed, `tojson`, `raise_exception`,
//! `strftime_now`. Values are Python's: so are operators, methods, how they are printed, and what fails.
//!
//! A template is a program of whoever made the model. It gets a limit of memory, of work, of time and of depth
//! ([`meter`]), and what is not known is refused by name.

mod access;
mod args;
mod ast;
mod checks;
mod containers;
mod eval;
mod exec;
mod expression;
mod filters;
mod format;
mod lexer;
mod meter;
mod number;
mod ops;
mod parser;
mod sequences;
mod show;
mod strings;
mod value;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value as Json};

use super::date::Date;
use ast::Stmt;

/// Why a template cannot be read or does not render.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) text: String,
    pub(super) line: Option<usize>,
}

pub(super) type Res<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(text: String) -> Self {
        Self { text, line: None }
    }

    pub(super) fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

fn fault<T>(text: impl Into<String>) -> Res<T> {
    Err(Fault::new(text.into()))
}

/// A template that was read.
pub(super) struct Program {
    body: Vec<Stmt>,
    /// Whether it has `{% generation %}` tags.
    pub(super) marks_generation: bool,
}

/// What one rendering is given.
pub(super) struct Context<'a> {
    /// The variables, those that come later before those that come earlier.
    pub(super) variables: Vec<(&'a str, Option<&'a Json>)>,
    pub(super) more: &'a Map<String, Json>,
    pub(super) messages: &'a [Json],
    pub(super) date: Option<Date>,
    /// What stands before and after the text of `{% generation %}`.
    pub(super) marks: Option<(char, char)>,
}

impl Program {
    pub(super) fn new(source: &str) -> Res<Self> {
        let tokens = lexer::tokens(source)?;
        let (body, marks_generation) = parser::parse(tokens)?;
        Ok(Self { body, marks_generation })
    }

    pub(super) fn render(&self, context: &Context<'_>) -> Res<String> {
        exec::render(&self.body, context)
    }
}
