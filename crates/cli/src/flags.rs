//! Settings as they are typed: the library names one in backticks, `max_seq_len`, and the program says its option.

use std::borrow::Cow;

/// The settings that messages of the library name.
const SETTINGS: [&str; 43] = [
    "activations",
    "adapter",
    "batch_size",
    "batch_tokens",
    "checkpoints",
    "columns",
    "context",
    "early_stopping_min_delta",
    "early_stopping_patience",
    "epochs",
    "eval_data",
    "eval_every",
    "eval_split",
    "format",
    "grad_accum",
    "head_rows",
    "learning_rate",
    "load_best_at_end",
    "long_rows",
    "max_grad_norm",
    "max_seq_len",
    "max_tokens",
    "method",
    "min_p",
    "mlp_rows",
    "model",
    "on_nonfinite",
    "on_spike",
    "optimizer",
    "output",
    "rank",
    "repetition_penalty",
    "resume",
    "save_every",
    "save_total_limit",
    "spike_factor",
    "steps",
    "target_modules",
    "temperature",
    "top_p",
    "train_on",
    "update",
    "verify",
];

/// A message with options in place of settings.
pub(crate) fn spelled(message: &str) -> Cow<'_, str> {
    let known = |name: &str| SETTINGS.binary_search(&name).is_ok();
    if !message.split('`').any(known) {
        return Cow::Borrowed(message);
    }
    let mut text = String::with_capacity(message.len() + 16);
    let mut parts = message.split('`');
    text.push_str(parts.next().unwrap_or_default());
    while let Some(part) = parts.next() {
        // What stands between two backticks; the last part has none behind it.
        match parts.next() {
            Some(after) if known(part) => {
                text.push_str("--");
                text.push_str(&part.replace('_', "-"));
                text.push_str(after);
            }
            Some(after) => {
                let _ = std::fmt::Write::write_fmt(&mut text, format_args!("`{part}`{after}"));
            }
            None => {
                text.push('`');
                text.push_str(part);
            }
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::args::Cli;

    #[test]
    fn settings_become_options() {
        for (message, said) in [
            ("raise `max_seq_len`, or `mesp data tokenize`", "raise --max-seq-len, or `mesp data tokenize`"),
            ("`update` per-block and `grad_accum` 4", "--update per-block and --grad-accum 4"),
            ("a ` alone", "a ` alone"),
            ("`rank` and a ` alone", "--rank and a ` alone"),
            ("`rank", "`rank"),
            ("the column `name`", "the column `name`"),
            ("", ""),
        ] {
            assert_eq!(spelled(message), said);
        }
    }

    #[test]
    fn every_setting_is_an_option() {
        fn options(command: &Command, names: &mut Vec<String>) {
            names.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned));
            command.get_subcommands().for_each(|command| options(command, names));
        }
        let mut names = Vec::new();
        options(&Cli::command(), &mut names);
        for setting in SETTINGS {
            assert!(names.contains(&setting.replace('_', "-")), "{setting}");
        }
        assert!(SETTINGS.is_sorted());
    }
}
