//! Logs of sessions, and sessions after a log.

use mesp_device::Backend;
use mesp_formats::peft::Places;

use super::super::{Descent, RunConfig, Session};
use super::{DIFFERENCE, Replay, TANGENT, distribution_name};
use crate::method::{Blocks, Bounds, Directional, Slope};
use crate::optim::{Schedule, ScheduleKind};
use crate::{Error, Result, rng};

impl Replay {
    /// The header of a run that is about to begin or to go on.
    pub fn new<B: Backend>(
        session: &Session<B>,
        along: Directional,
        schedule: Schedule,
        config: &RunConfig,
    ) -> Self {
        let (options, c) = (session.options(), &session.model().config);
        let a = &options.adapter;
        let (slope, eps, one_sided) = match along.slope {
            Slope::Difference { eps, one_sided } => (DIFFERENCE, eps, one_sided),
            Slope::Tangent => (TANGENT, 0.0, false),
        };
        Self {
            seed: config.seed,
            // Nobody asks for it later than at the start, and a whole model takes its time.
            start: if options.full.is_some() && session.steps() > 0 {
                String::new()
            } else {
                digest(session)
            },
            slope: slope.to_owned(),
            eps,
            distribution: distribution_name(along.distribution).to_owned(),
            directions: along.directions,
            one_sided,
            momentum: along.momentum,
            blocks: (along.blocks != Blocks::ALL).then(|| along.blocks.to_string()),
            sparsity: along.sparsity,
            bounds: session.bounds().values().to_vec(),
            weight_decay: options.weight_decay,
            learning_rate: schedule.peak,
            lr_schedule: schedule.kind.name().to_owned(),
            warmup_steps: schedule.warmup,
            total_steps: schedule.total,
            rank: a.rank,
            alpha: a.alpha,
            rslora: a.rslora,
            targets: a.targets.iter().map(|p| p.name().to_owned()).collect(),
            rank_pattern: a.ranks.entries().to_vec(),
            alpha_pattern: a.alphas.entries().to_vec(),
            adapted_layers: a.layers.clone(),
            places: a.places.as_ref().map(Places::to_json),
            layers: c.layers,
            parameters: if options.full.is_some() { c.parameters() } else { a.parameters(c) },
            adapter_type: options.adapter_type.name().to_owned(),
            full: options.full.map(|elem| elem.name().to_owned()),
        }
    }

    /// Makes a session's adapters, or weights, which are those that the run started from, those after `slopes`.
    ///
    /// # Errors
    /// When they are others than the run's.
    pub fn apply<B: Backend>(&self, session: &mut Session<B>, slopes: &[Vec<f32>]) -> Result<()> {
        let found = digest(session);
        if found != self.start && self.full.is_some() {
            return Err(Error::usage(format!(
                "the log's run started from weights with digest {}, these have {found}",
                self.start
            ))
            .hint("give the model that the run started from, with ‘model’"));
        }
        if found != self.start {
            return Err(Error::usage(format!(
                "the log's run started from an adapter with digest {}, this one has {found}",
                self.start
            ))
            .hint("give the adapter that the run started from with ‘adapter’, or the model that it ran on"));
        }
        let schedule = Schedule {
            peak: self.learning_rate,
            warmup: self.warmup_steps,
            total: self.total_steps,
            kind: ScheduleKind::parse(&self.lr_schedule)?,
        };
        session.set_bounds(Bounds::from_values(self.bounds.clone(), session.params()));
        let mut descent = Descent::new(self.along()?, self.seed, self.weight_decay, &[]);
        for (step, slopes) in slopes.iter().enumerate() {
            descent.descend(session, slopes, schedule.rate(step));
        }
        Ok(())
    }
}

/// 64 bits over what a session trains, as 16 digits.
pub fn digest<B: Backend>(session: &Session<B>) -> String {
    let mut hash = 0;
    for matrix in session.tensors() {
        session.backend().store(matrix.view(), &mut |_, value| hash = rng::bits(hash, 1, value.to_bits()));
    }
    format!("{hash:016x}")
}
