//! A model's chat template, run as the Python libraries run it: Jinja with trimmed blocks, loop
//! controls, Python's string and list methods, `raise_exception`, `strftime_now` and `tojson`.
//!
//! `strftime_now` gives the day on which the text is written. A run keeps its tokens in its directory, so that
//! one that is resumed on another day sees those it began with.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::date::Date;
use super::python::{self, PythonJson};
use crate::{Error, Result};

/// Private characters that stand for `{% generation %}` and `{% endgeneration %}` in a rendering.
pub(super) const MARKS: (char, char) = ('\u{F1A01}', '\u{F1A02}');

pub(super) struct Template {
    env: Environment<'static>,
    /// Whether the template says itself which text the model generates.
    pub(super) marks_generation: bool,
    /// The day to print, in place of the one it is.
    pub(super) date: Option<Date>,
}

/// What one rendering is made of.
pub(super) struct Inputs<'a> {
    pub(super) messages: &'a [serde_json::Value],
    pub(super) tools: Option<&'a serde_json::Value>,
    /// Further variables.
    pub(super) variables: &'a serde_json::Map<String, serde_json::Value>,
    pub(super) bos: &'a str,
    pub(super) eos: &'a str,
    pub(super) generation_prompt: bool,
    /// Whether to leave [`MARKS`] in the text.
    pub(super) marks: bool,
}

impl Template {
    pub(super) fn new(source: &str) -> Result<Self> {
        let (source, marks_generation) = rewrite_generation_tags(source);
        let env = environment(source).map_err(|e| {
            Error::usage(format!("the model's chat template cannot be read: {}", describe(&e)))
                .hint("it uses something this program does not know; put another one in chat_template.jinja")
        })?;
        Ok(Self { env, marks_generation, date: None })
    }

    pub(super) fn render(&self, inputs: &Inputs<'_>) -> Result<String> {
        let marks = if inputs.marks { MARKS } else { (' ', ' ') };
        let mark = |c: char| if inputs.marks { c.to_string() } else { String::new() };
        let date = self.date;
        let strftime = move |format: String| date.unwrap_or_else(Date::today).strftime(&format);
        let values = context! {
            messages => Value::from(Serde(inputs.messages)),
            tools => Value::from(Serde(inputs.tools)),
            bos_token => inputs.bos,
            eos_token => inputs.eos,
            add_generation_prompt => inputs.generation_prompt,
            generation_begins_ => mark(marks.0),
            generation_ends_ => mark(marks.1),
            strftime_now => Value::from_function(strftime),
            ..Value::from(Serde(inputs.variables))
        };
        let rendered = self.env.get_template("chat_template").and_then(|template| template.render(values));
        rendered.map_err(|e| {
            Error::usage(format!("the model's chat template refuses the conversation: {}", describe(&e)))
        })
    }
}

/// Instructions of one rendering. Real templates take some hundred for a message; one that counts without end
/// is stopped within seconds.
const FUEL: u64 = 50_000_000;

fn environment(source: String) -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_unknown_method_callback(|state, value, method, args| match (method, value.as_str(), args) {
        ("title", Some(text), []) => Ok(python::title(text).into()),
        _ => unknown_method_callback(state, value, method, args),
    });
    env.set_formatter(|out, state, value| {
        if value.is_number() && !value.is_integer() {
            return Ok(out.write_str(&python::float(f64::try_from(value.clone())?))?);
        }
        escape_formatter(out, state, value)
    });
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_filter("tojson", tojson);
    env.add_template_owned("chat_template", source)?;
    Ok(env)
}

fn describe(error: &minijinja::Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    if let Some(line) = error.line() {
        let _ = write!(text, " (line {line} of the template)");
    }
    text
}

/// Replaces the tags, which are an extension of the Python libraries, by blocks that print a variable.
/// A block keeps what the tag's own marks trim: white space around it, and the line's end after it.
fn rewrite_generation_tags(source: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::with_capacity(source.len()), source, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(length) = tag.find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..length - 2];
        let (left, inner) = inner.strip_prefix('-').map_or(("", inner), |i| ("-", i));
        let (right, inner) = inner.strip_suffix('-').map_or(("", inner), |i| ("-", i));
        let variable = match inner.trim() {
            "generation" => Some("generation_begins_"),
            "endgeneration" => Some("generation_ends_"),
            _ => None,
        };
        if let Some(variable) = variable {
            found = true;
            let _ = write!(out, "{{%{left} if true %}}{{{{ {variable} }}}}{{% endif {right}%}}");
            rest = &tag[length..];
        } else {
            out.push_str("{%");
            rest = &tag[2..];
        }
    }
    out.push_str(rest);
    (out, found)
}

/// `json.dumps`, with `ensure_ascii=False` unless asked otherwise, which is what templates are written against.
#[expect(clippy::needless_pass_by_value, reason = "a filter receives its options by value")]
fn tojson(value: &Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let failed = |text: String| minijinja::Error::new(ErrorKind::InvalidOperation, text);
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|e| failed(e.to_string()))?;
    let python = PythonJson {
        indent,
        ascii: ascii.unwrap_or(false),
        sort: sort.unwrap_or(false),
        item: match &separators {
            Some(list) => list.first().cloned().unwrap_or_default(),
            None => if indent.is_some() { "," } else { ", " }.to_owned(),
        },
        key: separators.as_ref().and_then(|list| list.get(1)).map_or(": ", String::as_str).to_owned(),
    };
    let mut text = String::new();
    python.write(&value, 0, &mut text);
    Ok(text)
}
