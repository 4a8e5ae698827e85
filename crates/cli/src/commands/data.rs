//! `mesp data`.

mod check;
mod show;

use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use mesp::arch::Config;
use mesp::data::token_file::{About, TokenKey, TokenWriter};
use mesp::data::{FileRows, ReadOptions, RowSize, TextEncoder, are_pairs};
use mesp::settings::Objective;
use mesp::source::shape_source;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::{folder_of, write_atomic_with};
use serde_json::json;

use crate::args::{DataArgs, DataCommand, TokenizeArgs};
use crate::flags::spelled;
use crate::outputs::{self, Inputs};
use crate::sizes::count;
use crate::{inputs, tokens, ui};

pub(crate) fn run(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Check(args) => check::run(args),
        DataCommand::Show(args) => show::run(args),
        DataCommand::Tokenize(args) => tokenize(args),
    }
}

fn tokenize(args: &TokenizeArgs) -> Result<()> {
    let model = inputs::given_model(args.model.as_deref())?;
    let data = inputs::data_file(&args.data)?;
    let output = &args.output;
    let read = Inputs::default().model(model).file("--data", data);
    outputs::file(output, &read, args.replace.overwrite)?;
    let config = shape_source(model)?.config;
    let preferences = args.objective == Some(Objective::Preference);
    let unpair = args.unpair;
    let options = ReadOptions { preferences, unpair, ..args.data.read_options(&config, !args.whole) };
    inputs::is_there(data)?;
    let encoder =
        if FileRows::needs_tokenizer(data, &options)? { Some(inputs::encoder(model)?) } else { None };
    let key = tokens::key(model, data, &options)?;
    let mut made = Made { encoder: encoder.as_ref(), options, counts: (0, RowSize::default()) };
    if outputs::is_standard(output) {
        let name = Path::new("standard output");
        let mut out = BufWriter::new(io::stdout().lock());
        made.write(data, key, (name, &mut out), &std::env::temp_dir())?;
        return Ok(out.flush().map_err(|e| FileError::io("write", name, e))?);
    }
    let beside = folder_of(output);
    let About { path, notes, .. } =
        write_atomic_with(output, |out| made.write(data, key, (output, out), beside))?;
    if args.quiet {
        return Ok(());
    }
    for note in &notes {
        ui::note(format!("{}: {note}", path.display()));
    }
    let (number, RowSize { tokens: all, targets, .. }) = made.counts;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "rows": number,
            "tokens": all,
            "target_tokens": targets,
            "notes": notes.iter().map(|note| spelled(note)).collect::<Vec<_>>(),
        }));
    }
    ui::print(&format!(
        "{shown}: {number} rows, {} tokens, {} of them trained\n",
        count(all as u64),
        count(targets as u64)
    ))
}

/// How rows of a file are read for the commands that show them: pairs of completions are known by their first row.
fn shown_options(
    data: &Path,
    config: &Config,
    (args, objective): (&DataArgs, Option<Objective>),
) -> ReadOptions {
    let mut options = args.read_options(config, true);
    options.preferences = match objective {
        Some(objective) => objective == Objective::Preference,
        None => are_pairs(data, &options),
    };
    options
}

/// Rows on their way into a file.
struct Made<'a> {
    encoder: Option<&'a TextEncoder>,
    options: ReadOptions,
    /// Rows, and their tokens.
    counts: (usize, RowSize),
}

impl Made<'_> {
    /// Reads rows and writes each as it comes.
    fn write(
        &mut self,
        data: &Path,
        key: TokenKey,
        (output, out): (&Path, &mut dyn Write),
        beside: &Path,
    ) -> mesp::Result<About> {
        let failed = |e| FileError::io("write", output, e);
        let mut writer = TokenWriter::new(out, key, beside).map_err(failed)?;
        let Self { encoder, options, counts } = self;
        let about = FileRows::each(data, *encoder, options, &mut |example| {
            counts.0 += 1;
            counts.1 += example.size();
            Ok(writer.row(&example).map_err(failed)?)
        })?;
        writer.finish(&about).map_err(failed)?;
        Ok(about)
    }
}
