//! Tests: what follows `is`.

use super::args::Given;
use super::meter;
use super::value::Value;
use super::{Res, fault, filters, ops, strings};

const NAMES: &[&str] = &[
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

pub(super) fn check(name: &str, value: &Value, given: Given) -> Res<bool> {
    meter::work(1)?;
    let what = format!("the test `{name}`");
    match name {
        "divisibleby" | "sameas" | "in" | "==" | "eq" | "equalto" | "!=" | "ne" | ">" | "gt"
        | "greaterthan" | "ge" | ">=" | "<" | "lt" | "lessthan" | "<=" | "le" => {
            let param = match name {
                "divisibleby" => "num",
                "sameas" => "other",
                "in" => "seq",
                _ => "b",
            };
            let [other] = given.bind(&what, [param], 1)?;
            return compare(name, value, &other.unwrap_or(Value::None));
        }
        _ => {
            let [] = given.bind(&what, [], 0)?;
        }
    }
    Ok(match name {
        "odd" | "even" => {
            let rest = ops::math(super::ast::Math::Rem, value, &Value::Int(2))?;
            ops::equal(&rest, &Value::Int(i128::from(name == "odd")))?
        }
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "filter" | "test" => {
            // A key that has to be of a kind that can be one.
            super::value::hash(value)?;
            let known = if name == "filter" { filters::exists } else { |name: &str| NAMES.contains(&name) };
            value.as_str().is_some_and(known)
        }
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "lower" | "upper" => {
            let text = super::show::text(value)?;
            let name = if name == "lower" { "islower" } else { "isupper" };
            strings::call(&text, name, Given::default())?.truth()
        }
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "number" => value.as_number().is_some(),
        "sequence" => matches!(
            value,
            Value::Str(_)
                | Value::Bytes(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "iterable" => value.is_iterable(),
        "callable" => matches!(
            value,
            Value::Method(..)
                | Value::Function(_)
                | Value::Macro(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => matches!(value, Value::Str(text) if text.markup()),
        _ => return fault(format!("No test named '{name}'")),
    })
}

fn compare(name: &str, value: &Value, other: &Value) -> Res<bool> {
    use super::ast::Relation::{Eq, Ge, Gt, In, Le, Lt, Ne};
    let relation = match name {
        "divisibleby" => {
            let rest = ops::math(super::ast::Math::Rem, value, other)?;
            return ops::equal(&rest, &Value::Int(0));
        }
        "sameas" => {
            return match ops::same(value, other) {
                Some(same) => Ok(same),
                None => fault(format!(
                    "`is sameas` of two values of type {} depends on how Python keeps them, and is not supported",
                    value.type_name()
                )),
            };
        }
        "in" => In,
        "==" | "eq" | "equalto" => Eq,
        "!=" | "ne" => Ne,
        ">" | "gt" | "greaterthan" => Gt,
        ">=" | "ge" => Ge,
        "<" | "lt" | "lessthan" => Lt,
        _ => Le,
    };
    ops::relation(relation, value, other)
}
