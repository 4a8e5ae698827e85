//! Text to tokens and back, as the model's `tokenizer.json` says.

mod named;
mod parts;

use std::path::{Path, PathBuf};

use mesp_formats::regular;

pub(super) use self::parts::PART;
use self::parts::in_parts;
use super::{Prefix, Token, TokenizerInfo, wall};
use crate::{Error, ErrorKind, Result};

/// Runs `read`, which does `doing` with a file of a tokenizer.
pub(super) fn within<T>(path: &Path, doing: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    wall::walled(read).unwrap_or_else(|panic| {
        Err(Error::data(path, None, ErrorKind::Malformed, format!("{doing} fails: {panic}"))
            .hint("the tokenizer is damaged, or made to fail: get it from the model's authors"))
    })
}

/// A tokenizer with the rules around it: one token at the beginning of a text, never two.
pub struct TextEncoder {
    inner: tokenizers::Tokenizer,
    /// The file, for messages.
    path: PathBuf,
    info: TokenizerInfo,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Whether `tokenizer.json` itself adds the first token, which older conversions do not.
    adds_bos: bool,
    special: Vec<String>,
    ends: Vec<u32>,
}

impl TextEncoder {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or does not know the tokens that `info` names.
    pub fn from_file(path: &Path, info: TokenizerInfo) -> Result<Self> {
        let bytes = regular::read(path, regular::VOCABULARY_LIMIT)?;
        Self::from_bytes(path, &bytes, info)
    }

    /// As [`from_file`](Self::from_file), for a file that was read.
    ///
    /// # Errors
    /// When it cannot be understood, or does not know the tokens that `info` names.
    pub fn from_bytes(path: &Path, bytes: &[u8], info: TokenizerInfo) -> Result<Self> {
        let unreadable = |e: tokenizers::Error| {
            Error::data(
                path,
                None,
                ErrorKind::Malformed,
                format!("not a tokenizer this program understands: {e}"),
            )
            .hint("expected the tokenizer.json of a Hugging Face model directory")
        };
        let inner = within(path, "reading this tokenizer", || {
            tokenizers::Tokenizer::from_bytes(bytes).map_err(unreadable)
        })?;
        Self::from_tokenizer(path, inner, info)
    }

    /// Takes a tokenizer that is already made; `path` is for error messages only.
    ///
    /// # Errors
    /// When it does not know the tokens that `info` names.
    pub fn from_tokenizer(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        mut info: TokenizerInfo,
    ) -> Result<Self> {
        let unreadable = |e: tokenizers::Error| {
            Error::data(path, None, ErrorKind::Malformed, format!("a tokenizer with wrong settings: {e}"))
        };
        // Some files carry the settings of the run that wrote them. Cutting is done here, and counted.
        inner.with_truncation(None).map_err(unreadable)?.with_padding(None);
        if let Some(post) = inner.get_post_processor().cloned() {
            inner.with_post_processor(Some(named::untrimmed(post)));
        }
        if let Some(prefix) = info.prefix {
            named::set_prefix(&mut inner, prefix).map_err(unreadable)?;
        }
        named::mark(&mut inner, &info).map_err(unreadable)?;
        // The configuration's word where the tokenizer's files name no end: its token may be a word, and no marker.
        let marker = info.eos_token.clone();
        let spelled = |id: &u32| named::spelled(&inner, *id);
        info.eos_token = info.eos_token.or_else(|| info.end_ids.iter().find_map(spelled));
        let id = |token: &str| inner.token_to_id(token);
        let (bos, eos) = (info.bos_token.as_deref().and_then(id), info.eos_token.as_deref().and_then(id));
        if let (Some(token), None) = (&info.eos_token, eos) {
            return Err(Error::data(
                path,
                None,
                ErrorKind::Missing,
                format!("the end-of-text token `{token}` of tokenizer_config.json is not in this vocabulary"),
            )
            .hint("take both files from the same model"));
        }
        if info.add_bos_token == Some(true) && bos.is_none() {
            return Err(Error::data(
                path,
                None,
                ErrorKind::Missing,
                "tokenizer_config.json sets add_bos_token, and this vocabulary has no such token",
            )
            .hint("take both files from the same model"));
        }
        let mut ends: Vec<u32> = Vec::new();
        let named_ends = info.end_tokens.iter().filter_map(|token| id(token));
        for end in eos.into_iter().chain(named_ends).chain(info.end_ids.iter().copied()) {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        let special = inner.get_added_tokens_decoder().into_values().filter(|t| t.special).map(|t| t.content);
        let mut special: Vec<String> = special.chain(marker).filter(|t| !t.is_empty()).collect();
        special.sort();
        special.dedup();
        let mut encoder =
            Self { inner, path: path.to_path_buf(), info, bos, eos, adds_bos: false, special, ends };
        let first = encoder.raw("", true)?.get_ids().first().copied();
        encoder.adds_bos = first.is_some() && first == encoder.bos;
        Ok(encoder)
    }

    /// The tokens of `text`. With `add_special` it is a text of its own: it begins with the model's
    /// first token where the model wants one and the text does not spell it already.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > PART {
            return Ok(self
                .encode_with_offsets(text, add_special)?
                .into_iter()
                .map(|token| token.id)
                .collect());
        }
        let encoding = self.guarded("turning a text into tokens with this tokenizer", || {
            self.inner.encode_fast(text, add_special).map_err(|e| refused(&e))
        })?;
        let mut ids = encoding.get_ids().to_vec();
        let (drop, bos) = self.beginning(&ids, add_special);
        ids.splice(..drop, bos);
        Ok(ids)
    }

    /// As [`encode`](Self::encode), each token with the bytes it stands for. A byte belongs to the token
    /// that carries it: white space before a word belongs to the word's token where the two are one.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        self.encode_each(text, add_special, &mut |token| {
            tokens.push(token);
            Ok(())
        })?;
        Ok(tokens)
    }

    /// As [`encode_with_offsets`](Self::encode_with_offsets), each token given to `take`. Of a long text only a part is
    /// looked at at a time, whatever its length.
    ///
    /// # Errors
    /// When the tokenizer refuses the text, or takes more than 4 MB of it as one piece; those of `take`.
    pub fn encode_each(
        &self,
        text: &str,
        add_special: bool,
        take: &mut dyn FnMut(Token) -> Result<()>,
    ) -> Result<()> {
        if text.len() <= PART {
            return self.whole(text, add_special)?.into_iter().try_for_each(take);
        }
        // What the tokenizer adds around any text; the beginning depends on the text's own.
        let around = if add_special { self.whole("a", true)? } else { Vec::new() };
        let begins = around.iter().take_while(|token| token.bytes.is_none()).count();
        let ends = around.iter().skip(begins).filter(|token| token.bytes.is_none());
        let mut first = true;
        in_parts(text, PART, &|part| self.whole(part, false), &mut |token| {
            if std::mem::take(&mut first) && add_special {
                let spelled = Some(token.id) == self.bos && self.wants_bos();
                let added = around[..begins].iter().filter(|added| !(spelled && Some(added.id) == self.bos));
                added.cloned().try_for_each(&mut *take)?;
            }
            take(token)
        })?;
        ends.cloned().try_for_each(take)
    }

    /// The tokens of a text, all at once.
    fn whole(&self, text: &str, add_special: bool) -> Result<Vec<Token>> {
        let encoding = self.raw(text, add_special)?;
        let places = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
        let token = |(&id, (&(start, end), &added)): (&u32, (&(usize, usize), &u32))| Token {
            id,
            bytes: (added == 0).then_some(start..end),
        };
        let mut tokens: Vec<Token> = encoding.get_ids().iter().zip(places).map(token).collect();
        let (drop, bos) = self.beginning(encoding.get_ids(), add_special);
        tokens.splice(..drop, bos.map(|id| Token { id, bytes: None }));
        Ok(tokens)
    }

    /// The text of `tokens`, without the special ones if `skip_special`.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        self.guarded("turning tokens into text with this tokenizer", || {
            self.inner
                .decode(tokens, skip_special)
                .map_err(|e| Error::usage(ErrorKind::Malformed, format!("the tokens cannot be decoded: {e}")))
        })
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens that end a text, by all of the model's files.
    pub fn end_ids(&self) -> &[u32] {
        &self.ends
    }

    /// The number of a token given as its vocabulary entry.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the model brought a chat template of its own.
    pub(super) fn has_chat_template(&self) -> bool {
        self.info.chat_template.is_some()
    }

    /// What the tokenizer was opened with.
    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// Whether a text of its own begins with [`bos_id`](Self::bos_id).
    pub fn wants_bos(&self) -> bool {
        self.info.add_bos_token.unwrap_or(self.adds_bos)
    }

    /// The tokens that are markers and not words, such as `<|im_end|>`.
    pub fn special_tokens(&self) -> &[String] {
        &self.special
    }

    fn raw(&self, text: &str, add_special: bool) -> Result<tokenizers::Encoding> {
        // `encode` counts in bytes; `encode_char_offsets` would count in characters.
        self.guarded("turning a text into tokens with this tokenizer", || {
            self.inner.encode(text, add_special).map_err(|e| refused(&e))
        })
    }

    fn guarded<T>(&self, doing: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        within(&self.path, doing, run)
    }

    /// How many tokens at the front to drop, and which to put there, for exactly one beginning.
    fn beginning(&self, ids: &[u32], add_special: bool) -> (usize, Option<u32>) {
        let Some(bos) = self.bos.filter(|_| add_special) else { return (0, None) };
        let added = usize::from(self.adds_bos && ids.first() == Some(&bos));
        if ids.get(added) == Some(&bos) {
            return (added, None);
        }
        match (added, self.wants_bos()) {
            (0, true) => (0, Some(bos)),
            (1, false) => (1, None),
            _ => (0, None),
        }
    }
}

fn refused(error: &tokenizers::Error) -> Error {
    Error::usage(ErrorKind::Unsupported, format!("the tokenizer refuses this text: {error}"))
}

#[cfg(test)]
mod tests;
