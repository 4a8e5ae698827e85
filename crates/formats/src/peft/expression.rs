//! Regular expressions for paths of modules, in the syntax of Python's `re`, which PEFT matches them with.

use std::fmt::Write as _;

use fancy_regex::{Expr, Regex, RegexBuilder};

use super::{MODULES, OUTSIDE_BLOCKS, parent};

/// Layers in which a name or an expression is tried, more than models have: the number of a model's is not known here.
/// Under a fuzzer fewer: its instruments make a match many times as slow, and one layer is matched as another.
#[allow(unexpected_cfgs, reason = "cargo-fuzz sets it")]
pub(super) const LAYERS: usize = if cfg!(fuzzing) { 16 } else { 256 };
/// Paths that are tried, those of [`paths`].
const PLACES: usize = LAYERS * MODULES.len() + OUTSIDE_BLOCKS.len();
/// Steps that a match of one path may take where an expression needs backtracking: such a match can take a number
/// that is exponential in the path's length, and expressions come with files from elsewhere.
const STEPS: usize = 20_000;

/// An expression for paths of modules; look-around and references to groups are known.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    text: String,
    regex: Regex,
    /// A bit for each of [`paths`] that it is for: they are asked for again and again.
    places: Box<[u64; PLACES.div_ceil(64)]>,
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
        let wrong = |e: fancy_regex::Error| format!("it is no regular expression: {e}");
        let translated = translated(text);
        // By itself first: parentheses that do not match could match those around.
        Expr::parse_tree(&translated).map_err(wrong)?;
        let regex = RegexBuilder::new(&around(&translated)).backtrack_limit(STEPS).build().map_err(wrong)?;
        let (mut places, mut endless) = (Box::new([0; _]), None);
        paths(|place, path| {
            match regex.is_match(path) {
                Ok(fits) => places[place / 64] |= u64::from(fits) << (place % 64),
                Err(_) => endless = Some(path.to_owned()),
            }
            endless.is_none()
        });
        // A match that is cut off has no answer, so those that can be cut off are refused here.
        match endless {
            Some(path) => Err(format!("it takes more than {STEPS} steps to be matched with {path}")),
            None => Ok(Self { text: text.to_owned(), regex, places }),
        }
    }

    /// Whether it is for this path.
    pub(super) fn fits(&self, path: &str) -> bool {
        self.regex.is_match(path).unwrap_or(false)
    }

    /// The same by the path's place among [`paths`].
    pub(super) fn fits_at(&self, place: usize) -> bool {
        self.places[place / 64] >> (place % 64) & 1 == 1
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

/// Goes through the paths of everything that may have an adapter, each with its place, in more layers than models have,
/// for as long as `each` gives true.
pub(super) fn paths(mut each: impl FnMut(usize, &str) -> bool) {
    let after = MODULES.map(|module| format!(".{}.{module}", parent(module)));
    // One text is changed for all, since there are thousands.
    let mut path = String::new();
    for (layer, place) in (0..LAYERS).zip((0..).step_by(MODULES.len())) {
        path.clear();
        let _ = write!(path, "model.layers.{layer}");
        let before = path.len();
        for (module, after) in after.iter().enumerate() {
            path.truncate(before);
            path.push_str(after);
            if !each(place + module, &path) {
                return;
            }
        }
    }
    for (place, (_, path)) in (LAYERS * MODULES.len()..).zip(OUTSIDE_BLOCKS) {
        if !each(place, path) {
            return;
        }
    }
}

/// The number of the module at a place of [`paths`], among [`MODULES`] and after them [`OUTSIDE_BLOCKS`].
pub(super) fn module_at(place: usize) -> usize {
    let inside = LAYERS * MODULES.len();
    if place < inside { place % MODULES.len() } else { MODULES.len() + place - inside }
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

    /// What is kept of the paths is what a match says, and places are those of the modules.
    #[test]
    fn places_are_those_of_paths() {
        let expression = Expression::whole(r".*\.(3|1\d)\..*(?<!_attn\.)[ku].*|lm_head").unwrap();
        let (mut count, mut fits) = (0, Vec::new());
        paths(|place, path| {
            assert_eq!(place, count);
            let all: Vec<_> = MODULES.into_iter().chain(OUTSIDE_BLOCKS.map(|(module, _)| module)).collect();
            let module = all[module_at(place)];
            assert_eq!(path, super::super::path(place / MODULES.len(), module), "{module}");
            assert_eq!(expression.fits_at(place), expression.fits(path), "{path}");
            if expression.fits_at(place) {
                fits.push(path.to_owned());
            }
            count += 1;
            true
        });
        assert_eq!(count, PLACES);
        // Of eleven layers `up_proj` and `gate_up_proj`... and the head.
        // Eleven layers, and in each `up_proj`, `qkv_proj` and `gate_up_proj`.
        assert_eq!((fits.len(), fits.last().unwrap().as_str()), (34, "lm_head"), "{fits:?}");
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
