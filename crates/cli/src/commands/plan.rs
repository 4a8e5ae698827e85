//! `mesp plan`.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use mesp::ByteSize;
use mesp::arch::Config;
use mesp::init_model::preset;
use mesp::memory::{Decision, MemoryPlan, Process, Room, Workload, least_budget};
use mesp::method::Method;
use mesp::model::{ModelWeights, ShapeSource};
use mesp::source::shape_source;
use mesp::train::Options;
use mesp_device::Dtype;
use serde_json::{Value, json};

use super::sites::{self, SiteRow, sites};

use crate::args::{CommonArgs, PlanArgs};
use crate::failure::usage;
use crate::inputs::{self, Held};
use crate::memory::keep_children_within;
use crate::run_json::{ledger_json, step_work};
use crate::settings::setup;
use crate::sizes::{bytes, count};
use crate::ui;
use mesp::settings::Setup;
use mesp::settings::{Numbers, held, policy_json, threads};

/// What is planned.
struct Planned {
    name: String,
    dtype: Dtype,
    settings: Setup,
    numbers: Numbers,
    /// The number type, with why it was chosen where that is not plain.
    arithmetic: String,
    memory: MemoryPlan,
    sites: Vec<SiteRow>,
    multiply_adds: u64,
    /// Those of a run that keeps everything.
    store_all: u64,
}

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let common = &args.common;
    let mut settings = setup(common)?;
    let (model, dtype, name) = shape(args)?;
    settings.fit(&model.config)?;
    let (asked, held) = (common.method.compute, held(settings.base, dtype));
    let numbers = Numbers::single(asked, held)?;
    let arithmetic = format!("{}{}", numbers.name(), numbers.reason(asked, held));
    settings.hold(common.model.model.as_deref(), dtype, model.config.parameters())?;
    let pool = threads(common.shared.threads)?;
    let work = work(common, &settings, &model, pool.count())?;
    let (budget, grad_accum) = (common.method.memory_budget, settings.run.grad_accum);
    let passes = grad_accum * settings.options.estimator.passes();
    let per_block = settings.may_step_blocks();
    let least = least_budget(&Process::measure(), &model, &settings.request(per_block), &work)?;
    let Decision { plan: memory, refused, beyond } = settings.decide(&model, &work, budget, per_block)?;
    let everything = Options { policy: Method::StoreAll.policy(), ..settings.options.clone() };
    let store_all = step_work(&MemoryPlan::new(&model, &everything, &work)?, passes);
    let sites = sites(&model, &settings.options, &work);
    let multiply_adds = step_work(&memory, passes);
    let planned =
        Planned { name, dtype, settings, numbers, arithmetic, memory, sites, multiply_adds, store_all };
    if common.shared.json {
        ui::json(&planned.json(least, budget, refused.is_none() && beyond.is_none()))?;
    } else {
        let mut text = planned.text(&model);
        let _ = writeln!(text, "\nleast budget: {} ({least} bytes)", bytes(least));
        if let (Some(b), Some(anonymous), None) = (budget, planned.memory.anonymous, &refused) {
            let with = bytes(anonymous);
            let _ = writeln!(text, "budget: {}: it fits, with {with} of anonymous memory in all", bytes(b.0));
        }
        if let (Some(_), Some(room)) = (&beyond, Room::now()) {
            let _ = writeln!(text, "system: it gives {room} now, and the plan does not fit");
        }
        ui::print(&text)?;
    }
    refused.map_or(Ok(()), |refused| Err(mesp::Error::from(refused).into()))
}

/// A model without its values, the type of its weights, and its name.
fn shape(args: &PlanArgs) -> Result<(Arc<ModelWeights>, Dtype, String)> {
    if let Some(name) = &args.preset {
        let config = Config::new(&preset(name)?)?;
        // What a preset leaves open is planned as most models are stored.
        let dtype = Dtype::Bf16;
        return Ok((Arc::new(ModelWeights::load(config, &ShapeSource(dtype))?), dtype, name.clone()));
    }
    let path = inputs::model_path(&args.common.model)?;
    let source = shape_source(path)?;
    ui::note_once(&source.notes);
    let model = ModelWeights::load(source.config.clone(), &source)?;
    Ok((Arc::new(model), source.dtype, args.common.model.name().unwrap_or_default()))
}

/// No batch has more: far beyond what a machine trains on at once. A plan goes through all tiles of all blocks under
/// many policies, some 20 s for as many tokens of a small model, and holds some 40 bytes a token.
const MOST_TOKENS: usize = 1 << 20;

/// From the rows where they are given, else from one length for all of them.
fn work(args: &CommonArgs, settings: &Setup, model: &ModelWeights, threads: usize) -> Result<Workload> {
    let options = args.read_options(&model.config, true);
    keep_children_within(args.method.memory_budget);
    let Some(data) = &args.data.data else {
        let length = options.max_seq_len.unwrap_or(model.config.max_positions);
        if length < 2 {
            let problem = format!("--max-seq-len is {length}, which leaves nothing to predict");
            return Err(usage(problem, "give 2 or more"));
        }
        // With --batch-tokens alone, as many rows as fit.
        let each = settings.options.objective.sequences();
        let fit = settings.run.batch_tokens.map_or(usize::MAX, |all| (all / (each * length)).max(1));
        let batch = settings.run.batch_size.min(fit);
        if length.checked_mul(batch.saturating_mul(each)).is_none_or(|tokens| tokens > MOST_TOKENS) {
            let problem =
                format!("a batch of {batch} rows of {length} tokens is more than {MOST_TOKENS} tokens");
            return Err(usage(problem, "lower --max-seq-len or --batch-size"));
        }
        return Ok(Workload::of_length(
            length,
            &settings.options.objective,
            &settings.run,
            settings.base,
            threads,
        ));
    };
    let held = Held::new(&args.schedule, data)?;
    // A preset has no tokenizer: its rows are tokens.
    let dir = args.model.model.clone().unwrap_or_default();
    let rows = inputs::read_rows(&dir, data, &held, &options, None)?;
    settings.options.objective.check_form(&*rows.train)?;
    Ok(Workload::training(&rows, &settings.run, settings.base, threads)?)
}

impl Planned {
    fn json(&self, least: u64, budget: Option<ByteSize>, fits: bool) -> Value {
        let f = &self.memory;
        json!({
            "method": self.settings.options.method_name,
            "policy": policy_json(&self.settings.options),
            "compute": self.numbers.name(),
            "memory": {
                "planned_bytes": f.planned(),
                "anonymous_planned_bytes": f.anonymous,
                "least_bytes": least,
                "floor_bytes": f.floor(),
                "budget_bytes": budget.map(|b| b.0),
                "fits": fits,
                "system_bytes": Room::now().map(|room| room.bytes),
                "base_mapped_bytes": f.mapped,
                "ledger": ledger_json(f),
            },
            "sites": self.sites.iter().map(SiteRow::json).collect::<Vec<_>>(),
            "work": {
                "multiply_adds_per_step": self.multiply_adds,
                "store_all_multiply_adds_per_step": self.store_all,
            },
        })
    }

    fn text(&self, model: &ModelWeights) -> String {
        let options = &self.settings.options;
        let f = &self.memory;
        let trained = match options.held {
            Some(elem) => format!("all of them trained, held in {}", elem.name()),
            None => format!(
                "adapter: rank {}, {} parameters stored in {}",
                options.adapter.rank,
                count(options.adapter.parameters(&model.config)),
                options.adapter_type.name()
            ),
        };
        let mut text = format!(
            "{}: {}, {} parameters stored in {}; {}\nmethod: {}, computing in {}, checkpoints {}, activations {}, update {}\n\nplanned memory\n",
            self.name,
            model.config.arch,
            count(model.config.parameters()),
            self.dtype.name(),
            trained,
            options.method_name,
            self.arithmetic,
            options.policy.inputs().name(),
            options.policy.activations().name(),
            options.update.name(),
        );
        let mut rows: Vec<Vec<String>> =
            f.largest().into_iter().map(|(c, n)| vec![c.name().to_owned(), bytes(n)]).collect();
        rows.push(vec!["planned peak".to_owned(), bytes(f.planned())]);
        rows.push(vec!["floor of these buffers".to_owned(), bytes(f.floor())]);
        if f.mapped > 0 {
            rows.push(vec!["mapped weights, beside the plan".to_owned(), bytes(f.mapped)]);
        }
        text += &ui::table(&rows);
        if let Some(program) = f.plan.programs.iter().max_by_key(|p| p.bytes) {
            text += "\nalive at the peak of a step\n";
            let mut alive: Vec<_> = program.at_peak().into_iter().collect();
            alive.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            let row = |(label, n): &(mesp_device::Label, usize)| {
                vec![format!("{} {}", label.class.name(), label.name), bytes(*n as u64)]
            };
            text += &ui::table(&alive.iter().map(row).collect::<Vec<_>>());
        }
        text += "\nintermediates of a block\n";
        text += &ui::table(&sites::table(&self.sites));
        let _ = writeln!(
            text,
            "\nwork: {} multiply-adds a step, {:.2} times those of store-all",
            count(self.multiply_adds),
            self.multiply_adds as f64 / self.store_all.max(1) as f64,
        );
        text
    }
}
