//! Logs of sessions, and sessions after a log.

use mesp_device::Backend;

use super::super::{Descent, RunConfig, Session};
use super::Replay;
use crate::method::{Bounds, Estimator};
use crate::optim::Schedule;
use crate::{Error, ErrorKind, Result, rng};

impl Replay {
    /// The header of a run that is about to begin or to go on, with so many directions a step.
    pub fn new<B: Backend>(
        session: &Session<B>,
        directions: usize,
        schedule: Schedule,
        config: &RunConfig,
    ) -> Self {
        let (options, c) = (session.options(), &session.model().config);
        Self {
            seed: config.seed,
            weight_decay: options.weight_decay,
            // Nobody asks for it later than at the start, and a whole model takes its time.
            start: if options.held.is_some() && session.steps() > 0 {
                String::new()
            } else {
                digest(session)
            },
            settings: config.fixed(),
            schedule,
            bounds: session.bounds().values().to_vec(),
            directions,
            layers: c.layers,
            parameters: options.parameters(c),
            full: options.held.map(|elem| elem.name().to_owned()),
        }
    }

    /// Makes a session's adapters, or weights, which are those that the run started from, those after `derivatives`. The
    /// session's options are those of the run: of [`Replay::settings`].
    ///
    /// # Errors
    /// When the adapters are others than the run's, or the options have no directions.
    pub fn apply<B: Backend>(&self, session: &mut Session<B>, derivatives: &[Vec<f32>]) -> Result<()> {
        let found = digest(session);
        if found != self.start && self.full.is_some() {
            return Err(Error::usage(
                ErrorKind::Mismatch,
                format!("the log's run started from weights with digest {}, these have {found}", self.start),
            )
            .hint("give the model that the run started from, with ‘model’"));
        }
        if found != self.start {
            return Err(Error::usage(
                ErrorKind::Mismatch,
                format!(
                    "the log's run started from an adapter with digest {}, this one has {found}",
                    self.start
                ),
            )
            .hint("give the adapter that the run started from with ‘adapter’, or the model that it ran on"));
        }
        let options = session.options();
        let Estimator::Directional(along) = options.estimator else {
            return Err(Error::usage(
                ErrorKind::Conflict,
                "a log of directional derivatives belongs to ‘method’ mezo or forward",
            ));
        };
        session.set_bounds(Bounds::from_values(self.bounds.clone(), session.params()));
        let mut descent = Descent::new(along, self.seed, self.weight_decay, &[]);
        for (step, derivatives) in derivatives.iter().enumerate() {
            descent.descend(session, derivatives, self.schedule.rate(step));
        }
        Ok(())
    }
}

/// 64 bits over what a session trains, as 16 digits.
pub fn digest<B: Backend>(session: &Session<B>) -> String {
    let mut hash = 0;
    for matrix in session.tensors() {
        session.backend().store(matrix, &mut |_, value| hash = rng::bits(hash, 1, value.to_bits()));
    }
    format!("{hash:016x}")
}
