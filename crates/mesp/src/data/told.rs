//! Remarks on rows, in words.

use std::collections::BTreeMap;

use super::notes::{Lines, Tally};
use super::remarks::{Part, Remark};

/// The remarks of a file, each with the lines of its rows.
type Remarks = BTreeMap<Remark, Lines>;

/// Keys of one kind that are named.
const NAMED: usize = 8;

/// Takes the key out of a remark of one kind.
type Kind = fn(&Remark) -> Option<&str>;

/// Kinds of keys that are not used, with what is said before and after their names.
const KEYS: [(Kind, &str, &str); 6] = [
    (
        |r| if let Remark::TurnKey(key) = r { Some(key) } else { None },
        "not used: of the turns",
        ", which change nothing of the text",
    ),
    (
        |r| if let Remark::Variable(key) = r { Some(key) } else { None },
        "not used: of `chat_template_kwargs`",
        ", which the chat template does not read",
    ),
    (
        |r| if let Remark::Judgement(key) = r { Some(key) } else { None },
        "not used: of the rows",
        "; every answer that is trained is trained alike, good or bad",
    ),
    (
        |r| if let Remark::Medium(key) = r { Some(key) } else { None },
        "not used: of the rows",
        "; only text is trained",
    ),
    (
        |r| if let Remark::OtherForm(key) = r { Some(key) } else { None },
        "not used: of the rows",
        ", since each row is read in one form, the one that is named above",
    ),
    (|r| if let Remark::RowKey(key) = r { Some(key) } else { None }, "not used: of the rows", ""),
];

/// Adds what is to be told of the remarks on `rows` rows; `template` says whether the model has a chat template.
pub(super) fn tell(tally: &Tally, rows: usize, template: bool, notes: &mut Vec<String>) {
    let remarks: &Remarks = &tally.remarks;
    let writer = if template { "the chat template" } else { "ChatML (the model has no chat template)" };
    for (remark, places) in remarks {
        let said = match remark {
            Remark::LeftOut(part) => left_out(writer, part),
            Remark::DeveloperAsSystem => {
                format!("{writer} has no role `developer`; these turns are written as turns of the system")
            }
            Remark::NoAssistant(roles) => {
                let roles: Vec<String> = roles.iter().map(|role| format!("`{role}`")).collect();
                format!("no turn has the role `assistant`, and only such turns are trained; found {}", roles.join(", "))
            }
            Remark::EmptyAnswer => "an answer is empty; of it only the end is trained".to_owned(),
            Remark::MarkOfOthers => {
                "a turn of another role is marked to be trained; only the assistant's are (‘train_on’ all trains all)"
                    .to_owned()
            }
            Remark::SecondSystem => "`system` is not used, since the turns begin with a system turn".to_owned(),
            Remark::OddArguments => {
                "the arguments of a tool call are no JSON object, and are given to the template as they are".to_owned()
            }
            Remark::NotANumber => {
                "NaN or Infinity, which JSON does not have, is read as null (no value)".to_owned()
            }
            _ => continue,
        };
        notes.push(format!("{} of {rows} rows: {said} ({})", places.count(), tally.lines(places)));
    }
    for (kind, before, after) in KEYS {
        let found: Vec<(&str, &Lines)> =
            remarks.iter().filter_map(|(remark, places)| Some((kind(remark)?, places))).collect();
        if !found.is_empty() {
            notes.push(format!("{before} {}{after}", named(tally, &found)));
        }
    }
}

fn left_out(writer: &str, part: &Part) -> String {
    match part {
        Part::Answer => format!("{writer} leaves out text of the assistant, which is not trained then"),
        Part::Reasoning => {
            format!("{writer} leaves out reasoning of the assistant, which is not trained then")
        }
        Part::Call => format!("{writer} leaves out tool calls"),
        Part::Tools => format!("{writer} leaves out the list of tools"),
        Part::Role(role) => format!("{writer} leaves out text of the role `{role}`"),
    }
}

/// Keys with the number of their rows and the first of these.
fn named(tally: &Tally, keys: &[(&str, &Lines)]) -> String {
    let one = |(key, places): &(&str, &Lines)| {
        let first = tally.named(places.list().first().copied().unwrap_or_default());
        match places.count() {
            1 => format!("`{key}` (1 row, line {first})"),
            n => format!("`{key}` ({n} rows, first line {first})"),
        }
    };
    let mut list: Vec<String> = keys.iter().take(NAMED).map(one).collect();
    if keys.len() > NAMED {
        list.push(format!("and {} more", keys.len() - NAMED));
    }
    list.join(", ")
}

#[cfg(all(test, feature = "text"))]
mod tests;
