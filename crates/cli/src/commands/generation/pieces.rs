//! Text that comes piece by piece: whole characters, up to a text that ends it.

use mesp::data::TextEncoder;

/// Text of tokens that come one by one. A character may need several tokens, so text is given out once it is
/// whole; what a token means may depend on those before it, so a few of them are decoded with it.
pub(crate) struct Pieces<'a> {
    encoder: &'a TextEncoder,
    ids: Vec<u32>,
    from: usize,
    shown: usize,
}

/// Tokens of the prompt that the first token is decoded with.
const CONTEXT: usize = 4;

impl<'a> Pieces<'a> {
    pub(crate) fn after(encoder: &'a TextEncoder, prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        let shown = ids.len();
        Self { encoder, ids, from: 0, shown }
    }

    /// The text that the next token completes, which may be none.
    pub(crate) fn push(&mut self, id: u32) -> mesp::Result<String> {
        self.ids.push(id);
        self.take(false)
    }

    /// What is left at the end, whole or not.
    pub(crate) fn rest(&mut self) -> mesp::Result<String> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> mesp::Result<String> {
        let before = self.encoder.decode(&self.ids[self.from..self.shown], true)?;
        let now = self.encoder.decode(&self.ids[self.from..], true)?;
        // The decoder writes this character for bytes that are not yet one.
        if now.ends_with(char::REPLACEMENT_CHARACTER) && !all {
            return Ok(String::new());
        }
        (self.from, self.shown) = (self.shown, self.ids.len());
        Ok(now.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// Text up to one of several texts, which is not part of it. What may be the beginning of one is held back until
/// it is known.
pub(crate) struct Until<'a> {
    ends: &'a [String],
    held: String,
}

impl<'a> Until<'a> {
    pub(crate) fn new(ends: &'a [String]) -> Self {
        Self { ends, held: String::new() }
    }

    /// What of the text so far can be said, and whether it ended.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.ends.iter().filter_map(|end| self.held.find(end.as_str())).min() {
            let said = self.held[..at].to_owned();
            self.held.clear();
            return (said, true);
        }
        let begins = |at: &usize| self.ends.iter().any(|end| end.starts_with(&self.held[*at..]));
        let places = self.held.char_indices().map(|(at, _)| at);
        let keep = places.into_iter().find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back and began nothing.
    pub(crate) fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Language;
    use super::*;

    #[test]
    fn characters_come_whole() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/model");
        let language = Language::open(&model, usize::MAX).expect("the demo's tokenizer");
        let text = "Lina sees 鯨 and a 🐋, naïve!";
        let ids = language.encoder.encode(text, false).expect("tokens");
        let mut pieces = Pieces::after(&language.encoder, &ids[..2]);
        let mut said = language.encoder.decode(&ids[..2], true).expect("text");
        for id in &ids[2..] {
            let piece = pieces.push(*id).expect("text");
            assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{piece:?}");
            said += &piece;
        }
        assert_eq!(said, text);
        assert_eq!(pieces.rest().expect("text"), "");
        // A character that is cut off is said at the end, as what it is.
        let mut pieces = Pieces::after(&language.encoder, &[]);
        let whale = language.encoder.encode("🐋", false).expect("tokens");
        assert!(whale.len() > 1);
        assert_eq!(pieces.push(whale[0]).expect("text"), "");
        assert_eq!(pieces.rest().expect("text"), "\u{FFFD}");
    }

    #[test]
    fn texts_end_where_they_should() {
        let said = |ends: &[&str], pieces: &[&str]| {
            let ends: Vec<String> = ends.iter().map(|e| (*e).to_owned()).collect();
            let mut until = Until::new(&ends);
            let mut all = Vec::new();
            for piece in pieces {
                let (said, ended) = until.push(piece);
                all.push(said);
                if ended {
                    return (all, true);
                }
            }
            all.push(until.rest());
            (all, false)
        };
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        // An end that comes in three pieces, after a false start.
        assert_eq!(
            said(&["\nUser:"], &["Hi", "\nU", "no\nUs", "er", ": x"]),
            (list(&["Hi", "", "\nUno", "", ""]), true)
        );
        assert_eq!(said(&["##"], &["a#", "b", "#"]), (list(&["a", "#b", "", "#"]), false));
        // The first in the text ends it, whichever comes first in the list.
        assert_eq!(said(&["later", "first"], &["x first later"]), (list(&["x "]), true));
        assert_eq!(said(&["aab"], &["aa", "ab!"]), (list(&["", "a"]), true));
        assert_eq!(said(&["é🐋"], &["caf", "é", "🐋"]), (list(&["caf", "", ""]), true));
        assert_eq!(said(&[], &["a", "b"]), (list(&["a", "b", ""]), false));
    }
}
