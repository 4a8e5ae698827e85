//! A way to make a gradient: a name, and options of `mesp grads`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use clap::Parser;
use mesp::settings::{
    AdapterSettings, Compute, DirectionSettings, MethodSettings, ObjectiveSettings, RunSettings, Settings,
    TrainingSettings, threads,
};
use mesp::{BatchGradient, Dataset, Model};
use mesp_console::args::{DataArgs, ModelArgs, SharedArgs};
use mesp_console::failure::usage;
use mesp_console::ui;
use mesp_device::Real;

use crate::args::BenchGradientsArgs;
use crate::asked;

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
    let mut all: Vec<Way> = asked::named(&KNOWN, |k| k.0, &args.methods)?
        .into_iter()
        .map(|(name, options, random)| Way {
            name: (*name).to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            random: *random,
        })
        .collect();
    for text in &args.also {
        let (name, options) = asked::named_options(text, "mesp grads")?;
        let random = asked::is_estimate(&options) || asked::method(&options) == Some("lcsb");
        all.push(Way { name, options, random });
    }
    Ok(all)
}

/// The options of `mesp grads` but for its output.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Options {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    objective: ObjectiveSettings,
    #[command(flatten)]
    adapter: AdapterSettings,
    #[command(flatten)]
    method: MethodSettings,
    #[command(flatten)]
    directions: DirectionSettings,
    #[command(flatten)]
    training: TrainingSettings,
    #[command(flatten)]
    run: RunSettings,
    #[command(flatten)]
    shared: SharedArgs,
}

impl Way {
    /// What `mesp grads` would have been given.
    fn options(&self, files: &[OsString]) -> Result<Options> {
        let words = files.iter().cloned().chain(self.options.iter().map(OsString::from));
        Options::try_parse_from(words).map_err(|e| {
            let problem = format!("{}: {}", self.name, e.kind());
            usage(problem, format!("look at mesp grads --help for {}", self.options.join(" ")))
        })
    }

    /// Reads model and rows, and plans gradients; `place` as [`BatchGradient::new`] has it.
    pub(super) fn ready<R: Real>(
        &self,
        files: &[OsString],
        place: (&Path, usize, bool),
    ) -> Result<BatchGradient<R>> {
        let asked = self.options(files)?;
        let settings = Settings {
            base: Some(asked.model.base),
            max_seq_len: asked.data.max_seq_len,
            objective: asked.objective,
            adapter: asked.adapter,
            method: asked.method,
            directions: asked.directions,
            training: asked.training,
            run: asked.run,
        };
        let mut setup = settings.for_gradients()?;
        setup.notes.iter().for_each(ui::note);
        let (Some(path), Some(data)) = (&asked.model.model, &asked.data.data) else {
            return Err(usage("no model and no rows were given", "give --model and --data"));
        };
        let model = Model::open_as(path, setup.base)?;
        ui::note_once(model.notes());
        setup.fit(model.config())?;
        let options = settings.objective.reading(asked.data.read_options(model.config(), false));
        let rows = Dataset::read_with(data, &model, &options)?;
        for line in rows.notes() {
            ui::note(format!("{}: {line}", data.display()));
        }
        let pool = threads(asked.shared.threads)?;
        Ok(BatchGradient::new(&settings, setup, &model, rows.rows().clone(), place, &pool)?)
    }
}
