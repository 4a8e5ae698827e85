//! Rules for values that hold for every option: `~` in paths, and numbers.
//!
//! They are put on the options here and not where each is declared, so that none is forgotten.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Arg, Command};

/// The command line with these rules.
pub(super) fn checked(command: Command) -> Command {
    command.mut_args(one).mut_subcommands(checked)
}

fn one(arg: Arg) -> Arg {
    let found = arg.get_value_parser().type_id();
    let is = |of: TypeId| found == of;
    if is(TypeId::of::<PathBuf>()) {
        arg.value_parser(PathBufValueParser::new().try_map(|path| mesp_formats::home::expanded(&path)))
    } else if is(TypeId::of::<f64>()) {
        arg.value_parser(number)
    } else if is(TypeId::of::<usize>()) {
        arg.value_parser(whole::<usize>)
    } else if is(TypeId::of::<u64>()) {
        arg.value_parser(whole::<u64>)
    } else if is(TypeId::of::<u32>()) {
        arg.value_parser(whole::<u32>)
    } else if is(TypeId::of::<u16>()) {
        arg.value_parser(whole::<u16>)
    } else {
        arg
    }
}

/// A number that can be computed with.
fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("expected a finite number".to_owned()),
        Err(_) => Err("expected a number such as 0.5 or 2e-4".to_owned()),
    }
}

/// A count or a seed.
fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let most = || u64::MAX >> (64 - 8 * size_of::<T>());
    let number = text.trim().parse::<u64>().ok().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("expected a whole number from 0 to {}", most()))
}

/// `--option -1e-4` as `--option=-1e-4`: a negative number after an option is its value, for the option's own range
/// to judge. Whoever types it gets told of a wrong number and not of an unknown option `-1`.
pub(super) fn joined(typed: Vec<OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::with_capacity(typed.len());
    let mut ended = false;
    for word in typed {
        let option = |last: &&mut OsString| {
            last.to_str().is_some_and(|text| text.starts_with("--") && text.len() > 2 && !text.contains('='))
        };
        match words.last_mut().filter(option) {
            Some(last) if !ended && word.to_str().is_some_and(is_negative) => {
                last.push("=");
                last.push(word);
            }
            _ => {
                ended |= word == "--";
                words.push(word);
            }
        }
    }
    words
}

/// Whether a text begins as a negative number does, with a unit after it or not; no option begins so.
fn is_negative(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('-') else { return false };
    rest.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit()) || rest.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_negative_number_is_a_value() {
        let joined = |words: &[&str]| {
            let words = super::joined(words.iter().map(OsString::from).collect());
            words.into_iter().map(|word| word.into_string().expect("text")).collect::<Vec<_>>()
        };
        for number in ["-1", "-1e-4", "-.5", "-inf", "-1,2", "-1MB"] {
            assert_eq!(joined(&["--rate", number, "--json"]), [&format!("--rate={number}"), "--json"]);
        }
        for same in
            [&["--rate", "--json"][..], &["--", "--x", "-1"], &["x", "-1"], &["--rate=2", "-1"], &["-", "-h"]]
        {
            assert_eq!(joined(same), same);
        }
    }

    #[test]
    fn numbers_are_read() {
        assert_eq!(number(" 2e-4"), Ok(2e-4));
        assert_eq!((whole(" 7 "), whole::<u16>("65535")), (Ok(7_u64), Ok(65535)));
        for wrong in ["", " ", "nan", "inf", "-inf", "1e999", "one", "0x10", "1_0"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "-1", "1.5", "1e3", "18446744073709551616", "nan"] {
            let said = whole::<usize>(wrong).expect_err(wrong);
            assert_eq!(said, "expected a whole number from 0 to 18446744073709551615");
        }
        assert_eq!(whole::<u16>("65536"), Err("expected a whole number from 0 to 65535".to_owned()));
    }

    /// A number of a type that has no rule would have words of its own.
    #[test]
    fn every_type_of_number_has_a_rule() {
        fn walk(command: &Command) {
            for arg in command.get_arguments() {
                let parser = arg.get_value_parser().type_id();
                let others =
                    [TypeId::of::<f32>(), TypeId::of::<i64>(), TypeId::of::<i32>(), TypeId::of::<u8>()];
                assert!(!others.into_iter().any(|of| parser == of), "{}", arg.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
