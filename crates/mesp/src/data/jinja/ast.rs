//! A template as a tree. What may be long stands in lists, so that only what is nested in the text is nested here.

use std::sync::Arc;

pub(super) type Name = Arc<str>;

#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Data(Box<str>),
    Print(Vec<Expr>),
    For(Arc<For>),
    /// Conditions with their bodies; then what is done when none holds.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    Set(Target, Expr),
    /// `{% set x %}…{% endset %}`, through filters.
    SetBlock(Target, Vec<Postfix>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(Arc<Macro>),
    /// A call to which the body is given as `caller`.
    Call(Expr, Arc<Macro>),
    Filter(Vec<Postfix>, Vec<Stmt>),
    Generation(Vec<Stmt>),
    Block(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iter: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Stmt>,
    pub(super) otherwise: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Name,
    pub(super) params: Vec<Name>,
    /// Defaults of the last parameters.
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Stmt>,
    pub(super) uses: Uses,
}

/// Which of the names that a macro may use beside its parameters are in its body.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Uses {
    pub(super) caller: bool,
    pub(super) kwargs: bool,
    pub(super) varargs: bool,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    Field(Name, Name),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Expr {
    pub(super) line: usize,
    pub(super) kind: E,
}

#[derive(Debug)]
pub(super) enum E {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Box<str>),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Value, condition, other value.
    Cond(Box<(Expr, Expr, Option<Expr>)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    Compare(Box<Expr>, Vec<(Relation, Expr)>),
    Math(Box<Expr>, Vec<(Math, Expr)>),
    Concat(Vec<Expr>),
    Chain(Box<Expr>, Vec<Postfix>),
}

#[derive(Debug)]
pub(super) struct Postfix {
    pub(super) line: usize,
    pub(super) kind: P,
}

#[derive(Debug)]
pub(super) enum P {
    Attr(Name),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(Name, Args),
    Test(Name, Args, bool),
}

#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Expr>,
    pub(super) keywords: Vec<(Name, Expr)>,
    pub(super) list: Option<Box<Expr>>,
    pub(super) map: Option<Box<Expr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Math {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
}
