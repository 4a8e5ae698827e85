//! Regular expressions for paths of modules, in the syntax of Python's `re`, which PEFT matches them with.

use fancy_regex::{Regex, RegexBuilder};

use super::{MODULES, OUTSIDE, path};

/// Layers in which a name or an expression is tried, more than models have: the number of a model's is not known here.
pub(super) const LAYERS: usize = 256;
/// Steps that a match of one path may take where an expression needs backtracking: such a match can take a number
/// that is exponential in the path's length, and expressions come with files from elsewhere.
const STEPS: usize = 20_000;

/// An expression for paths of modules; look-around and references to groups are known.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    text: String,
    regex: Regex,
}

impl Expression {
    /// An expression that a whole path is held against (`re.fullmatch`).
    pub(super) fn whole(text: &str) -> Result<Self, String> {
        Self::new(text, |text| format!("^(?:{text})$"))
    }

    /// An expression for a path or its end after a point, as in keys of patterns: `re.match(rf"(.*\.)?({key})$")`.
    pub(super) fn ending(text: &str) -> Result<Self, String> {
        Self::new(text, |text| format!("^(.*\\.)?({text})$"))
    }

    /// What is wrong with it otherwise.
    fn new(text: &str, around: impl Fn(&str) -> String) -> Result<Self, String> {
        let compiled = |text: &str| {
            RegexBuilder::new(text)
                .backtrack_limit(STEPS)
                .build()
                .map_err(|e| format!("it is no regular expression: {e}"))
        };
        let translated = translated(text);
        // By itself first: parentheses that do not match could match those around.
        compiled(&translated)?;
        let expression = Self { text: text.to_owned(), regex: compiled(&around(&translated))? };
        // A match that is cut off has no answer, so those that can be cut off are refused here.
        match paths().find(|path| expression.regex.is_match(path).is_err()) {
            Some(path) => Err(format!("it takes more than {STEPS} steps to be matched with {path}")),
            None => Ok(expression),
        }
    }

    /// Whether it is for this path.
    pub(super) fn fits(&self, path: &str) -> bool {
        self.regex.is_match(path).unwrap_or(false)
    }

    /// As it was given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Paths of everything that may have an adapter, in more layers than models have.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let inside = (0..LAYERS).flat_map(|layer| MODULES.map(|module| path(layer, module)));
    inside.chain(OUTSIDE.map(|(_, path)| path.to_owned()))
}

/// Sets of characters as this engine writes them: in Python's, `[`, `&&`, `--` and `~~` are characters.
fn translated(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut in_set = false;
    while let Some(c) = chars.next() {
        out.push(c);
        match c {
            '\\' => out.extend(chars.next()),
            '[' if !in_set => {
                in_set = true;
                out.extend(chars.next_if_eq(&'^'));
                // The first is a member.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' => {
                out.pop();
                out.push_str("\\[");
            }
            ']' => in_set = false,
            '&' | '-' | '~' if in_set && chars.peek() == Some(&c) => out.push('\\'),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "model.layers.10.self_attn.q_proj";

    /// The cases were put to `re.fullmatch` of Python 3.11.
    #[test]
    fn expressions_are_those_of_python() {
        for (text, fits) in [
            (r".*q_proj", true),
            (r"q_proj", false),
            (r"^(model(?=\.).*\.(q_proj|v_proj))$", true),
            (r"^(?!.*visual).*(q_proj|v_proj)", true),
            (r"^(?!.*self_attn).*(q_proj|v_proj)", false),
            (r".*(?<=self_attn\.)q_proj", true),
            (r".*(?<!self_attn\.)q_proj", false),
            (r"model\.layers\.(\d)0\..*", true),
            (r"model\.layers\.(?P<n>\d)(?!(?P=n)).*", true),
            (r"model\.layers\.(\d)\1.*", false),
            (r"(?i)MODEL.*Q_PROJ", true),
            (r"a|model.*", true),
            (r".*[kq]_proj", true),
            (r".*[[q&&k]_proj", true),
            (r".*[]q]_proj", true),
            (r".*[^]q]_proj", false),
            (r".*\.q_proj\Z", true),
            (r"(?#a comment)model.*", true),
            (r"", false),
        ] {
            assert_eq!(Expression::whole(text).unwrap().fits(PATH), fits, "{text}");
        }
    }

    #[test]
    fn what_python_does_not_compile_is_refused() {
        for text in ["(", "a)(b", "[", "*", "(?P<n>a)(?P=m)", "(?<=a*)b\\"] {
            assert!(Expression::whole(text).unwrap_err().contains("it is no regular expression"), "{text}");
        }
    }

    /// Exponential: a look-ahead that is never true keeps the engine from a linear search.
    #[test]
    fn a_match_without_end_is_refused() {
        let error = Expression::whole(r"(?:(?:[a-z_.0-9]+)+)+(?=!)").unwrap_err();
        assert!(error.contains("more than 20000 steps to be matched with model.layers.0."), "{error}");
    }
}
