//! `mesp init-config`: every option of `mesp train` with what it does, made from the options themselves.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use clap::{Arg, CommandFactory as _};
use mesp::preference::LossType;
use mesp::settings::{MethodSettings, Objective, ObjectiveSettings, Settings};
use mesp_formats::atomic::write_atomic;
use serde_json::{Map, Value, json};

use crate::args::{Cli, InitConfigArgs};
use crate::flags::in_help;
use crate::outputs::{self, Inputs};
use crate::ui;

/// Options that say what a call is to do rather than what the run is.
const CALLS: [&str; 8] = ["config", "dry-run", "help", "json", "overwrite", "resume", "verify", "version"];

/// Values to start from, by option. The others are left out until they are wanted.
const SET: [(&str, &str); 4] = [
    ("model", r#""path/to/model""#),
    ("data", r#""train.jsonl""#),
    ("output", r#""my-adapter""#),
    ("epochs", "1"),
];

/// Examples of those that have no default, or one that has a name.
const EXAMPLES: [(&str, &str); 39] = [
    ("revision", r#""main"    # where model is a name in the Hugging Face cache"#),
    ("columns", r#""prompt=question,completion=answer""#),
    ("base", r#""auto""#),
    ("max-seq-len", "512"),
    ("prompt-style", r#""raw""#),
    ("train-on-prompt", "false"),
    ("no-eos", "false"),
    ("adapter", r#""earlier-adapter""#),
    ("rank-pattern", r#""q_proj=16,down_proj=4""#),
    ("alpha-pattern", r#""q_proj=32""#),
    ("layers", r#""0-3,7""#),
    ("target-modules", r#""all-linear"    # or a list: ["q_proj", "v_proj"]"#),
    ("method", r#""auto""#),
    ("blocks", r#""0-3""#),
    ("block-share", "0.5    # in place of blocks"),
    ("mlp-rows", "256"),
    ("head-rows", "128"),
    ("compute", r#""auto""#),
    ("memory-budget", r#""128MB""#),
    ("steps", "100    # in place of epochs"),
    ("eval-data", r#""eval.jsonl""#),
    ("eval-every", "50"),
    ("early-stopping-patience", "3"),
    ("save-every", "50"),
    ("save-total-limit", "3"),
    ("tensorboard", "false"),
    ("samples", "3"),
    ("sample-prompt", r#"["Who are you?", "What is a candle for?"]"#),
    ("sample-tokens", "64"),
    ("threads", "2"),
    ("train-on", r#""assistant""#),
    ("eval-split", "0.05"),
    ("long-rows", r#""truncate""#),
    ("batch-tokens", "512"),
    ("foam-level", "2    # with optimizer foam"),
    ("foam-scale", "0.25    # likewise"),
    ("foam-second-moment", r#""mean-of-squares"    # likewise"#),
    ("foam-residual", "1.0    # likewise"),
    ("rounding", r#""stochastic"    # where bf16 weights of the model are trained"#),
];

pub(crate) fn run(args: &InitConfigArgs) -> Result<()> {
    let text = text();
    let Some(path) = &args.output else {
        return if args.shared.json { ui::json(&json!({ "config": text })) } else { ui::print(&text) };
    };
    outputs::file(path, &Inputs::default(), args.replace.overwrite)?;
    write_atomic(path, |out| out.write_all(text.as_bytes()))?;
    let shown = path.display().to_string();
    if args.shared.json {
        return ui::json(&json!({ "config": text, "output": shown }));
    }
    ui::result(outputs::is_standard(path), &format!("{shown}: edit it, then mesp train --config {shown}\n"))
}

/// The file.
pub(crate) fn text() -> String {
    let mut command = in_help(Cli::command());
    command.build();
    let mut text = "# A run of mesp: mesp train --config THIS-FILE\n\
        # Keys are the options of `mesp train`; what is given on the command line wins. Paths are relative to the\n\
        # folder in which the program is called. A key with a # before it is left at its default.\n"
        .to_owned();
    let Some(train) = command.find_subcommand("train") else { return text };
    let mut heading = None;
    let defaults = defaults();
    for arg in train.get_arguments() {
        let Some(name) = arg.get_long().filter(|n| !CALLS.contains(n)) else { continue };
        let under = arg.get_help_heading().unwrap_or("Program");
        if heading != Some(under) {
            let _ = write!(text, "\n# ---- {under}\n");
            heading = Some(under);
        }
        text.push('\n');
        for line in wrapped(&help(arg)) {
            let _ = writeln!(text, "# {line}");
        }
        let set = |list: &[(&str, &'static str)]| list.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let known = |list| set(list).map(str::to_owned);
        let example = || {
            known(&EXAMPLES)
                .or_else(|| defaults.get(&name.replace('-', "_")).map(ToString::to_string))
                .unwrap_or_default()
        };
        let _ = match known(&SET) {
            Some(value) => writeln!(text, "{name} = {value}"),
            None => writeln!(text, "#{name} = {}", example()),
        };
    }
    text
}

/// What settings are that nobody chose, by name: of exact gradients, and what only estimates or preference losses have. A number, a text in
/// quotes, true and false are written in JSON as in TOML.
fn defaults() -> Map<String, Value> {
    let mezo = MethodSettings { method: Some("mezo".to_owned()), ..MethodSettings::default() };
    let estimate = Settings { method: mezo, ..Settings::default() };
    let preference = |loss_type| {
        let objective = Some(Objective::Preference);
        let objective = ObjectiveSettings { objective, loss_type, ..ObjectiveSettings::default() };
        Settings { objective, ..Settings::default() }
    };
    let mut all = Map::new();
    for settings in [estimate, preference(Some(LossType::Simpo)), preference(None), Settings::default()] {
        let values = settings.resolve().map(|setup| setup.settings().by_name()).unwrap_or_default();
        all.extend(values.into_iter().filter(|(_, value)| !value.is_null()));
    }
    all
}

fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    let flag = matches!(arg.get_action(), clap::ArgAction::SetTrue);
    if values.is_empty() || flag {
        return help;
    }
    let names: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
    format!("{help} (one of {})", names.join(", "))
}

/// Lines of at most a hundred characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|l| l.is_empty() || l.len() + word.len() < 98);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every option is there, and what is written beside its # is a value that it takes.
    #[test]
    fn every_key_can_be_used() {
        let text = text();
        let mut keys = 0;
        for line in text.lines() {
            let Some((key, _)) = line.trim_start_matches('#').split_once(" = ") else { continue };
            if key.contains(' ') {
                continue;
            }
            keys += 1;
            let one = line.trim_start_matches('#');
            let table = toml::de::DeTable::parse(one).unwrap_or_else(|e| panic!("{one}: {e}"));
            assert_eq!(table.get_ref().len(), 1, "{one}");
        }
        let mut command = Cli::command();
        command.build();
        let train = command.find_subcommand("train").expect("train");
        let all = train.get_arguments().filter_map(Arg::get_long).filter(|n| !CALLS.contains(n)).count();
        assert_eq!(keys, all);
        let known: Vec<&str> = train.get_arguments().filter_map(Arg::get_long).collect();
        for name in known.iter().filter(|n| !CALLS.contains(*n)) {
            let value = text
                .lines()
                .find_map(|line| line.trim_start_matches('#').strip_prefix(&format!("{name} = ")));
            assert!(
                value.is_some_and(|value| !value.is_empty()),
                "{name} has no example in config/example.rs"
            );
        }
        // What has a default has it from the library alone.
        let learning_rate = format!("#learning-rate = {}", 2e-4);
        assert!(text.lines().any(|line| line == learning_rate), "{text}");
    }

    /// A default that a help text states as a number or a word is what the setting is when nobody chose it.
    #[test]
    fn stated_defaults_are_the_defaults() {
        let mut command = Cli::command();
        command.build();
        let train = command.find_subcommand("train").expect("train");
        let values = Settings::default().resolve().expect("settings").settings().by_name();
        let mut compared = Vec::new();
        for arg in train.get_arguments() {
            let (Some(name), Some(help)) = (arg.get_long(), arg.get_help()) else { continue };
            let (help, name) = (help.to_string(), name.replace('-', "_"));
            let stated = help.rsplit_once("[default: ").map(|(_, rest)| rest);
            let stated = stated.and_then(|rest| rest.split([']', ';', ',']).next()).map(str::trim);
            let (Some(stated), Some(value)) = (stated, values.get(&name).filter(|value| !value.is_null()))
            else {
                continue;
            };
            let same = match (stated.parse::<f64>(), value) {
                (Ok(stated), Value::Number(value)) => value.as_f64() == Some(stated),
                // Names that stand for several: what auto is shows the plan, and all-linear is a list.
                (Err(_), Value::String(value))
                    if !["auto", "all-linear"].contains(&stated) && !stated.contains(' ') =>
                {
                    stated == value
                }
                _ => continue,
            };
            assert!(same, "{name}: the help says {stated:?}, and the default is {value}");
            compared.push(name);
        }
        for name in ["learning_rate", "rank", "warmup_ratio", "optimizer", "lr_schedule", "adapter_type"] {
            assert!(compared.iter().any(|known| known == name), "{name} in {compared:?}");
        }
    }
}
