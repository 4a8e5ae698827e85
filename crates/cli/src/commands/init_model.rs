//! `mesp init-model`.

use std::time::Instant;

use anyhow::Result;
use mesp::arch::Config;
use mesp::init_model::{preset, rows_beside, write, write_gguf};
use mesp_formats::atomic::{StagedDir, remove_leftovers_of, write_atomic};
use mesp_formats::{config, regular};
use serde_json::json;

use crate::args::InitModelArgs;
use crate::failure::usage;
use crate::inputs;
use crate::outputs::{self, Inputs};
use crate::progress::Counter;
use crate::sizes::{count, duration};
use crate::ui;

pub(crate) fn run(args: &InitModelArgs) -> Result<()> {
    let shape = match (&args.preset, &args.config) {
        (Some(name), _) => preset(name)?,
        (None, Some(path)) => config::parse(path, &regular::read_text(path, regular::CONFIG_LIMIT)?)?,
        (None, None) => return Err(usage("no shape was given", "give --preset NAME or --config FILE")),
    };
    let parameters = Config::new(&shape)?.parameters();
    let read = |path| regular::read(path, regular::VOCABULARY_LIMIT);
    let tokenizer = args.tokenizer.as_deref().map(read).transpose()?;
    let pool = inputs::conversion_pool(args.shared.threads)?;
    let started = Instant::now();
    let mut counter = Counter::new("writing weights", parameters);
    let mut progress = |done, _| counter.at(done);
    let output = &args.output;
    let read_here = Inputs::default()
        .file("--config", args.config.as_deref())
        .file("--tokenizer", args.tokenizer.as_deref());
    let named = output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let rows = if let Some(dtype) = args.dtype.dtype().filter(|_| !named) {
        outputs::folder(output, &read_here, args.replace.overwrite)?;
        let staged = StagedDir::new(output)?;
        pool.install(|| write(staged.path(), &shape, dtype, args.seed, &mut progress))?;
        if let Some(bytes) = tokenizer {
            write_atomic(&staged.path().join("tokenizer.json"), |out| {
                std::io::Write::write_all(out, &bytes)
            })?;
        }
        staged.commit()?;
        output.join("random_rows.jsonl")
    } else {
        if tokenizer.is_some() {
            let problem = "--tokenizer is for directories; this writes a GGUF file without a vocabulary";
            return Err(usage(problem, "put a tokenizer.json beside the file: it is used"));
        }
        outputs::file(output, &read_here, args.replace.overwrite)?;
        remove_leftovers_of(&rows_beside(output));
        let ty = args.dtype.tensor_type();
        pool.install(|| write_gguf(output, &shape, ty, args.seed, &mut progress))?
    };
    drop(counter);
    let (shown, rows) = (output.display().to_string(), rows.display().to_string());
    let ty = args.dtype.tensor_type().name().to_lowercase();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "rows": rows,
            "arch": shape.model_type,
            "parameters": parameters,
            "type": ty,
            "seed": args.seed,
        }));
    }
    ui::print(&format!(
        "{shown}: {}, {} random parameters in {ty} ({})\nto train it: mesp train --model {shown} --data {rows}\n",
        shape.model_type,
        count(parameters),
        duration(started.elapsed().as_secs_f64()),
    ))
}
