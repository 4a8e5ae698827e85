//! The optimizer of a run, and when it steps.

use super::groups::{FoamMoment, MethodSettings, TrainingSettings, UpdateWhen};
use crate::optim::{FoamUpdate, OptimizerKind};
use crate::train::Update;
use crate::{Error, ErrorKind, Result};

/// The optimizer with its settings, or the default; `exact` where there is a backward pass, `full` where all weights are
/// trained.
pub(super) fn choose(s: &TrainingSettings, exact: bool, full: bool) -> Result<OptimizerKind> {
    let default = match (exact, full) {
        (true, true) => "adalomo",
        (true, false) => "adamw",
        (false, _) => "sgd",
    };
    let kind = OptimizerKind::parse(s.optimizer.as_deref().unwrap_or(default), s.momentum)?;
    let of_foam = [
        (s.foam_level.is_some(), "‘foam_level’"),
        (s.foam_scale.is_some(), "‘foam_scale’"),
        (s.foam_second_moment.is_some(), "‘foam_second_moment’"),
        (s.foam_residual.is_some(), "‘foam_residual’"),
    ];
    let OptimizerKind::Foam(foam) = kind else {
        return match of_foam.into_iter().find(|(given, _)| *given) {
            Some((_, name)) => Err(Error::usage(
                ErrorKind::Conflict,
                format!("{name} was given, and ‘optimizer’ is {}", kind.name()),
            )
            .hint("it belongs to ‘optimizer’ foam; leave it out or add that")),
            None => Ok(kind),
        };
    };
    let factor = |name: &str, value: Option<f64>, default: f64, positive: bool| {
        let value = value.unwrap_or(default);
        if value.is_finite() && (value > 0.0 || (value == 0.0 && !positive)) {
            return Ok(value);
        }
        let expected = if positive { "a positive number" } else { "0 or more" };
        Err(Error::usage(ErrorKind::OutOfRange, name)
            .is(value)
            .expected(expected)
            .hint("leave it out for the default"))
    };
    let level = s.foam_level.unwrap_or(foam.level);
    if level > 16 {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘foam_level’")
            .is(level)
            .expected("0 to 16")
            .hint("2 keeps a quarter of Adam's moments; 0 is Adam"));
    }
    Ok(OptimizerKind::Foam(FoamUpdate {
        level,
        scale: factor("‘foam_scale’", s.foam_scale, foam.scale, true)?,
        residual: factor("‘foam_residual’", s.foam_residual, foam.residual, false)?,
        square_of_mean: s.foam_second_moment == Some(FoamMoment::SquareOfMean),
        ..foam
    }))
}

/// When the optimizer steps: as asked for, or by matrix where the optimizer is made for that and nothing else needs all
/// gradients.
pub(super) fn update(method: &MethodSettings, s: &TrainingSettings, optimizer: OptimizerKind) -> Update {
    let several = s.grad_accum.is_some_and(|n| n > 1);
    match method.update {
        Some(UpdateWhen::PerBlock) => Update::PerBlock,
        Some(UpdateWhen::PerMatrix) => Update::PerMatrix,
        None if optimizer.is_fused() && !several => Update::PerMatrix,
        Some(UpdateWhen::Accumulate) | None => Update::Accumulate,
    }
}
