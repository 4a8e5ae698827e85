//! Who runs: a way to train by its name, its options, and the learning rates that it may choose from.

use anyhow::Result;
use mesp_console::failure::usage;

use crate::args::BenchConvergenceArgs;
use crate::asked;

/// A way to train.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contestant {
    pub(super) name: String,
    /// Options of `mesp train`.
    pub(super) options: Vec<String>,
    /// Whether its steps follow an estimate of the gradient: then it may take more of them.
    pub(super) estimate: bool,
    pub(super) rates: Vec<f64>,
}

/// A known contestant: name, options, whether it estimates, rates.
type Known = (&'static str, &'static [&'static str], bool, &'static [f64]);

const KNOWN: [Known; 7] = [
    ("mesp", &["--method=mesp", "--optimizer=adamw"], false, &[1e-3, 3e-3, 1e-2]),
    ("mesp-sgd", &["--method=mesp", "--optimizer=sgd", "--max-grad-norm=0"], false, &[0.03, 0.1, 0.3, 1.0]),
    ("lcsb", &["--method=lcsb", "--optimizer=adamw"], false, &[1e-3, 3e-3, 1e-2]),
    ("forward", &["--method=forward"], true, &[1e-4, 3e-4, 1e-3, 3e-3]),
    ("mezo", &["--method=mezo", "--eps=1e-3"], true, &[1e-4, 3e-4, 1e-3, 3e-3]),
    ("mezo-sparse", &["--method=mezo", "--eps=1e-3", "--sparsity=0.75"], true, &[1e-4, 3e-4, 1e-3, 3e-3]),
    ("mezo-8", &["--method=mezo", "--eps=1e-3", "--directions=8"], true, &[1e-3, 3e-3, 1e-2]),
];

/// Those that were asked for, in order; the first is what others are compared with.
pub(super) fn chosen(args: &BenchConvergenceArgs) -> Result<Vec<Contestant>> {
    let mut all: Vec<Contestant> = asked::named(&KNOWN, |k| k.0, &args.methods)?
        .into_iter()
        .map(|(name, options, estimate, rates)| Contestant {
            name: (*name).to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            estimate: *estimate,
            rates: rates.to_vec(),
        })
        .collect();
    for text in &args.also {
        let (name, options) = asked::named_options(text, "mesp train")?;
        let estimate = asked::is_estimate(&options);
        all.push(Contestant { name, options, estimate, rates: Vec::new() });
    }
    for text in &args.rates {
        let (name, rates) = rates(text)?;
        let Some(c) = all.iter_mut().find(|c| c.name == name) else {
            return Err(usage(format!("--rates: no {name:?} runs"), "name one of --methods or --also"));
        };
        c.rates = rates;
    }
    for (i, c) in all.iter().enumerate() {
        if all[..i].iter().any(|other| other.name == c.name) {
            return Err(usage(format!("{:?} is named twice", c.name), "give each a name of its own"));
        }
        if c.rates.is_empty() {
            let hint = format!("add --rates {}=1e-4,1e-3", c.name);
            return Err(usage(format!("{:?} has no learning rates", c.name), hint));
        }
    }
    if all[0].estimate {
        let problem = format!("{:?} comes first and is an estimate", all[0].name);
        return Err(usage(problem, "name an exact method first: others are compared with it"));
    }
    Ok(all)
}

/// `NAME=RATE,RATE`
fn rates(text: &str) -> Result<(&str, Vec<f64>)> {
    let wrong = || {
        let problem = format!("--rates: expected NAME=RATE,RATE with positive numbers, found {text:?}");
        usage(problem, "for example --rates mezo=1e-4,1e-3")
    };
    let (name, list) = text.split_once('=').ok_or_else(wrong)?;
    let rates = list.split(',').map(|r| r.trim().parse::<f64>().ok().filter(|r| r.is_finite() && *r > 0.0));
    Ok((name, rates.collect::<Option<Vec<f64>>>().ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_numbers() {
        assert_eq!(rates("mezo=1e-4, 0.5").expect("read"), ("mezo", vec![1e-4, 0.5]));
        for bad in ["mezo", "mezo=", "mezo=0", "mezo=-1", "mezo=nan", "mezo=1e-4,"] {
            assert!(rates(bad).is_err(), "{bad}");
        }
    }
}
