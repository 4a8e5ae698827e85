//! The options of an adapter: where it sits and how large it is.

use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;

use mesp_formats::peft::Pattern;

use super::AdapterSettings;
use crate::adapter::AdapterConfig;
use crate::arch::Module;
use crate::{Error, ErrorKind, Result};

/// The adapter's settings: those of the adapter to start from, or new ones.
pub(super) fn config(args: &AdapterSettings) -> Result<AdapterConfig> {
    let typed = typed(args)?;
    if let Some(path) = &args.adapter {
        let found = crate::source::load_adapter_config(path)?;
        same_or_unsaid(args, &typed, path, &found)?;
        if args.lora_dropout.is_none() {
            let named = format!("{}: lora_dropout", path.display());
            in_range(&named, found.dropout, "give another with ‘lora_dropout’")?;
        }
        return Ok(AdapterConfig { dropout: args.lora_dropout.unwrap_or(found.dropout), ..found });
    }
    Ok(typed)
}

fn typed(args: &AdapterSettings) -> Result<AdapterConfig> {
    let targets = AdapterConfig::parse_targets(args.target_modules.as_deref().unwrap_or("all-linear"))?;
    let rank = args.rank.unwrap_or(8);
    let alpha = args.alpha.unwrap_or(2.0 * rank as f64);
    if rank == 0 {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘rank’")
            .is("0")
            .expected("1 or more")
            .hint("leave it out for rank 8"));
    }
    if !sound_alpha(alpha) {
        return Err(Error::usage(ErrorKind::OutOfRange, "‘alpha’")
            .is(alpha)
            .expected("a number above 0 that f32 can hold")
            .hint("the adapter's output is multiplied by alpha over rank; leave it out for twice the rank"));
    }
    let dropout = args.lora_dropout.unwrap_or(0.0);
    in_range("‘lora_dropout’", dropout, "0 is none; 0.05 and 0.1 are usual")?;
    Ok(AdapterConfig {
        dora: args.dora,
        dropout,
        ranks: pattern("‘rank_pattern’", args.rank_pattern.as_deref(), "a rank of 1 or more", |r| {
            *r > 0
        })?,
        alphas: pattern(
            "‘alpha_pattern’",
            args.alpha_pattern.as_deref(),
            "a number above 0",
            |a: &f64| sound_alpha(*a),
        )?,
        layers: args.layers.as_deref().map(layers).transpose()?,
        ..AdapterConfig::new(rank, alpha, args.rslora, targets)
    })
}

/// Refuses what is no probability, and 1, which would leave nothing of an input.
fn in_range(name: &str, dropout: f64, advice: &str) -> Result<()> {
    if (0.0..1.0).contains(&dropout) {
        return Ok(());
    }
    Err(Error::usage(ErrorKind::OutOfRange, name)
        .is(dropout)
        .expected("a number from 0 to less than 1")
        .hint(advice))
}

/// With 0, and with what is 0 or infinite in f32, nothing would be trained.
fn sound_alpha(alpha: f64) -> bool {
    alpha > 0.0 && alpha as f32 > 0.0 && (alpha as f32).is_finite()
}

/// Numbers by names: `q_proj=16,down_proj=4`. A name may hold anything but the comma.
fn pattern<T: Copy + FromStr>(
    option: &str,
    list: Option<&str>,
    expected: &str,
    sound: impl Fn(&T) -> bool,
) -> Result<Pattern<T>> {
    let mut entries = Vec::new();
    for entry in list.unwrap_or_default().split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let wrong = || {
            Error::usage(ErrorKind::Malformed, option)
                .expected(format!("NAME=NUMBER with {expected}"))
                .found(format!("{entry:?}"))
                .hint(format!("write it as in {option} q_proj=16,down_proj=4"))
        };
        let (name, number) = entry.rsplit_once('=').ok_or_else(wrong)?;
        let number = number.trim().parse().ok().filter(&sound).ok_or_else(wrong)?;
        entries.push((name.trim().to_owned(), number));
    }
    Pattern::new(entries).map_err(|found| {
        Error::usage(ErrorKind::Malformed, option)
            .expected("a name or a regular expression")
            .found(found)
            .hint("write the modules' names out")
    })
}

/// Numbers of layers: `0-3,7`.
fn layers(list: &str) -> Result<Vec<usize>> {
    let mut layers = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            // More layers than any model has: a slip, not a list to make.
            (Ok(first), Ok(last)) if first <= last && last < 100_000 => layers.extend(first..=last),
            _ => {
                return Err(Error::usage(ErrorKind::Malformed, "‘layers’")
                    .expected("numbers and ranges")
                    .found(format!("{entry:?}"))
                    .hint("write it as in ‘layers’ 0-3,7"));
            }
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// Refuses options that contradict the adapter to start from.
fn same_or_unsaid(
    args: &AdapterSettings,
    typed: &AdapterConfig,
    dir: &Path,
    found: &AdapterConfig,
) -> Result<()> {
    // Of an adapter from elsewhere, all linear layers are those of models with fused ones, too.
    let fused = |p: &Module| matches!(p, Module::Qkv | Module::GateUp);
    let names = |c: &AdapterConfig| {
        let all = Module::ALL.iter().all(|p| c.targets.contains(p));
        let named = c.targets.iter().filter(|p| !(all && fused(p)));
        named.map(|p| p.name()).collect::<Vec<_>>().join(",")
    };
    let layers = |c: &AdapterConfig| c.layers.as_ref().map_or("all".to_owned(), |l| numbers(l));
    let told = [
        ("‘rank’", args.rank.is_some(), typed.rank.to_string(), found.rank.to_string()),
        ("‘alpha’", args.alpha.is_some(), typed.alpha.to_string(), found.alpha.to_string()),
        ("‘target_modules’", args.target_modules.is_some(), names(typed), names(found)),
        (
            "‘rank_pattern’",
            args.rank_pattern.is_some(),
            list_or_none(&typed.ranks),
            list_or_none(&found.ranks),
        ),
        (
            "‘alpha_pattern’",
            args.alpha_pattern.is_some(),
            list_or_none(&typed.alphas),
            list_or_none(&found.alphas),
        ),
        ("‘layers’", args.layers.is_some(), layers(typed), layers(found)),
    ];
    let differs = told.into_iter().find(|(_, given, typed, found)| *given && typed != found);
    let (typed, found) = match differs {
        Some((option, _, typed, found)) => (format!("{option} {typed}"), found),
        None if args.rslora && !found.rslora => ("‘rslora’".to_owned(), "the scale alpha/rank".to_owned()),
        None if args.dora && !found.dora => ("‘dora’".to_owned(), "no magnitudes".to_owned()),
        None => return Ok(()),
    };
    Err(Error::usage(
        ErrorKind::Mismatch,
        format!("{typed} was given, and the adapter in {} has {found}", dir.display()),
    )
    .hint("an adapter to start from brings its own; leave the option out"))
}

/// A pattern as it is typed; none where it names nothing.
pub(super) fn list<T: Copy + ToString + Debug>(pattern: &Pattern<T>) -> Option<String> {
    let entries = pattern.entries().iter().map(|(name, number)| format!("{name}={}", number.to_string()));
    (!pattern.is_empty()).then(|| entries.collect::<Vec<_>>().join(","))
}

/// The same for a message.
fn list_or_none<T: Copy + ToString + Debug>(pattern: &Pattern<T>) -> String {
    list(pattern).unwrap_or_else(|| "none".to_owned())
}

/// Layers as they are typed, one by one.
pub(super) fn numbers(layers: &[usize]) -> String {
    layers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// What dropout cannot be combined with. An adapter's own, from its configuration, is then left out, and that is told.
pub(super) fn dropout(
    args: &AdapterSettings,
    config: &mut AdapterConfig,
    exact: bool,
) -> Result<Option<String>> {
    let other = match (config.dora, exact) {
        (true, _) => "DoRA, which would need a second product with the frozen weights",
        (_, false) => "an estimate, whose losses have to be of one function",
        (false, true) => return Ok(None),
    };
    if args.lora_dropout.is_some_and(|p| p > 0.0) {
        return Err(Error::usage(
            ErrorKind::Conflict,
            format!("‘lora_dropout’ cannot be combined with {other}"),
        )
        .hint("leave one of the two out"));
    }
    let dropout = std::mem::take(&mut config.dropout);
    Ok((dropout > 0.0)
        .then(|| format!("the adapter's lora_dropout of {dropout} is not used: not with {other}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(layers("7, 0-2,1").expect("a list"), [0, 1, 2, 7]);
        for wrong in ["", "3-1", "a", "-1", "1-", "0-999999999999"] {
            assert!(layers(wrong).is_err(), "{wrong}");
        }
        let ranks = pattern("‘rank_pattern’", Some("q_proj=16, [kv]_proj=2"), "", |r: &usize| *r > 0)
            .expect("a list");
        assert_eq!(ranks.of("model.layers.3.self_attn.v_proj"), Some(2));
        assert_eq!(list(&ranks).as_deref(), Some("q_proj=16,[kv]_proj=2"));
        for wrong in ["q_proj", "q_proj=0", "q_proj=-1", "q_proj=1.5", "(=3"] {
            assert!(pattern("‘rank_pattern’", Some(wrong), "", |r: &usize| *r > 0).is_err(), "{wrong}");
        }
    }
}
