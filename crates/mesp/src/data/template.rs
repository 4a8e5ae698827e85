//! A model's chat template, run as transformers runs it.
//!
//! `strftime_now` gives the day on which the text is written. A run keeps its tokens in its directory, so that
//! one that is resumed on another day sees those it began with.

use serde_json::Value;

use super::date::Date;
use super::jinja::{Context, Fault, Program};
use crate::{Error, ErrorKind, Result};

/// Private characters that stand for `{% generation %}` and `{% endgeneration %}` in a rendering.
pub(super) const MARKS: (char, char) = ('\u{F1A01}', '\u{F1A02}');

pub(super) struct Template {
    program: Program,
    /// Whether the template says itself which text the model generates.
    pub(super) marks_generation: bool,
    /// The day to print, in place of the one it is.
    pub(super) date: Option<Date>,
}

/// What one rendering is made of.
pub(super) struct Inputs<'a> {
    pub(super) messages: &'a [Value],
    pub(super) tools: Option<&'a Value>,
    /// Further variables.
    pub(super) variables: &'a serde_json::Map<String, Value>,
    /// The special tokens that the model has, by name.
    pub(super) tokens: &'a [(String, Value)],
    pub(super) generation_prompt: bool,
    /// Whether to leave [`MARKS`] in the text.
    pub(super) marks: bool,
}

impl Template {
    pub(super) fn new(source: &str) -> Result<Self> {
        let program = Program::new(source).map_err(|e| {
            Error::usage(
                ErrorKind::Unsupported,
                format!("the model's chat template cannot be read: {}", describe(&e)),
            )
            .hint("it uses something this program does not know; put another one in chat_template.jinja")
        })?;
        let marks_generation = program.marks_generation;
        Ok(Self { program, marks_generation, date: None })
    }

    pub(super) fn render(&self, inputs: &Inputs<'_>) -> Result<String> {
        let prompt = Value::from(inputs.generation_prompt);
        // `tools` and `documents` are there in any case, since `apply_chat_template` has them as parameters.
        let mut variables: Vec<(&str, Option<&Value>)> =
            vec![("tools", inputs.tools), ("add_generation_prompt", Some(&prompt))];
        if !inputs.variables.contains_key("documents") {
            variables.push(("documents", None));
        }
        // A token that the model does not have is not defined; a row's variables come before the model's.
        let tokens = inputs.tokens.iter().filter(|(name, _)| !inputs.variables.contains_key(name));
        variables.extend(tokens.map(|(name, text)| (name.as_str(), Some(text))));
        let rendered = self.program.render(&Context {
            variables,
            more: inputs.variables,
            messages: inputs.messages,
            date: self.date,
            marks: inputs.marks.then_some(MARKS),
        });
        rendered.map_err(|e| {
            Error::usage(
                ErrorKind::Unsupported,
                format!("the model's chat template refuses the conversation: {}", describe(&e)),
            )
        })
    }
}

fn describe(fault: &Fault) -> String {
    match fault.line {
        Some(line) => format!("{} (line {line} of the template)", fault.text),
        None => fault.text.clone(),
    }
}
