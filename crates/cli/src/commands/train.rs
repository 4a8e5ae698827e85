//! `mesp train`.

pub(crate) mod job;

use std::time::Instant;

use anyhow::Result;

use self::job::{Job, train};
use super::{demo, dry_run};
use crate::args::TrainArgs;
use crate::failure::usage;
use crate::inputs::{self, Held};
use crate::run_dir::RunDir;
use crate::settings::setup;
use crate::ui;

pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let started = Instant::now();
    let common = &args.common;
    if common.model.model.is_none() && common.data.data.is_none() && !common.full() {
        if args.dry_run {
            return Err(usage(
                "--dry-run has nothing to try: without --model and --data the built-in demo runs",
                "give --model and --data",
            ));
        }
        return demo::run(common, started);
    }
    let model = inputs::model_path(&common.model)?;
    let data = inputs::data_file(&common.data)?;
    let settings = setup(common)?;
    inputs::is_there(data)?;
    let eval = Held::new(&common.schedule, data)?;
    let read = common.reads(Some(data), eval.file());
    // A dry run changes nothing, and may be one of several.
    let dir = if args.dry_run {
        RunDir::look(common, &read, |_| false)?
    } else {
        RunDir::take(common, &read, |_| false)?
    };
    let job = Job { args: common, settings, model, data, eval, dir, started, held: 0 };
    if args.dry_run {
        return dry_run::run(job);
    }
    let done = train(job)?;
    if !done.summary.interrupted {
        ui::result(common.shared.json, &done.closing())?;
    }
    done.end(common)
}
