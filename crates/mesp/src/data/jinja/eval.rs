//! Expressions to values.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::args::{self, Given};
use super::ast::{self, Args, E, Expr, P, Postfix};
use super::exec::Machine;
use super::meter::{self, Buffer};
use super::value::{Cycler, Dict, Joiner, Macro, Namespace, Range, Scope, Text, Value};
use super::{Fault, Res, access, checks, containers, fault, filters, ops, show, strings};
use crate::data::date::Date;

/// What a template finds beside its variables.
pub(super) const FUNCTIONS: [&str; 8] =
    ["range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now"];
/// The longest range of the sandbox.
const RANGE: i128 = 100_000;

impl Machine<'_> {
    pub(super) fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        match &expr.kind {
            E::None => Ok(Value::None),
            E::Bool(b) => Ok(Value::Bool(*b)),
            E::Int(i) => Ok(Value::Int(*i)),
            E::Float(x) => Ok(Value::Float(*x)),
            E::Str(text) => Value::str(&**text),
            E::Name(name) => {
                meter::work(1)?;
                Ok(scope.get(name).unwrap_or_else(|| Value::undefined(format!("'{name}' is undefined"))))
            }
            _ => {
                let _level = meter::deeper()?;
                self.compound(expr, scope).map_err(|e| e.at(expr.line))
            }
        }
    }

    fn all(&self, list: &[Expr], scope: &Rc<Scope>) -> Res<Vec<Value>> {
        list.iter().map(|one| self.eval(one, scope)).collect()
    }

    #[inline(never)]
    fn compound(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        match &expr.kind {
            E::List(list) => Value::list(self.all(list, scope)?),
            E::Tuple(list) => Value::tuple(self.all(list, scope)?),
            E::Dict(pairs) => {
                let pair = |(k, v): &(Expr, Expr)| Ok((self.eval(k, scope)?, self.eval(v, scope)?));
                Ok(Value::Dict(Dict::new(pairs.iter().map(pair).collect::<Res<_>>()?)?))
            }
            E::Cond(parts) => {
                let (value, test, other) = &**parts;
                if self.eval(test, scope)?.truth() {
                    return self.eval(value, scope);
                }
                match other {
                    Some(other) => self.eval(other, scope),
                    None => Ok(Value::undefined(format!(
                        "the inline if-expression on line {} evaluated to false and no else section was defined.",
                        expr.line
                    ))),
                }
            }
            E::And(list) | E::Or(list) => {
                let ends = matches!(expr.kind, E::Or(_));
                let mut value = Value::None;
                for one in list {
                    value = self.eval(one, scope)?;
                    if value.truth() == ends {
                        break;
                    }
                }
                Ok(value)
            }
            E::Not(inner) => Ok(Value::Bool(!self.eval(inner, scope)?.truth())),
            E::Neg(inner) => ops::negative(&self.eval(inner, scope)?),
            E::Pos(inner) => match self.eval(inner, scope)? {
                Value::Float(x) => Ok(Value::Float(x)),
                Value::Undefined(missing) => fault(missing.message.clone()),
                other => match other.as_int() {
                    Some(i) => Ok(Value::Int(i)),
                    None => fault(format!("bad operand type for unary +: '{}'", other.type_name())),
                },
            },
            E::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (relation, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !ops::relation(*relation, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            E::Math(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (op, right) in rest {
                    left = ops::math(*op, &left, &self.eval(right, scope)?)?;
                }
                Ok(left)
            }
            E::Concat(list) => {
                let mut out = Buffer::default();
                for one in list {
                    show::write(&self.eval(one, scope)?, &mut out)?;
                }
                Ok(Value::Str(Text::from_buffer(out)))
            }
            E::Chain(base, parts) => self.chain(self.eval(base, scope)?, parts, scope),
            _ => self.eval(expr, scope),
        }
    }

    pub(super) fn chain(&self, mut value: Value, parts: &[Postfix], scope: &Rc<Scope>) -> Res<Value> {
        for part in parts {
            value = self.postfix(&value, part, scope).map_err(|e| e.at(part.line))?;
        }
        Ok(value)
    }

    #[inline(never)]
    fn postfix(&self, value: &Value, part: &Postfix, scope: &Rc<Scope>) -> Res<Value> {
        meter::work(1)?;
        match &part.kind {
            P::Attr(name) => {
                self.reads(value);
                access::attribute(value, name)
            }
            P::Item(key) => {
                self.reads(value);
                access::item(value, &self.eval(key, scope)?)
            }
            P::Slice(bounds) => {
                let mut values = [None, None, None];
                for (place, bound) in values.iter_mut().zip(&**bounds) {
                    *place = bound.as_ref().map(|b| self.eval(b, scope)).transpose()?;
                }
                access::slice(value, values)
            }
            P::Call(args) => self.call(value, self.given(args, scope)?),
            P::Filter(name, args) => filters::apply(name, value, self.given(args, scope)?),
            P::Test(name, args, negated) => {
                Ok(Value::Bool(checks::check(name, value, self.given(args, scope)?)? != *negated))
            }
        }
    }

    fn reads(&self, value: &Value) {
        if matches!(value, Value::Namespace(_) | Value::Cycler(_) | Value::Joiner(_)) {
            self.changing.set(true);
        }
    }

    pub(super) fn given(&self, args: &Args, scope: &Rc<Scope>) -> Res<Given> {
        let mut given = Given { positional: self.all(&args.positional, scope)?, keywords: Vec::new() };
        for (name, value) in &args.keywords {
            given.keywords.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(list) = &args.list {
            given.positional.extend(self.eval(list, scope)?.items()?);
        }
        if let Some(map) = &args.map {
            let Value::Dict(dict) = self.eval(map, scope)? else {
                return fault("argument after ** must be a mapping");
            };
            for (key, value) in &dict.pairs {
                let name = args::text("keywords", key)?;
                if given.keywords.iter().any(|(n, _)| **n == *name) {
                    return fault(format!("got multiple values for keyword argument '{name}'"));
                }
                given.keywords.push((name.into(), value.clone()));
            }
        }
        Ok(given)
    }

    pub(super) fn call(&self, value: &Value, given: Given) -> Res<Value> {
        meter::work(4)?;
        match value {
            Value::Method(of, name) => match &**of {
                Value::Str(text) => strings::call(text, name, given),
                Value::Loop(l) if *name == "changed" => {
                    let mut last = l.changed.borrow_mut();
                    let now = Value::tuple(given.positional.clone())?;
                    let same = match &*last {
                        Some(last) => ops::equal(&Value::tuple(last.clone())?, &now)?,
                        None => false,
                    };
                    if !same {
                        self.keep(super::exec::Kept::Loop(l.clone()))?;
                        *last = Some(given.positional);
                    }
                    Ok(Value::Bool(!same))
                }
                of => {
                    self.reads(of);
                    containers::call(of, name, given)
                }
            },
            Value::Function(name) => self.function(name, given),
            Value::Macro(m) => self.call_macro(m, given),
            Value::Joiner(joiner) => {
                let [] = given.plain("joiner", 0)?;
                self.reads(value);
                if joiner.used.replace(true) { Ok(joiner.separator.clone()) } else { Value::str("") }
            }
            Value::Loop(l) => {
                let Some((definition, scope)) = &l.recursive else {
                    return fault("The loop must have the 'recursive' marker to be called recursively.");
                };
                let [items] = given.bind("loop", ["iterable"], 1)?;
                let mut out = Buffer::default();
                self.run_loop(definition, &items.unwrap_or(Value::None), scope, l.depth + 1, &mut out)?;
                Ok(Value::Str(Text::from_buffer(out)))
            }
            Value::Undefined(missing) => fault(missing.message.clone()),
            other => fault(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn function(&self, name: &str, given: Given) -> Res<Value> {
        match name {
            "range" => {
                let bounds: [Option<Value>; 3] = given.plain("range", 1)?;
                let mut numbers = [None; 3];
                for (number, bound) in numbers.iter_mut().zip(&bounds) {
                    *number = bound.as_ref().map(|b| args::int("range", b)).transpose()?;
                    if number.is_some_and(|n| i64::try_from(n).is_err()) {
                        return fault("range() of numbers of more than 63 bits is not supported");
                    }
                }
                let (start, stop) = match numbers {
                    [Some(stop), None, _] => (0, stop),
                    [start, stop, _] => (start.unwrap_or(0), stop.unwrap_or(0)),
                };
                let range = Range { start, stop, step: numbers[2].unwrap_or(1) };
                if range.step == 0 {
                    return fault("range() arg 3 must not be zero");
                }
                if range.len() > RANGE {
                    return fault(format!(
                        "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({RANGE})."
                    ));
                }
                Ok(Value::Range(Rc::new(range)))
            }
            "dict" => Ok(Value::Dict(Dict::new(dict(given)?)?)),
            "namespace" => {
                let space = Rc::new(Namespace::default());
                for (name, value) in dict(given)? {
                    let name = args::text("namespace", &name)?.into();
                    set_field(&space, &name, value)?;
                }
                self.keep(super::exec::Kept::Namespace(space.clone()))?;
                Ok(Value::Namespace(space))
            }
            "cycler" => {
                if given.positional.is_empty() || !given.keywords.is_empty() {
                    return fault("at least one item has to be provided");
                }
                // A tuple of them, which checks how deep they are nested.
                Value::tuple(given.positional.clone())?;
                Ok(Value::Cycler(Rc::new(Cycler { items: given.positional, at: Cell::new(0) })))
            }
            "joiner" => {
                let [separator] = given.bind("joiner", ["sep"], 0)?;
                let separator = separator.map_or_else(|| Value::str(", "), Ok)?;
                Value::tuple(vec![separator.clone()])?;
                Ok(Value::Joiner(Rc::new(Joiner { separator, used: Cell::new(false) })))
            }
            "raise_exception" => {
                let [message] = given.bind("raise_exception", ["message"], 1)?;
                fault(show::text(&message.unwrap_or(Value::None))?.to_string())
            }
            "strftime_now" => {
                let [format] = given.bind("strftime_now", ["format"], 1)?;
                let date = self.context.date.unwrap_or_else(Date::today);
                let format = format.unwrap_or(Value::None);
                Value::str(date.strftime(args::text("strftime_now", &format)?).map_err(Fault::new)?)
            }
            other => fault(format!("the function `{other}` is not supported")),
        }
    }

    /// Calls a macro, by the rules of jinja2's `Macro.__call__`.
    fn call_macro(&self, called: &Macro, given: Given) -> Res<Value> {
        let _level = meter::deeper()?;
        let definition = &called.definition;
        let (name, params) = (&definition.name, &definition.params);
        let scope = Scope::new(Some(called.scope.clone()));
        let Given { mut positional, mut keywords } = given;
        let rest = positional.split_off(positional.len().min(params.len()));
        let mut take =
            |name: &str| keywords.iter().position(|(n, _)| **n == *name).map(|at| keywords.remove(at).1);
        let mut values: Vec<Option<Value>> = positional.into_iter().map(Some).collect();
        for param in &params[values.len()..] {
            values.push(take(param));
        }
        if definition.uses.caller && !params.iter().any(|p| **p == *"caller") {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            scope.set(&"caller".into(), caller);
        }
        if definition.uses.kwargs {
            let pairs = keywords.into_iter().map(|(name, value)| Ok((Value::str(&*name)?, value)));
            scope.set(&"kwargs".into(), Value::Dict(Dict::new(pairs.collect::<Res<_>>()?)?));
        } else if let Some((other, _)) = keywords.first() {
            return fault(format!("macro '{name}' takes no keyword argument '{other}'"));
        }
        if definition.uses.varargs {
            scope.set(&"varargs".into(), Value::tuple(rest)?);
        } else if !rest.is_empty() {
            return fault(format!("macro '{name}' takes not more than {} argument(s)", params.len()));
        }
        let without = params.len() - definition.defaults.len();
        for (at, (param, value)) in params.iter().zip(values).enumerate() {
            let value = match (value, at.checked_sub(without)) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(&definition.defaults[default], &scope)?,
                (None, None) => Value::undefined(format!("parameter '{param}' was not provided")),
            };
            scope.set(param, value);
        }
        let mut out = Buffer::default();
        self.body(&definition.body, &scope, &mut out)?;
        Ok(Value::Str(Text::from_buffer(out)))
    }

    /// A macro that sees the variables of a place.
    pub(super) fn closure(&self, definition: &std::sync::Arc<ast::Macro>, scope: &Rc<Scope>) -> Res<Value> {
        self.keep(super::exec::Kept::Scope(scope.clone()))?;
        Ok(Value::Macro(Rc::new(Macro { definition: definition.clone(), scope: scope.clone() })))
    }
}

pub(super) fn set_field(space: &Rc<Namespace>, name: &ast::Name, value: Value) -> Res<()> {
    if name.starts_with('_') {
        return fault(format!(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'."
        ));
    }
    let fields: &RefCell<_> = &space.fields;
    let mut fields = fields.borrow_mut();
    match fields.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => fields.push((name.clone(), value)),
    }
    Ok(())
}

/// Pairs of `dict(…)`.
fn dict(given: Given) -> Res<Vec<(Value, Value)>> {
    let mut pairs = Vec::new();
    if given.positional.len() > 1 {
        return fault("dict expected at most 1 argument");
    }
    match given.positional.into_iter().next() {
        None => {}
        Some(Value::Dict(dict)) => pairs.extend(dict.pairs.iter().cloned()),
        Some(Value::Undefined(missing)) => return fault(missing.message.clone()),
        Some(other) => {
            for pair in other.items()? {
                let pair = pair.items()?;
                let [key, value] = pair.as_slice() else {
                    return fault("dictionary update sequence element has not length 2");
                };
                pairs.push((key.clone(), value.clone()));
            }
        }
    }
    for (name, value) in given.keywords {
        pairs.push((Value::str(&*name)?, value));
    }
    Ok(pairs)
}
