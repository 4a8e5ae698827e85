//! `--config FILE.toml`: options from a file. Its keys are the names of the command line's options, and what is
//! given there wins. The file's options are put before those that were typed, and read by the same rules.

pub(crate) mod example;
mod values;

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use mesp::ErrorKind;
use mesp_formats::regular;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::Cli;
use crate::flags::in_help;

/// Bytes of a file at most: it has some dozen options.
const LIMIT: u64 = 1 << 20;

/// The commands that take a file.
const COMMANDS: [&str; 3] = ["train", "plan", "grads"];
/// Keys that make no sense in a file.
const NOT_HERE: [&str; 3] = ["config", "help", "version"];

/// The command line, with the options of the file that it names.
pub(crate) fn parse() -> Result<Cli> {
    Ok(parse_from(std::env::args_os().collect())?.unwrap_or_else(|e| e.exit()))
}

/// The same of words that were typed.
pub(crate) fn parse_from(typed: Vec<OsString>) -> Result<Result<Cli, clap::Error>> {
    let typed = values::joined(typed);
    // What all commands together can be told takes several times the memory that one needs. Whatever is not
    // plainly understood (help is asked for, something is wrong) is read again by all of it.
    let name = typed.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(command) = Cli::only(name)
        && let Ok(matches) = read(values::checked(command), &typed)?
        && let Ok(cli) = Cli::from_arg_matches(&matches)
    {
        return Ok(Ok(cli));
    }
    let matches = read(values::checked(in_help(Cli::command())), &typed)?;
    Ok(matches.and_then(|matches| Cli::from_arg_matches(&matches)))
}

/// What was typed, and before it the options of the file that it names.
fn read(mut command: Command, typed: &[OsString]) -> Result<Result<ArgMatches, clap::Error>> {
    let matches = match command.try_get_matches_from_mut(typed) {
        Ok(matches) => matches,
        Err(e) => return Ok(Err(e)),
    };
    let Some((name, sub)) = matches.subcommand().filter(|(name, _)| COMMANDS.contains(name)) else {
        return Ok(Ok(matches));
    };
    let Some(path) = sub.get_one::<PathBuf>("config") else { return Ok(Ok(matches)) };
    command.build();
    let text = regular::read_text(path, LIMIT)?;
    let file = ConfigFile { path, text: &text };
    // Where the subcommand's own options begin: before them stands nothing but its name.
    let at = typed.iter().position(|a| a == name).map_or(typed.len(), |at| at + 1);
    let mut all = typed[..at].to_vec();
    all.extend(file.options(&command, name, sub)?);
    all.extend_from_slice(&typed[at..]);
    Ok(command.try_get_matches_from_mut(all))
}

/// What a file's text adds to what was typed, a command that takes such a file.
pub(crate) fn options(path: &Path, text: &str, typed: &[OsString]) -> Result<Vec<OsString>> {
    let mut command = values::checked(Cli::command());
    let matches = command.try_get_matches_from_mut(typed)?;
    command.build();
    let Some((name, sub)) = matches.subcommand().filter(|(name, _)| COMMANDS.contains(name)) else {
        return Ok(Vec::new());
    };
    ConfigFile { path, text }.options(&command, name, sub)
}

struct ConfigFile<'a> {
    path: &'a Path,
    text: &'a str,
}

impl ConfigFile<'_> {
    /// Its options as they would be typed, without those that the command line has or excludes.
    fn options(&self, command: &Command, name: &str, typed: &ArgMatches) -> Result<Vec<OsString>> {
        let table = DeTable::parse(self.text).map_err(|e| {
            let at = e.span().unwrap_or(0..0);
            self.error(at, ErrorKind::Malformed, e.message(), "see `mesp init-config`")
        })?;
        let (Some(here), Some(train)) = (command.find_subcommand(name), command.find_subcommand("train"))
        else {
            return Ok(Vec::new());
        };
        let given = |arg: &Arg| typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut options = Vec::new();
        for (key, value) in table.get_ref() {
            let spelled = key.get_ref().replace('_', "-");
            let known = |arg: &&Arg| {
                let names = arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten());
                names.into_iter().any(|n| n == spelled) && !NOT_HERE.contains(&spelled.as_str())
            };
            let Some(arg) = train.get_arguments().find(known) else {
                return Err(self.unknown(key, train));
            };
            let words = self.words(arg, key.get_ref(), value)?;
            self.check(command, arg, key.get_ref(), value, &words)?;
            // What only `train` has is no mistake in a file for `plan`.
            let Some(arg) = here.get_arguments().find(|a| a.get_id() == arg.get_id()) else { continue };
            let excluded = here.get_arguments().any(|other| {
                given(other)
                    && (here.get_arg_conflicts_with(arg).iter().any(|c| c.get_id() == other.get_id())
                        || here.get_arg_conflicts_with(other).iter().any(|c| c.get_id() == arg.get_id()))
            });
            if !given(arg) && !excluded {
                options.extend(words);
            }
        }
        Ok(options)
    }

    /// A key and its value as they would be typed.
    fn words(&self, arg: &Arg, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>> {
        let long = arg.get_long().unwrap_or_default();
        let option = |text: &str| OsString::from(format!("--{long}={text}"));
        let takes_none = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let flag = matches!(arg.get_action(), ArgAction::SetTrue);
        let wrong = |found: &str| {
            let expected = match (flag, takes_none) {
                (true, _) => "true or false".to_owned(),
                (false, true) => format!("true, false or {}", value_name(arg)),
                _ => value_name(arg),
            };
            let problem = format!("{key}: expected {expected}, found {found}");
            self.error(
                value.span(),
                ErrorKind::WrongType,
                &problem,
                "see `mesp init-config` for every key with an example",
            )
        };
        match value.get_ref() {
            DeValue::Boolean(true) if flag || takes_none => Ok(vec![format!("--{long}").into()]),
            DeValue::Boolean(false) if flag || takes_none => Ok(Vec::new()),
            DeValue::Boolean(b) => Err(wrong(&b.to_string())),
            DeValue::Array(items) if !flag => {
                let mut texts = Vec::new();
                for item in items {
                    texts.push(self.scalar(item).ok_or_else(|| wrong("a list of something else"))?);
                }
                match arg.get_action() {
                    ArgAction::Append => Ok(texts.iter().map(|text| option(text)).collect()),
                    _ => Ok(vec![option(&texts.join(","))]),
                }
            }
            DeValue::Table(_) => Err(wrong("a table (keys stand at the top of the file)")),
            _ => match self.scalar(value).filter(|_| !flag) {
                Some(text) => Ok(vec![option(&text)]),
                None => Err(wrong(self.text.get(value.span()).unwrap_or_default())),
            },
        }
    }

    /// The text of a number or a string.
    fn scalar(&self, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) => Some(self.text.get(value.span())?.replace('_', "")),
            _ => None,
        }
    }

    /// Lets the command line's own rules judge a value.
    fn check(
        &self,
        command: &Command,
        arg: &Arg,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        words: &[OsString],
    ) -> Result<()> {
        let line = [OsString::from("mesp"), "train".into()].into_iter().chain(words.iter().cloned());
        let Err(e) = command.clone().try_get_matches_from(line) else { return Ok(()) };
        let said = e.to_string();
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        let said = said.split("\n\n").next().unwrap_or(said);
        // Of `invalid value 'x' for '--rank <R>': reason` the reason is news.
        let reason = said.split_once("': ").map_or(said, |(_, reason)| reason).trim();
        let reason = reason.split_once('\n').map_or(reason.to_owned(), |(first, more)| match more.trim() {
            // The list of what there is says all.
            more if first.starts_with("invalid value") => more.trim_matches(['[', ']']).to_owned(),
            more => format!("{first} {more}"),
        });
        let found = self.text.get(value.span()).unwrap_or_default();
        let problem = format!("{key}: expected {}, found {found} ({reason})", value_name(arg));
        Err(self.error(value.span(), ErrorKind::WrongType, &problem, "see `mesp train --help`"))
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>, train: &Command) -> anyhow::Error {
        let spelled = key.get_ref().replace('_', "-");
        let names = train.get_arguments().filter_map(Arg::get_long).filter(|n| !NOT_HERE.contains(n));
        let nearest =
            names.min_by_key(|name| strsim::damerau_levenshtein(name, &spelled)).unwrap_or_default();
        let problem =
            format!("unknown key {}, expected the name of an option of `mesp train`", key.get_ref());
        self.error(key.span(), ErrorKind::Unknown, &problem, &format!("the nearest is {nearest}"))
    }

    fn error(&self, at: Range<usize>, kind: ErrorKind, problem: &str, hint: &str) -> anyhow::Error {
        let line = 1 + self.text.get(..at.start).unwrap_or_default().matches('\n').count();
        mesp::Error::data(self.path, Some(line), kind, problem).hint(hint).into()
    }
}

/// What an option takes, as its help has it.
fn value_name(arg: &Arg) -> String {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        return possible.iter().map(clap::builder::PossibleValue::get_name).collect::<Vec<_>>().join(", ");
    }
    arg.get_value_names().and_then(<[_]>::first).map_or_else(|| "a value".to_owned(), ToString::to_string)
}
