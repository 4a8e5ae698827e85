//! `mesp init-model`.

use std::fs;
use std::time::Instant;

use anyhow::Result;
use mesp::init_model::{preset, write};
use mesp::model::Config;
use mesp_formats::atomic::write_atomic;
use mesp_formats::{Dtype, Error as FileError, config};
use serde_json::json;

use crate::args::{FileType, InitModelArgs};
use crate::inputs::{self, usage};
use crate::progress::Counter;
use crate::sizes::{count, duration};
use crate::ui;

pub(crate) fn run(args: &InitModelArgs) -> Result<()> {
    let read = |path| fs::read(path).map_err(|e| FileError::io("read", path, e));
    let shape = match (&args.preset, &args.config) {
        (Some(name), _) => preset(name)?,
        (None, Some(path)) => config::parse(path, &String::from_utf8_lossy(&read(path)?))?,
        (None, None) => return Err(usage("no shape was given", "give --preset NAME or --config FILE")),
    };
    let parameters = Config::new(&shape)?.parameters();
    let tokenizer = args.tokenizer.as_ref().map(read).transpose()?;
    let dir = &args.output;
    if dir.exists() && !dir.is_dir() {
        let problem = format!("{}: expected a folder to write the model to, found a file", dir.display());
        return Err(usage(problem, "name another folder with --output"));
    }
    // A model of somebody's is not replaced by noise.
    if dir.join("model.safetensors.index.json").exists() || dir.join("config.json").exists() {
        let problem = format!("{}: a model is there already", dir.display());
        return Err(usage(problem, "name another folder with --output, or remove that one"));
    }
    let dtype = match args.dtype {
        FileType::Bf16 => Dtype::BF16,
        FileType::F16 => Dtype::F16,
        FileType::F32 => Dtype::F32,
    };
    let started = Instant::now();
    let mut counter = Counter::new("writing weights", parameters);
    let pool = inputs::pool(args.shared.threads)?;
    pool.install(|| write(dir, &shape, dtype, args.seed, &mut |done, _| counter.at(done)))?;
    drop(counter);
    if let Some(bytes) = tokenizer {
        write_atomic(&dir.join("tokenizer.json"), |out| std::io::Write::write_all(out, &bytes))?;
    }
    let shown = dir.display().to_string();
    if args.shared.json {
        return ui::json(&json!({
            "output": shown,
            "arch": shape.model_type,
            "parameters": parameters,
            "type": dtype.name().to_lowercase(),
            "seed": args.seed,
        }));
    }
    ui::print(&format!(
        "{shown}: {}, {} random parameters in {} ({})\nto train it: mesp train --model {shown} --data {shown}/random_rows.jsonl\n",
        shape.model_type,
        count(parameters),
        dtype.name().to_lowercase(),
        duration(started.elapsed().as_secs_f64()),
    ))
}
