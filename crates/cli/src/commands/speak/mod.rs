//! Prompts to tokens, tokens to text.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mesp::adapter::peft;
use mesp::data::{ChatFormat, Conversation, TextEncoder};
use mesp::generate::{Generator, plan_generation};
use mesp_device::Cpu;
use rayon::ThreadPool;

use crate::inputs::{self, Loaded, usage};
use crate::numbers::Numbers;
use crate::settings::given_adapter;

/// A model's tokenizer and how it spells conversations.
pub(crate) struct Language {
    pub(crate) encoder: TextEncoder,
    chat: ChatFormat,
}

impl Language {
    pub(crate) fn open(model: &Path) -> Result<Self> {
        let encoder = inputs::encoder(model)?;
        let chat = ChatFormat::for_encoder(&encoder)?;
        Ok(Self { encoder, chat })
    }

    /// Whether a prompt is put into the model's chat template.
    pub(crate) fn chats(&self) -> bool {
        self.chat.has_template()
    }

    /// The tokens of a prompt: a turn of the user in the model's template, or the text as it stands.
    pub(crate) fn prompt(&self, text: &str, raw: bool) -> Result<Vec<u32>> {
        let tokens = if raw || !self.chats() {
            self.encoder.encode(text, true)?
        } else {
            let mut conversation = Conversation::default();
            conversation.push("user", text);
            self.chat.prompt_tokens(&self.encoder, &conversation)?
        };
        if tokens.is_empty() {
            return Err(usage("the prompt has no token, expected at least one", "give --prompt a text"));
        }
        Ok(tokens)
    }

    /// The tokens that end an answer: the configuration's and the tokenizer's.
    pub(crate) fn stops(&self, configured: &[u32]) -> Vec<u32> {
        let mut stops = configured.to_vec();
        stops.extend(self.chat.stop_ids(&self.encoder));
        stops.sort_unstable();
        stops.dedup();
        stops
    }
}

/// A generator for sequences of at most `capacity` tokens, with an adapter if there is one.
pub(crate) fn generator(
    loaded: &Loaded,
    adapter: Option<&Path>,
    capacity: usize,
    numbers: Numbers,
    pool: &Arc<ThreadPool>,
) -> Result<Generator<Cpu<f32>>> {
    let model = &loaded.model;
    let config = given_adapter(adapter)?;
    let plan = plan_generation(model, &config, capacity, size_of::<f32>(), pool.current_num_threads());
    let be = Cpu::<f32>::new(plan, Arc::clone(pool)).with_compute(numbers.compute());
    let mut generator = Generator::new(be, Arc::clone(model), config, capacity);
    if let Some(dir) = adapter {
        let (be, params) = generator.params_mut();
        peft::read_tensors(be, &dir.join(mesp_formats::peft::MODEL_FILE), params, &model.config)?;
    }
    Ok(generator)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/model");
        let language = Language::open(&model).expect("the demo's tokenizer");
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
}
