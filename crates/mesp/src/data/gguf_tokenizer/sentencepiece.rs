//! `SentencePiece`'s BPE: no words, spaces spelled `▁`, characters outside the vocabulary as bytes.
//!
//! It merges the pair whose token has the best score. Merges in the order of the scores of what they make do
//! the same, and that is how Hugging Face's converter carries these vocabularies over.

use mesp_formats::gguf::{Gguf, Value, token_type};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::{Places, TOKENS, numbers_of, refused, wrong};
use crate::{Error, ErrorKind, Result};

const SCORES: &str = "tokenizer.ggml.scores";
/// How a space is spelled.
const SPACE: &str = "▁";

pub(super) fn build(gguf: &Gguf, bytes: &[u8], places: &Places, unknown: Option<usize>) -> Result<Tokenizer> {
    let array = gguf.required(SCORES, gguf.array(SCORES)?)?;
    let scores = numbers_of(gguf, SCORES, array, bytes, places.texts.len(), Value::as_f64)?;
    // llama.cpp's converter writes one score for all where a vocabulary came without them. Which pair goes first is
    // lost then: llama.cpp's own tokens of such a file are not those that the model was made with.
    let mut merged = places.texts.iter().zip(&places.types).zip(&scores).filter_map(|((text, ty), score)| {
        (*ty == token_type::NORMAL && text.chars().nth(1).is_some()).then_some(*score)
    });
    if let Some(first) = merged.next()
        && merged.next().is_some_and(|second| second == first)
        && merged.all(|score| score == first)
    {
        let hint = "the converter did not carry them over: make the rows into tokens with the model's own directory, by mesp data tokenize --model DIR, and use these with the file";
        return Err(wrong(gguf, SCORES, ErrorKind::Malformed, hint)
            .expected("the scores of a vocabulary")
            .found(format!("{first} for every token")));
    }
    let failed = |e: tokenizers::Error| -> Error { refused(gguf, TOKENS, &e) };

    let mut builder = places.model(merges(places, &scores)).byte_fallback(true).fuse_unk(true);
    if let Some(text) = unknown.and_then(|id| places.texts.get(id)) {
        builder = builder.unk_token(text.clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
    let prefix = gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);

    let mut normalizers: Vec<NormalizerWrapper> = vec![Replace::new(" ", SPACE).map_err(failed)?.into()];
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        // Before every stretch between markers, as llama.cpp does it.
        normalizers.insert(0, Prepend::new(SPACE.to_string()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(failed)?;
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// Every pair of tokens that makes a token of text, best score first.
fn merges(places: &Places, scores: &[f64]) -> Vec<(String, String)> {
    let text = |id: usize| places.types.get(id) == Some(&token_type::NORMAL);
    let part = |text: &str| places.ids.get(text).copied();
    let mut found: Vec<(f64, u32, u32)> = Vec::new();
    for (id, token) in places.texts.iter().enumerate().filter(|(id, _)| text(*id)) {
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(a), Some(b)) = (part(&token[..at]), part(&token[at..]))
                && text(a as usize)
                && text(b as usize)
            {
                found.push((scores[id], a, b));
            }
        }
    }
    found.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    let token = |id: u32| places.texts[id as usize].clone();
    found.into_iter().map(|(_, a, b)| (token(a), token(b))).collect()
}
