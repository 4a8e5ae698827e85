//! A run that goes on, held against the one that wrote the checkpoint.

use std::path::Path;

use serde_json::Value;

use super::{DATA, EVAL_DATA, Fixed, State, read_state};
use crate::Result;
use crate::train::made_with::Difference;
use crate::train::{MadeWith, RunConfig};

/// What is worth a note where a run goes on from a checkpoint that [`load`](super::load) takes.
///
/// # Errors
/// When its state cannot be read.
pub fn remarks(checkpoint: &Path, config: &RunConfig) -> Result<Vec<String>> {
    let state = read_state(checkpoint)?;
    let at = checkpoint.display();
    let differ = differences(&state, config).into_iter();
    let mut notes: Vec<String> = differ
        .map(|d| {
            format!("{at}: written with {}; the tokens of the rows are the same, and the run goes on", d.text)
        })
        .collect();
    if state.made_with.is_none() {
        notes.push(format!(
            "{at}: written by a program that recorded no fingerprints of model and tokenizer; they are not compared"
        ));
    } else if config.made_with.all_weights.is_some()
        && state.made_with.is_none_or(|was| was.all_weights.is_none())
    {
        notes.push(format!(
            "{at}: its run went without ‘verify’, so the base weights were compared by samples; checkpoints from here on \
             have the fingerprint of every byte"
        ));
    }
    Ok(notes)
}

/// All in which a run differs from the one that wrote a checkpoint.
pub(super) fn differences(state: &State, config: &RunConfig) -> Vec<Difference> {
    let Fixed { settings, identity } = Fixed::of(config);
    let none = MadeWith::default();
    let (made, makes) = (state.made_with.as_ref().unwrap_or(&none), &config.made_with);
    let mut found = Vec::new();
    let (mut add, mut rows) = (|text: String| found.push(Difference { text, matters: true }), false);
    // A checkpoint from before there was a setting does not name it; one that is named and unknown here is another run.
    for (key, was) in &state.fixed.settings {
        let is = settings.get(key).unwrap_or(&Value::Null);
        if is != was {
            add(format!("{key} {was}, this run has {is}"));
        }
    }
    for (key, was) in &state.fixed.identity {
        let Some(is) = identity.get(key).filter(|is| *is != was) else { continue };
        let name = match key.as_str() {
            DATA => "rows to train on",
            EVAL_DATA => "held-out rows",
            _ => {
                add(format!("{key} {was:?}, this run has {is:?}"));
                continue;
            }
        };
        rows = true;
        let named = |made: &MadeWith, print: &str| made.rows_named(print, key.as_str() == EVAL_DATA);
        add(format!("{name} {}, this run has {}", named(made, was), named(makes, is)));
    }
    if rows {
        made.read_otherwise(makes).into_iter().for_each(&mut add);
    }
    if state.made_with.is_some() {
        found.extend(made.differences(makes));
    }
    found
}
