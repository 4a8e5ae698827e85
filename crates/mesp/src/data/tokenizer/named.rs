//! A tokenizer changed to what the files beside it say: the markers they name, and where words get a space.

use std::collections::HashMap;

use serde_json::json;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Result, Tokenizer};

use super::{Prefix, TokenizerInfo};

/// Makes the tokenizer find the tokens that the model's files name. A `tokenizer.json` may not list them, or ask
/// for them in a text that its normalizer has changed: `a</s>` then has no `</s>`.
pub(super) fn mark(inner: &mut Tokenizer, info: &TokenizerInfo) -> Result<()> {
    let added: HashMap<String, AddedToken> =
        inner.get_added_tokens_decoder().into_values().map(|token| (token.content.clone(), token)).collect();
    let changes = inner.get_normalizer().is_some();
    let found = |token: &AddedToken| token.special && !(token.normalized && changes);
    let marker = |text: &str| match added.get(text) {
        Some(token) if found(token) => None,
        Some(token) => Some(token.clone().normalized(false).special(true)),
        None => Some(AddedToken::from(text, true)),
    };
    let names =
        info.special_tokens.iter().chain(&info.end_tokens).chain(&info.bos_token).chain(&info.eos_token);
    let known = names.filter(|text| !text.is_empty() && inner.token_to_id(text).is_some());
    let mut markers: Vec<AddedToken> = known.filter_map(|text| marker(text)).collect();
    for id in &info.end_ids {
        let Some(text) = spelled(inner, *id) else { continue };
        // An end that is a word of the vocabulary, such as a full stop, is found as it is.
        let word = !added.contains_key(&text)
            && inner.encode_fast(format!("a{text}a"), false)?.get_ids().contains(id);
        if !word {
            markers.extend(marker(&text));
        }
    }
    inner.add_special_tokens(markers)?;
    Ok(())
}

/// The text of a token, where it stands for itself and not for bytes or a word with its space.
pub(super) fn spelled(inner: &Tokenizer, id: u32) -> Option<String> {
    // An added token has its text as it stands, whatever the normalizer makes of it.
    if let Some(token) = inner.get_added_tokens_decoder().remove(&id) {
        return Some(token.content);
    }
    let text = inner.id_to_token(id).filter(|text| !text.is_empty())?;
    (inner.decode(&[id], false).ok()? == text).then_some(text)
}

/// Puts a space before words where transformers' `LlamaTokenizer` does. Tokenizers of other kinds stay as they are.
pub(super) fn set_prefix(inner: &mut Tokenizer, prefix: Prefix) -> Result<()> {
    let normalizer = inner.get_normalizer().map(serde_json::to_value).transpose()?;
    let step = inner.get_pre_tokenizer().map(serde_json::to_value).transpose()?;
    let replaced = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] });
    let kind = step.as_ref().map(|step| &step["type"]);
    let spaced = match (&normalizer, kind) {
        (Some(normalizer), None) => *normalizer == replaced,
        (None, Some(kind)) => kind == "Metaspace",
        _ => false,
    };
    if !spaced {
        return Ok(());
    }
    let scheme = match prefix {
        Prefix::Always => PrependScheme::Always,
        Prefix::First => PrependScheme::First,
        Prefix::Never => PrependScheme::Never,
    };
    inner.with_normalizer(None::<NormalizerWrapper>)?;
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Metaspace(Metaspace::new('▁', scheme, false))));
    Ok(())
}

/// The same steps with every byte left to the token that carries it. Trimmed ranges would make the token
/// ` 4`, half of which belongs to the prompt, look as if it began with the completion.
pub(super) fn untrimmed(post: PostProcessorWrapper) -> PostProcessorWrapper {
    match post {
        PostProcessorWrapper::ByteLevel(step) => {
            PostProcessorWrapper::ByteLevel(ByteLevel::trim_offsets(step, false))
        }
        PostProcessorWrapper::Sequence(mut steps) => {
            for step in steps.as_mut() {
                *step = untrimmed(step.clone());
            }
            PostProcessorWrapper::Sequence(steps)
        }
        other => other,
    }
}
