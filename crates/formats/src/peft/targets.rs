//! `target_modules`: which modules have an adapter.

use std::fmt;

use regex::Regex;
use serde_json::{Value, json};

use super::{ALL_LINEAR, AdapterConfig, MODULES, OUTSIDE, path};
use crate::json::{Fields, quoted, shown};
use crate::{Error, Result};

/// Layers in which a name or an expression is tried, more than models have: the number of a model's is not known here.
const LAYERS: usize = 512;

/// Which modules have an adapter, where this is said by more than the modules' own names.
#[derive(Debug, Clone)]
pub enum Places {
    /// Those whose whole path the expression is.
    Expression(Regex),
    /// Those whose path is one of these, or ends in one after a point.
    Names(Vec<String>),
}

impl Places {
    /// From an expression, which is held against whole paths.
    fn expression(text: &str) -> Option<Self> {
        Regex::new(&format!("^(?:{text})$")).ok().map(Self::Expression)
    }

    /// Whether a module has an adapter, by its path, such as `model.layers.0.self_attn.q_proj`.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Expression(regex) => regex.is_match(path),
            Self::Names(names) => names.iter().any(|name| ends_in(path, name)),
        }
    }

    /// As `target_modules` has it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Expression(_) => json!(self.to_string()),
            Self::Names(names) => json!(names),
        }
    }

    /// From what [`Places::to_json`] gave; none for anything else.
    pub fn from_json(json: &Value) -> Option<Self> {
        match json {
            Value::String(text) => Self::expression(text),
            Value::Array(names) => {
                Some(Self::Names(names.iter().map(|n| n.as_str().map(str::to_owned)).collect::<Option<_>>()?))
            }
            _ => None,
        }
    }

    /// Names of the modules, from [`MODULES`] and [`OUTSIDE`], that it has in any layer.
    fn modules(&self) -> Vec<String> {
        let inside = MODULES.into_iter().filter(|m| (0..LAYERS).any(|layer| self.has(&path(layer, m))));
        let outside = OUTSIDE.into_iter().filter(|(_, path)| self.has(path)).map(|(module, _)| module);
        inside.chain(outside).map(str::to_owned).collect()
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the ends that hold it against whole paths.
            Self::Expression(regex) => f.write_str(&regex.as_str()[4..regex.as_str().len() - 2]),
            Self::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Expression(a), Self::Expression(b)) => a.as_str() == b.as_str(),
            (Self::Names(a), Self::Names(b)) => a == b,
            _ => false,
        }
    }
}

fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The modules, and the places where their names alone do not say it. `some_layers`: whether `layers_to_transform`
/// picks layers, which a name outside of them then does not match unless it is a whole path.
pub(super) fn read(f: &Fields<'_>, some_layers: bool) -> Result<(Vec<String>, Option<Places>)> {
    let key = "target_modules";
    let known = MODULES.into_iter().chain(OUTSIDE.map(|(module, _)| module)).collect::<Vec<_>>().join(", ");
    let wrong = |found: &str| -> Error {
        let expected = format!(
            "expected \"all-linear\", a list of names or paths of modules from {known}, or an expression for their paths"
        );
        f.error(key, &format!("{expected}, found {found}"))
            .hint("Train or convert the adapter with target modules from that list.")
    };
    let list = match f.required(key, f.value(key))? {
        Value::String(all) if all == "all-linear" => {
            return Ok((MODULES[..ALL_LINEAR].iter().map(|m| (*m).to_string()).collect(), None));
        }
        Value::Array(list) => list,
        Value::String(text) => {
            let found = || format!("the expression {}", quoted(text));
            let places = Places::expression(text).ok_or_else(|| wrong(&found()))?;
            let modules = places.modules();
            if modules.is_empty() {
                return Err(wrong(&format!("{}, which is the path of none", found())));
            }
            return Ok((modules, Some(places)));
        }
        other => return Err(wrong(&shown(other))),
    };
    let (mut names, mut modules, mut alone) = (Vec::with_capacity(list.len()), Vec::new(), true);
    for entry in list {
        let Some(name) = entry.as_str() else { return Err(wrong(&shown(entry))) };
        names.push(name.to_owned());
        let outside = OUTSIDE.into_iter().find(|(module, path)| name == *module || name == *path);
        let found = if let Some((module, path)) = outside {
            // A list of layers leaves out what only ends in a name and is in no layer.
            if some_layers && name != path { vec![] } else { vec![module.to_owned()] }
        } else if MODULES.contains(&name) {
            vec![name.to_owned()]
        } else {
            alone = false;
            let found = Places::Names(vec![name.to_owned()]).modules();
            if found.is_empty() {
                return Err(wrong(&shown(entry)));
            }
            found
        };
        for module in found {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
    }
    if modules.is_empty() {
        return Err(wrong("an empty list"));
    }
    Ok((modules, (!alone).then_some(Places::Names(names))))
}

/// As it is written.
pub(super) fn json(config: &AdapterConfig) -> Value {
    if let Some(places) = &config.places {
        return places.to_json();
    }
    let name = |module: &String| match super::outside(module) {
        // See `read`.
        Some(path) if config.layers.is_some() => path.to_owned(),
        _ => module.clone(),
    };
    json!(config.target_modules.iter().map(name).collect::<Vec<_>>())
}
