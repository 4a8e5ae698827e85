//! Sampling: the next token from its logits.
//!
//! ```text
//! penalty      z ← z/p where z > 0, else z·p, for each token among the last `repetition_window`, once
//! greedy       temperature 0: the largest z, the lowest token of equals
//! temperature  z ← z/T
//! top-k        the k likeliest remain
//! top-p        of these, the likeliest that together have at least this share of their probability
//! min-p        of these, those with at least this share of the likeliest's probability
//! draw         one of these by its share of their probability
//! ```
//!
//! The order is that of transformers' generation. llama.cpp applies the same filters in the same order, but the
//! temperature last: its top-p and min-p use the probabilities of temperature 1. Of equally likely tokens the one with
//! the lower id comes first, and exactly k remain (as in llama.cpp; transformers keeps all that equal the k-th).

use crate::rng;
use crate::{Error, ErrorKind, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 always takes the most likely token.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together have this probability; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens with at least this share of the most likely token's probability; 0 keeps all.
    pub min_p: f64,
    /// Divides the positive logits, and multiplies the negative ones, of tokens that occurred; 1 changes nothing.
    pub repetition_penalty: f64,
    /// How many of the last tokens, the prompt included, count for the penalty; 0 counts all.
    pub repetition_window: usize,
    /// Seed of the random draws.
    pub seed: u64,
}

impl Sampling {
    /// Greedy decoding.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        repetition_window: 0,
        seed: 0,
    };

    /// Checks that all values are in range.
    ///
    /// # Errors
    /// With the option's name as on the command line.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: f64, expected: &str| {
            Err(Error::usage(ErrorKind::OutOfRange, name)
                .is(value)
                .expected(expected)
                .hint("leave it out for the default"))
        };
        if !((self.temperature as f32).is_finite() && self.temperature >= 0.0) {
            return wrong("‘temperature’", self.temperature, "0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("‘top_p’", self.top_p, "a number above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("‘min_p’", self.min_p, "a number from 0 to 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return wrong("‘repetition_penalty’", self.repetition_penalty, "a number above 0");
        }
        Ok(())
    }
}

/// Chooses the tokens of a sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    /// What occurred, in order; kept only where a penalty needs it.
    seen: Vec<u32>,
    /// Draws so far: each is the next of its seed.
    draws: u64,
    /// Scratch: tokens, the likeliest first as far as [`Ranked::sorted`] says.
    order: Vec<u32>,
    /// Scratch: the tokens to penalize.
    repeated: Vec<u32>,
}

/// Number of the stream of draws.
const STREAM: u64 = 0x5a3b;

impl Sampler {
    /// A sampler for a new sequence.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, seen: Vec::new(), draws: 0, order: Vec::new(), repeated: Vec::new() }
    }

    /// Replaces the sequence that the repetition penalty considers.
    pub fn restart(&mut self, tokens: &[u32]) {
        self.seen.clear();
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.extend_from_slice(tokens);
        }
    }

    /// The next token; `None` if the logits are NaN. `logits` are changed.
    pub fn choose(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.penalize(logits);
        let token = if self.sampling.temperature == 0.0 { likeliest(logits) } else { self.draw(logits) }?;
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.push(token);
        }
        Some(token)
    }

    fn penalize(&mut self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, repetition_window, .. } = self.sampling;
        if repetition_penalty == 1.0 {
            return;
        }
        let window = if repetition_window == 0 { self.seen.len() } else { repetition_window };
        let from = self.seen.len().saturating_sub(window);
        self.repeated.clear();
        self.repeated.extend_from_slice(&self.seen[from..]);
        self.repeated.sort_unstable();
        self.repeated.dedup();
        for token in &self.repeated {
            if let Some(z) = logits.get_mut(*token as usize) {
                let value = f64::from(*z);
                *z = if value > 0.0 { value / repetition_penalty } else { value * repetition_penalty } as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let uniform = rng::uniform(self.sampling.seed, STREAM, self.draws);
        self.draws += 1;
        let (mut ranked, count, kept) = candidates(self.sampling, logits, &mut self.order)?;
        let mut left = uniform * kept;
        for rank in 0..count {
            let (token, weight) = ranked.at(rank);
            left -= weight;
            if left < 0.0 {
                return Some(token);
            }
        }
        // Rounding alone comes here.
        Some(ranked.get(count - 1))
    }
}

/// The tokens that may be drawn, most likely first, with their probabilities, without the repetition penalty.
pub fn distribution(sampling: Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
    if sampling.temperature == 0.0 {
        return likeliest(logits).map(|token| (token, 1.0)).into_iter().collect();
    }
    let mut order = Vec::new();
    let Some((mut ranked, count, kept)) = candidates(sampling, logits, &mut order) else { return Vec::new() };
    (0..count).map(|rank| ranked.at(rank)).map(|(token, weight)| (token, weight / kept)).collect()
}

/// The largest logit that is a number.
fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<usize> = None;
    for (i, z) in logits.iter().enumerate() {
        if z.is_nan() {
            return None;
        }
        if best.is_none_or(|best| *z > logits[best]) {
            best = Some(i);
        }
    }
    best.map(|i| i as u32)
}

/// The filters: how many of the ranked tokens remain, and the sum of their weights.
fn candidates<'a>(
    sampling: Sampling,
    logits: &'a [f32],
    order: &'a mut Vec<u32>,
) -> Option<(Ranked<'a>, usize, f64)> {
    let top = f64::from(logits[likeliest(logits)? as usize]);
    if !top.is_finite() {
        return None;
    }
    order.clear();
    order.extend(0..logits.len() as u32);
    let mut ranked = Ranked { logits, order, sorted: 0, top, temperature: sampling.temperature };
    let most = if sampling.top_k == 0 { logits.len() } else { sampling.top_k.min(logits.len()) };
    let all = |ranked: &mut Ranked<'_>| -> f64 {
        if most == logits.len() {
            (0..logits.len() as u32).map(|token| ranked.weight(token)).sum()
        } else {
            (0..most).map(|rank| ranked.at(rank).1).sum()
        }
    };
    if sampling.top_p >= 1.0 && sampling.min_p <= 0.0 {
        let total = all(&mut ranked);
        return Some((ranked, most, total));
    }
    let enough = if sampling.top_p < 1.0 { sampling.top_p * all(&mut ranked) } else { f64::INFINITY };
    let (mut count, mut kept) = (0, 0.0);
    while count < most && (count == 0 || kept < enough) {
        let weight = ranked.at(count).1;
        if count > 0 && weight < sampling.min_p {
            break;
        }
        kept += weight;
        count += 1;
    }
    Some((ranked, count, kept))
}

/// Tokens by likelihood, sorted no further than is asked for: a vocabulary has a hundred thousand, and few matter.
struct Ranked<'a> {
    logits: &'a [f32],
    order: &'a mut Vec<u32>,
    sorted: usize,
    top: f64,
    temperature: f64,
}

impl Ranked<'_> {
    /// The token at a rank.
    fn get(&mut self, rank: usize) -> u32 {
        if rank >= self.sorted {
            let logits = self.logits;
            let before =
                |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b));
            let end = (8 * rank.max(16)).min(self.order.len());
            let rest = &mut self.order[self.sorted..];
            let length = end - self.sorted;
            if length < rest.len() {
                rest.select_nth_unstable_by(length, before);
            }
            rest[..length].sort_unstable_by(before);
            self.sorted = end;
        }
        self.order[rank]
    }

    /// exp((z − largest)/T): the likeliest has 1.
    fn weight(&self, token: u32) -> f64 {
        ((f64::from(self.logits[token as usize]) - self.top) / self.temperature).exp()
    }

    /// The token at a rank, with its weight.
    fn at(&mut self, rank: usize) -> (u32, f64) {
        let token = self.get(rank);
        (token, self.weight(token))
    }
}

#[cfg(test)]
mod tests;
