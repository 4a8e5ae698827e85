//! `mesp plan`.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use mesp::init_model::preset;
use mesp::model::{Config, Model, ShapeSource};
use mesp::source::kernel_dtype;
use mesp_device::Dtype;
use serde_json::json;

use crate::args::{CommonArgs, PlanArgs};
use crate::footprint::{self, Footprint, Work};
use crate::inputs;
use crate::run_json::{dtype_name, step_work};
use crate::settings::{Settings, policy_json};
use crate::sizes::{bytes, count};
use crate::ui;

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let common = &args.common;
    let settings = Settings::new(common)?;
    Settings::only_f32(common.method.compute)?;
    let (file, config, name) = if let Some(name) = &args.preset {
        let file = preset(name)?;
        let config = Config::new(&file)?;
        (file, config, name.clone())
    } else {
        let dir = inputs::model_dir(&common.model)?;
        let (file, config) = inputs::read_config(dir)?;
        (file, config, dir.display().to_string())
    };
    // What a configuration leaves open is planned as most models are stored.
    let dtype = file.dtype.map_or(Dtype::Bf16, kernel_dtype);
    let model = Arc::new(Model::load(config, &ShapeSource(dtype))?);
    let pool = inputs::pool(common.shared.threads)?;
    let work = work(common, &settings, &model, pool.current_num_threads())?;
    let footprint = footprint::footprint(&model, &settings.options, &work)?;
    let least = footprint::least(&model, &settings.options, &work, settings.run.grad_accum)?;
    let budget = common.method.memory_budget;
    let multiply_adds = step_work(&footprint, settings.run.grad_accum);
    let fits = budget.map(|b| footprint.planned() <= b.0);
    if common.shared.json {
        ui::json(&json!({
            "method": settings.options.method_name,
            "policy": policy_json(&settings.options.policy),
            "memory": {
                "planned_bytes": footprint.planned(),
                "least_bytes": least.0,
                "least_options": least.1,
                "floor_bytes": footprint.floor(),
                "budget_bytes": budget.map(|b| b.0),
                "fits": fits.unwrap_or(true),
                "base_mapped_bytes": footprint.mapped,
                "ledger": footprint.ledger_json(),
            },
            "work": { "multiply_adds_per_step": multiply_adds },
        }))?;
    } else {
        ui::print(&text(&name, dtype, &model.config, &settings, &footprint, multiply_adds))?;
        ui::print(&format!("\nleast: {} ({} bytes) with {}\n", bytes(least.0), least.0, least.1))?;
        if let Some(b) = budget.filter(|_| fits == Some(true)) {
            ui::print(&format!("budget: {}: it fits\n", bytes(b.0)))?;
        }
    }
    if let Some(budget) = budget {
        footprint::verdict(&footprint, budget, &least)?;
    }
    Ok(())
}

/// From the rows where they are given, else from one length for all of them.
fn work(args: &CommonArgs, settings: &Settings, model: &Model, threads: usize) -> Result<Work> {
    let options = inputs::read_options(&args.data, &model.config, true);
    let Some(data) = &args.data.data else {
        let length = options.max_seq_len.unwrap_or(model.config.max_positions);
        return Ok(Work::of_length(length, &settings.run, settings.base, threads));
    };
    let eval = inputs::eval_file(args.schedule.eval_data.as_ref(), data);
    // A preset has no tokenizer: its rows are tokens.
    let dir = args.model.model.clone().unwrap_or_default();
    let rows = inputs::read_rows(&dir, data, eval.as_deref(), &options)?;
    Ok(Work::training(&rows, &settings.run, settings.base, threads))
}

fn text(
    name: &str,
    dtype: Dtype,
    config: &Config,
    settings: &Settings,
    footprint: &Footprint,
    multiply_adds: u64,
) -> String {
    let adapter = &settings.options.adapter;
    let mut text = format!(
        "{name}: {}, {} parameters stored in {}; adapter: rank {}, {} parameters\nmethod: {}\n\nplanned memory\n",
        config.arch,
        count(config.parameters()),
        dtype_name(dtype),
        adapter.rank,
        count(adapter.parameters(config)),
        settings.options.method_name,
    );
    let mut rows: Vec<Vec<String>> =
        footprint.largest().into_iter().map(|(c, n)| vec![c.name().to_owned(), bytes(n)]).collect();
    rows.push(vec!["planned peak".to_owned(), bytes(footprint.planned())]);
    rows.push(vec!["floor of these buffers".to_owned(), bytes(footprint.floor())]);
    if footprint.mapped > 0 {
        rows.push(vec!["mapped weights, beside the plan".to_owned(), bytes(footprint.mapped)]);
    }
    text += &ui::table(&rows);
    if let Some(program) = footprint.plan.programs.iter().max_by_key(|p| p.bytes) {
        text += "\nalive at the peak of a step\n";
        let mut alive: Vec<_> = program.at_peak().into_iter().collect();
        alive.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let row = |(label, n): &(mesp_device::Label, usize)| {
            vec![format!("{} {}", label.class.name(), label.name), bytes(*n as u64)]
        };
        text += &ui::table(&alive.iter().map(row).collect::<Vec<_>>());
    }
    let _ = writeln!(text, "\nwork: {} multiply-adds a step", count(multiply_adds));
    text
}
