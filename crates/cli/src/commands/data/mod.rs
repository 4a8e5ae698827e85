//! `mesp data`.

mod check;
mod show;

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use mesp::data::{Dataset, token_file};
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
    let rows = Dataset::read(data, encoder.as_ref(), &options)?;
    let key = tokens::key(model, data, &options)?;
    if outputs::is_standard(output) {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = token_file::write(&mut out, key, &rows).and_then(|()| out.flush());
        return Ok(written.map_err(|e| FileError::io("write", "standard output", e))?);
    }
    write_atomic(output, |out| token_file::write(out, key, &rows))?;
    if args.quiet {
        return Ok(());
    }
    for note in &rows.notes {
        ui::note(format!("{}: {note}", rows.path.display()));
    }
    let (number, all, targets) = (rows.examples.len(), rows.tokens(), rows.targets());
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "rows": number,
            "tokens": all,
            "target_tokens": targets,
            "notes": rows.notes,
        }));
    }
    ui::print(&format!(
        "{shown}: {number} rows, {} tokens, {} of them trained\n",
        count(all as u64),
        count(targets as u64)
    ))
}
