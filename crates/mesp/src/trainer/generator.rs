//! Text from a model.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{Cpu, Threads};

use super::Model;
use crate::adapter::AdapterConfig;
use crate::data::{ChatFormat, Conversation, TextEncoder};
use crate::generate::{Generator as Engine, Sampler, Sampling, plan_generation};
use crate::memory::processor;
use crate::settings::{Numbers, held, threads};
use crate::source::{Base, load_adapter, load_adapter_config};
use crate::{Error, Result};

/// Generates text with a model, with or without an adapter. The KV cache is kept between calls, so the common beginning
/// of two prompts is computed once.
#[allow(missing_debug_implementations, reason = "a tokenizer has none")]
pub struct Generator {
    engine: Engine<Cpu<f32>>,
    encoder: TextEncoder,
    chat: ChatFormat,
    stops: Vec<u32>,
}

impl Model {
    /// What generates, without a tokenizer: sequences of at most `capacity` tokens, with what the adapter adds multiplied
    /// by `scale`.
    ///
    /// # Errors
    /// When the adapter is of another model or cannot be read, or there is no memory.
    pub fn generator(
        &self,
        adapter: Option<&Path>,
        scale: f64,
        capacity: usize,
        numbers: Numbers,
        pool: &Arc<Threads>,
    ) -> Result<Engine<Cpu<f32>>> {
        let weights = self.weights();
        let config = match adapter {
            Some(path) => load_adapter_config(path)?.on(self.config())?,
            None => AdapterConfig::none(),
        };
        config.fits(self.config())?;
        let config = config.scaled(scale);
        let plan = plan_generation(weights, &config, capacity, size_of::<f32>(), pool.count())?;
        let be = processor::<f32>(plan, Arc::clone(pool))?.with_compute(numbers.compute());
        let mut engine = Engine::new(be, Arc::clone(weights), &config, capacity);
        // At scale 0 there is nothing to read it into.
        if let Some(path) = adapter.filter(|_| scale != 0.0) {
            let (be, params) = engine.params_mut();
            load_adapter(be, path, params, weights)?;
        }
        Ok(engine)
    }
}

impl Generator {
    /// Plans and allocates a generator for a prompt and its answer of at most `capacity` tokens together, on
    /// `thread_count` threads, or on all cores if that is `None`.
    ///
    /// # Errors
    /// When the model has no tokenizer, the adapter does not fit the model or cannot be read, or the system has too
    /// little memory.
    pub fn new(
        model: &Model,
        adapter: Option<&Path>,
        capacity: usize,
        thread_count: Option<usize>,
    ) -> Result<Self> {
        let encoder = model.tokenizer()?.ok_or_else(|| {
            let problem =
                format!("{}: expected the model's tokenizer.json, found none", model.path().display());
            Error::usage(problem).hint("put the model's tokenizer.json there")
        })?;
        let numbers = Numbers::single(None, held(Base::Mapped, model.dtype()))?;
        let engine = model.generator(adapter, 1.0, capacity, numbers, &threads(thread_count)?)?;
        let chat = ChatFormat::for_encoder(&encoder)?;
        let mut stops = [model.end_tokens(), &chat.stop_ids(&encoder)].concat();
        stops.sort_unstable();
        stops.dedup();
        Ok(Self { engine, encoder, chat, stops })
    }

    /// The model's answer to `prompt` as a user turn, where the model has a chat template; otherwise the continuation
    /// of `prompt`. At most `max_tokens` tokens.
    ///
    /// # Errors
    /// When the prompt has no tokens or leaves no room for an answer, or the logits are NaN.
    pub fn answer(&mut self, prompt: &str, max_tokens: usize, sampling: Sampling) -> Result<String> {
        let tokens = if self.chat.has_template() {
            let mut conversation = Conversation::default();
            conversation.push("user", prompt);
            self.chat.prompt_tokens(&self.encoder, &conversation)?
        } else {
            self.encoder.encode(prompt, true)?
        };
        let room = self.engine.capacity().saturating_sub(tokens.len());
        if tokens.is_empty() || room == 0 {
            let problem = format!(
                "the prompt has {} tokens, expected 1 to {}",
                tokens.len(),
                self.engine.capacity() - 1
            );
            return Err(Error::usage(problem).hint("make the generator with more capacity"));
        }
        sampling.check()?;
        let mut answer = Vec::new();
        let mut sampler = Sampler::new(sampling);
        self.engine.generate(&tokens, max_tokens.min(room), &mut sampler, &self.stops, &mut |token| {
            answer.push(token);
            true
        })?;
        self.encoder.decode(&answer, true)
    }
}
