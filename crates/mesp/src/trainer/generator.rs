//! Tokens from a model.

use std::path::Path;
use std::sync::Arc;

use mesp_device::{Cpu, Threads};

use super::Model;
#[cfg(feature = "text")]
use super::text::Writer;
use crate::adapter::AdapterConfig;
use crate::generate::{Generator as Engine, Sampler, Sampling, plan_generation};
use crate::settings::{Numbers, held, threads};
use crate::source::{Base, load_adapter, load_adapter_config};
use crate::{Error, ErrorKind, Result};

/// Generates text with a model, with or without an adapter. The KV cache is kept between calls, so the common beginning
/// of two prompts is computed once.
#[allow(missing_debug_implementations, reason = "a tokenizer has none")]
pub struct Generator {
    engine: Engine<Cpu<f32>>,
    /// Tokens that end a text.
    stops: Vec<u32>,
    #[cfg(feature = "text")]
    pub(super) writer: Writer,
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
        let be = numbers.processor::<f32>(plan, pool)?;
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
    /// When the adapter does not fit the model, a file cannot be read, or the system has too little memory.
    pub fn new(
        model: &Model,
        adapter: Option<&Path>,
        capacity: usize,
        thread_count: Option<usize>,
    ) -> Result<Self> {
        #[cfg(feature = "text")]
        let writer = Writer::new(model)?;
        let numbers = Numbers::single(None, held(Base::Mapped, model.dtype()))?;
        let engine = model.generator(adapter, 1.0, capacity, numbers, &threads(thread_count)?)?;
        let mut stops = model.end_tokens().to_vec();
        #[cfg(feature = "text")]
        stops.extend(writer.stops());
        stops.sort_unstable();
        stops.dedup();
        Ok(Self {
            engine,
            stops,
            #[cfg(feature = "text")]
            writer,
        })
    }

    /// The tokens that follow a prompt of tokens: at most `max_tokens`, and none that ends a text.
    ///
    /// # Errors
    /// When the prompt has no tokens, one that the model has not, or leaves no room for an answer; when the logits are
    /// NaN.
    pub fn generate(&mut self, prompt: &[u32], max_tokens: usize, sampling: Sampling) -> Result<Vec<u32>> {
        let room = self.engine.capacity().saturating_sub(prompt.len());
        if prompt.is_empty() || room == 0 {
            return Err(Error::usage(ErrorKind::OutOfRange, "the prompt")
                .has(format!("{} tokens", prompt.len()))
                .expected(format!("1 to {}", self.engine.capacity().saturating_sub(1)))
                .hint("make the generator with more capacity"));
        }
        sampling.check()?;
        let mut made = Vec::new();
        let mut sampler = Sampler::new(sampling);
        self.engine.generate(prompt, max_tokens.min(room), &mut sampler, &self.stops, &mut |token| {
            made.push(token);
            true
        })?;
        Ok(made)
    }
}
