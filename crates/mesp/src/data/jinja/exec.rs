//! Statements.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::{E, Expr, For, Kind, Name, P, Stmt, Target};
use super::meter::{self, Buffer, Charge};
use super::value::{Loop, Namespace, Scope, Text, Value};
use super::{Context, Res, eval, fault, show};

pub(super) struct Machine<'a> {
    pub(super) context: &'a Context<'a>,
    root: Rc<Scope>,
    /// What may hold itself, to be taken apart at the end.
    kept: RefCell<Vec<Kept>>,
    room: RefCell<Charge>,
    /// Whether something was read that the template can change.
    pub(super) changing: Cell<bool>,
    loop_name: Name,
}

pub(super) enum Kept {
    Scope(Rc<Scope>),
    Namespace(Rc<Namespace>),
    Loop(Rc<Loop>),
}

#[derive(PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

pub(super) fn render(body: &[Stmt], context: &Context<'_>) -> Res<String> {
    let given = context.variables.iter().filter_map(|(_, value)| *value);
    let size: usize = given.chain(context.messages).chain(context.more.values()).map(size).sum();
    meter::start(size);
    let names = Scope::new(None);
    for name in eval::FUNCTIONS {
        names.set(&name.into(), Value::Function(name));
    }
    for (name, value) in context.more {
        names.set(&name.as_str().into(), Value::from_json(value)?);
    }
    for (name, value) in &context.variables {
        names.set(&(*name).into(), value.map_or(Ok(Value::None), Value::from_json)?);
    }
    let messages = context.messages.iter().map(Value::from_json).collect::<Res<_>>()?;
    names.set(&"messages".into(), Value::list(messages)?);
    let machine = Machine {
        context,
        root: Scope::new(Some(names)),
        kept: RefCell::default(),
        room: RefCell::default(),
        changing: Cell::new(false),
        loop_name: "loop".into(),
    };
    let mut out = Buffer::default();
    match machine.body(body, &machine.root, &mut out)? {
        Flow::On => Ok(out.into_parts().0),
        _ => fault("`break` or `continue` stands outside of a loop"),
    }
}

/// How many bytes of memory a value of a row takes here, about.
fn size(value: &Json) -> usize {
    32 + match value {
        Json::String(text) => text.len(),
        Json::Array(list) => list.iter().map(size).sum(),
        Json::Object(map) => map.iter().map(|(key, value)| 32 + key.len() + size(value)).sum(),
        _ => 0,
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.root.names.borrow_mut().clear();
        for kept in self.kept.borrow().iter() {
            match kept {
                Kept::Scope(scope) => drop(scope.names.take()),
                Kept::Namespace(space) => drop(space.fields.take()),
                Kept::Loop(l) => drop(l.changed.take()),
            }
        }
    }
}

impl Machine<'_> {
    pub(super) fn keep(&self, kept: Kept) -> Res<()> {
        self.room.borrow_mut().grow(256)?;
        self.kept.borrow_mut().push(kept);
        Ok(())
    }

    pub(super) fn body(&self, body: &[Stmt], scope: &Rc<Scope>, out: &mut Buffer) -> Res<Flow> {
        let _level = meter::deeper()?;
        for stmt in body {
            let flow = self.statement(stmt, scope, out).map_err(|e| e.at(stmt.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    #[inline(never)]
    fn statement(&self, stmt: &Stmt, scope: &Rc<Scope>, out: &mut Buffer) -> Res<Flow> {
        meter::work(1)?;
        match &stmt.kind {
            Kind::Data(text) => out.push_str(text)?,
            Kind::Print(list) => {
                for one in list {
                    show::write(&self.eval(one, scope)?, out)?;
                }
            }
            Kind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truth() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            Kind::For(definition) => {
                let items = self.eval(&definition.iter, scope)?;
                self.run_loop(definition, &items, scope, 0, out)?;
            }
            Kind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                Self::assign(target, value, scope)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let (text, flow) = self.capture(body, scope)?;
                Self::assign(target, self.chain(text, filters, scope)?, scope)?;
                return Ok(flow);
            }
            Kind::With(values, body) => {
                let inner = Scope::new(Some(scope.clone()));
                for (target, value) in values {
                    Self::assign(target, self.eval(value, scope)?, &inner)?;
                }
                return self.body(body, &inner, out);
            }
            Kind::Macro(definition) => scope.set(&definition.name, self.closure(definition, scope)?),
            Kind::Call(call, body) => {
                let caller = self.closure(body, scope)?;
                show::write(&self.call_with(call, caller, scope)?, out)?;
            }
            Kind::Filter(filters, body) => {
                let (text, flow) = self.capture(body, scope)?;
                show::write(&self.chain(text, filters, scope)?, out)?;
                return Ok(flow);
            }
            Kind::Generation(body) => {
                if let Some((begin, _)) = self.context.marks {
                    out.push(begin)?;
                }
                let flow = self.body(body, &Scope::new(Some(scope.clone())), out)?;
                if let Some((_, end)) = self.context.marks {
                    out.push(end)?;
                }
                return Ok(flow);
            }
            Kind::Block(body) => return self.body(body, &Scope::new(Some(self.root.clone())), out),
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn capture(&self, body: &[Stmt], scope: &Rc<Scope>) -> Res<(Value, Flow)> {
        let mut text = Buffer::default();
        let flow = self.body(body, &Scope::new(Some(scope.clone())), &mut text)?;
        Ok((Value::Str(Text::from_buffer(text)), flow))
    }

    /// A call whose arguments get `caller` besides.
    fn call_with(&self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Res<Value> {
        let E::Chain(base, parts) = &call.kind else { return fault("`{% call %}` expects a call") };
        let Some((last, before)) = parts.split_last() else { return fault("`{% call %}` expects a call") };
        let P::Call(args) = &last.kind else { return fault("`{% call %}` expects a call") };
        let called = self.chain(self.eval(base, scope)?, before, scope)?;
        let mut given = self.given(args, scope)?;
        given.keywords.push(("caller".into(), caller));
        self.call(&called, given)
    }

    fn assign(target: &Target, value: Value, scope: &Rc<Scope>) -> Res<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Field(name, field) => match scope.get(name) {
                Some(Value::Namespace(space)) => eval::set_field(&space, field, value)?,
                _ => return fault(format!("cannot assign attribute on non-namespace object `{name}`")),
            },
            Target::Tuple(list) => {
                let values = value.items()?;
                if values.len() != list.len() {
                    let (expected, found) = (list.len(), values.len());
                    return fault(format!("{expected} values to unpack are expected, and {found} are there"));
                }
                for (target, value) in list.iter().zip(values) {
                    Self::assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an item is one for which the loop runs.
    fn passes(&self, definition: &For, item: &Value, scope: &Rc<Scope>) -> Res<bool> {
        let Some(test) = &definition.test else { return Ok(true) };
        let inner = Scope::new(Some(scope.clone()));
        Self::assign(&definition.target, item.clone(), &inner)?;
        Ok(self.eval(test, &inner)?.truth())
    }

    pub(super) fn run_loop(
        &self,
        definition: &Arc<For>,
        items: &Value,
        scope: &Rc<Scope>,
        depth: usize,
        out: &mut Buffer,
    ) -> Res<()> {
        let all = items.items()?;
        let charge = meter::take(all.len() * size_of::<Value>())?;
        // A test that reads what the loop may change is asked before each turn, as in Python.
        let (mut kept, mut late) = (Vec::new(), false);
        if definition.test.is_some() {
            let before = self.changing.replace(false);
            for item in &all {
                if self.passes(definition, item, scope)? {
                    kept.push(item.clone());
                }
            }
            late = self.changing.replace(before);
        }
        let list = if definition.test.is_some() && !late { kept } else { all };
        let turns = list.len();
        let state = Rc::new(Loop {
            items: list,
            index: Cell::new(0),
            depth,
            changed: RefCell::default(),
            recursive: definition.recursive.then(|| (definition.clone(), scope.clone())),
            late,
            _charge: charge,
        });
        let mut ran = 0;
        for at in 0..turns {
            let item = &state.items[at];
            if late && !self.passes(definition, item, scope)? {
                continue;
            }
            state.index.set(if late { ran } else { at });
            ran += 1;
            meter::work(2)?;
            let inner = Scope::new(Some(scope.clone()));
            inner.set(&self.loop_name, Value::Loop(state.clone()));
            Self::assign(&definition.target, item.clone(), &inner)?;
            if self.body(&definition.body, &inner, out)? == Flow::Break {
                if let Value::Iter(rest) = items {
                    let left: Vec<Value> = state.items.iter().skip(at + 1).cloned().collect();
                    *rest.left.borrow_mut() = left.into_iter();
                }
                break;
            }
        }
        state.changed.take();
        if ran == 0 {
            self.body(&definition.otherwise, &Scope::new(Some(scope.clone())), out)?;
        }
        Ok(())
    }
}
