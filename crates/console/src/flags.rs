//! Settings as they are typed: the library names one in its messages between ‘ and ’, and in its documentation between
//! backticks; the program says its option.

use std::borrow::Cow;

use clap::{Arg, Command};

/// The settings that messages of the library name.
pub const SETTINGS: [&str; 84] = [
    "activations",
    "adapter",
    "adapter_type",
    "alpha",
    "alpha_pattern",
    "base",
    "batch_size",
    "batch_tokens",
    "beta",
    "block_share",
    "blocks",
    "checkpoints",
    "columns",
    "compute",
    "context",
    "data",
    "directions",
    "dora",
    "early_stopping_min_delta",
    "early_stopping_patience",
    "epochs",
    "eps",
    "eval_data",
    "eval_every",
    "eval_split",
    "foam_level",
    "foam_residual",
    "foam_scale",
    "foam_second_moment",
    "freeze_a",
    "full",
    "grad_accum",
    "head_rows",
    "label_smoothing",
    "layers",
    "learning_rate",
    "load_best_at_end",
    "long_rows",
    "lora_dropout",
    "lora_plus_ratio",
    "loss_type",
    "lr_schedule",
    "max_grad_norm",
    "max_seq_len",
    "max_tokens",
    "memory_budget",
    "method",
    "min_p",
    "mlp_rows",
    "model",
    "momentum",
    "noise",
    "objective",
    "on_nonfinite",
    "on_spike",
    "one_sided",
    "optimizer",
    "output",
    "rank",
    "rank_pattern",
    "reference",
    "repetition_penalty",
    "resume",
    "revision",
    "rounding",
    "rpo_alpha",
    "rslora",
    "save_every",
    "save_total_limit",
    "seed",
    "simpo_gamma",
    "sparsity",
    "spike_factor",
    "steps",
    "target_modules",
    "temperature",
    "threads",
    "top_p",
    "train",
    "train_on",
    "update",
    "verify",
    "warmup_ratio",
    "weight_decay",
];

/// A message of the library with options in place of settings.
pub fn spelled(message: &str) -> Cow<'_, str> {
    between(message, ['‘', '’'])
}

/// A text with options in place of the settings that stand between two marks.
fn between(text: &str, [opens, closes]: [char; 2]) -> Cow<'_, str> {
    if !text.contains(opens) {
        return Cow::Borrowed(text);
    }
    let mut said = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(opens) {
        said.push_str(before);
        match after.split_once(closes) {
            Some((name, after)) if SETTINGS.binary_search(&name).is_ok() => {
                said.push_str("--");
                said.push_str(&name.replace('_', "-"));
                rest = after;
            }
            _ => {
                said.push(opens);
                rest = after;
            }
        }
    }
    said.push_str(rest);
    Cow::Owned(said)
}

/// A command whose help says options in place of settings.
pub fn in_help(command: Command) -> Command {
    let said = |arg: Arg| match arg.get_help().map(|help| help.ansi().to_string()) {
        Some(help) if help.contains('`') => arg.help(between(&help, ['`'; 2]).into_owned()),
        _ => arg,
    };
    command.mut_args(said).mut_subcommands(in_help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options() {
        for (message, said) in [
            ("raise ‘max_seq_len’, or `mesp data tokenize`", "raise --max-seq-len, or `mesp data tokenize`"),
            ("‘update’ per-block and ‘grad_accum’ 4", "--update per-block and --grad-accum 4"),
            ("a ‘ alone", "a ‘ alone"),
            ("‘rank’ and a ‘ alone", "--rank and a ‘ alone"),
            ("‘rank", "‘rank"),
            ("it says ‘rank and ‘rank’", "it says ‘rank and --rank"),
            ("the keys `output` and ‘name’", "the keys `output` and ‘name’"),
            ("", ""),
        ] {
            assert_eq!(spelled(message), said);
        }
    }

    #[test]
    fn settings_are_sorted() {
        assert!(SETTINGS.is_sorted());
    }
}
