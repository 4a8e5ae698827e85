//! `mesp replay`.

use std::sync::Arc;

use anyhow::Result;
use mesp::ErrorKind;
use mesp::arch::Selection;
use mesp::settings::{Settings, threads};
use mesp::source::Base;
use mesp::train::replay::{self, Contents};
use mesp::train::{Options, Session, Shapes, checkpoint, full, plan};
use mesp_formats::peft::{CONFIG_FILE, MODEL_FILE};
use serde_json::json;

use crate::args::ReplayArgs;
use crate::failure::usage;
use crate::inputs;
use crate::outputs::{self, Inputs};
use crate::ui;

pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let log = if args.log.is_dir() { args.log.join(replay::FILE) } else { args.log.clone() };
    let Contents { header, mut derivatives, .. } = replay::read(&log)?;
    if let Some(steps) = args.steps {
        if steps > derivatives.len() {
            let problem = format!("--steps {steps}: {} has {} steps", log.display(), derivatives.len());
            return Err(usage(problem, "leave --steps out for all of them"));
        }
        derivatives.truncate(steps);
    }
    let full = header.full()?;
    let read = Inputs::default()
        .model(args.model.model.as_deref())
        .adapter("--adapter", args.adapter.as_deref())
        .file("the log", log.as_path());
    if full.is_some() {
        outputs::folder(&args.output, &read, args.replace.overwrite)?;
    } else {
        outputs::files(&args.output, &[MODEL_FILE, CONFIG_FILE], &read, args.replace.overwrite)?;
    }
    if let (Some(_), Some(dir)) = (full, &args.adapter) {
        let problem = format!("--adapter {}: the run trained all weights, and no adapter", dir.display());
        return Err(usage(problem, "leave it out"));
    }
    let path = inputs::model_path(&args.model)?;
    let pool = threads(args.shared.threads)?;
    let model = Arc::clone(inputs::load_model(path, Base::Mapped)?.weights());
    let mut settings = Settings::from_names(&header.settings)
        .map_err(|e| mesp_formats::Error::invalid(&log, ErrorKind::Malformed).what(e))?;
    settings.adapter.adapter.clone_from(&args.adapter);
    let mut setup = settings.resolve()?;
    setup.fit(&model.config)?;
    let base = if full.is_some() { Selection::full() } else { Selection::default() };
    let options = Options { held: full, base, ..setup.options };
    let shapes = Shapes { train: None, eval: None };
    let plan = plan(&model, &options, &shapes, size_of::<f32>(), pool.count())?;
    let be = mesp::memory::processor::<f32>(plan, Arc::clone(&pool))?;
    let mut session = Session::new(be, Arc::clone(&model), options, 0);
    session.start_adapters(args.adapter.as_deref(), header.seed)?;
    header.apply(&mut session, &derivatives)?;
    if full.is_some() {
        full::save(&session, path, &args.output)?;
    } else {
        mesp_formats::atomic::create_dir_all(&args.output)?;
        checkpoint::save_adapter(&session, &args.output, args.model.name().as_deref())?;
    }
    let digest = replay::digest(&session);
    let (steps, shown) = (derivatives.len(), args.output.display().to_string());
    let what = if full.is_some() { "model" } else { "adapter" };
    if args.shared.json {
        return ui::json(&json!({ "steps": steps, "digest": digest, "output": shown }));
    }
    ui::print(&format!("{steps} steps replayed, {what} {digest} in {shown}\n"))
}
