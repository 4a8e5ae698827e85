//! A way to make a gradient: a name, and options of `mesp grads`.

use std::ffi::OsString;

use anyhow::{Result, anyhow};
use clap::Parser as _;

use crate::args::{BenchGradientsArgs, Cli, Command, CommonArgs, Compute};
use crate::failure::usage;

/// A way to make a gradient.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    pub(super) name: String,
    pub(super) options: Vec<String>,
    /// Whether it depends on a seed.
    pub(super) random: bool,
}

/// A known way: name, options, whether it depends on a seed.
type Known = (&'static str, &'static [&'static str], bool);

const KNOWN: [Known; 9] = [
    ("mesp", &["--method=mesp"], false),
    ("mesp-bf16", &["--method=mesp", "--compute=bf16"], false),
    ("forward", &["--method=forward"], true),
    ("mezo", &["--method=mezo", "--eps=1e-3"], true),
    ("mezo-signs", &["--method=mezo", "--eps=1e-3", "--noise=rademacher"], true),
    ("mezo-one-sided", &["--method=mezo", "--eps=1e-3", "--one-sided"], true),
    ("mezo-sparse", &["--method=mezo", "--eps=1e-3", "--sparsity=0.75"], true),
    ("lcsb", &["--method=lcsb"], true),
    ("mezo-16", &["--method=mezo", "--eps=1e-3", "--directions=16"], true),
];

/// Exactly, in a precision.
pub(super) fn exact(compute: Compute) -> Way {
    let compute = if compute == Compute::F64 { "--compute=f64" } else { "--compute=f32" };
    let options = vec!["--method=mesp".to_owned(), compute.to_owned()];
    Way { name: "exact".to_owned(), options, random: false }
}

/// Those that were asked for.
pub(super) fn chosen(args: &BenchGradientsArgs) -> Result<Vec<Way>> {
    let mut all: Vec<Way> = super::super::asked::named(&KNOWN, |k| k.0, &args.methods)?
        .into_iter()
        .map(|(name, options, random)| Way {
            name: (*name).to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            random: *random,
        })
        .collect();
    for text in &args.also {
        let (name, options) = super::super::asked::named_options(text, "mesp grads")?;
        let random = super::super::asked::is_estimate(&options)
            || super::super::asked::method(&options) == Some("lcsb");
        all.push(Way { name, options, random });
    }
    Ok(all)
}

impl Way {
    /// What `mesp grads` would have been given.
    pub(super) fn args(&self, files: &[OsString]) -> Result<CommonArgs> {
        let program = [OsString::from("mesp"), "grads".into()];
        let options = self.options.iter().map(OsString::from);
        let words = program.into_iter().chain(files.iter().cloned()).chain(options);
        match Cli::try_parse_from(words) {
            Ok(Cli { command: Command::Grads(grads) }) => Ok(grads.common),
            Ok(_) => Err(anyhow!("the options of {} are those of another command", self.name)),
            Err(e) => {
                let problem = format!("{}: {}", self.name, e.kind());
                Err(usage(problem, format!("look at mesp grads --help for {}", self.options.join(" "))))
            }
        }
    }
}
