//! The options of `--method mezo` and `--method forward`, and what cannot go with it.

use mesp_device::{Distribution, Elem};

use super::{DirectionSettings, Settings, UpdateWhen};
use crate::method::{Blocks, Derivative, Directional, Estimator, Subset};
use crate::{Error, ErrorKind, Result};

/// The estimator of `--method`.
pub(super) fn estimator(settings: &Settings) -> Result<Estimator> {
    let (z, s) = (&settings.directions, &settings.training);
    let method = settings.method.method.as_deref().unwrap_or("auto");
    let belongs: &[&str] = match method {
        "mezo" | "forward" => &["‘eps’", "‘directions’", "‘noise’", "‘one_sided’", "‘blocks’", "‘sparsity’"],
        "lcsb" => &["‘blocks’", "‘block_share’"],
        _ => &[],
    };
    if let Some(name) = given(z).find(|name| !belongs.contains(name)) {
        let of = match name {
            "‘block_share’" => "lcsb",
            _ => "mezo or forward",
        };
        return Err(Error::usage(ErrorKind::Conflict, format!("{name} was given, and ‘method’ is {method}"))
            .hint(format!("it belongs to ‘method’ {of}; leave it out or add that")));
    }
    match method {
        "mezo" | "forward" => {}
        "lcsb" => return subset(z),
        _ => return Ok(Estimator::Exact),
    }
    refuse(settings, method)?;
    let derivative = match method {
        "forward" => Derivative::Tangent,
        _ => Derivative::Difference { eps: eps(z, settings.full())?, one_sided: z.one_sided },
    };
    let directions = z.directions.unwrap_or(1);
    if directions == 0 || directions > 1 << 16 {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘directions’")
            .is(directions)
            .expected("1 to 65536")
            .hint("leave it out for one"));
    }
    if s.momentum >= 1.0 {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘momentum’")
            .is(s.momentum)
            .expected("less than 1")
            .hint("0 is none"));
    }
    Ok(Estimator::Directional(Directional {
        derivative,
        distribution: distribution(z.noise.as_deref().unwrap_or("gaussian"))?,
        directions,
        momentum: s.momentum,
        blocks: z.blocks.as_deref().map_or(Ok(Blocks::ALL), Blocks::parse)?,
        sparsity: z.sparsity.unwrap_or(0.0),
    }))
}

/// The distribution of a name.
///
/// # Errors
/// When there is none.
fn distribution(name: &str) -> Result<Distribution> {
    let known = [Distribution::Gaussian, Distribution::Rademacher];
    known.into_iter().find(|known| distribution_name(*known) == name).ok_or_else(|| {
        Error::usage(ErrorKind::Unknown, format!("distribution {name:?} is unknown"))
            .expected("gaussian or rademacher")
    })
}

/// The name of a distribution.
pub const fn distribution_name(distribution: Distribution) -> &'static str {
    match distribution {
        Distribution::Gaussian => "gaussian",
        Distribution::Rademacher => "rademacher",
    }
}

/// The blocks that a surrogate gradient goes back through.
fn subset(z: &DirectionSettings) -> Result<Estimator> {
    if let Some(blocks) = &z.blocks {
        return Ok(Estimator::Subset(Subset::Fixed(Blocks::parse(blocks)?)));
    }
    let share = z.block_share.unwrap_or(0.5);
    if share > 0.0 && share <= 1.0 {
        return Ok(Estimator::Subset(Subset::Share(share)));
    }
    Err(Error::usage(ErrorKind::OutOfRange, "‘block_share’")
        .is(share)
        .expected("a number above 0, at most 1")
        .hint("leave it out for one half"))
}

/// What cannot go with an estimate.
fn refuse(settings: &Settings, method: &str) -> Result<()> {
    let (s, m, z) = (&settings.training, &settings.method, &settings.directions);
    if let Some(sparsity) = z.sparsity.filter(|s| !(0.0..1.0).contains(s)) {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘sparsity’")
            .is(sparsity)
            .expected("a number from 0 up to, not including, 1")
            .hint("0 is none"));
    }
    // Which values move is told by the adapters before the step: not so after its first direction, or later.
    let sparse = z.sparsity.is_some_and(|s| s > 0.0);
    let several = z.directions.is_some_and(|n| n > 1) || s.momentum > 0.0;
    if sparse && several {
        return Err(Error::usage(
            ErrorKind::Conflict,
            "‘sparsity’ cannot be combined with more ‘directions’ than one, or ‘momentum’",
        )
        .hint("leave one of them out"));
    }
    let forward = method == "forward";
    let refused = [
        (s.optimizer.as_deref().is_some_and(|o| o != "sgd"), "‘optimizer’", "use sgd, or leave it out"),
        (s.max_grad_norm.is_some_and(|n| n > 0.0), "‘max_grad_norm’", "leave it out: no gradient is made"),
        (
            m.update.is_some_and(|update| update != UpdateWhen::Accumulate),
            "‘update’ per-block or per-matrix",
            "leave it out: there are no gradients of a block",
        ),
        (m.checkpoints.is_some(), "‘checkpoints’", "leave it out: nothing is kept for a backward"),
        (forward && z.eps.is_some(), "‘eps’", "leave it out: derivatives are exact"),
        (forward && z.one_sided, "‘one_sided’", "leave it out: derivatives are exact"),
        (
            forward && m.activations.is_some_and(|a| Elem::from(a) == Elem::Bf16),
            "‘activations’ bf16",
            "leave it out: tangents are made beside full numbers",
        ),
    ];
    match refused.into_iter().find(|(given, ..)| *given) {
        Some((_, name, hint)) => Err(Error::usage(
            ErrorKind::Conflict,
            format!("{name} cannot be combined with ‘method’ {method}"),
        )
        .hint(hint)),
        None => Ok(()),
    }
}

fn eps(z: &DirectionSettings, full: bool) -> Result<f64> {
    // As published, of adapters and of all weights.
    let eps = z.eps.unwrap_or(if full { 1e-3 } else { 1e-2 });
    if (eps as f32).is_finite() && eps as f32 > 0.0 {
        return Ok(eps);
    }
    Err(Error::usage(ErrorKind::OutOfRange, "‘eps’")
        .is(eps)
        .expected("a positive number")
        .hint("leave it out for the default"))
}

/// The options that only an estimate or a surrogate reads.
fn given(args: &DirectionSettings) -> impl Iterator<Item = &'static str> {
    let DirectionSettings { full: _, eps, directions, noise, one_sided, blocks, block_share, sparsity } =
        args;
    [
        (eps.is_some(), "‘eps’"),
        (directions.is_some(), "‘directions’"),
        (noise.is_some(), "‘noise’"),
        (*one_sided, "‘one_sided’"),
        (blocks.is_some(), "‘blocks’"),
        (block_share.is_some(), "‘block_share’"),
        (sparsity.is_some(), "‘sparsity’"),
    ]
    .into_iter()
    .filter_map(|(given, name)| given.then_some(name))
}
