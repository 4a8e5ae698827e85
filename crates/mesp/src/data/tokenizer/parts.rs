//! A long text turned into tokens part by part: a tokenizer takes some 120 bytes of memory for each byte of its text.
//!
//! Let A be the tokens of one part and B those of the next, which begins at a token of A near A's end, so that both
//! have tokens for a stretch of the text. What a tokenizer makes of a place depends on what stands near it: A lacks the
//! text after the part, and its last tokens may be wrong; B lacks the text before it, and its first may be. Where A and
//! B agree on many tokens one after another, well before A's end, both have found the tokens of the whole text, and the
//! one is continued by the other. Where they do not agree the part is made longer, and past a limit the text refused.

use std::ops::Range;

use super::Token;
use crate::{Error, ErrorKind, Result};

/// Bytes of a part.
pub(in crate::data) const PART: usize = 1 << 14;
/// Bytes at a part's end that the next part has too, and those of them that are not compared.
const SHARED: usize = PART / 8;
const EDGE: usize = SHARED / 8;
/// Tokens on which two parts agree.
const AGREED: usize = 16;
/// Bytes of the longest part.
const LONGEST: usize = 4 << 20;

/// Gives the tokens of a text to `take`, in order; `encode` makes those of a part. `part` is [`PART`].
///
/// # Errors
/// Those of `encode` and `take`, and where no two parts agree.
pub(super) fn in_parts(
    text: &str,
    part: usize,
    encode: &dyn Fn(&str) -> Result<Vec<Token>>,
    take: &mut dyn FnMut(Token) -> Result<()>,
) -> Result<()> {
    let scale = |n: usize| n * part / PART;
    let (shared, edge) = (scale(SHARED), scale(EDGE));
    let tokens_of = |range: Range<usize>| -> Result<Vec<Token>> {
        let mut tokens = encode(&text[range.clone()])?;
        for bytes in tokens.iter_mut().filter_map(|token| token.bytes.as_mut()) {
            *bytes = range.start + bytes.start..range.start + bytes.end;
        }
        Ok(tokens)
    };
    let end_of = |start: usize, length: usize| text.floor_char_boundary(start.saturating_add(length));
    // The part whose tokens are looked at, and the first of them that was not given.
    let mut here = 0..end_of(0, part);
    let (mut tokens, mut first, mut length) = (tokens_of(here.clone())?, 0, part);
    while here.end < text.len() {
        let joined = match seam(text, &tokens[first..], here.end - shared.min(here.len() / 2)) {
            Some(start) => {
                let next = start..end_of(start, part);
                let others = tokens_of(next.clone())?;
                agreement(&tokens[first..], &others, here.end.min(next.end) - edge)
                    .map(|(ours, theirs)| (next, others, first + ours, theirs))
            }
            None => None,
        };
        if let Some((next, others, ours, theirs)) = joined {
            tokens.drain(first..ours).try_for_each(&mut *take)?;
            (here, tokens, first, length) = (next, others, theirs, part);
            continue;
        }
        if length >= scale(LONGEST) {
            return Err(Error::usage(
                ErrorKind::OutOfRange,
                format!(
                    "the text has a stretch of {length} bytes, from byte {} on, that the tokenizer \
                        takes as one piece",
                    here.start
                ),
            )
            .hint("put spaces or line breaks into it, or divide the text"));
        }
        // What was given before is found again at the same places.
        let given = tokens.get(first).and_then(|token| token.bytes.clone()).map_or(here.start, |b| b.start);
        length = (2 * length).min(scale(LONGEST));
        here = here.start..end_of(here.start, length);
        tokens = tokens_of(here.clone())?;
        first = tokens
            .iter()
            .position(|token| token.bytes.as_ref().is_some_and(|bytes| bytes.start >= given))
            .unwrap_or(0);
    }
    tokens.drain(first..).try_for_each(take)
}

/// Where a token begins that shares no byte with the one before: the first such place from `from` on.
fn seam(text: &str, tokens: &[Token], from: usize) -> Option<usize> {
    let mut before = None;
    for bytes in tokens.iter().filter_map(|token| token.bytes.as_ref()) {
        let apart = before.is_some_and(|end| end <= bytes.start);
        if bytes.start >= from && apart && text.is_char_boundary(bytes.start) {
            return Some(bytes.start);
        }
        before = Some(bytes.end);
    }
    None
}

/// The places in both lists of a token from which on they agree up to byte `end`: in the middle of what they agree on.
fn agreement(ours: &[Token], theirs: &[Token], end: usize) -> Option<(usize, usize)> {
    let within = |tokens: &[Token]| {
        let past = |token: &Token| token.bytes.as_ref().is_some_and(|bytes| bytes.end > end);
        tokens.iter().position(past).unwrap_or(tokens.len())
    };
    let (a, b) = (within(ours), within(theirs));
    let agreed = ours[..a].iter().rev().zip(theirs[..b].iter().rev()).take_while(|(a, b)| a == b).count();
    // Runs of one character have few, long tokens: agreement from the first token on is enough.
    let enough = agreed >= AGREED || (agreed > 1 && agreed == b);
    enough.then(|| (a - agreed.div_ceil(2), b - agreed.div_ceil(2)))
}

#[cfg(test)]
mod tests;
