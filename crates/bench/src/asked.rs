//! What is compared, as it is asked for.

use anyhow::Result;
use mesp_console::failure::usage;

/// Those of the known methods that --methods names, in its order; all without it.
pub(super) fn named<'a, K>(
    known: &'a [K],
    name: fn(&K) -> &'static str,
    asked: &[String],
) -> Result<Vec<&'a K>> {
    if asked.is_empty() {
        return Ok(known.iter().collect());
    }
    let find = |asked: &String| {
        known.iter().find(|k| name(k) == asked).ok_or_else(|| {
            let known = known.iter().map(name).collect::<Vec<_>>().join(", ");
            usage(
                format!("--methods: {asked:?} is unknown, expected some of {known}"),
                "others are given with --also NAME=OPTIONS",
            )
        })
    };
    asked.iter().map(find).collect()
}

/// `NAME=OPTIONS`, options of a command.
pub(super) fn named_options(text: &str, command: &str) -> Result<(String, Vec<String>)> {
    let parts = text.split_once('=').filter(|(name, options)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !name.is_empty() && name.chars().all(plain) && options.trim_start().starts_with("--")
    });
    let Some((name, options)) = parts else {
        let problem = format!("--also: expected NAME=OPTIONS of {command}, found {text:?}");
        return Err(usage(problem, "for example --also \"signs=--method mezo --noise rademacher\""));
    };
    Ok((name.to_owned(), options.split_whitespace().map(str::to_owned).collect()))
}

/// The method among options.
pub(super) fn method(options: &[String]) -> Option<&str> {
    options.iter().enumerate().find_map(|(i, o)| match o.strip_prefix("--method") {
        Some("") => options.get(i + 1).map(String::as_str),
        Some(value) => value.strip_prefix('='),
        None => None,
    })
}

/// Whether a step with these options follows an estimate of the gradient.
pub(super) fn is_estimate(options: &[String]) -> bool {
    method(options).is_some_and(|m| ["mezo", "forward"].contains(&m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_read() {
        let read = |text| named_options(text, "mesp train");
        let (name, options) = read("signs=--method mezo --noise rademacher").expect("read");
        assert_eq!((name.as_str(), options.len(), is_estimate(&options)), ("signs", 4, true));
        assert!(!is_estimate(&read("big=--rank=32").expect("read").1));
        assert!(is_estimate(&read("f=--method=forward").expect("read").1));
        for bad in ["signs", "=--method mezo", "a b=--rank 1", "x=rank 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
