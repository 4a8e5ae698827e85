//! Settings as documents of runs and of plans have them.

use serde_json::{Value, json};

use crate::tape::{Site, SiteSet};
use crate::train::{Options, Update};

/// An update by its name among settings and in documents.
pub fn update_name(update: Update) -> &'static str {
    match update {
        Update::Accumulate => "accumulate",
        Update::PerBlock => "per-block",
    }
}

/// A policy as JSON: names of what is kept, sizes of tiles (null for all rows at once).
pub fn policy_json(options: &Options) -> Value {
    let policy = &options.policy;
    let rows = |n: usize| (n != usize::MAX).then_some(n);
    let names = |set: SiteSet| set.iter().map(Site::name).collect::<Vec<_>>();
    json!({
        "across": names(policy.across),
        "within": names(policy.within),
        "keep_last": policy.keep_last,
        "residency": policy.inputs().name(),
        "activations": policy.activations().name(),
        "tiles": {
            "mlp_rows": rows(policy.tiles.mlp_rows),
            "head_rows": rows(policy.tiles.head_rows),
            "head_vocab": rows(policy.tiles.head_vocab),
            "keys": rows(policy.tiles.keys),
        },
        "update": update_name(options.update),
        "adapter_type": options.adapter_type.name(),
    })
}
