//! `target_modules` and `exclude_modules`: which modules have an adapter.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value, json};

use super::expression::{Expression, module_at, paths};
use super::{AdapterConfig, MODULES, OUTSIDE_BLOCKS, parse_tensor_name, path};
use crate::json::{Fields, quoted, shown};
use crate::{Error, ErrorKind, Result};

const TARGETS: &str = "target_modules";
const EXCLUDED: &str = "exclude_modules";

/// Paths of modules.
#[derive(Debug, Clone, PartialEq)]
enum Paths {
    /// Those that the expression is for.
    Expression(Expression),
    /// Those that are one of these, or end in one after a point.
    Names(Vec<String>),
}

impl Paths {
    fn has(&self, path: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.fits(path),
            Self::Names(names) => names.iter().any(|name| ends_in(path, name)),
        }
    }

    /// The same for one of [`paths`], with its place.
    fn has_at(&self, place: usize, path: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.fits_at(place),
            Self::Names(_) => self.has(path),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Expression(expression) => json!(expression.text()),
            Self::Names(names) => json!(names),
        }
    }

    /// From what [`Paths::to_json`] gave; none for anything else.
    fn from_json(json: &Value) -> Option<Self> {
        match json {
            Value::String(text) => Expression::whole(text).ok().map(Self::Expression),
            Value::Array(names) => {
                Some(Self::Names(names.iter().map(|n| n.as_str().map(str::to_owned)).collect::<Option<_>>()?))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expression(expression) => f.write_str(expression.text()),
            Self::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

/// Which modules have an adapter, where this is said by more than the modules' own names.
#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    on: Paths,
    /// Paths that are excluded.
    except: Option<Paths>,
}

impl Places {
    /// The modules with these paths.
    pub fn of(paths: Vec<String>) -> Self {
        Self { on: Paths::Names(paths), except: None }
    }

    /// Whether a module has an adapter, by its path, such as `model.layers.0.self_attn.q_proj`.
    pub fn has(&self, path: &str) -> bool {
        self.on.has(path) && !self.except.as_ref().is_some_and(|except| except.has(path))
    }

    /// As `target_modules` has it, or an object with that key and `exclude_modules`.
    pub fn to_json(&self) -> Value {
        let on = self.on.to_json();
        match &self.except {
            None => on,
            Some(except) => json!({ TARGETS: on, EXCLUDED: except.to_json() }),
        }
    }

    /// From what [`Places::to_json`] gave; none for anything else.
    pub fn from_json(json: &Value) -> Option<Self> {
        match json {
            Value::Object(map) => Some(Self {
                on: Paths::from_json(map.get(TARGETS)?)?,
                except: Some(Paths::from_json(map.get(EXCLUDED)?)?),
            }),
            on => Some(Self { on: Paths::from_json(on)?, except: None }),
        }
    }

    /// As [`has`](Self::has) for one of [`paths`], with its place.
    fn has_at(&self, place: usize, path: &str) -> bool {
        self.on.has_at(place, path) && !self.except.as_ref().is_some_and(|except| except.has_at(place, path))
    }

    /// Names of the modules, from [`MODULES`] and [`OUTSIDE_BLOCKS`], that it has in any layer.
    fn modules(&self) -> Vec<String> {
        let all: [&str; MODULES.len() + OUTSIDE_BLOCKS.len()] = std::array::from_fn(|i| {
            MODULES.get(i).copied().unwrap_or_else(|| OUTSIDE_BLOCKS[i - MODULES.len()].0)
        });
        let mut found = [false; MODULES.len() + OUTSIDE_BLOCKS.len()];
        paths(|place, path| {
            found[module_at(place)] |= self.has_at(place, path);
            found.contains(&false)
        });
        all.into_iter().zip(found).filter(|(_, found)| *found).map(|(module, _)| module.to_owned()).collect()
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.except {
            None => write!(f, "{}", self.on),
            Some(except) => write!(f, "{} except {except}", self.on),
        }
    }
}

fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What the keys for modules and layers say together.
pub(super) struct Targets {
    /// Names of the modules.
    pub(super) modules: Vec<String>,
    /// The places where their names alone do not say it.
    pub(super) places: Option<Places>,
    /// The layers; none for all.
    pub(super) layers: Option<Vec<usize>>,
}

/// Reads them; `layers` are those of `layers_to_transform`.
pub(super) fn read(f: &Fields<'_>, layers: Option<Vec<usize>>) -> Result<Targets> {
    let mut targets = match f.required(TARGETS, f.value(TARGETS))? {
        // As in PEFT, the head is none of them.
        Value::String(all) if all.eq_ignore_ascii_case("all-linear") => {
            Targets { modules: MODULES.map(str::to_owned).into(), places: None, layers }
        }
        Value::String(text) => {
            let found = |why: &str| {
                wrong(f, ErrorKind::Malformed, &format!("the expression {}: {why}", quoted(text)))
            };
            if layers.is_some() {
                return Err(f
                    .error("layers_to_transform", ErrorKind::Conflict)
                    .expected("none beside an expression in `target_modules`, which PEFT refuses")
                    .found("both")
                    .hint("Put the layers into the expression."));
            }
            let expression = Expression::whole(text).map_err(|why| found(&why))?;
            let places = Places { on: Paths::Expression(expression), except: None };
            let modules = places.modules();
            if modules.is_empty() {
                return Err(found("it is the path of none"));
            }
            Targets { modules, places: Some(places), layers: None }
        }
        Value::Array(list) => listed(f, list, layers)?,
        other => return Err(wrong(f, ErrorKind::WrongType, &shown(other))),
    };
    if let Some(except) = excluded(f)? {
        exclude(f, &mut targets, except)?;
    }
    Ok(targets)
}

fn wrong(f: &Fields<'_>, kind: ErrorKind, found: &str) -> Error {
    let known =
        MODULES.into_iter().chain(OUTSIDE_BLOCKS.map(|(module, _)| module)).collect::<Vec<_>>().join(", ");
    let expected = format!(
        "\"all-linear\", a list of names or paths of modules from {known}, or an expression for their paths"
    );
    f.error(TARGETS, kind)
        .expected(expected)
        .found(found)
        .hint("Train or convert the adapter with target modules from that list.")
}

/// The module whose whole path a name is.
fn module_of(path: &str) -> Option<String> {
    match OUTSIDE_BLOCKS.into_iter().find(|(_, outside)| *outside == path) {
        Some((module, _)) => Some(module.to_owned()),
        None => Some(parse_tensor_name(&format!("base_model.model.{path}.lora_A.weight"))?.1),
    }
}

/// A list of names and paths. What no module is called is left out, as PEFT does where another name is found.
fn listed(f: &Fields<'_>, list: &[Value], layers: Option<Vec<usize>>) -> Result<Targets> {
    let (mut names, mut modules) = (Vec::with_capacity(list.len()), Vec::new());
    let (mut alone, mut whole) = (true, false);
    for entry in list {
        let Some(name) = entry.as_str() else { return Err(wrong(f, ErrorKind::WrongType, &shown(entry))) };
        let outside = OUTSIDE_BLOCKS.into_iter().find(|(module, path)| name == *module || name == *path);
        let found = if let Some((module, path)) = outside {
            // A list of layers leaves out what only ends in a name and is in no layer.
            (layers.is_none() || name == path).then(|| module.to_owned())
        } else if MODULES.contains(&name) {
            Some(name.to_owned())
        } else {
            let path = module_of(name);
            whole |= path.is_some();
            // Most names of a list that are none of these are no paths either. A name ends in one module's.
            let ends = || MODULES.into_iter().any(|module| name.ends_with(module));
            let found = path
                .or_else(|| if ends() { Places::of(vec![name.to_owned()]).modules().pop() } else { None });
            alone &= found.is_none();
            found
        };
        if let Some(module) = found {
            names.push(name.to_owned());
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
    }
    if modules.is_empty() {
        let found = if list.is_empty() { "an empty list" } else { &*shown(&Value::Array(list.to_vec())) };
        return Err(wrong(f, ErrorKind::Unknown, found));
    }
    match layers {
        // A whole path counts in whatever layer it is.
        Some(layers) if whole => Ok(spelled(&names, &layers)),
        layers => Ok(Targets { modules, places: (!alone).then(|| Places::of(names)), layers }),
    }
}

/// Names in some layers, and whole paths, as whole paths.
fn spelled(names: &[String], layers: &[usize]) -> Targets {
    let (mut seen, mut paths, mut modules) = (BTreeSet::new(), Vec::new(), Vec::new());
    for name in names {
        let here = layers.iter().flat_map(|layer| MODULES.map(|module| path(*layer, module)));
        let these = match module_of(name) {
            Some(_) => vec![name.clone()],
            None => here.filter(|path| ends_in(path, name)).collect(),
        };
        for path in these.into_iter().filter(|path| seen.insert(path.clone())) {
            modules.extend(module_of(&path).filter(|module| !modules.contains(module)));
            paths.push(path);
        }
    }
    Targets { modules, places: Some(Places::of(paths)), layers: None }
}

/// The key `exclude_modules`, where it says something.
fn excluded(f: &Fields<'_>) -> Result<Option<Paths>> {
    let wrong = |kind, found: &str| {
        f.error(EXCLUDED, kind)
            .expected("names or paths of modules, or an expression for their paths")
            .found(found)
    };
    Ok(match f.value(EXCLUDED) {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => {
            let found = |why| wrong(ErrorKind::Malformed, &format!("the expression {}: {why}", quoted(text)));
            Some(Paths::Expression(Expression::whole(text).map_err(found)?))
        }
        Some(Value::Array(names)) => {
            let name = |n: &Value| {
                n.as_str().map(str::to_owned).ok_or_else(|| wrong(ErrorKind::WrongType, &shown(n)))
            };
            let names = names.iter().map(name).collect::<Result<Vec<_>>>()?;
            (!names.is_empty()).then_some(Paths::Names(names))
        }
        Some(other) => return Err(wrong(ErrorKind::WrongType, &shown(other))),
    })
}

/// Takes modules out of the targets; what excludes none of them says nothing.
fn exclude(f: &Fields<'_>, targets: &mut Targets, except: Paths) -> Result<()> {
    let named = || written(&targets.modules, targets.layers.is_some());
    let on = targets.places.clone().unwrap_or_else(|| Places::of(named()));
    let mut says = false;
    paths(|place, path| {
        says = on.has_at(place, path) && except.has_at(place, path);
        !says
    });
    if !says {
        return Ok(());
    }
    let places = Places { on: on.on, except: Some(except) };
    targets.modules = places.modules();
    if targets.modules.is_empty() {
        return Err(f
            .error(EXCLUDED, ErrorKind::Conflict)
            .expected("to leave some of the target modules")
            .found("that it excludes all of them"));
    }
    targets.places = Some(places);
    Ok(())
}

/// Names as a list has them: outside of layers the whole path, where there is a list of layers (see [`listed`]).
fn written(modules: &[String], some_layers: bool) -> Vec<String> {
    let name = |module: &String| {
        super::path_outside_blocks(module).filter(|_| some_layers).unwrap_or(module).to_owned()
    };
    modules.iter().map(name).collect()
}

/// The keys as they are written.
pub(super) fn write(config: &AdapterConfig, map: &mut Map<String, Value>) {
    let on = match &config.places {
        Some(places) => places.on.to_json(),
        None => json!(written(&config.target_modules, config.layers.is_some())),
    };
    map.insert(TARGETS.to_owned(), on);
    // Versions of PEFT before the key refuse it.
    if let Some(except) = config.places.as_ref().and_then(|places| places.except.as_ref()) {
        map.insert(EXCLUDED.to_owned(), except.to_json());
    }
}
