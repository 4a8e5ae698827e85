//! Text from a model: a prompt in chunks, then a token at a time, keys and values kept.

use std::sync::Arc;

use mesp_device::{Backend, Class, Dry, Elem, Label, Plan, Program};

use crate::adapter::{AdapterConfig, BlockPairs, persistent_pairs};
use crate::model::{self, Batch, BlockRun, Cache, Model};
use crate::rng;
use crate::tape::{Site, Tape, Tiles};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest.
    pub temperature: f64,
    /// Only the likeliest so many; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together have this probability; 1 for all.
    pub top_p: f64,
    /// For the draws.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// Tokens of a prompt that are run at once: the memory of generation does not grow with the prompt, but for
/// its keys and values.
const CHUNK: usize = 64;

/// A model with the keys and values of one sequence.
#[derive(Debug)]
pub struct Generator<B> {
    be: B,
    model: Arc<Model>,
    adapter: AdapterConfig,
    params: Vec<BlockPairs>,
    caches: Vec<Cache>,
    tapes: Vec<Tape>,
    batch: Batch,
    logits: Vec<f32>,
    past: usize,
}

impl<B: Backend> Generator<B> {
    /// For sequences of at most `capacity` tokens.
    pub fn new(mut be: B, model: Arc<Model>, adapter: AdapterConfig, capacity: usize) -> Self {
        let c = &model.config;
        let params = persistent_pairs(&mut be, c, &adapter, Elem::Full, Label::new(Class::Adapter, "lora"));
        let mut cache = |name| be.persist(capacity, c.kv_cols(), Label::new(Class::Cache, name));
        let caches = (0..c.layers).map(|_| Cache { k: cache("k"), v: cache("v") }).collect();
        let tapes = (0..c.layers).map(|_| Tape::default()).collect();
        let logits = vec![0.0; c.vocab_size];
        Self { be, model, adapter, params, caches, tapes, batch: Batch::default(), logits, past: 0 }
    }

    /// Adapters, to load.
    pub fn params_mut(&mut self) -> (&mut B, &mut [BlockPairs]) {
        (&mut self.be, &mut self.params)
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.past = 0;
    }

    /// Tokens there is room for.
    pub fn room(&self) -> usize {
        self.caches.first().map_or(0, |c| c.k.rows()) - self.past
    }

    /// Appends tokens to the sequence and gives the logits of what follows.
    ///
    /// # Panics
    /// When there is no room, or no token.
    pub fn feed(&mut self, tokens: &[u32]) -> &[f32] {
        assert!(!tokens.is_empty() && tokens.len() <= self.room(), "room for {} tokens", self.room());
        for chunk in tokens.chunks(CHUNK) {
            self.run(chunk);
        }
        &self.logits
    }

    fn run(&mut self, tokens: &[u32]) {
        let (n, past) = (tokens.len(), self.past);
        self.be.begin(Program(0));
        self.batch.tokens.clear();
        self.batch.tokens.extend_from_slice(tokens);
        self.batch.positions.clear();
        self.batch.positions.extend((past..past + n).map(|p| p as u32));
        self.batch.offsets.clear();
        self.batch.offsets.extend([0, n]);
        let mut x = model::embed(&mut self.be, &self.model, &self.batch, Class::WithinBlock);
        for (l, tape) in self.tapes.iter_mut().enumerate() {
            tape.put(Site::BlockIn, x);
            let run = BlockRun {
                config: &self.model.config,
                block: &self.model.blocks[l],
                pairs: &self.params[l],
                scale: self.adapter.scale(),
                batch: &self.batch,
                activations: Elem::Full,
                tiles: Tiles::DEFAULT,
            };
            x = model::decode_block(&mut self.be, &run, tape, &mut self.caches[l], past);
        }
        model::last_logits(&mut self.be, &self.model, &x, &mut self.logits);
        self.be.free(x);
        self.past += n;
    }

    /// Appends a prompt and then tokens until one of `stop`, `max_tokens`, or the end of the room. Each is
    /// handed to `token` as it comes; when that gives false, generation ends. Stop tokens are not part of it.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        sampling: Sampling,
        stop: &[u32],
        token: &mut dyn FnMut(u32) -> bool,
    ) {
        if prompt.is_empty() {
            return;
        }
        self.feed(prompt);
        for i in 0..max_tokens {
            let next = choose(&mut self.logits, sampling, i as u64);
            if stop.contains(&next) || !token(next) || self.room() == 0 {
                return;
            }
            if i + 1 < max_tokens {
                self.feed(&[next]);
            }
        }
    }
}

/// Memory of a generator.
pub fn plan_generation(
    model: &Arc<Model>,
    adapter: &AdapterConfig,
    capacity: usize,
    value_bytes: usize,
    threads: usize,
) -> Plan {
    let dry = Dry::new(value_bytes, threads);
    let mut generator = Generator::new(dry, Arc::clone(model), adapter.clone(), capacity);
    // The longest chunk at the end of the room is the most that any chunk needs.
    let chunk = CHUNK.min(capacity);
    generator.past = capacity - chunk;
    generator.run(&vec![0; chunk]);
    generator.be.finish()
}

/// The next token; the `draw`-th of its seed. `logits` are left in another state.
pub fn choose(logits: &mut [f32], sampling: Sampling, draw: u64) -> u32 {
    let best = |logits: &[f32]| {
        let mut best = 0;
        for (i, x) in logits.iter().enumerate() {
            if *x > logits[best] {
                best = i;
            }
        }
        best as u32
    };
    if sampling.temperature <= 0.0 {
        return best(logits);
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_unstable_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let top = f64::from(logits[order[0] as usize]);
    let weight = |i: u32| ((f64::from(logits[i as usize]) - top) / sampling.temperature).exp();
    let total: f64 = order.iter().map(|i| weight(*i)).sum();
    let mut kept = 0.0;
    let mut count = 0;
    while count < order.len() && (count == 0 || kept < sampling.top_p * total) {
        kept += weight(order[count]);
        count += 1;
    }
    let mut at = rng::uniform(sampling.seed, 0x5a3b, draw) * kept;
    for i in &order[..count] {
        at -= weight(*i);
        if at < 0.0 {
            return *i;
        }
    }
    order[count - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let logits = [0.0f32, 3.0, 1.0, 2.9];
        let pick = |sampling: Sampling, draw| choose(&mut logits.clone(), sampling, draw);
        assert_eq!(pick(Sampling::GREEDY, 0), 1);
        let warm = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };
        let seen: std::collections::BTreeSet<u32> = (0..400).map(|d| pick(warm, d)).collect();
        assert_eq!(seen.len(), 4, "every token has a chance");
        let two = Sampling { top_k: 2, ..warm };
        assert!((0..100).all(|d| [1, 3].contains(&pick(two, d))));
        let narrow = Sampling { top_p: 0.1, ..warm };
        assert!((0..100).all(|d| pick(narrow, d) == 1));
        assert_eq!(
            (0..50).map(|d| pick(warm, d)).collect::<Vec<_>>(),
            (0..50).map(|d| pick(warm, d)).collect::<Vec<_>>()
        );
    }
}
