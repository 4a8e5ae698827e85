//! What is worth knowing of a row that is used: what of it is not in the text, or is read in a way to be told.

/// A part of a conversation that a chat template may leave out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// What the assistant says.
    Answer,
    /// What it thinks before it says it.
    Reasoning,
    /// A call of a tool.
    Call,
    /// The list of tools.
    Tools,
    /// Turns of another role.
    Role(String),
}

/// One thing worth knowing of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Remark {
    /// The rendering lacks a part.
    LeftOut(Part),
    /// Turns of the role `developer` were given to the template as turns of the role `system`.
    DeveloperAsSystem,
    /// No turn is the assistant's; the roles that there are.
    NoAssistant(Vec<String>),
    /// An answer without text.
    EmptyAnswer,
    /// A mark that asks to train a turn of another role.
    MarkOfOthers,
    /// `system` beside turns that begin with a system turn of another text.
    SecondSystem,
    /// Arguments of a call that are no JSON object.
    OddArguments,
    /// A key beside turns that changes nothing of the text.
    TurnKey(String),
    /// A variable of `chat_template_kwargs` that the template does not read.
    Variable(String),
    /// A key of the row that says how good it is.
    Judgement(String),
    /// A key of the row that names pictures or the like.
    Medium(String),
    /// A key of the row by which another form would be known.
    OtherForm(String),
    /// Any other key of the row that is not used.
    RowKey(String),
    /// A number that JSON does not have, read as null.
    NotANumber,
}
