//! Numbers for single modules, as `rank_pattern` and `alpha_pattern` hold them.

use serde_json::{Map, Value};

use super::MODULES;
use super::expression::Expression;
use crate::json::{Fields, quoted, shown};
use crate::{Error, ErrorKind, Result};

/// Numbers by names of modules, in order: of a module counts the first name that its path is or ends in after a
/// point. Names are regular expressions, as PEFT takes them.
#[derive(Debug, Clone)]
pub struct Pattern<T> {
    entries: Vec<(String, T)>,
    /// Expressions of the names that are more than a name.
    expressions: Vec<Option<Expression>>,
}

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self::none()
    }
}

impl<T: PartialEq> PartialEq for Pattern<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl<T> Pattern<T> {
    /// No module has a number of its own.
    pub const fn none() -> Self {
        Self { entries: Vec::new(), expressions: Vec::new() }
    }
}

impl<T: Copy> Pattern<T> {
    /// From names and numbers.
    ///
    /// # Errors
    /// With the name that is not a regular expression, and why.
    pub fn new(entries: Vec<(String, T)>) -> std::result::Result<Self, String> {
        let expression = |name: &str| {
            if plain(name) {
                return Ok(None);
            }
            Expression::ending(name).map(Some).map_err(|why| format!("{}: {why}", quoted(name)))
        };
        let expressions =
            entries.iter().map(|(name, _)| expression(name)).collect::<std::result::Result<_, _>>()?;
        Ok(Self { entries, expressions })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names with their numbers.
    pub fn entries(&self) -> &[(String, T)] {
        &self.entries
    }

    /// The number of a module by its path, such as `model.layers.0.self_attn.q_proj`.
    pub fn of(&self, path: &str) -> Option<T> {
        (0..self.entries.len()).find(|i| self.fits(*i, path)).map(|i| self.entries[i].1)
    }

    /// The first name that is for none of these paths.
    pub fn unused(&self, paths: &[String]) -> Option<&str> {
        let unused = |i: &usize| !paths.iter().any(|path| self.fits(*i, path));
        (0..self.entries.len()).find(unused).map(|i| self.entries[i].0.as_str())
    }

    fn fits(&self, entry: usize, path: &str) -> bool {
        match &self.expressions[entry] {
            Some(expression) => expression.fits(path),
            None => plain_fits(&self.entries[entry].0, path),
        }
    }

    /// As an object.
    pub(super) fn json(&self, number: impl Fn(T) -> Value) -> Value {
        Value::Object(self.entries.iter().map(|(name, x)| (name.clone(), number(*x))).collect::<Map<_, _>>())
    }

    /// With numbers of another kind.
    pub fn map<U: Copy>(&self, f: impl Fn(T) -> U) -> Pattern<U> {
        let entries = self.entries.iter().map(|(name, number)| (name.clone(), f(*number))).collect();
        Pattern { entries, expressions: self.expressions.clone() }
    }
}

/// Whether a name has no special characters but the point. There are hundreds of such names where each module has
/// its own, so they are compared without an engine.
fn plain(name: &str) -> bool {
    let name = name.strip_prefix('^').unwrap_or(name);
    name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn plain_fits(name: &str, path: &str) -> bool {
    // A point means any character.
    let same = |name: &str, path: &str| {
        name.len() == path.len() && name.bytes().zip(path.bytes()).all(|(n, p)| n == b'.' || n == p)
    };
    if let Some(whole) = name.strip_prefix('^') {
        return same(whole, path);
    }
    let Some((before, end)) = path.len().checked_sub(name.len()).and_then(|at| path.split_at_checked(at))
    else {
        return false;
    };
    (before.is_empty() || before.ends_with('.')) && same(name, end)
}

/// A key of `adapter_config.json`.
pub(crate) fn read(f: &Fields<'_>, key: &str) -> Result<Pattern<f64>> {
    let Some(map) = f.object(key)? else { return Ok(Pattern::none()) };
    let entries = map
        .iter()
        .map(|(name, value)| {
            let number = value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| {
                f.error(key, ErrorKind::WrongType)
                    .expected(format!("a number for {}", quoted(name)))
                    .found(shown(value))
            })?;
            Ok((name.clone(), number))
        })
        .collect::<Result<_>>()?;
    Pattern::new(entries).map_err(|found| {
        f.error(key, ErrorKind::Malformed)
            .expected("names of modules or regular expressions")
            .found(found)
            .hint("Write the modules' names out.")
    })
}

/// Ranks, which are whole and not zero.
pub(crate) fn ranks(f: &Fields<'_>, key: &str) -> Result<Pattern<usize>> {
    let pattern = read(f, key)?;
    let wrong = |r: f64| r < 1.0 || r.fract() != 0.0 || r > 1e9;
    if let Some((name, rank)) = pattern.entries().iter().find(|(_, r)| wrong(*r)) {
        return Err(f
            .error(key, ErrorKind::OutOfRange)
            .expected(format!("a rank of 1 or more for {}", quoted(name)))
            .found(rank));
    }
    Ok(pattern.map(|r| r as usize))
}

/// The layers of `layers_to_transform`, a number or a list; none for all.
///
/// `layers_pattern` is what the list of layers is called in the model: here, `layers`.
pub(crate) fn layers(f: &Fields<'_>) -> Result<Option<Vec<usize>>> {
    let key = "layers_to_transform";
    let wrong = |found: &Value| -> Error {
        f.error(key, ErrorKind::WrongType).expected("a layer's number or a list of them").found(shown(found))
    };
    let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| wrong(v));
    let layers = match f.value(key) {
        None => return Ok(None),
        Some(Value::Array(list)) if list.is_empty() => return Ok(None),
        Some(Value::Array(list)) => {
            let mut layers = list.iter().map(number).collect::<Result<Vec<_>>>()?;
            layers.sort_unstable();
            layers.dedup();
            layers
        }
        Some(one) => vec![number(one)?],
    };
    let key = "layers_pattern";
    let names: Vec<&str> = match f.value(key) {
        Some(Value::String(name)) if !name.is_empty() => vec![name],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    // PEFT: `re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", path)`.
    let leads = |name: &&str| {
        let text = format!(r"(?:^|.*?\.){name}\.\d+\..*");
        Expression::whole(&text).is_ok_and(|e| e.fits(&super::path(0, MODULES[0])))
    };
    if !names.is_empty() && !names.iter().any(leads) {
        return Err(f
            .error(key, ErrorKind::Missing)
            .expected("\"layers\", the list that layers are in")
            .found(quoted(&names.join(", ")))
            .hint("This adapter was made for another kind of model."));
    }
    Ok(Some(layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, usize)], path: &str) -> Option<usize> {
        let entries = entries.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Pattern::new(entries).unwrap().of(path)
    }

    /// The cases were put to `peft.utils.other.get_pattern_key`, 0.21.
    #[test]
    fn names_fit_as_in_peft() {
        let path = "model.layers.10.self_attn.q_proj";
        for (name, fits) in [
            ("q_proj", true),
            ("_proj", false),
            ("self_attn.q_proj", true),
            ("attn.q_proj", false),
            ("layers.10.self_attn.q_proj", true),
            ("model.layers.10.self_attn.q_proj", true),
            ("^model.layers.10.self_attn.q_proj", true),
            ("^q_proj", false),
            ("self_attn", false),
            (r"layers\.\d+\.self_attn\.q_proj", true),
            (r"layers\.\d\.self_attn\.q_proj", false),
            ("[qk]_proj", true),
            ("q_proj|v_proj", true),
            (r".*\.q_proj", true),
            (r"layers\.1[0-9]\..*", true),
            (r"(?!.*layers\.0\.).*q_proj", true),
            // What is before the point may be taken by what PEFT puts in front.
            (r"(?!.*layers\.10\.).*q_proj", true),
            (r"(?<=self_attn\.)q_proj", true),
            (r"(?<=mlp\.)q_proj", false),
            ("self.attn.q_proj", true),
            ("^model.layers.10.self.attn.q_proj", true),
            ("", false),
            (r"^(?:model)\..*q_proj", true),
        ] {
            assert_eq!(of(&[(name, 3)], path).is_some(), fits, "{name}");
        }
        assert_eq!(of(&[("k_proj", 1), ("self_attn.q_proj", 2), ("q_proj", 3)], path), Some(2), "the first");
        assert!(
            Pattern::new(vec![("(".to_owned(), 1)])
                .unwrap_err()
                .starts_with("\"(\": it is no regular expression")
        );
        let pattern = Pattern::new(vec![("q_proj".to_owned(), 1), ("qproj".to_owned(), 2)]).unwrap();
        assert_eq!(pattern.unused(&[path.to_owned()]), Some("qproj"));
    }
}
