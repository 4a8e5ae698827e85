//! Filters on lists and on what can be gone through.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::args::{self, Given};
use super::ast::Math;
use super::meter::{self, Buffer};
use super::value::{Text, Value, View, hash};
use super::{Res, access, checks, fault, filters, ops, show};

#[expect(clippy::too_many_lines, reason = "a filter each")]
pub(super) fn apply(name: &str, value: &Value, given: Given) -> Res<Value> {
    let what = format!("the filter `{name}`");
    match name {
        "length" | "count" => {
            let [] = given.bind(&what, [], 0)?;
            match value.len() {
                Some(length) => Ok(Value::Int(length as i128)),
                None => fault(format!("object of type '{}' has no len()", value.type_name())),
            }
        }
        "list" => {
            let [] = given.bind(&what, [], 0)?;
            Value::list(value.items()?)
        }
        "items" => {
            let [] = given.bind(&what, [], 0)?;
            match value {
                Value::Undefined(_) => Value::generator(Vec::new()),
                Value::Dict(dict) => Value::generator(Value::View(View::Items, dict.clone()).items()?),
                _ => fault("Can only get item pairs from a mapping."),
            }
        }
        "first" => {
            let [] = given.bind(&what, [], 0)?;
            let first = match value {
                Value::Iter(items) => items.left.borrow_mut().next(),
                Value::Str(text) => text.chars().next().map(Value::str).transpose()?,
                Value::List(items) | Value::Tuple(items) => items.list.first().cloned(),
                other => other.items()?.into_iter().next(),
            };
            Ok(first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            let [] = given.bind(&what, [], 0)?;
            let last = match value {
                Value::Iter(..) => return fault("'generator' object is not reversible"),
                Value::Str(text) => text.chars().next_back().map(Value::str).transpose()?,
                Value::List(items) | Value::Tuple(items) => items.list.last().cloned(),
                other => other.items()?.into_iter().next_back(),
            };
            Ok(last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "reverse" => {
            let [] = given.bind(&what, [], 0)?;
            if let Value::Str(_) = value {
                return access::slice(value, [None, None, Some(Value::Int(-1))]);
            }
            if !value.is_iterable() {
                return fault("argument must be iterable");
            }
            let mut list = value.items()?;
            list.reverse();
            if matches!(value, Value::Iter(..)) { Value::list(list) } else { Value::generator(list) }
        }
        "join" => {
            let [separator, attribute] = given.bind(&what, ["d", "attribute"], 0)?;
            let separator = separator.map_or_else(|| Text::new(""), |s| show::text(&s))?;
            let path = path(attribute.as_ref())?;
            let mut out = Buffer::default();
            for (i, item) in value.items()?.iter().enumerate() {
                if i > 0 {
                    out.push_str(&separator)?;
                }
                show::write(&follow(item, &path, None)?, &mut out)?;
            }
            Ok(Value::Str(Text::from_buffer(out)))
        }
        "map" => map(value, given),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, value, given),
        "sort" => {
            let [reverse, case, attribute] =
                given.bind(&what, ["reverse", "case_sensitive", "attribute"], 0)?;
            sort(value, truth(reverse), truth(case), attribute.as_ref())
        }
        "dictsort" => {
            let [case, by, reverse] = given.bind(&what, ["case_sensitive", "by", "reverse"], 0)?;
            let by = by.map_or_else(|| Text::new("key"), |b| show::text(&b))?;
            let place = match &*by {
                "key" => 0,
                "value" => 1,
                _ => return fault("You can only sort by either \"key\" or \"value\""),
            };
            let Value::Dict(dict) = value else {
                return fault(format!("'{}' object has no attribute 'items'", value.type_name()));
            };
            let pairs = Value::View(View::Items, dict.clone()).items()?;
            let mut keyed = Vec::with_capacity(pairs.len());
            for (pair, (key, of_key)) in pairs.into_iter().zip(&dict.pairs) {
                keyed.push((
                    fold(if place == 0 { key.clone() } else { of_key.clone() }, truth(case.clone()))?,
                    pair,
                ));
            }
            sorted(keyed, truth(reverse))
        }
        "unique" => {
            let [case, attribute] = given.bind(&what, ["case_sensitive", "attribute"], 0)?;
            let (path, case) = (path(attribute.as_ref())?, truth(case));
            let (mut seen, mut list) = (HashSet::new(), Vec::new());
            for item in value.items()? {
                if seen.insert(hash(&fold(follow(&item, &path, None)?, case)?)?) {
                    list.push(item);
                }
            }
            Value::generator(list)
        }
        "min" | "max" => {
            let [case, attribute] = given.bind(&what, ["case_sensitive", "attribute"], 0)?;
            let (path, case) = (path(attribute.as_ref())?, truth(case));
            let mut best: Option<(Value, Value)> = None;
            for item in value.items()? {
                let key = fold(follow(&item, &path, None)?, case)?;
                let better = match &best {
                    None => true,
                    Some((old, _)) if name == "min" => ops::order("<", &key, old)? == Some(Ordering::Less),
                    Some((old, _)) => ops::order(">", &key, old)? == Some(Ordering::Greater),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or_else(
                || Value::undefined("No aggregated item, sequence was empty."),
                |(_, item)| item,
            ))
        }
        "sum" => {
            let [attribute, start] = given.bind(&what, ["attribute", "start"], 0)?;
            let path = path(attribute.as_ref())?;
            let mut total = start.unwrap_or(Value::Int(0));
            if matches!(total, Value::Str(_)) {
                return fault("sum() can't sum strings [use ''.join(seq) instead]");
            }
            for item in value.items()? {
                total = ops::math(Math::Add, &total, &follow(&item, &path, None)?)?;
            }
            Ok(total)
        }
        "groupby" => {
            let [attribute, default, case] =
                given.bind(&what, ["attribute", "default", "case_sensitive"], 1)?;
            group(value, attribute.as_ref(), default.as_ref(), truth(case))
        }
        "batch" => {
            let [size, fill] = given.bind(&what, ["linecount", "fill_with"], 1)?;
            batch(value, args::int(&what, &size.unwrap_or(Value::None))?, fill)
        }
        "slice" => {
            let [slices, fill] = given.bind(&what, ["slices", "fill_with"], 1)?;
            slice(value, args::int(&what, &slices.unwrap_or(Value::None))?, fill)
        }
        _ => fault(format!("No filter named '{name}'")),
    }
}

fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|v| v.truth())
}

/// The parts of an attribute that is given as `a.b.0`.
fn path(attribute: Option<&Value>) -> Res<Vec<Value>> {
    match attribute {
        None | Some(Value::None) => Ok(Vec::new()),
        Some(Value::Str(text)) => {
            let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let part = |part: &str| match part.parse() {
                Ok(index) if digits(part) => Ok(Value::Int(index)),
                _ => Value::str(part),
            };
            text.split('.').map(part).collect()
        }
        Some(other) => Ok(vec![other.clone()]),
    }
}

fn follow(item: &Value, path: &[Value], default: Option<&Value>) -> Res<Value> {
    let mut item = item.clone();
    for part in path {
        item = access::item(&item, part)?;
        if let (Value::Undefined(_), Some(default)) = (&item, default) {
            item = default.clone();
        }
    }
    Ok(item)
}

/// A key of which small and capital letters are the same, unless they are told apart.
fn fold(key: Value, case: bool) -> Res<Value> {
    match &key {
        Value::Str(text) if !case => Value::str(text.to_lowercase()),
        _ => Ok(key),
    }
}

/// Values in the order of their keys; equal ones stay in theirs.
fn sorted(mut keyed: Vec<(Value, Value)>, reverse: bool) -> Res<Value> {
    let count = keyed.len() as u64;
    meter::work(count * u64::from(count.max(2).ilog2()))?;
    if reverse {
        keyed.reverse();
    }
    ops::sort_by(&mut keyed, |pair| &pair.0)?;
    if reverse {
        keyed.reverse();
    }
    Value::list(keyed.into_iter().map(|(_, item)| item).collect())
}

fn sort(value: &Value, reverse: bool, case: bool, attribute: Option<&Value>) -> Res<Value> {
    let mut paths = Vec::new();
    match attribute {
        Some(Value::Str(text)) => {
            for one in text.split(',') {
                paths.push(path(Some(&Value::str(one)?))?);
            }
        }
        other => paths.push(path(other)?),
    }
    let mut keyed = Vec::new();
    for item in value.items()? {
        let key = match paths.as_slice() {
            [path] => fold(follow(&item, path, None)?, case)?,
            paths => {
                let keys = paths.iter().map(|path| fold(follow(&item, path, None)?, case));
                Value::list(keys.collect::<Res<_>>()?)?
            }
        };
        keyed.push((key, item));
    }
    sorted(keyed, reverse)
}

fn map(value: &Value, mut given: Given) -> Res<Value> {
    if !value.truth() {
        return Value::generator(Vec::new());
    }
    if !given.positional.is_empty() {
        let name = given.positional.remove(0);
        let name = args::text("the filter `map`", &name)?;
        let items = value.items()?;
        let list = items.iter().map(|item| filters::apply(name, item, given.clone())).collect::<Res<_>>()?;
        return Value::generator(list);
    }
    if given.keywords.iter().all(|(name, _)| name.as_ref() != "attribute") {
        return fault("map requires a filter argument");
    }
    let [attribute, default] = given.bind("the filter `map`", ["attribute", "default"], 1)?;
    let path = path(attribute.as_ref())?;
    let default = default.filter(|d| !matches!(d, Value::None));
    let items = value.items()?;
    let list = items.iter().map(|item| follow(item, &path, default.as_ref())).collect::<Res<_>>()?;
    Value::generator(list)
}

fn select(name: &str, value: &Value, mut given: Given) -> Res<Value> {
    if !value.truth() {
        return Value::generator(Vec::new());
    }
    let keep = name.starts_with("select");
    let mut at = Vec::new();
    if name.ends_with("attr") {
        if given.positional.is_empty() {
            return fault("Missing parameter for attribute name");
        }
        at = path(Some(&given.positional.remove(0)))?;
    }
    let test = if given.positional.is_empty() { None } else { Some(given.positional.remove(0)) };
    let mut list = Vec::new();
    for item in value.items()? {
        let found = follow(&item, &at, None)?;
        let holds = match &test {
            None => found.truth(),
            Some(test) => checks::check(args::text("a test", test)?, &found, given.clone())?,
        };
        if holds == keep {
            list.push(item);
        }
    }
    Value::generator(list)
}

fn group(value: &Value, attribute: Option<&Value>, default: Option<&Value>, case: bool) -> Res<Value> {
    let path = path(attribute)?;
    let default = default.filter(|d| !matches!(d, Value::None));
    let mut keyed = Vec::new();
    for item in value.items()? {
        keyed.push((fold(follow(&item, &path, default)?, case)?, item));
    }
    ops::sort_by(&mut keyed, |pair| &pair.0)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in keyed {
        match groups.last_mut() {
            Some((last, list)) if ops::equal(last, &key)? => list.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let one = |(_, list): (Value, Vec<Value>)| {
        // The key as the group's first item has it.
        let key = follow(&list[0], &path, default)?;
        Value::group(key, Value::list(list)?)
    };
    Value::list(groups.into_iter().map(one).collect::<Res<_>>()?)
}

fn batch(value: &Value, size: i128, fill: Option<Value>) -> Res<Value> {
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for item in value.items()? {
        if one.len() as i128 == size {
            all.push(Value::list(std::mem::take(&mut one))?);
        }
        one.push(item);
    }
    if !one.is_empty() {
        let missing = size.saturating_sub(one.len() as i128).max(0);
        if let Some(fill) = fill.filter(|f| missing > 0 && !matches!(f, Value::None)) {
            let missing = usize::try_from(missing).unwrap_or(usize::MAX);
            let _room = meter::take(missing.saturating_mul(size_of::<Value>()))?;
            one.extend(std::iter::repeat_n(fill, missing));
        }
        all.push(Value::list(one)?);
    }
    Value::generator(all)
}

fn slice(value: &Value, slices: i128, fill: Option<Value>) -> Res<Value> {
    let items = value.items()?;
    if slices == 0 {
        return fault("integer division or modulo by zero");
    }
    let slices = usize::try_from(slices.max(0)).unwrap_or(usize::MAX);
    let _room = meter::take(slices.saturating_mul(128))?;
    let (each, extra) = (items.len() / slices.max(1), items.len() % slices.max(1));
    let mut all = Vec::new();
    let mut at = 0;
    for number in 0..slices {
        let end = at + each + usize::from(number < extra);
        let mut part = items[at..end].to_vec();
        if number >= extra
            && let Some(fill) = fill.clone().filter(|f| !matches!(f, Value::None))
        {
            part.push(fill);
        }
        all.push(Value::list(part)?);
        at = end;
    }
    Value::generator(all)
}
