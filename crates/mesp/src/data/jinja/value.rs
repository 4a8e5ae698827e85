//! Python's values. Lists and dictionaries never change, since the sandbox forbids it; name spaces do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::{self, Name};
use super::meter::{self, Buffer, Charge};
use super::{Res, fault};

/// How deep lists and dictionaries may be nested.
const DEPTH: u32 = 200;

#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    Bytes(Text),
    List(Seq),
    Tuple(Seq),
    Dict(Rc<Dict>),
    View(View, Rc<Dict>),
    Range(Rc<Range>),
    /// A generator: what is left of it.
    Iter(Rc<Generator>),
    Namespace(Rc<Namespace>),
    Method(Rc<Value>, &'static str),
    Function(&'static str),
    Macro(Rc<Macro>),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
}

pub(super) struct Generator {
    pub(super) left: RefCell<std::vec::IntoIter<Value>>,
    _charge: Charge,
}

/// What is not there.
pub(super) struct Missing {
    pub(super) message: String,
}

#[derive(Clone)]
pub(super) struct Text(Rc<TextInner>);

struct TextInner {
    text: String,
    /// Whether it is marked as safe in HTML.
    markup: bool,
    _charge: Charge,
}

pub(super) type Seq = Rc<Items>;

pub(super) struct Items {
    pub(super) list: Vec<Value>,
    depth: u32,
    /// A tuple of `groupby`, whose parts have names.
    pub(super) group: bool,
    _charge: Charge,
}

/// A dictionary in the order in which its keys came.
pub(super) struct Dict {
    pub(super) pairs: Vec<(Value, Value)>,
    /// Places of keys, where there are many.
    index: HashMap<String, usize>,
    depth: u32,
    _charge: Charge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

#[derive(Default)]
pub(super) struct Namespace {
    pub(super) fields: RefCell<Vec<(Name, Value)>>,
}

pub(super) struct Macro {
    pub(super) definition: Arc<ast::Macro>,
    pub(super) scope: Rc<Scope>,
}

/// Variables of a part of the template.
pub(super) struct Scope {
    pub(super) names: RefCell<Vec<(Name, Value)>>,
    pub(super) parent: Option<Rc<Scope>>,
}

pub(super) struct Loop {
    pub(super) items: Vec<Value>,
    pub(super) index: Cell<usize>,
    pub(super) depth: usize,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
    /// The loop and its surroundings, when it may be called.
    pub(super) recursive: Option<(Arc<ast::For>, Rc<Scope>)>,
    /// Whether it is not known beforehand which items have a turn.
    pub(super) late: bool,
    pub(super) _charge: Charge,
}

pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: Cell<usize>,
}

pub(super) struct Joiner {
    pub(super) separator: Value,
    pub(super) used: Cell<bool>,
}

impl Text {
    pub(super) fn new(text: impl Into<String>) -> Res<Self> {
        let text = text.into();
        let charge = meter::take(text.len() + size_of::<TextInner>())?;
        Ok(Self(Rc::new(TextInner { text, markup: false, _charge: charge })))
    }

    pub(super) fn from_buffer(buffer: Buffer) -> Self {
        let (mut text, charge) = buffer.into_parts();
        if text.capacity() > text.len() + text.len() / 4 {
            text.shrink_to_fit();
        }
        Self(Rc::new(TextInner { text, markup: false, _charge: charge }))
    }

    pub(super) fn as_markup(&self) -> Res<Self> {
        if self.0.markup {
            return Ok(self.clone());
        }
        let charge = meter::take(self.0.text.len() + size_of::<TextInner>())?;
        Ok(Self(Rc::new(TextInner { text: self.0.text.clone(), markup: true, _charge: charge })))
    }

    pub(super) fn markup(&self) -> bool {
        self.0.markup
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl Items {
    fn new(list: Vec<Value>, group: bool) -> Res<Seq> {
        let depth = deepest(list.iter())?;
        let charge = meter::take(size_of::<Self>() + list.len() * size_of::<Value>())?;
        Ok(Rc::new(Self { list, depth, group, _charge: charge }))
    }
}

fn deepest<'a>(values: impl Iterator<Item = &'a Value>) -> Res<u32> {
    let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
    if depth > DEPTH {
        return fault(format!("a value is nested more than {DEPTH} levels deep"));
    }
    Ok(depth)
}

impl Dict {
    pub(super) fn new(given: Vec<(Value, Value)>) -> Res<Rc<Self>> {
        let depth = deepest(given.iter().flat_map(|(k, v)| [k, v]))?;
        let charge = meter::take(size_of::<Self>() + given.len() * 2 * (size_of::<Value>() + 24))?;
        let mut dict =
            Self { pairs: Vec::with_capacity(given.len()), index: HashMap::new(), depth, _charge: charge };
        for (key, value) in given {
            let hash = hash(&key)?;
            if let Some(&at) = dict.index.get(&hash) {
                dict.pairs[at].1 = value;
            } else {
                dict.index.insert(hash, dict.pairs.len());
                dict.pairs.push((key, value));
            }
        }
        Ok(Rc::new(dict))
    }

    pub(super) fn get(&self, key: &Value) -> Res<Option<&Value>> {
        Ok(self.index.get(&hash(key)?).map(|at| &self.pairs[*at].1))
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        // Small dictionaries are the rule.
        if self.pairs.len() <= 8 {
            return self
                .pairs
                .iter()
                .find(|(k, _)| matches!(k, Value::Str(t) if **t == *key))
                .map(|(_, v)| v);
        }
        self.index.get(&format!("s{key}")).map(|at| &self.pairs[*at].1)
    }
}

/// A text that is the same for keys that Python takes for the same.
pub(super) fn hash(value: &Value) -> Res<String> {
    meter::work(1)?;
    Ok(match value {
        Value::Str(text) => {
            meter::work(text.len() as u64 / 16)?;
            format!("s{}", &**text)
        }
        Value::None => "n".to_owned(),
        Value::Undefined(_) => "u".to_owned(),
        Value::Bool(b) => format!("i{}", i128::from(*b)),
        Value::Int(i) => format!("i{i}"),
        Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e30 => format!("i{}", *x as i128),
        Value::Float(x) => format!("f{}", x.to_bits()),
        Value::Tuple(items) => {
            let _level = meter::deeper()?;
            let mut all = Buffer::default();
            all.push('t')?;
            for item in &items.list {
                let one = hash(item)?;
                all.push_str(&format!("{}:", one.len()))?;
                all.push_str(&one)?;
            }
            all.into_parts().0
        }
        Value::List(_) | Value::Dict(_) | Value::View(..) => {
            return fault(format!("unhashable type: '{}'", value.type_name()));
        }
        other => return fault(format!("a {} as a key is not supported", other.type_name())),
    })
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Res<Self> {
        Ok(Self::Str(Text::new(text)?))
    }

    pub(super) fn list(list: Vec<Self>) -> Res<Self> {
        Ok(Self::List(Items::new(list, false)?))
    }

    pub(super) fn tuple(list: Vec<Self>) -> Res<Self> {
        Ok(Self::Tuple(Items::new(list, false)?))
    }

    pub(super) fn group(key: Self, list: Self) -> Res<Self> {
        Ok(Self::Tuple(Items::new(vec![key, list], true)?))
    }

    pub(super) fn generator(list: Vec<Self>) -> Res<Self> {
        let charge = meter::take(list.len() * size_of::<Self>())?;
        Ok(Self::Iter(Rc::new(Generator { left: RefCell::new(list.into_iter()), _charge: charge })))
    }

    pub(super) fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing { message: message.into() }))
    }

    pub(super) fn from_json(json: &Json) -> Res<Self> {
        let _level = meter::deeper()?;
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(i), _, _) => Self::Int(i.into()),
                (_, Some(u), _) => Self::Int(u.into()),
                (_, _, x) => Self::Float(x.unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::str(text.as_str())?,
            Json::Array(list) => Self::list(list.iter().map(Self::from_json).collect::<Res<_>>()?)?,
            Json::Object(map) => {
                let pair =
                    |(key, value): (&String, &Json)| Ok((Self::str(key.as_str())?, Self::from_json(value)?));
                Self::Dict(Dict::new(map.iter().map(pair).collect::<Res<_>>()?)?)
            }
        })
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iter(items) => items
                .left
                .try_borrow()
                .map_or(1, |i| i.as_slice().iter().map(Self::depth).max().unwrap_or(0) + 1),
            Self::Cycler(cycler) => cycler.items.iter().map(Self::depth).max().unwrap_or(0) + 1,
            Self::Loop(l) => l.items.iter().map(Self::depth).max().unwrap_or(0) + 1,
            Self::Method(of, _) => of.depth(),
            Self::Joiner(j) => j.separator.depth() + 1,
            _ => 0,
        }
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iter(..) => "generator",
            Self::Namespace(_) => "TemplateNamespace",
            Self::Method(..) => "builtin_function_or_method",
            Self::Function(_) => "function",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
        }
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(text) | Self::Bytes(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.list.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.pairs.is_empty(),
            Self::Range(range) => range.len() > 0,
            Self::Loop(l) => !l.items.is_empty(),
            _ => true,
        }
    }

    /// `len`, or `None` for what has no length.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => text.chars().count(),
            Self::Bytes(text) => text.len(),
            Self::List(items) | Self::Tuple(items) => items.list.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.pairs.len(),
            Self::Range(range) => range.len() as usize,
            Self::Loop(l) => l.items.len(),
            _ => return None,
        })
    }

    /// What one gets by going through it.
    pub(super) fn items(&self) -> Res<Vec<Self>> {
        let list = match self {
            Self::Undefined(_) => Vec::new(),
            Self::List(items) | Self::Tuple(items) => {
                let _charge = meter::take(items.list.len() * size_of::<Self>())?;
                items.list.clone()
            }
            Self::Str(text) => {
                let _charge = meter::take(text.len() * 48)?;
                let one = |c: char| {
                    let one = Self::str(c)?;
                    if let (Self::Str(one), true) = (&one, text.markup()) {
                        return Ok(Self::Str(one.as_markup()?));
                    }
                    Ok(one)
                };
                text.chars().map(one).collect::<Res<_>>()?
            }
            Self::Bytes(text) => text.bytes().map(|b| Self::Int(b.into())).collect(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                dict.pairs.iter().map(|(key, _)| key.clone()).collect()
            }
            Self::View(View::Values, dict) => dict.pairs.iter().map(|(_, value)| value.clone()).collect(),
            Self::View(View::Items, dict) => {
                let pair = |(key, value): &(Self, Self)| Self::tuple(vec![key.clone(), value.clone()]);
                dict.pairs.iter().map(pair).collect::<Res<_>>()?
            }
            Self::Range(range) => {
                let _charge = meter::take(range.len() as usize * size_of::<Self>())?;
                (0..range.len()).map(|i| Self::Int(range.start + i * range.step)).collect()
            }
            Self::Iter(items) => match items.left.try_borrow_mut() {
                Ok(mut items) => std::mem::take(&mut *items).collect(),
                Err(_) => return fault("generator already executing"),
            },
            Self::Loop(_) => return fault("a loop as the items of another is not supported"),
            other => return fault(format!("'{}' object is not iterable", other.type_name())),
        };
        meter::work(list.len() as u64)?;
        Ok(list)
    }

    pub(super) fn is_iterable(&self) -> bool {
        !matches!(
            self,
            Self::None
                | Self::Bool(_)
                | Self::Int(_)
                | Self::Float(_)
                | Self::Namespace(_)
                | Self::Method(..)
                | Self::Function(_)
                | Self::Macro(_)
                | Self::Cycler(_)
                | Self::Joiner(_)
        )
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, which truth values are too.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            other => other.as_int().map(|i| i as f64),
        }
    }
}

impl Range {
    pub(super) fn len(&self) -> i128 {
        let (span, step) = if self.step > 0 {
            (self.stop - self.start, self.step)
        } else {
            (self.start - self.stop, -self.step)
        };
        if span <= 0 { 0 } else { (span + step - 1) / step }
    }
}

impl Scope {
    pub(super) fn new(parent: Option<Rc<Self>>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::new(Vec::new()), parent })
    }

    pub(super) fn set(&self, name: &Name, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some((_, value)) = here.names.borrow().iter().find(|(n, _)| **n == *name) {
                return Some(value.clone());
            }
            scope = here.parent.as_deref();
        }
        None
    }
}
