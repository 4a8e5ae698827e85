//! What was typed, as the library's settings; and settings as JSON.

use anyhow::Result;
use mesp::method::{Derivative, Estimator};
use mesp::settings::{Settings, Setup, distribution_name};
use serde_json::{Value, json};

use crate::args::CommonArgs;
use crate::failure::usage;
use crate::ui;

/// What was typed, with every default and every rule.
pub(crate) fn setup(args: &CommonArgs) -> Result<Setup> {
    let settings = args.settings();
    if settings.full() && !args.run.sample_prompt.is_empty() {
        let problem = "--sample-prompt is of adapters, and --train full is of all weights of the model";
        return Err(usage(problem, "leave one of them out"));
    }
    if args.run.sample_tokens == Some(0) {
        return Err(usage("--sample-tokens is 0, expected 1 or more", "leave it out for 64"));
    }
    let mut setup = settings.resolve()?;
    setup.notes.iter().for_each(ui::note);
    setup.run.adapter_at_eval = !args.run.sample_prompt.is_empty();
    setup.run.base_model = args.model.name();
    Ok(setup)
}

impl CommonArgs {
    /// The library's settings among what was typed.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            base: Some(self.model.base.clone()),
            max_seq_len: self.data.max_seq_len,
            objective: self.objective.clone(),
            adapter: self.adapter.clone(),
            method: self.method.clone(),
            directions: self.zeroth.clone(),
            training: self.schedule.clone(),
            run: self.run.settings.clone(),
        }
    }
}

/// What is said of a gradient that is none.
pub(crate) const SURROGATE: &str = "a surrogate gradient, back through a part of the blocks";

/// An estimate's settings as JSON; null for exact gradients.
pub(crate) fn estimator_json(estimator: Estimator) -> Value {
    let along = match estimator {
        Estimator::Exact => return Value::Null,
        Estimator::Subset(subset) => {
            return json!({ "surrogate": format!("{SURROGATE}: {subset}") });
        }
        Estimator::Directional(along) => along,
    };
    let (derivative, eps, one_sided) = match along.derivative {
        Derivative::Difference { eps, one_sided } => ("difference", Some(eps), Some(one_sided)),
        Derivative::Tangent => ("tangent", None, None),
    };
    json!({
        "slope": derivative,
        "eps": eps,
        "one_sided": one_sided,
        "noise": distribution_name(along.distribution),
        "directions": along.directions,
        "momentum": along.momentum,
        "blocks": along.blocks.to_string(),
        "sparsity": along.sparsity,
    })
}
