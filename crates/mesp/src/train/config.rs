//! The options of the training loop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{MadeWith, Update};
use crate::data::{BatchSize, Batches, Examples};
use crate::optim::ScheduleKind;
use crate::{Error, ErrorKind, Result};

/// The action when a step goes wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Report it and make the update.
    #[default]
    Report,
    /// Report it and skip the update.
    Skip,
    /// Report it and end the run; the adapter is as before the step.
    Stop,
}

/// The length of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Optimizer steps.
    Steps(usize),
    /// Epochs; a fraction is allowed.
    Epochs(f64),
}

/// The most micro-batches of a run: at a millisecond each they take a day. The loss and the time of each step are kept
/// in memory.
pub const MOST_BATCHES: usize = 100_000_000;
/// The most micro-batches of a run whose rows are packed by tokens.
pub const MOST_PACKED: usize = 1 << 26;

/// The options of the training loop, which do not change a session's buffers.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning-rate schedule.
    pub lr_schedule: ScheduleKind,
    /// Share of the steps that are warmup, 0 to 1.
    pub warmup_ratio: f64,
    /// Rows in a micro-batch.
    pub batch_size: usize,
    /// The most tokens of a micro-batch: it takes as many rows as fit. Replaces [`RunConfig::batch_size`].
    pub batch_tokens: Option<usize>,
    /// Micro-batches per optimizer step (gradient accumulation).
    pub grad_accum: usize,
    /// The run's length.
    pub length: Length,
    /// Gradients with a larger L2 norm are scaled down to it (gradient clipping).
    pub max_grad_norm: Option<f64>,
    /// Seed of the order of rows and of the adapter's initialization.
    pub seed: u64,
    /// Steps between evaluations; there is one before and one after training in any case.
    pub eval_every: Option<usize>,
    /// Steps between checkpoints.
    pub save_every: Option<usize>,
    /// The most checkpoints to keep; the newest and the best are never removed.
    pub save_total_limit: Option<usize>,
    /// Early stopping: the number of consecutive evaluations without an improvement.
    pub early_stopping_patience: Option<usize>,
    /// An improvement is a loss lower by more than this, in nats.
    pub early_stopping_min_delta: f64,
    /// Whether the adapter at the end is that of the best evaluation instead of the last step.
    pub load_best_at_end: bool,
    /// The action when a loss or a gradient norm is NaN or infinite.
    pub on_nonfinite: Action,
    /// The action at a spike of the gradient norm.
    pub on_spike: Action,
    /// A spike is a gradient norm above this multiple of its running mean; 0 disables the check.
    pub spike_factor: f64,
    /// The run directory.
    pub output: Option<PathBuf>,
    /// Whether the adapter is written to the run directory before each evaluation's event.
    pub adapter_at_eval: bool,
    /// The settings that fix the result, by name, each with its value: a resumed run has the same. A JSON object as text,
    /// which takes a sixth of the memory; empty for none.
    pub settings: String,
    /// What else must be equal when the run is resumed, by name: the fingerprint of the rows, the number type.
    pub identity: BTreeMap<String, String>,
    /// Fingerprints of the model, tokenizer and templates. A difference when resuming is an error or a note.
    pub made_with: MadeWith,
    /// The base model's name in the adapter's configuration.
    pub base_model: Option<String>,
}

/// The factor by which gradients with L2 norm `norm` are multiplied, as in PyTorch's `clip_grad_norm_`: max / (norm +
/// 1e-6), at most 1.
pub(super) fn clip(norm: f64, max: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.0)
}

impl RunConfig {
    /// [`RunConfig::settings`] as an object.
    pub(super) fn fixed(&self) -> Map<String, Value> {
        serde_json::from_str(&self.settings).unwrap_or_default()
    }

    /// The size of a micro-batch.
    pub fn micro_batch(&self) -> BatchSize {
        BatchSize { rows: self.batch_size, tokens: self.batch_tokens.unwrap_or(usize::MAX) }
    }

    /// By what gradients with L2 norm `norm` are multiplied: 1 where nothing is clipped.
    pub(super) fn clip(&self, norm: f64) -> f64 {
        self.max_grad_norm.map_or(1.0, |max| clip(norm, max))
    }

    /// The numbers of optimizer steps and of micro-batches of a run; the last step may have fewer micro-batches than
    /// the others.
    ///
    /// # Errors
    /// When there are more than [`MOST_BATCHES`], or where rows are packed than [`MOST_PACKED`]: each of those is
    /// looked at before the run begins. When a row cannot be read.
    pub fn steps(&self, batches: &mut Batches<impl Examples>) -> Result<(usize, usize)> {
        let most = if self.batch_tokens.is_some() { MOST_PACKED } else { MOST_BATCHES };
        let too_many = |micro: f64| self.too_many(micro, most);
        match self.length {
            Length::Steps(n) => match n.checked_mul(self.grad_accum) {
                Some(micro) if micro <= most => Ok((n, micro)),
                _ => Err(too_many(n as f64 * self.grad_accum as f64)),
            },
            Length::Epochs(e) => {
                let about = e * batches.per_epoch()? as f64;
                if about > most as f64 {
                    return Err(too_many(about));
                }
                let micro = batches.in_epochs(e)?;
                Ok((micro.div_ceil(self.grad_accum), micro))
            }
        }
    }

    /// The error of a run that is longer than any.
    fn too_many(&self, micro: f64, most: usize) -> Error {
        let option = match self.length {
            Length::Steps(n) => format!("‘steps’ {n}"),
            Length::Epochs(e) => format!("‘epochs’ {e}"),
        };
        Error::usage(ErrorKind::OutOfRange, format!("{option}: the run has {micro:.0} micro-batches"))
            .expected(format!("at most {most}"))
            .hint("give fewer steps or epochs, or a lower ‘grad_accum’; a run can go on from its adapter by ‘adapter’")
    }

    /// Checks values and combinations.
    ///
    /// # Errors
    /// Early stopping without evaluations. Fused updates with accumulation, which needs all gradients at once. Values out of range.
    pub fn check(&self, update: Update) -> Result<()> {
        if update.is_fused() {
            self.check_fused(update.name())?;
        }
        if let (Some(n), None) = (self.early_stopping_patience, self.eval_every) {
            return Err(Error::usage(
                ErrorKind::Missing,
                format!("‘early_stopping_patience’ is {n} and nothing is evaluated on the way"),
            )
            .hint("say with ‘eval_every’ how often to evaluate"));
        }
        if self.load_best_at_end && self.eval_every.is_none() {
            return Err(Error::usage(
                ErrorKind::Missing,
                "‘load_best_at_end’ needs evaluations to choose from",
            )
            .hint("say with ‘eval_every’ how often to evaluate"));
        }
        let expected = |name: &str, ok: bool, found: String, range: &str, hint: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::usage(ErrorKind::OutOfRange, name).is(found).expected(range).hint(hint))
            }
        };
        let count = |name: &str, ok: bool, found: String| {
            expected(name, ok, found, "1 or more", "leave it out for the default")
        };
        // What f32 has no number for would be 0 or infinite in every product.
        let fits = |x: f64| x == 0.0 || (x as f32 != 0.0 && (x as f32).is_finite());
        let rate = self.learning_rate;
        let sound = rate >= 0.0 && fits(rate);
        expected(
            "‘learning_rate’",
            sound,
            rate.to_string(),
            "0 or more, such as 2e-4",
            "leave it out for the default",
        )?;
        count("‘grad_accum’", self.grad_accum > 0, self.grad_accum.to_string())?;
        count("‘batch_size’", self.batch_size > 0, self.batch_size.to_string())?;
        if let Some(tokens) = self.batch_tokens {
            count("‘batch_tokens’", tokens > 0, tokens.to_string())?;
        }
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        let delta = self.early_stopping_min_delta;
        let name = "‘early_stopping_min_delta’";
        expected(name, not_negative(delta), delta.to_string(), "0 or more", "leave it out for 0")?;
        let factor = self.spike_factor;
        let sound = not_negative(factor) && (factor == 0.0 || factor > 1.0);
        let range = "a number above 1, or 0 for none";
        expected("‘spike_factor’", sound, factor.to_string(), range, "leave it out for 10")?;
        for (name, value) in [
            ("‘early_stopping_patience’", self.early_stopping_patience),
            ("‘save_total_limit’", self.save_total_limit),
            ("‘eval_every’", self.eval_every),
            ("‘save_every’", self.save_every),
        ] {
            count(name, value != Some(0), "0".to_owned())?;
        }
        if let Some(norm) = self.max_grad_norm {
            let sound = norm > 0.0 && fits(norm);
            expected(
                "‘max_grad_norm’",
                sound,
                norm.to_string(),
                "0 or more",
                "0 never scales gradients down",
            )?;
        }
        match self.length {
            Length::Steps(n) => count("‘steps’", n > 0, n.to_string()),
            Length::Epochs(e) => {
                let sound = e.is_finite() && e > 0.0;
                expected("‘epochs’", sound, e.to_string(), "a number above 0", "leave it out for 1")
            }
        }?;
        // Of epochs, those of one batch each: what more there are is known with the rows.
        let accum = self.grad_accum as f64;
        let micro = match self.length {
            Length::Steps(n) => n as f64 * accum,
            Length::Epochs(e) => e,
        };
        if micro > MOST_BATCHES as f64 {
            return Err(self.too_many(micro, MOST_BATCHES));
        }
        if self.grad_accum > MOST_BATCHES {
            return Err(Error::usage(ErrorKind::OutOfRange, "‘grad_accum’")
                .is(self.grad_accum)
                .expected(format!("at most {MOST_BATCHES}")));
        }
        Ok(())
    }

    /// What cannot be combined with per-block updates.
    fn check_fused(&self, update: &str) -> Result<()> {
        if self.grad_accum > 1 {
            let n = self.grad_accum;
            return Err(Error::usage(
                ErrorKind::Conflict,
                format!(
                    "‘update’ {update} cannot be combined with ‘grad_accum’ {n}: it keeps no \
                        gradient to add to"
                ),
            )
            .hint("use a larger ‘batch_size’, or ‘update’ accumulate"));
        }
        for (option, reaction) in [("‘on_nonfinite’", self.on_nonfinite), ("‘on_spike’", self.on_spike)]
        {
            if reaction == Action::Skip {
                return Err(Error::usage(
                    ErrorKind::Conflict,
                    format!(
                        "‘update’ {update} cannot be combined with {option} skip: parameters are \
                            stepped before the norm is known"
                    ),
                )
                .hint("use stop, or ‘update’ accumulate"));
            }
        }
        Ok(())
    }
}
