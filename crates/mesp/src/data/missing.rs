//! What of a conversation is not in its rendering.
//!
//! A template is asked, not read: into every part goes a character that no text has, the conversation is rendered
//! again, and parts whose characters do not come back are left out. The rendering without these characters has to
//! be the one that is trained; where it is not, since the template looks into its texts, a part is taken for left
//! out when its text is not found.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::remarks::{Part, Remark};
use super::turns::{TURN, is_blank, marks};
use super::{ChatFormat, Conversation};

/// The characters that are put into parts, of a private plane.
const FIRST: u32 = 0xF2000;
const MOST: u32 = 0x4000;

/// What a rendering lacks.
#[derive(Default)]
pub(super) struct Missing {
    pub(super) remarks: BTreeSet<Remark>,
    /// A trained turn that is nothing but a call, and the call is missing.
    pub(super) emptied: Option<usize>,
}

impl Missing {
    pub(super) fn part(&self, part: &Part) -> bool {
        self.remarks.contains(&Remark::LeftOut(part.clone()))
    }
}

/// A part, and how it is found.
struct Probe {
    part: Part,
    turn: Option<usize>,
    character: char,
    text: String,
}

/// Compares a conversation with its rendering.
pub(super) fn missing(chat: &ChatFormat, conversation: &Conversation, text: &str) -> Missing {
    let mut probes = Probes::default();
    let mut probed = conversation.clone();
    for (turn, message) in probed.messages.iter_mut().enumerate() {
        if let Some(message) = message.as_object_mut() {
            probes.message(turn, message);
        }
    }
    for tool in probed.tools.iter_mut().filter_map(Value::as_array_mut).flatten() {
        probes.named(None, &Part::Tools, tool);
    }
    let probes = probes.0;
    let rendered = chat.render(&probed, false).unwrap_or_default();
    let faithful = rendered.chars().filter(|c| !is_probe(*c)).eq(text.chars());
    let found: BTreeSet<char> = rendered.chars().filter(|c| is_probe(*c)).collect();
    let is_there = |probe: &Probe| {
        if faithful { found.contains(&probe.character) } else { contains(text, &probe.text) }
    };
    let mut missing = Missing::default();
    for probe in probes.iter().filter(|probe| !is_there(probe)) {
        missing.remarks.insert(Remark::LeftOut(probe.part.clone()));
        let emptied = |turn: &usize| {
            let said = ["content", "reasoning_content"].iter();
            probe.part == Part::Call
                && conversation.trained[*turn]
                && said.into_iter().all(|key| is_blank(&conversation.messages[*turn][*key]))
        };
        missing.emptied = missing.emptied.or(probe.turn.filter(emptied));
    }
    missing.remarks.extend(idle_keys(chat, conversation, text).map(Remark::TurnKey));
    missing
}

/// Keys of turns without which the text is the same.
fn idle_keys<'a>(
    chat: &'a ChatFormat,
    conversation: &'a Conversation,
    text: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let turns = conversation.messages.iter().filter_map(Value::as_object);
    let pairs = turns.flatten().filter(|(_, value)| !is_blank(value));
    let keys: BTreeSet<&String> = pairs
        .map(|(key, _)| key)
        .filter(|key| !TURN.contains(&key.as_str()) && !marks::is_mark(key))
        .collect();
    keys.into_iter()
        .filter(move |key| {
            let mut without = conversation.clone();
            for message in without.messages.iter_mut().filter_map(Value::as_object_mut) {
                message.shift_remove(*key);
            }
            chat.render(&without, false).is_ok_and(|other| other == text)
        })
        .cloned()
}

#[derive(Default)]
struct Probes(Vec<Probe>);

impl Probes {
    fn message(&mut self, turn: usize, message: &mut Map<String, Value>) {
        let assistant = message.get("role").is_some_and(|role| role == "assistant");
        let other = || Part::Role(message.get("role").and_then(Value::as_str).unwrap_or_default().to_owned());
        let part = if assistant { Part::Answer } else { other() };
        match message.get_mut("content") {
            Some(Value::String(content)) if assistant => self.answer(turn, content),
            Some(content) => self.value(Some(turn), &part, content),
            None => {}
        }
        // Copies of one text have one character.
        let thought = ["reasoning_content", "thinking"].iter().find_map(|key| message.get(*key)).cloned();
        if let Some(Value::String(before)) = thought.filter(|thought| !is_blank(thought)) {
            let mut after = before.clone();
            self.text(Some(turn), &Part::Reasoning, &mut after);
            for copy in message.values_mut().filter(|copy| **copy == before) {
                *copy = after.clone().into();
            }
        }
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            self.named(Some(turn), &Part::Call, call);
            if let Some(arguments) = call.pointer_mut("/function/arguments") {
                self.value(Some(turn), &Part::Call, arguments);
            }
        }
    }

    /// An answer, perhaps with its reasoning before it.
    fn answer(&mut self, turn: usize, content: &mut String) {
        let pieces: Vec<&str> = content.split(END_OF_THOUGHT).collect();
        let last = pieces.len() - 1;
        let pieces: Vec<String> = pieces
            .into_iter()
            .enumerate()
            .map(|(i, piece)| {
                let part = if i == last { Part::Answer } else { Part::Reasoning };
                let begins =
                    piece.trim_start().strip_prefix("<think>").map_or(0, |rest| piece.len() - rest.len());
                let (tag, body) = piece.split_at(begins);
                let mut body = body.to_owned();
                self.text(Some(turn), &part, &mut body);
                format!("{tag}{body}")
            })
            .collect();
        *content = pieces.join(END_OF_THOUGHT);
    }

    /// A tool or a call, by its function's name.
    fn named(&mut self, turn: Option<usize>, part: &Part, value: &mut Value) {
        let function = if value.get("function").is_some() { &mut value["function"] } else { value };
        match function.get_mut("name") {
            Some(Value::String(name)) => self.text(turn, part, name),
            _ => self.value(turn, part, function),
        }
    }

    /// A text, or the first name in an object.
    fn value(&mut self, turn: Option<usize>, part: &Part, value: &mut Value) {
        match value {
            Value::String(text) => self.text(turn, part, text),
            Value::Object(map) => {
                let pairs = std::mem::take(map).into_iter().enumerate();
                *map = pairs
                    .map(|(i, (mut key, value))| {
                        if i == 0 {
                            self.text(turn, part, &mut key);
                        }
                        (key, value)
                    })
                    .collect();
            }
            _ => {}
        }
    }

    fn text(&mut self, turn: Option<usize>, part: &Part, text: &mut String) {
        let number = self.0.len() as u32;
        if text.trim().is_empty() || number >= MOST || text.chars().any(is_probe) {
            return;
        }
        let Some(character) = char::from_u32(FIRST + number) else { return };
        self.0.push(Probe { part: part.clone(), turn, character, text: text.trim().to_owned() });
        text.insert(middle(text), character);
    }
}

const END_OF_THOUGHT: &str = "</think>";

fn is_probe(c: char) -> bool {
    (FIRST..FIRST + MOST).contains(&u32::from(c))
}

/// A place inside a text that is neither in white space around it, which templates trim, nor in a tag, for which
/// they look.
fn middle(text: &str) -> usize {
    let start = text.len() - text.trim_start().len();
    let said = text.trim();
    let half = (0..=said.len() / 2).rev().find(|at| said.is_char_boundary(*at)).unwrap_or(0);
    let in_tag = said[..half].rfind('<').is_some_and(|open| !said[open..half].contains('>'));
    let after = said[half..].find('>').map(|end| half + end + 1).filter(|at| in_tag && *at < said.len());
    start + after.unwrap_or(half)
}

/// Whether a text is there as it is, or as JSON writes it.
fn contains(text: &str, part: &str) -> bool {
    let quoted = Value::from(part).to_string();
    text.contains(part) || text.contains(&quoted[1..quoted.len() - 1])
}

#[cfg(test)]
mod tests;
