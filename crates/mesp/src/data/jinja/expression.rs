//! Tokens to expressions, with jinja2's precedence.

use super::Res;
use super::ast::{Args, E, Expr, Math, P, Postfix, Relation};
use super::lexer::T;
use super::parser::Parser;

impl Parser {
    /// An expression, or a tuple where there are commas.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Res<Expr> {
        let line = self.line();
        let (mut list, comma) = self.items(conditional, ends)?;
        match list.pop() {
            Some(one) if !comma => Ok(one),
            None => self.unexpected("an expression"),
            last => {
                list.extend(last);
                Ok(Expr { line, kind: E::Tuple(list) })
            }
        }
    }

    fn items(&mut self, conditional: bool, ends: &[&str]) -> Res<(Vec<Expr>, bool)> {
        let (mut list, mut comma) = (Vec::new(), false);
        loop {
            let ended = matches!(self.peek(), Some(T::BlockEnd | T::VariableEnd) | None)
                || self.is_op(")")
                || ends.iter().any(|end| self.is_name(end));
            if ended {
                break;
            }
            list.push(self.expression(conditional)?);
            if !self.skip_op(",") {
                break;
            }
            comma = true;
        }
        Ok((list, comma))
    }

    pub(super) fn expression(&mut self, conditional: bool) -> Res<Expr> {
        self.deeper(|p| if conditional { p.conditional() } else { p.or() })
    }

    fn conditional(&mut self) -> Res<Expr> {
        let line = self.line();
        let mut value = self.or()?;
        let mut count = Vec::new();
        while self.skip_name("if") {
            let test = self.or()?;
            let other = if self.skip_name("else") { Some(self.deeper(Self::conditional)?) } else { None };
            value = Expr { line, kind: E::Cond(Box::new((value, test, other))) };
            count.push(());
            if count.len() > 20 {
                return self.error("too many `if` in one expression");
            }
        }
        Ok(value)
    }

    fn or(&mut self) -> Res<Expr> {
        let line = self.line();
        let mut list = vec![self.and()?];
        while self.skip_name("or") {
            let next = self.and()?;
            self.link(&mut list, next)?;
        }
        Ok(one_or(list, line, E::Or))
    }

    fn and(&mut self) -> Res<Expr> {
        let line = self.line();
        let mut list = vec![self.not()?];
        while self.skip_name("and") {
            let next = self.not()?;
            self.link(&mut list, next)?;
        }
        Ok(one_or(list, line, E::And))
    }

    fn not(&mut self) -> Res<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.deeper(Self::not)?;
            return Ok(Expr { line, kind: E::Not(Box::new(inner)) });
        }
        self.compare()
    }

    fn compare(&mut self) -> Res<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let relation = match self.peek() {
                Some(T::Op("==")) => Relation::Eq,
                Some(T::Op("!=")) => Relation::Ne,
                Some(T::Op("<")) => Relation::Lt,
                Some(T::Op("<=")) => Relation::Le,
                Some(T::Op(">")) => Relation::Gt,
                Some(T::Op(">=")) => Relation::Ge,
                Some(T::Name(name)) if name == "in" => Relation::In,
                Some(T::Name(name)) if name == "not" && self.second_is_name("in") => {
                    self.next();
                    Relation::NotIn
                }
                _ => break,
            };
            self.next();
            let right = self.sum()?;
            self.link(&mut rest, (relation, right))?;
        }
        Ok(if rest.is_empty() { first } else { Expr { line, kind: E::Compare(Box::new(first), rest) } })
    }

    fn math(&mut self, one: fn(&mut Self) -> Res<Expr>, ops: &[(&str, Math)]) -> Res<Expr> {
        let line = self.line();
        let first = one(self)?;
        let mut rest = Vec::new();
        while let Some((_, op)) = ops.iter().find(|(op, _)| self.is_op(op)) {
            self.next();
            let right = one(self)?;
            self.link(&mut rest, (*op, right))?;
        }
        Ok(if rest.is_empty() { first } else { Expr { line, kind: E::Math(Box::new(first), rest) } })
    }

    fn sum(&mut self) -> Res<Expr> {
        self.math(Self::concat, &[("+", Math::Add), ("-", Math::Sub)])
    }

    fn concat(&mut self) -> Res<Expr> {
        let line = self.line();
        let mut list = vec![self.product()?];
        while self.skip_op("~") {
            let next = self.product()?;
            self.link(&mut list, next)?;
        }
        Ok(one_or(list, line, E::Concat))
    }

    fn product(&mut self) -> Res<Expr> {
        let ops = [("*", Math::Mul), ("/", Math::Div), ("//", Math::FloorDiv), ("%", Math::Rem)];
        self.math(Self::power, &ops)
    }

    fn power(&mut self) -> Res<Expr> {
        self.math(|p| p.unary(true), &[("**", Math::Pow)])
    }

    fn unary(&mut self, filters: bool) -> Res<Expr> {
        let line = self.line();
        let base = if self.skip_op("-") {
            Expr { line, kind: E::Neg(Box::new(self.deeper(|p| p.unary(false))?)) }
        } else if self.skip_op("+") {
            Expr { line, kind: E::Pos(Box::new(self.deeper(|p| p.unary(false))?)) }
        } else {
            self.primary()?
        };
        let mut parts = Vec::new();
        self.postfix(&mut parts)?;
        if filters {
            self.filters_and_tests(&mut parts)?;
        }
        Ok(chain(base, parts))
    }

    fn filters_and_tests(&mut self, parts: &mut Vec<Postfix>) -> Res<()> {
        loop {
            let line = self.line();
            if self.skip_op("|") {
                self.filter(parts)?;
            } else if self.skip_name("is") {
                self.test(parts)?;
            } else if self.is_op("(") {
                let args = self.call_args()?;
                self.link(parts, Postfix { line, kind: P::Call(args) })?;
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Res<Expr> {
        let line = self.line();
        let kind = match self.peek() {
            Some(T::Name(_)) => {
                let name = self.expect_name()?;
                match &*name {
                    "true" | "True" => E::Bool(true),
                    "false" | "False" => E::Bool(false),
                    "none" | "None" => E::None,
                    other => {
                        for uses in &mut self.uses {
                            uses.caller |= other == "caller";
                            uses.kwargs |= other == "kwargs";
                            uses.varargs |= other == "varargs";
                        }
                        E::Name(name)
                    }
                }
            }
            Some(T::Str(_)) => {
                let mut text = String::new();
                while matches!(self.peek(), Some(T::Str(_))) {
                    if let Some(T::Str(part)) = self.next() {
                        text.push_str(&part);
                    }
                }
                E::Str(text.into())
            }
            Some(T::Int(value)) => {
                let value = *value;
                self.next();
                E::Int(value)
            }
            Some(T::Float(value)) => {
                let value = *value;
                self.next();
                E::Float(value)
            }
            Some(T::Op("(")) => {
                self.next();
                let (mut list, comma) = self.items(true, &[])?;
                self.expect_op(")")?;
                match list.pop() {
                    Some(one) if !comma => return Ok(one),
                    last => {
                        list.extend(last);
                        E::Tuple(list)
                    }
                }
            }
            Some(T::Op("[")) => {
                self.next();
                let mut list = Vec::new();
                while !self.is_op("]") {
                    list.push(self.expression(true)?);
                    if !self.is_op("]") {
                        self.expect_op(",")?;
                    }
                }
                self.expect_op("]")?;
                E::List(list)
            }
            Some(T::Op("{")) => {
                self.next();
                let mut list = Vec::new();
                while !self.is_op("}") {
                    let key = self.expression(true)?;
                    self.expect_op(":")?;
                    list.push((key, self.expression(true)?));
                    if !self.is_op("}") {
                        self.expect_op(",")?;
                    }
                }
                self.expect_op("}")?;
                E::Dict(list)
            }
            _ => return self.unexpected("an expression"),
        };
        Ok(Expr { line, kind })
    }

    fn postfix(&mut self, parts: &mut Vec<Postfix>) -> Res<()> {
        loop {
            let line = self.line();
            let kind = if self.skip_op(".") {
                match self.peek() {
                    Some(T::Name(_)) => P::Attr(self.expect_name()?),
                    Some(T::Int(value)) => {
                        let kind = E::Int(*value);
                        self.next();
                        P::Item(Expr { line, kind })
                    }
                    _ => return self.unexpected("a name or a number"),
                }
            } else if self.skip_op("[") {
                self.subscript(line)?
            } else if self.is_op("(") {
                P::Call(self.call_args()?)
            } else {
                return Ok(());
            };
            self.link(parts, Postfix { line, kind })?;
        }
    }

    fn subscript(&mut self, line: usize) -> Res<P> {
        let first = if self.is_op(":") { None } else { Some(self.expression(true)?) };
        if !self.is_op(":") {
            let Some(first) = first else { return self.unexpected("an expression") };
            if self.skip_op("]") {
                return Ok(P::Item(first));
            }
            let mut list = vec![first];
            while self.skip_op(",") {
                if self.is_op("]") {
                    break;
                }
                list.push(self.expression(true)?);
            }
            self.expect_op("]")?;
            return Ok(P::Item(Expr { line, kind: E::Tuple(list) }));
        }
        let mut slice = [first, None, None];
        for place in &mut slice[1..] {
            if !self.skip_op(":") {
                break;
            }
            if !self.is_op(":") && !self.is_op("]") {
                *place = Some(self.expression(true)?);
            }
        }
        self.expect_op("]")?;
        Ok(P::Slice(Box::new(slice)))
    }

    fn call_args(&mut self) -> Res<Args> {
        let mut args = Args::default();
        self.expect_op("(")?;
        while !self.is_op(")") {
            if self.skip_op("*") {
                if args.list.is_some() || args.map.is_some() {
                    return self.error("a call has more than one `*`");
                }
                args.list = Some(Box::new(self.expression(true)?));
            } else if self.skip_op("**") {
                if args.map.is_some() {
                    return self.error("a call has more than one `**`");
                }
                args.map = Some(Box::new(self.expression(true)?));
            } else if matches!(self.peek(), Some(T::Name(_))) && self.second_is_op("=") {
                let name = self.expect_name()?;
                self.expect_op("=")?;
                if args.map.is_some() || args.keywords.iter().any(|(n, _)| *n == name) {
                    return self.error(format!("a call gives `{name}` twice"));
                }
                let value = self.expression(true)?;
                self.link(&mut args.keywords, (name, value))?;
            } else {
                if args.list.is_some() || args.map.is_some() || !args.keywords.is_empty() {
                    return self.error("a positional argument follows one with a name");
                }
                let value = self.expression(true)?;
                self.link(&mut args.positional, value)?;
            }
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }

    fn dotted(&mut self) -> Res<super::ast::Name> {
        let mut name = self.expect_name()?.to_string();
        while self.skip_op(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name.into())
    }

    /// A filter, whose `|` is passed.
    pub(super) fn filter(&mut self, parts: &mut Vec<Postfix>) -> Res<()> {
        let line = self.line();
        let name = self.dotted()?;
        let args = if self.is_op("(") { self.call_args()? } else { Args::default() };
        self.link(parts, Postfix { line, kind: P::Filter(name, args) })
    }

    /// A test, whose `is` is passed.
    fn test(&mut self, parts: &mut Vec<Postfix>) -> Res<()> {
        let line = self.line();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let takes = match self.peek() {
            Some(T::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and"),
            Some(T::Str(_) | T::Int(_) | T::Float(_)) => true,
            _ => self.is_op("[") || self.is_op("{"),
        };
        let args = if self.is_op("(") {
            self.call_args()?
        } else if takes {
            if self.is_name("is") {
                return self.error("tests with `is` cannot follow each other");
            }
            let base = self.deeper(Self::primary)?;
            let mut inner = Vec::new();
            self.postfix(&mut inner)?;
            Args { positional: vec![chain(base, inner)], ..Args::default() }
        } else {
            Args::default()
        };
        self.link(parts, Postfix { line, kind: P::Test(name, args, negated) })
    }
}

fn chain(base: Expr, parts: Vec<Postfix>) -> Expr {
    if parts.is_empty() { base } else { Expr { line: base.line, kind: E::Chain(Box::new(base), parts) } }
}

fn one_or(mut list: Vec<Expr>, line: usize, many: fn(Vec<Expr>) -> E) -> Expr {
    if list.len() == 1
        && let Some(one) = list.pop()
    {
        return one;
    }
    Expr { line, kind: many(list) }
}
