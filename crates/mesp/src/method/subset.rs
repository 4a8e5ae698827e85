//! Surrogate gradients that leave blocks out (LCSB; Park et al. 2026, arXiv 2602.13073).
//!
//! ```text
//! a block                 y = x + f(x)              dx = dy + (df/dx)ᵀ·dy       dθ = (df/dθ)ᵀ·dy
//! one that is left out    y = x + constant f(x)     dx = dy                     nothing
//! ```
//! The loss is the model's; what is descended is the gradient of another function, in which the blocks left out
//! add constants. So it is no estimate of the gradient: its mean over choices is not the gradient, and a step
//! may not descend. The blocks of a step are a function of the seed and the step's number.

use std::fmt;

use super::Blocks;
use crate::rng;

/// Which blocks a step goes back through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// A share of them, at least one, drawn anew each step, all equally likely.
    Share(f64),
    /// The same ones each step.
    Fixed(Blocks),
}

/// Stream of the draws, apart from the numbers that round adapters.
const STREAM: u64 = 0x6c63_7362;

impl Subset {
    /// Whether a step goes back through a block.
    pub fn has(&self, block: usize, layers: usize, seed: u64, step: u64) -> bool {
        match *self {
            Self::Fixed(blocks) => blocks.has(block),
            Self::Share(_) => {
                let key = |l: usize| (rng::bits(seed ^ STREAM, step, l as u64), l);
                (0..layers).filter(|l| key(*l) < key(block)).count() < self.size(layers)
            }
        }
    }

    /// How many blocks a step goes back through.
    pub fn size(&self, layers: usize) -> usize {
        match *self {
            Self::Share(share) => ((share * layers as f64).round() as usize).clamp(1, layers),
            Self::Fixed(blocks) => (0..layers).filter(|l| blocks.has(*l)).count(),
        }
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share} of the blocks"),
            Self::Fixed(blocks) => write!(f, "blocks {blocks}"),
        }
    }
}
