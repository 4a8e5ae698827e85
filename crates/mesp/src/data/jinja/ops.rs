//! Python's operators.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Math, Relation};
use super::meter::{self, Buffer};
use super::value::{Text, Value};
use super::{Fault, Res, fault, format};

/// Text that HTML would take for its own, escaped.
pub(super) fn escape(text: &str) -> Res<Text> {
    let mut out = Buffer::default();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;")?,
            '<' => out.push_str("&lt;")?,
            '>' => out.push_str("&gt;")?,
            '\'' => out.push_str("&#39;")?,
            '"' => out.push_str("&#34;")?,
            c => out.push(c)?,
        }
    }
    Text::from_buffer(out).as_markup()
}

pub(super) fn math(op: Math, left: &Value, right: &Value) -> Res<Value> {
    meter::work(2)?;
    if let (Math::Rem, Value::Str(text)) = (op, left) {
        return format::percent(text, right);
    }
    if let (Value::View(..), _) | (_, Value::View(..)) = (left, right) {
        return fault("operations on dictionary views are not supported");
    }
    for side in [left, right] {
        if let Value::Undefined(missing) = side {
            return fault(missing.message.clone());
        }
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(op, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_number(), right.as_number()) {
        return floats(op, a, b);
    }
    match (op, left, right) {
        (Math::Add, Value::Str(a), Value::Str(b)) => {
            let safe = a.markup() || b.markup();
            let part = |t: &Text| if safe && !t.markup() { escape(t) } else { Ok(t.clone()) };
            let (a, b) = (part(a)?, part(b)?);
            let _room = meter::take(a.len() + b.len())?;
            let mut out = Buffer::default();
            out.push_str(&a)?;
            out.push_str(&b)?;
            let sum = Text::from_buffer(out);
            Ok(Value::Str(if safe { sum.as_markup()? } else { sum }))
        }
        (Math::Add, Value::List(a), Value::List(b)) => Value::list(joined(&a.list, &b.list)?),
        (Math::Add, Value::Tuple(a), Value::Tuple(b)) => Value::tuple(joined(&a.list, &b.list)?),
        (Math::Mul, sequence @ (Value::Str(_) | Value::List(_) | Value::Tuple(_)), count)
        | (Math::Mul, count, sequence @ (Value::Str(_) | Value::List(_) | Value::Tuple(_)))
            if count.as_int().is_some() =>
        {
            repeat(sequence, count.as_int().unwrap_or(0))
        }
        _ => {
            let sign = match op {
                Math::Add => "+",
                Math::Sub => "-",
                Math::Mul => "*",
                Math::Div => "/",
                Math::FloorDiv => "//",
                Math::Rem => "%",
                Math::Pow => "** or pow()",
            };
            fault(format!(
                "unsupported operand type(s) for {sign}: '{}' and '{}'",
                left.type_name(),
                right.type_name()
            ))
        }
    }
}

fn joined(a: &[Value], b: &[Value]) -> Res<Vec<Value>> {
    let _room = meter::take((a.len() + b.len()) * size_of::<Value>())?;
    Ok([a, b].concat())
}

fn repeat(sequence: &Value, count: i128) -> Res<Value> {
    let count = count.clamp(0, 1 << 40) as usize;
    match sequence {
        Value::Str(text) => {
            let _room = meter::take(text.len().saturating_mul(count))?;
            let mut out = Buffer::default();
            for _ in 0..if text.is_empty() { 0 } else { count } {
                out.push_str(text)?;
            }
            let text =
                if text.markup() { Text::from_buffer(out).as_markup()? } else { Text::from_buffer(out) };
            Ok(Value::Str(text))
        }
        Value::List(items) | Value::Tuple(items) => {
            let size = items.list.len().saturating_mul(count).saturating_mul(size_of::<Value>());
            let _room = meter::take(size)?;
            let list = if items.list.is_empty() {
                Vec::new()
            } else {
                std::iter::repeat_n(&items.list, count).flatten().cloned().collect()
            };
            if matches!(sequence, Value::List(_)) { Value::list(list) } else { Value::tuple(list) }
        }
        other => fault(format!("can't multiply sequence by '{}'", other.type_name())),
    }
}

fn integers(op: Math, a: i128, b: i128) -> Res<Value> {
    let checked = |value: Option<i128>| {
        let large = || Fault::new("integers of more than 127 bits are not supported".into());
        Ok(Value::Int(value.ok_or_else(large)?))
    };
    match op {
        Math::Add => checked(a.checked_add(b)),
        Math::Sub => checked(a.checked_sub(b)),
        Math::Mul => checked(a.checked_mul(b)),
        Math::Div | Math::FloorDiv | Math::Rem if b == 0 => {
            fault(if op == Math::Div { "division by zero" } else { "integer division or modulo by zero" })
        }
        Math::Div => Ok(Value::Float(a as f64 / b as f64)),
        Math::FloorDiv => {
            let quotient = a.checked_div(b);
            checked(quotient.map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q }))
        }
        Math::Rem => {
            let rest = a.checked_rem(b);
            checked(rest.map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }))
        }
        Math::Pow if b < 0 => floats(op, a as f64, b as f64),
        Math::Pow => checked(match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => a.checked_pow(exponent),
            _ => None,
        }),
    }
}

fn floats(op: Math, a: f64, b: f64) -> Res<Value> {
    let divides = matches!(op, Math::Div | Math::FloorDiv | Math::Rem);
    if divides && b == 0.0 {
        return fault(match op {
            Math::Div => "float division by zero",
            Math::FloorDiv => "float floor division by zero",
            _ => "float modulo",
        });
    }
    Ok(Value::Float(match op {
        Math::Add => a + b,
        Math::Sub => a - b,
        Math::Mul => a * b,
        Math::Div => a / b,
        Math::FloorDiv | Math::Rem => {
            // As CPython: the remainder is exact, and has the divisor's sign.
            let mut rest = a % b;
            let mut quotient = (a - rest) / b;
            if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
                rest += b;
                quotient -= 1.0;
            }
            if rest == 0.0 {
                rest = 0f64.copysign(b);
            }
            let floor = quotient.floor();
            let whole = if quotient == 0.0 {
                0f64.copysign(a / b)
            } else if quotient - floor > 0.5 {
                floor + 1.0
            } else {
                floor
            };
            if op == Math::Rem { rest } else { whole }
        }
        Math::Pow => {
            if a == 0.0 && b < 0.0 {
                return fault("0.0 cannot be raised to a negative power");
            }
            if a < 0.0 && b.fract() != 0.0 && b.is_finite() {
                return fault("complex numbers are not supported");
            }
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return fault("(34, 'Numerical result out of range')");
            }
            power
        }
    }))
}

pub(super) fn negative(value: &Value) -> Res<Value> {
    match value {
        Value::Undefined(missing) => fault(missing.message.clone()),
        Value::Float(x) => Ok(Value::Float(-x)),
        other => match other.as_int() {
            Some(i) => integers(Math::Sub, 0, i),
            None => fault(format!("bad operand type for unary -: '{}'", other.type_name())),
        },
    }
}

/// `==`.
pub(super) fn equal(left: &Value, right: &Value) -> Res<bool> {
    let _level = meter::deeper()?;
    if let Some(order) = numbers(left, right) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (left, right) {
        (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Str(a), Value::Str(b)) | (Value::Bytes(a), Value::Bytes(b)) => {
            meter::work(a.len().min(b.len()) as u64 / 32)?;
            **a == **b
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            // Python takes what is the same object for equal.
            if !Rc::ptr_eq(a, b) {
                if a.list.len() != b.list.len() {
                    return Ok(false);
                }
                for (a, b) in a.list.iter().zip(&b.list) {
                    if !equal(a, b)? {
                        return Ok(false);
                    }
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.pairs.len() != b.pairs.len() {
                return Ok(false);
            }
            for (key, value) in &a.pairs {
                match b.get(key)? {
                    Some(other) if equal(value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => {
            let (n, m) = (a.len(), b.len());
            n == m && (n == 0 || (a.start == b.start && (n == 1 || a.step == b.step)))
        }
        (Value::View(..), Value::View(..)) => {
            return fault("comparison of dictionary views is not supported");
        }
        _ => same(left, right).unwrap_or(false),
    })
}

/// `is`, for what has an identity; `None` where Python's answer depends on how values are kept.
pub(super) fn same(left: &Value, right: &Value) -> Option<bool> {
    Some(match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if matches!(left, Value::Tuple(_)) && !Rc::ptr_eq(a, b) {
                return None;
            }
            Rc::ptr_eq(a, b)
        }
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Iter(a), Value::Iter(b)) => Rc::ptr_eq(a, b),
        (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
        (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        // Small integers are kept once.
        (Value::Int(a), Value::Int(b)) if a == b => return (-5..=256).contains(a).then_some(true),
        (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => {
            return if matches!(a, Value::Int(_)) { Some(false) } else { None };
        }
        _ => false,
    })
}

/// The order of two numbers by their values, however large: none where one is NaN. `None` where one is no number.
#[expect(clippy::option_option, reason = "no numbers, numbers without an order, their order")]
fn numbers(left: &Value, right: &Value) -> Option<Option<Ordering>> {
    let with_float = |i: i128, x: f64| {
        // Beyond them every float is larger in size than every integer.
        let (low, high) = (-(2f64.powi(127)), 2f64.powi(127));
        if x.is_nan() {
            None
        } else if x >= high {
            Some(Ordering::Less)
        } else if x < low {
            Some(Ordering::Greater)
        } else {
            Some(i.cmp(&(x.trunc() as i128)).then_with(|| 0.0f64.total_cmp(&(x.fract() + 0.0))))
        }
    };
    Some(match (left.as_int(), left, right.as_int(), right) {
        (Some(a), _, Some(b), _) => Some(a.cmp(&b)),
        (Some(i), _, _, Value::Float(x)) => with_float(i, *x),
        (_, Value::Float(x), Some(i), _) => with_float(i, *x).map(Ordering::reverse),
        (_, Value::Float(x), _, Value::Float(y)) => x.partial_cmp(y),
        _ => return None,
    })
}

/// The order of two values, or that Python knows none.
pub(super) fn order(sign: &str, left: &Value, right: &Value) -> Res<Option<Ordering>> {
    let _level = meter::deeper()?;
    for side in [left, right] {
        if let Value::Undefined(missing) = side {
            return fault(missing.message.clone());
        }
    }
    if let Some(order) = numbers(left, right) {
        return Ok(order);
    }
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            meter::work(a.len().min(b.len()) as u64 / 32)?;
            Ok(Some(a.cmp(b)))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.list.iter().zip(&b.list) {
                if !equal(a, b)? {
                    return order(sign, a, b);
                }
            }
            Ok(Some(a.list.len().cmp(&b.list.len())))
        }
        _ => fault(format!(
            "'{sign}' not supported between instances of '{}' and '{}'",
            left.type_name(),
            right.type_name()
        )),
    }
}

/// Lists up to this length are sorted by insertion, as Python sorts them.
const SHORT: usize = 63;

/// Sorts by keys, equal ones in the order in which they stand. It ends at the first pair that cannot be compared, and asks
/// nothing of the order: NaN is less than nothing and more than nothing, and lists with it up to [`SHORT`] end as
/// Python's do.
pub(super) fn sort_by<T>(list: &mut Vec<T>, key: impl Fn(&T) -> &Value) -> Res<()> {
    let less = |a: &T, b: &T| Ok(order("<", key(a), key(b))?.is_some_and(Ordering::is_lt));
    let taken = merged(std::mem::take(list), &less)?;
    *list = taken;
    Ok(())
}

fn merged<T>(mut list: Vec<T>, less: &impl Fn(&T, &T) -> Res<bool>) -> Res<Vec<T>> {
    if list.len() <= SHORT {
        inserted(&mut list, less)?;
        return Ok(list);
    }
    let right = list.split_off(list.len() / 2);
    let (left, right) = (merged(list, less)?, merged(right, less)?);
    let mut all = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(b, a)? { right.next() } else { left.next() };
        all.extend(next);
    }
    all.extend(left.chain(right));
    Ok(all)
}

/// As `list.sort` of `CPython` (Objects/listsort.txt) for one run: the sorted beginning is found, turned where it falls
/// throughout, and what follows is inserted by bisection.
fn inserted<T>(list: &mut [T], less: &impl Fn(&T, &T) -> Res<bool>) -> Res<()> {
    if list.len() < 2 {
        return Ok(());
    }
    let falls = less(&list[1], &list[0])?;
    let mut run = 2;
    while run < list.len() && less(&list[run], &list[run - 1])? == falls {
        run += 1;
    }
    if falls {
        list[..run].reverse();
    }
    for i in run..list.len() {
        let (mut low, mut high) = (0, i);
        while low < high {
            let middle = usize::midpoint(low, high);
            if less(&list[i], &list[middle])? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        list[low..=i].rotate_right(1);
    }
    Ok(())
}

pub(super) fn contains(container: &Value, item: &Value) -> Res<bool> {
    match (container, item) {
        (Value::Str(text), Value::Str(part)) => {
            meter::work((text.len() + part.len()) as u64 / 16)?;
            Ok(text.contains(&**part))
        }
        (Value::Str(_), other) => {
            fault(format!("'in <string>' requires string as left operand, not {}", other.type_name()))
        }
        (Value::Dict(dict) | Value::View(super::value::View::Keys, dict), key) => {
            Ok(dict.get(key)?.is_some())
        }
        (Value::Namespace(_), _) => fault("argument of type 'TemplateNamespace' is not iterable"),
        (Value::List(items) | Value::Tuple(items), item) => any(&items.list, item),
        (other, item) => {
            if !other.is_iterable() {
                return fault(format!("argument of type '{}' is not iterable", other.type_name()));
            }
            if let Value::Iter(items) = other {
                // A generator is used up as far as it is looked at.
                loop {
                    let next = items.left.borrow_mut().next();
                    match next {
                        None => return Ok(false),
                        Some(next) if equal(&next, item)? => return Ok(true),
                        Some(_) => {}
                    }
                }
            }
            any(&other.items()?, item)
        }
    }
}

fn any(list: &[Value], item: &Value) -> Res<bool> {
    for one in list {
        if equal(one, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn relation(relation: Relation, left: &Value, right: &Value) -> Res<bool> {
    meter::work(1)?;
    let ordered = |sign: &str, holds: fn(Ordering) -> bool| Ok(order(sign, left, right)?.is_some_and(holds));
    match relation {
        Relation::Eq => equal(left, right),
        Relation::Ne => Ok(!equal(left, right)?),
        Relation::Lt => ordered("<", Ordering::is_lt),
        Relation::Le => ordered("<=", Ordering::is_le),
        Relation::Gt => ordered(">", Ordering::is_gt),
        Relation::Ge => ordered(">=", Ordering::is_ge),
        Relation::In => contains(right, left),
        Relation::NotIn => Ok(!contains(right, left)?),
    }
}
