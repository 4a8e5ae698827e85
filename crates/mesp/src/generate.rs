//! Text from a model: a prompt in chunks, then a token at a time, keys and values kept.

use std::sync::Arc;

use mesp_device::{Backend, Class, Dry, Elem, Label, Plan, Program};

use crate::adapter::{self, AdapterConfig, BlockPairs, dora, persistent_pairs};
use crate::arch::Module;
use crate::data::in_vocabulary;
use crate::model::{self, Batch, BlockRun, Cache, ModelWeights};
use crate::tape::{Saved, Site, Tape, Tiles};
use crate::{Error, Result};

mod sampling;

pub use sampling::{Sampler, Sampling, distribution};

/// Tokens of a prompt that are run at once: the memory of generation does not grow with the prompt, but for
/// its keys and values.
pub const CHUNK: usize = 64;
/// The longest sequence.
const MOST_TOKENS: usize = 1 << 24;

/// A model with the keys and values of one sequence.
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

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// There were as many tokens as were asked for.
    Length,
    /// There is no room for another token.
    Full,
    /// Whoever took the tokens had enough.
    Told,
}

impl Finish {
    /// In documents.
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
    /// For sequences of at most `capacity` tokens.
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

    /// Adapters, to load.
    pub fn params_mut(&mut self) -> (&mut B, &mut [BlockPairs]) {
        self.changed = true;
        (&mut self.be, &mut self.params)
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.sequence.clear();
    }

    /// Tokens whose keys and values there is room for, in all.
    pub fn capacity(&self) -> usize {
        self.caches.first().map_or(0, |c| c.k.rows())
    }

    /// Tokens there is room for.
    pub fn room(&self) -> usize {
        self.capacity() - self.sequence.len()
    }

    /// Goes back to where another sequence begins to differ, so that only what is new of it has to be fed; gives
    /// how many of its tokens are kept. Its last is never among them, since its logits have to be made.
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

    /// Appends tokens to the sequence and gives the logits of what follows.
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
        let [head, table] = Module::OUTSIDE.map(|p| adapter::outside(&self.params, p, &self.model.config));
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

    /// Takes a prompt in place of the sequence, of which it keeps what the two have in common, and appends tokens
    /// until one of `stop`, `max_tokens`, or the end of the room. Each is handed to `token` as it comes; when that
    /// gives false, generation ends. Stop tokens are not part of it.
    ///
    /// # Errors
    /// When the model's logits are no numbers, or the prompt has a token that the model has not.
    ///
    /// # Panics
    /// When the prompt has no token, or more than there is room for.
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
                return Err(Error::usage("the model's logits are no numbers")
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

/// Memory of a generator.
///
/// # Errors
/// When the adapter does not fit the model, or no machine has the memory.
pub fn plan_generation(
    model: &Arc<ModelWeights>,
    adapter: &AdapterConfig,
    capacity: usize,
    value_bytes: usize,
    threads: usize,
) -> Result<Plan> {
    adapter.fits(&model.config)?;
    if capacity > MOST_TOKENS {
        let problem = format!("room for {capacity} tokens was asked for, expected at most {MOST_TOKENS}");
        return Err(Error::usage(problem).hint("lower ‘max_tokens’ or ‘context’"));
    }
    let dry = Dry::new(value_bytes, threads);
    let mut generator = Generator::new(dry, Arc::clone(model), adapter, capacity);
    // The longest chunk at the end of the room is the most that any chunk needs.
    let chunk = CHUNK.min(capacity);
    generator.sequence.resize(capacity - chunk, 0);
    generator.run(&vec![0; chunk], true);
    Ok(generator.be.try_finish()?)
}
