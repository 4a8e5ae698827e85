//! `mesp data`.

mod check;
mod show;

use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use mesp::data::token_file::{About, TokenKey, TokenWriter};
use mesp::data::{Dataset, ReadOptions, RowSize, TextEncoder};
use mesp::source::shape_source;
use mesp_formats::Error as FileError;
use mesp_formats::atomic::write_atomic;
use serde_json::json;

use crate::args::{DataCommand, TokenizeArgs};
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
    let options = inputs::read_options(&args.data, &config, !args.whole);
    inputs::is_there(data)?;
    let encoder =
        if Dataset::needs_tokenizer(data, &options)? { Some(inputs::encoder(model)?) } else { None };
    let key = tokens::key(model, data, &options)?;
    let mut made =
        Made { encoder: encoder.as_ref(), options, counts: (0, RowSize::default()), trouble: None };
    if outputs::is_standard(output) {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = made.write(data, key, &mut out, &std::env::temp_dir()).and_then(|_| out.flush());
        let written = written.map_err(|e| FileError::io("write", "standard output", e).into());
        return made.trouble.map_or(written, |trouble| Err(trouble.into()));
    }
    let beside = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut about = None;
    let written = write_atomic(output, |out| {
        about = Some(made.write(data, key, out, beside)?);
        Ok(())
    });
    if let Some(trouble) = made.trouble {
        return Err(trouble.into());
    }
    written?;
    let About { path, notes, .. } = about.context("nothing was written")?;
    if args.quiet {
        return Ok(());
    }
    for note in &notes {
        ui::note(format!("{}: {note}", path.display()));
    }
    let (number, RowSize { tokens: all, targets }) = made.counts;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "rows": number,
            "tokens": all,
            "target_tokens": targets,
            "notes": notes,
        }));
    }
    ui::print(&format!(
        "{shown}: {number} rows, {} tokens, {} of them trained\n",
        count(all as u64),
        count(targets as u64)
    ))
}

/// Rows on their way into a file.
struct Made<'a> {
    encoder: Option<&'a TextEncoder>,
    options: ReadOptions,
    /// Rows, and their tokens.
    counts: (usize, RowSize),
    /// Why rows could not be read; the writer's own error says nothing then.
    trouble: Option<mesp::Error>,
}

impl Made<'_> {
    /// Reads rows and writes each as it comes.
    fn write(&mut self, data: &Path, key: TokenKey, out: &mut dyn Write, beside: &Path) -> io::Result<About> {
        let mut writer = TokenWriter::new(out, key, beside)?;
        let mut failed = None;
        let Self { encoder, options, counts, trouble } = self;
        let read = Dataset::each(data, *encoder, options, &mut |example| {
            let size = example.size();
            counts.0 += 1;
            counts.1.tokens += size.tokens;
            counts.1.targets += size.targets;
            writer.row(&example).map_err(|e| {
                failed = Some(e);
                mesp::Error::usage("rows cannot be written")
            })
        });
        match (read, failed) {
            (_, Some(e)) => Err(e),
            (Err(e), None) => {
                *trouble = Some(e);
                Err(io::Error::other("rows cannot be read"))
            }
            (Ok(about), None) => {
                writer.finish(&about)?;
                Ok(about)
            }
        }
    }
}
