//! The options of `--method mezo`, and what cannot go with it.

use anyhow::Result;
use mesp::method::{Directional, Estimator, Slope};
use mesp::train::replay;
use serde_json::{Value, json};

use crate::args::{CommonArgs, UpdateArg, ZerothArgs};
use crate::inputs::usage;

/// The estimator of `--method`.
pub(super) fn estimator(args: &CommonArgs) -> Result<Estimator> {
    let z = &args.zeroth;
    if args.method.method.as_deref() != Some("mezo") {
        let Some(name) = given(z) else { return Ok(Estimator::Exact) };
        let problem = format!("{name} was given, and the gradient is exact");
        return Err(usage(problem, "it belongs to --method mezo; leave it out or add that"));
    }
    let s = &args.schedule;
    let refused = [
        (s.optimizer.as_deref().is_some_and(|o| o != "sgd"), "--optimizer", "use sgd, or leave it out"),
        (s.max_grad_norm.is_some_and(|n| n > 0.0), "--max-grad-norm", "leave it out: no gradient is made"),
        (
            args.method.update == Some(UpdateArg::PerBlock),
            "--update per-block",
            "leave it out: there are no gradients of a block",
        ),
        (args.method.checkpoints.is_some(), "--checkpoints", "leave it out: nothing is kept for a backward"),
    ];
    if let Some((_, name, hint)) = refused.into_iter().find(|(given, ..)| *given) {
        return Err(usage(format!("{name} cannot be combined with --method mezo"), hint));
    }
    let eps = z.eps.unwrap_or(0.01);
    if !(eps.is_finite() && eps > 0.0) {
        return Err(usage(
            format!("--eps is {eps}, expected a positive number"),
            "leave it out for the default",
        ));
    }
    let directions = z.directions.unwrap_or(1);
    if directions == 0 || directions > 1 << 16 {
        return Err(usage(
            format!("--directions is {directions}, expected 1 to 65536"),
            "leave it out for one",
        ));
    }
    if s.momentum >= 1.0 {
        return Err(usage(format!("--momentum is {}, expected less than 1", s.momentum), "0 is none"));
    }
    Ok(Estimator::Directional(Directional {
        slope: Slope::Difference { eps, one_sided: z.one_sided },
        distribution: replay::distribution(z.noise.as_deref().unwrap_or("gaussian"))?,
        directions,
        momentum: s.momentum,
    }))
}

/// The first option that only an estimate reads.
fn given(args: &ZerothArgs) -> Option<&'static str> {
    let ZerothArgs { eps, directions, noise, one_sided } = args;
    [
        (eps.is_some(), "--eps"),
        (directions.is_some(), "--directions"),
        (noise.is_some(), "--noise"),
        (*one_sided, "--one-sided"),
    ]
    .into_iter()
    .find_map(|(given, name)| given.then_some(name))
}

/// An estimate's settings as JSON; null for exact gradients.
pub(crate) fn estimator_json(estimator: Estimator) -> Value {
    let Estimator::Directional(along) = estimator else { return Value::Null };
    let Slope::Difference { eps, one_sided } = along.slope;
    json!({
        "slope": "difference",
        "eps": eps,
        "one_sided": one_sided,
        "noise": replay::distribution_name(along.distribution),
        "directions": along.directions,
        "momentum": along.momentum,
    })
}
