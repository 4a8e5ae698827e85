//! Text generation with a KV cache: the prompt is computed in chunks, then one token at a time.

use std::sync::Arc;

use mesp_device::{Backend, Class, Dry, Elem, Label, Plan, Program};

use crate::adapter::{self, AdapterConfig, BlockPairs, dora, persistent_pairs};
use crate::arch::Module;
use crate::data::in_vocabulary;
use crate::model::{self, Batch, BlockRun, Cache, ModelWeights};
use crate::tape::{Saved, Site, Tape, Tiles};
use crate::{Error, ErrorKind, Result};

mod sampling;

pub use sampling::{Sampler, Sampling, distribution};

/// The most tokens of a prompt that are computed at once. So except for the KV cache, memory does not grow with the
/// prompt.
pub const CHUNK: usize = 64;
/// The longest sequence.
const MOST_TOKENS: usize = 1 << 24;

/// A model with the KV cache of one sequence.
#[derive(Debug)]
pub struct Generator<B> {
    be: B,
    model: Arc<ModelWeights>,
    params: Vec<BlockPairs>,
    caches: Vec<Cache>,
    tapes: Vec<Tape>,
    batch: Batch,
    logits: Vec<f32>,
    /// Whose keys and values are kept.
    sequence: Vec<u32>,
    /// Whether the adapters may have changed since their norms were taken (DoRA).
    changed: bool,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was generated.
    Stop,
    /// The requested number of tokens was generated.
    Length,
    /// The KV cache is full.
    Full,
    /// The caller's function returned false.
    Told,
}

impl Finish {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Full => "context",
            Self::Told => "told",
        }
    }
}

impl<B: Backend> Generator<B> {
    /// Allocates a generator for sequences of at most `capacity` tokens, with zero adapters to load into.
    pub fn new(mut be: B, model: Arc<ModelWeights>, adapter: &AdapterConfig, capacity: usize) -> Self {
        let c = &model.config;
        let mut params =
            persistent_pairs(&mut be, c, adapter, Elem::Full, |_| true, Label::new(Class::Adapter, "lora"));
        dora::measure(&mut be, &model.config, model.blocks.iter().map(|b| &b.linears), &mut params);
        let mut cache = |name| be.persist(capacity, c.kv_cols(), Label::new(Class::Cache, name));
        let caches = (0..c.layers).map(|_| Cache { k: cache("k"), v: cache("v") }).collect();
        let tapes = (0..c.layers).map(|_| Tape::default()).collect();
        let logits = vec![0.0; c.vocab_size];
        let sequence = Vec::with_capacity(capacity);
        let batch = Batch::default();
        Self { be, model, params, caches, tapes, batch, logits, sequence, changed: true }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.be
    }

    /// The adapters, mutable, with the backend to load them.
    pub fn params_mut(&mut self) -> (&mut B, &mut [BlockPairs]) {
        self.changed = true;
        (&mut self.be, &mut self.params)
    }

    /// Empties the KV cache.
    pub fn reset(&mut self) {
        self.sequence.clear();
    }

    /// The size of the KV cache in tokens.
    pub fn capacity(&self) -> usize {
        self.caches.first().map_or(0, |c| c.k.rows())
    }

    /// The tokens for which the KV cache still has room.
    pub fn room(&self) -> usize {
        self.capacity() - self.sequence.len()
    }

    /// Truncates the KV cache to the common beginning with another sequence and returns its length in tokens, so that
    /// only the rest has to be computed. The last token of `tokens` is never kept, since its logits are needed.
    pub fn keep_common(&mut self, tokens: &[u32]) -> usize {
        let most = tokens.len().saturating_sub(1);
        let common = self.sequence.iter().zip(&tokens[..most]).take_while(|(a, b)| a == b).count();
        self.sequence.truncate(common);
        common
    }

    /// Appends tokens to the sequence.
    ///
    /// # Panics
    /// When there is no room.
    pub fn read(&mut self, tokens: &[u32]) {
        assert!(tokens.len() <= self.room(), "room for {} tokens", self.room());
        for chunk in tokens.chunks(CHUNK) {
            self.run(chunk, false);
        }
    }

    /// Appends tokens to the sequence and returns the logits `[vocabulary]` of the next token.
    ///
    /// # Panics
    /// When there is no room, or no token.
    pub fn feed(&mut self, tokens: &[u32]) -> &[f32] {
        let last = tokens.len().div_ceil(CHUNK).checked_sub(1).expect("a token");
        let (before, last) = tokens.split_at(last * CHUNK);
        self.read(before);
        assert!(last.len() <= self.room(), "room for {} tokens", self.room());
        self.run(last, true);
        &self.logits
    }

    /// A chunk; the logits of its last token only where they are wanted.
    fn run(&mut self, tokens: &[u32], logits: bool) {
        let (n, past) = (tokens.len(), self.sequence.len());
        if std::mem::take(&mut self.changed) {
            self.be.begin(Program(1));
            for (block, pairs) in self.model.blocks.iter().zip(&mut self.params) {
                dora::refresh(&mut self.be, &self.model.config, &block.linears, pairs);
            }
        }
        self.be.begin(Program(0));
        self.batch.tokens.clear();
        self.batch.tokens.extend_from_slice(tokens);
        self.batch.positions.clear();
        self.batch.positions.extend((past..past + n).map(|p| p as u32));
        self.batch.offsets.clear();
        self.batch.offsets.extend([0, n]);
        let [head, table] =
            Module::OUTSIDE_BLOCKS.map(|p| adapter::pair_outside_blocks(&self.params, p, &self.model.config));
        let mut x = model::embed(&mut self.be, &self.model, table, &self.batch, Class::WithinBlock);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            tape.put(Site::BlockIn, x);
            let run = BlockRun {
                config: &self.model.config,
                block: &self.model.blocks[l],
                pairs: &self.params[l],
                batch: &self.batch,
                saved: Saved::FULL,
                tiles: Tiles::DEFAULT,
                dropout: None,
            };
            x = model::decode_block(&mut self.be, &run, tape, &mut self.caches[l], past);
        }
        if logits {
            model::last_logits(&mut self.be, &self.model, head, &x, &mut self.logits);
        }
        self.be.free(x);
        self.sequence.extend_from_slice(tokens);
    }

    /// Replaces the sequence by a prompt, keeping the KV cache of their common beginning, and generates tokens until
    /// one of `stop` is generated, `max_tokens` are there, or the cache is full. Each token is passed to `token`, which
    /// ends generation by returning false. Stop tokens are not passed on.
    ///
    /// # Errors
    /// When the logits are NaN, or the prompt has a token outside the model's vocabulary.
    ///
    /// # Panics
    /// When the prompt is empty or longer than the KV cache.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        sampler: &mut Sampler,
        stop: &[u32],
        token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Finish> {
        in_vocabulary(prompt.iter().copied(), self.model.config.vocab_size)?;
        let kept = self.keep_common(prompt);
        self.feed(&prompt[kept..]);
        sampler.restart(prompt);
        for made in 1..=max_tokens {
            let Some(next) = sampler.choose(&mut self.logits) else {
                return Err(Error::usage(ErrorKind::NotFinite, "the model's logits are no numbers")
                    .hint("the model or the adapter holds values that are no numbers; see `mesp eval`"));
            };
            if stop.contains(&next) {
                return Ok(Finish::Stop);
            }
            if !token(next) {
                return Ok(Finish::Told);
            }
            if made == max_tokens {
                break;
            }
            if self.room() == 0 {
                return Ok(Finish::Full);
            }
            self.feed(&[next]);
        }
        Ok(Finish::Length)
    }
}

/// Plans the memory of a generator.
///
/// # Errors
/// When the adapter does not fit the model, or the size exceeds any machine's memory.
pub fn plan_generation(
    model: &Arc<ModelWeights>,
    adapter: &AdapterConfig,
    capacity: usize,
    value_bytes: usize,
    threads: usize,
) -> Result<Plan> {
    adapter.fits(&model.config)?;
    if capacity > MOST_TOKENS {
        return Err(Error::usage(ErrorKind::OutOfRange, format!("room for {capacity} tokens was asked for"))
            .expected(format!("at most {MOST_TOKENS}"))
            .hint("lower ‘max_tokens’ or ‘context’"));
    }
    let dry = Dry::new(value_bytes, threads);
    let mut generator = Generator::new(dry, Arc::clone(model), adapter, capacity);
    // The longest chunk at the end of the room is the most that any chunk needs.
    let chunk = CHUNK.min(capacity);
    generator.sequence.resize(capacity - chunk, 0);
    generator.run(&vec![0; chunk], true);
    Ok(generator.be.try_finish()?)
}
