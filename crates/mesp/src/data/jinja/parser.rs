//! Tokens to statements.

use std::sync::Arc;

use super::ast::{E, Expr, For, Kind, Macro, Name, Postfix, Stmt, Target, Uses};
use super::lexer::{T, Token};
use super::{Fault, Res};

/// How deep expressions and statements may be nested in a template.
const DEPTH: usize = 60;
/// How many parts a chain of operators, filters or branches may have.
const CHAIN: usize = 1000;

/// Statements of a template, and whether it has `{% generation %}` tags.
pub(super) fn parse(tokens: Vec<Token>) -> Res<(Vec<Stmt>, bool)> {
    let mut parser = Parser { tokens, at: 0, depth: 0, uses: Vec::new(), marks: false };
    let (body, _) = parser.body(&[])?;
    Ok((body, parser.marks))
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// What the macros that are being read use.
    pub(super) uses: Vec<Uses>,
    marks: bool,
}

impl Parser {
    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    pub(super) fn peek(&self) -> Option<&T> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn peek_second(&self) -> Option<&T> {
        self.tokens.get(self.at + 1).map(|t| &t.kind)
    }

    pub(super) fn next(&mut self) -> Option<T> {
        let token = self.tokens.get_mut(self.at)?;
        self.at += 1;
        Some(std::mem::replace(&mut token.kind, T::VariableEnd))
    }

    pub(super) fn error<X>(&self, text: impl Into<String>) -> Res<X> {
        Err(Fault::new(text.into()).at(self.line()))
    }

    pub(super) fn unexpected<X>(&self, expected: &str) -> Res<X> {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(T::Data(_)) => "text".to_owned(),
            Some(T::VariableBegin) => "`{{`".to_owned(),
            Some(T::VariableEnd) => "`}}`".to_owned(),
            Some(T::BlockBegin) => "`{%`".to_owned(),
            Some(T::BlockEnd) => "`%}`".to_owned(),
            Some(T::Name(name)) => format!("`{name}`"),
            Some(T::Str(_)) => "a text".to_owned(),
            Some(T::Int(_) | T::Float(_)) => "a number".to_owned(),
            Some(T::Op(op)) => format!("`{op}`"),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(T::Op(found)) if *found == op)
    }

    pub(super) fn second_is_op(&self, op: &str) -> bool {
        matches!(self.peek_second(), Some(T::Op(found)) if *found == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(T::Name(found)) if found == name)
    }

    pub(super) fn second_is_name(&self, name: &str) -> bool {
        matches!(self.peek_second(), Some(T::Name(found)) if found == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Res<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("`{op}`")) }
    }

    pub(super) fn expect_name(&mut self) -> Res<Name> {
        match self.peek() {
            Some(T::Name(_)) => match self.next() {
                Some(T::Name(name)) => Ok(name.into()),
                _ => self.unexpected("a name"),
            },
            _ => self.unexpected("a name"),
        }
    }

    fn expect(&mut self, kind: T, shown: &str) -> Res<()> {
        if self.peek() == Some(&kind) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(shown)
    }

    pub(super) fn block_end(&mut self) -> Res<()> {
        self.expect(T::BlockEnd, "`%}`")
    }

    /// Does something one level deeper.
    pub(super) fn deeper<X>(&mut self, run: impl FnOnce(&mut Self) -> Res<X>) -> Res<X> {
        if self.depth >= DEPTH {
            return self.error(format!("expressions or blocks are nested more than {DEPTH} levels deep"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Adds to a chain that cannot be endless.
    pub(super) fn link<X>(&self, list: &mut Vec<X>, item: X) -> Res<()> {
        if list.len() >= CHAIN {
            return self.error(format!("a chain of more than {CHAIN} operators, filters or branches"));
        }
        list.push(item);
        Ok(())
    }

    /// Statements up to one of `ends`, which is passed with its name; the tag's end is not.
    fn body(&mut self, ends: &[&'static str]) -> Res<(Vec<Stmt>, &'static str)> {
        let mut list = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.peek() {
                None if ends.is_empty() => return Ok((list, "")),
                None => {
                    return self
                        .error(format!("the template ends before `{{% {} %}}`", ends[ends.len() - 1]));
                }
                Some(T::Data(_)) => match self.next() {
                    Some(T::Data(text)) => Kind::Data(text.into()),
                    _ => continue,
                },
                Some(T::VariableBegin) => {
                    self.at += 1;
                    let expr = self.tuple(true, &[])?;
                    self.expect(T::VariableEnd, "`}}`")?;
                    Kind::Print(vec![expr])
                }
                _ => {
                    self.expect(T::BlockBegin, "`{%`")?;
                    if let Some(end) = ends.iter().find(|end| self.is_name(end)) {
                        self.at += 1;
                        return Ok((list, end));
                    }
                    let kind = self.deeper(Self::statement)?;
                    self.block_end()?;
                    kind
                }
            };
            list.push(Stmt { line, kind });
        }
    }

    /// A body that begins after the tag's end, and the end's name.
    fn block(&mut self, ends: &[&'static str]) -> Res<(Vec<Stmt>, &'static str)> {
        self.block_end()?;
        self.body(ends)
    }

    fn statement(&mut self) -> Res<Kind> {
        let name = self.expect_name()?;
        match &*name {
            "for" => self.for_loop(),
            "if" => self.branches(),
            "set" => self.set(),
            "with" => {
                let mut values = Vec::new();
                while self.peek() != Some(&T::BlockEnd) {
                    if !values.is_empty() {
                        self.expect_op(",")?;
                    }
                    let target = self.target(&[])?;
                    self.expect_op("=")?;
                    values.push((target, self.expression(true)?));
                }
                Ok(Kind::With(values, self.block(&["endwith"])?.0))
            }
            "macro" => {
                let name = self.expect_name()?;
                Ok(Kind::Macro(Arc::new(self.definition(name, "endmacro", Self::signature)?.1)))
            }
            "call" => {
                let line = self.line();
                let (call, body) = self.definition("caller".into(), "endcall", |p| {
                    let signature =
                        if p.is_op("(") { p.signature()? } else { (Vec::new(), Vec::new(), None) };
                    Ok((signature.0, signature.1, Some(p.expression(true)?)))
                })?;
                match call {
                    Some(Expr { kind: E::Chain(base, parts), line })
                        if parts.last().is_some_and(|p| matches!(p.kind, super::ast::P::Call(_))) =>
                    {
                        Ok(Kind::Call(Expr { kind: E::Chain(base, parts), line }, Arc::new(body)))
                    }
                    _ => Err(Fault::new("`{% call %}` expects a call".into()).at(line)),
                }
            }
            "filter" => {
                let mut filters = Vec::new();
                self.filter(&mut filters)?;
                self.filters(&mut filters)?;
                Ok(Kind::Filter(filters, self.block(&["endfilter"])?.0))
            }
            "generation" => {
                self.marks = true;
                Ok(Kind::Generation(self.block(&["endgeneration"])?.0))
            }
            "block" => {
                let name = self.expect_name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                let (body, _) = self.block(&["endblock"])?;
                self.skip_name(&name);
                Ok(Kind::Block(body))
            }
            "print" => {
                let mut list = Vec::new();
                while self.peek() != Some(&T::BlockEnd) {
                    if !list.is_empty() {
                        self.expect_op(",")?;
                    }
                    list.push(self.expression(true)?);
                }
                Ok(Kind::Print(list))
            }
            "break" => Ok(Kind::Break),
            "continue" => Ok(Kind::Continue),
            "include" | "import" | "from" | "extends" => {
                self.error(format!("`{{% {name} %}}` reads another file, which a chat template cannot"))
            }
            _ => self.error(format!("the tag `{{% {name} %}}` is not known")),
        }
    }

    fn for_loop(&mut self) -> Res<Kind> {
        let target = self.target(&["in"])?;
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let iter = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression(true)?) } else { None };
        let recursive = self.skip_name("recursive");
        let (body, end) = self.block(&["else", "endfor"])?;
        let otherwise = if end == "else" { self.block(&["endfor"])?.0 } else { Vec::new() };
        Ok(Kind::For(Arc::new(For { target, iter, test, recursive, body, otherwise })))
    }

    fn branches(&mut self) -> Res<Kind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            self.link(&mut branches, (test, body))?;
            match end {
                "elif" => {}
                "else" => return Ok(Kind::If(branches, self.block(&["endif"])?.0)),
                _ => return Ok(Kind::If(branches, Vec::new())),
            }
        }
    }

    fn set(&mut self) -> Res<Kind> {
        let target = self.target(&[])?;
        if self.skip_op("=") {
            return Ok(Kind::Set(target, self.tuple(true, &[])?));
        }
        let mut filters = Vec::new();
        self.filters(&mut filters)?;
        Ok(Kind::SetBlock(target, filters, self.block(&["endset"])?.0))
    }

    fn filters(&mut self, list: &mut Vec<Postfix>) -> Res<()> {
        while self.skip_op("|") {
            self.filter(list)?;
        }
        Ok(())
    }

    /// Names to which something is given, as a tuple when there are commas.
    fn target(&mut self, ends: &[&str]) -> Res<Target> {
        self.deeper(|p| {
            let (mut list, mut tuple) = (Vec::new(), false);
            loop {
                let ended = matches!(p.peek(), Some(T::BlockEnd | T::VariableEnd) | None)
                    || p.is_op(")")
                    || p.is_op("=")
                    || ends.iter().any(|end| p.is_name(end));
                if ended && !list.is_empty() {
                    break;
                }
                let one = if p.skip_op("(") {
                    let inner = p.target(&[])?;
                    p.expect_op(")")?;
                    inner
                } else {
                    let name = p.expect_name()?;
                    if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
                        return p.error(format!("nothing can be given to `{name}`"));
                    }
                    if p.skip_op(".") { Target::Field(name, p.expect_name()?) } else { Target::Name(name) }
                };
                p.link(&mut list, one)?;
                if !p.skip_op(",") {
                    break;
                }
                tuple = true;
            }
            match list.pop() {
                Some(one) if !tuple => Ok(one),
                last => {
                    list.extend(last);
                    Ok(Target::Tuple(list))
                }
            }
        })
    }

    fn signature(&mut self) -> Res<(Vec<Name>, Vec<Expr>, Option<Expr>)> {
        let (mut params, mut defaults) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.expect_name()?;
            self.link(&mut params, name)?;
            if self.skip_op("=") {
                defaults.push(self.expression(true)?);
            } else if !defaults.is_empty() {
                return self.error("a parameter without a default follows one with a default");
            }
        }
        self.expect_op(")")?;
        Ok((params, defaults, None))
    }

    /// A macro or the body of a call, and what stood between its parameters and the tag's end.
    fn definition(
        &mut self,
        name: Name,
        end: &'static str,
        head: impl FnOnce(&mut Self) -> Res<(Vec<Name>, Vec<Expr>, Option<Expr>)>,
    ) -> Res<(Option<Expr>, Macro)> {
        self.uses.push(Uses::default());
        let read = head(self).and_then(|head| Ok((head, self.block(&[end])?.0)));
        let uses = self.uses.pop().unwrap_or_default();
        let ((params, defaults, call), body) = read?;
        Ok((call, Macro { name, params, defaults, body, uses }))
    }
}
