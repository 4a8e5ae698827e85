//! Arguments of calls, and how they reach parameters.

use super::ast::Name;
use super::value::Value;
use super::{Fault, Res, fault};

#[derive(Default, Clone)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) keywords: Vec<(Name, Value)>,
}

impl Given {
    /// A value for each parameter, of which the first `required` must be there.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        params: [&str; N],
        required: usize,
    ) -> Res<[Option<Value>; N]> {
        let mut values = [const { None }; N];
        if self.positional.len() > N {
            let given = self.positional.len();
            return fault(format!("{what}() takes at most {N} arguments, and {given} are given"));
        }
        for (place, value) in values.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.keywords {
            match params.iter().position(|p| **p == *name) {
                Some(at) if values[at].is_none() => values[at] = Some(value),
                Some(_) => return fault(format!("{what}() got multiple values for argument '{name}'")),
                None => return fault(format!("{what}() got an unexpected keyword argument '{name}'")),
            }
        }
        match values.iter().take(required).position(Option::is_none) {
            Some(at) => fault(format!("{what}() misses its argument '{}'", params[at])),
            None => Ok(values),
        }
    }

    /// As [`bind`](Self::bind), for functions whose parameters have no names.
    pub(super) fn plain<const N: usize>(self, what: &str, required: usize) -> Res<[Option<Value>; N]> {
        if !self.keywords.is_empty() {
            return fault(format!("{what}() takes no keyword arguments"));
        }
        self.bind(what, [""; N], required)
    }
}

/// A text that a function asks for.
pub(super) fn text<'a>(what: &str, value: &'a Value) -> Res<&'a str> {
    let found = value.type_name();
    value.as_str().ok_or_else(|| Fault::new(format!("{what}: expected a str, found '{found}'")))
}

/// An integer that a function asks for.
pub(super) fn int(what: &str, value: &Value) -> Res<i128> {
    match value {
        Value::Undefined(missing) => fault(missing.message.clone()),
        other => other
            .as_int()
            .ok_or_else(|| Fault::new(format!("{what}: expected an int, found '{}'", other.type_name()))),
    }
}
