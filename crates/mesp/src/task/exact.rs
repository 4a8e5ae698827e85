//! A text that has to be given.
//!
//! Both texts are brought to one form: lower case, white space as single spaces and none at the ends, no full stop at
//! the end, no commas between digits and no `$` before one. They agree when they are the same then, or the same
//! number.

use fancy_regex::Regex;

use crate::{Error, ErrorKind, Result};

/// Which part of a text is the answer: a regular expression's first match, of it the first group if it has one.
#[derive(Debug, Clone)]
pub struct Extract(Regex);

impl Extract {
    /// From an expression such as `#### (-?[0-9.,]+)`.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(rule: &str) -> Result<Self> {
        Regex::new(rule).map(Self).map_err(|e| {
            Error::usage(ErrorKind::Malformed, format!("{rule:?} is no regular expression: {e}"))
                .hint(r"a rule looks like #### (-?[0-9.,]+), the answer in parentheses")
        })
    }

    /// The part of a text, if it has one.
    pub fn of<'a>(&self, text: &'a str) -> Option<&'a str> {
        // An expression that would take too long has no match.
        let captures = self.0.captures(text).ok().flatten()?;
        captures.get(1).or_else(|| captures.get(0)).map(|part| part.as_str())
    }
}

/// The part of the model's text that counts, and whether it is one of the right ones. Where a right one has no such
/// part it stands for itself.
pub fn judge<'a>(said: &'a str, right: &[String], extract: Option<&Extract>) -> (Option<&'a str>, bool) {
    let part = match extract {
        Some(extract) => extract.of(said),
        None => Some(said.trim()),
    };
    let agrees = part.is_some_and(|part| {
        right.iter().any(|right| agree(part, extract.and_then(|e| e.of(right)).unwrap_or(right)))
    });
    (part, agrees)
}

/// Whether two texts say the same.
fn agree(a: &str, b: &str) -> bool {
    let (a, b) = (plain(a), plain(b));
    let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite());
    a == b || number(&a).zip(number(&b)).is_some_and(|(a, b)| a == b)
}

/// A text in the form that is compared.
fn plain(text: &str) -> String {
    let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let text = spaced.strip_suffix('.').unwrap_or(&spaced);
    let characters: Vec<char> = text.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit);
    let keep = |(at, c): (usize, &char)| match c {
        ',' => !(digit(at.checked_sub(1)) && digit(Some(at + 1))),
        '$' => !digit(Some(at + 1)),
        _ => true,
    };
    let kept = characters.iter().enumerate().filter(|(at, c)| keep((*at, c)));
    kept.map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_say_the_same() {
        for (a, b) in [
            ("Paris", " paris.\n"),
            ("the  Old\tmill", "The old mill"),
            ("1,234", "1234"),
            ("$18", "18.00"),
            ("-3", "-3.0"),
            ("1,234,567.50", "$1234567.5"),
        ] {
            assert!(agree(a, b), "{a:?} {b:?}");
        }
        for (a, b) in [
            ("Paris", "Paris, France"),
            ("12", "1,2 3"),
            ("3", "-3"),
            ("a, b", "a b"),
            ("", "0"),
            ("nan", "inf"),
        ] {
            assert!(!agree(a, b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn parts_of_texts() {
        let rule = Extract::new(r"#### (-?[0-9.,]+)").expect("a rule");
        let right = ["She makes 9 * 2 = $<<9*2=18>>18.\n#### 18".to_owned()];
        assert_eq!(judge("so 18\n#### 18\nQuestion: 4\n#### 5", &right, Some(&rule)), (Some("18"), true));
        assert_eq!(judge("#### 1,8", &["18".to_owned()], Some(&rule)), (Some("1,8"), true));
        assert_eq!(judge("the answer is 18", &right, Some(&rule)), (None, false));
        assert_eq!(judge("#### 17.", &right, Some(&rule)), (Some("17."), false));
        assert_eq!(judge(" Yes. ", &["no".to_owned(), "yes".to_owned()], None), (Some("Yes."), true));
        let whole = Extract::new("[0-9]+").expect("a rule");
        assert_eq!(whole.of("a 12 b 3"), Some("12"));
        // The last one, as an expression says it.
        assert_eq!(Extract::new("(?s).*?([0-9]+)[^0-9]*$").expect("a rule").of("12 and 34."), Some("34"));
        let error = Extract::new("(").expect_err("no rule").to_string();
        assert!(error.contains("no regular expression") && error.contains("parentheses"), "{error}");
    }
}
