//! The options of `--method mezo` and `--method forward`, and what cannot go with it.

use anyhow::Result;
use mesp::method::{Blocks, Directional, Estimator, Slope};
use mesp::train::replay;
use mesp_device::Elem;
use serde_json::{Value, json};

use crate::args::{CommonArgs, UpdateArg, ZerothArgs};
use crate::inputs::usage;

/// The estimator of `--method`.
pub(super) fn estimator(args: &CommonArgs) -> Result<Estimator> {
    let (z, s) = (&args.zeroth, &args.schedule);
    let method = args.method.method.as_deref().unwrap_or("auto");
    if !["mezo", "forward"].contains(&method) {
        let Some(name) = given(z) else { return Ok(Estimator::Exact) };
        let problem = format!("{name} was given, and the gradient is exact");
        return Err(usage(problem, "it belongs to --method mezo or forward; leave it out or add that"));
    }
    refuse(args, method)?;
    let slope = match method {
        "forward" => Slope::Tangent,
        _ => Slope::Difference { eps: eps(z)?, one_sided: z.one_sided },
    };
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
        slope,
        distribution: replay::distribution(z.noise.as_deref().unwrap_or("gaussian"))?,
        directions,
        momentum: s.momentum,
        blocks: z.blocks.as_deref().map_or(Ok(Blocks::ALL), Blocks::parse)?,
    }))
}

/// What cannot go with an estimate.
fn refuse(args: &CommonArgs, method: &str) -> Result<()> {
    let (s, m, z) = (&args.schedule, &args.method, &args.zeroth);
    let forward = method == "forward";
    let refused = [
        (s.optimizer.as_deref().is_some_and(|o| o != "sgd"), "--optimizer", "use sgd, or leave it out"),
        (s.max_grad_norm.is_some_and(|n| n > 0.0), "--max-grad-norm", "leave it out: no gradient is made"),
        (
            m.update == Some(UpdateArg::PerBlock),
            "--update per-block",
            "leave it out: there are no gradients of a block",
        ),
        (m.checkpoints.is_some(), "--checkpoints", "leave it out: nothing is kept for a backward"),
        (forward && z.eps.is_some(), "--eps", "leave it out: slopes are exact"),
        (forward && z.one_sided, "--one-sided", "leave it out: slopes are exact"),
        (
            forward && m.activations.is_some_and(|a| Elem::from(a) == Elem::Bf16),
            "--activations bf16",
            "leave it out: tangents are made beside full numbers",
        ),
    ];
    match refused.into_iter().find(|(given, ..)| *given) {
        Some((_, name, hint)) => {
            Err(usage(format!("{name} cannot be combined with --method {method}"), hint))
        }
        None => Ok(()),
    }
}

fn eps(z: &ZerothArgs) -> Result<f64> {
    let eps = z.eps.unwrap_or(0.01);
    if eps.is_finite() && eps > 0.0 {
        return Ok(eps);
    }
    Err(usage(format!("--eps is {eps}, expected a positive number"), "leave it out for the default"))
}

/// The first option that only an estimate reads.
fn given(args: &ZerothArgs) -> Option<&'static str> {
    let ZerothArgs { eps, directions, noise, one_sided, blocks } = args;
    [
        (eps.is_some(), "--eps"),
        (directions.is_some(), "--directions"),
        (noise.is_some(), "--noise"),
        (*one_sided, "--one-sided"),
        (blocks.is_some(), "--blocks"),
    ]
    .into_iter()
    .find_map(|(given, name)| given.then_some(name))
}

/// An estimate's settings as JSON; null for exact gradients.
pub(crate) fn estimator_json(estimator: Estimator) -> Value {
    let Estimator::Directional(along) = estimator else { return Value::Null };
    let (slope, eps, one_sided) = match along.slope {
        Slope::Difference { eps, one_sided } => ("difference", Some(eps), Some(one_sided)),
        Slope::Tangent => ("tangent", None, None),
    };
    json!({
        "slope": slope,
        "eps": eps,
        "one_sided": one_sided,
        "noise": replay::distribution_name(along.distribution),
        "directions": along.directions,
        "momentum": along.momentum,
        "blocks": along.blocks.to_string(),
    })
}
