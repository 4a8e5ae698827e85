//! A run from its files to its end.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use anyhow::Result;
use mesp::Trainer;
use mesp::data::Rows;
use mesp::memory::{MemoryPlan, Workload};
use mesp::method::Estimator;
use mesp::model::ModelWeights;
use mesp::source::Base;
use mesp::tape::SavedAs;
use mesp::train::{Cancel, Event, Notice, Progress, Run, Session, Summary, checkpoint};
use mesp_device::{Cpu, Threads};
use serde_json::{Map, Value};

use super::super::watch::{Scene, Watch};
use crate::args::CommonArgs;
use crate::failure::Interrupted;
use crate::inputs::{self, Held};
use crate::lines::PlanLine;
use crate::memory::{self, Marks};
use crate::metrics::Metrics;
use crate::progress::reference_progress;
use crate::run_dir::RunDir;
use crate::run_json::{About, Report};
use crate::samples::SampleProcess;
use crate::settings::SURROGATE;
use crate::sizes::{bytes, duration};
use crate::tensorboard::Board;
use crate::{card, interrupt, made_with, tokens, ui};
use mesp::settings::Setup;
use mesp::settings::{Numbers, held, policy_json, threads};

/// Asked by the first interrupt.
static CANCEL: LazyLock<Cancel> = LazyLock::new(Cancel::new);

/// Everything that a run starts from.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a CommonArgs,
    pub(crate) settings: Setup,
    pub(crate) model: &'a Path,
    pub(crate) data: &'a Path,
    pub(crate) eval: Held,
    pub(crate) dir: RunDir,
    pub(crate) started: Instant,
    /// Heap that was in use before, beside the program's usual share.
    pub(crate) held: u64,
}

/// Everything that it came to.
pub(crate) struct Done {
    pub(crate) json: Value,
    pub(crate) losses: Vec<f64>,
    pub(crate) summary: Summary,
    marks: Marks,
    planned: u64,
    mapped: u64,
    output: PathBuf,
    seconds: f64,
}

/// A run with all that it needs, before anything is allocated or written for it.
pub(in crate::commands) struct Ready {
    pub(in crate::commands) settings: Setup,
    pub(in crate::commands) pool: Arc<Threads>,
    pub(in crate::commands) model: Arc<ModelWeights>,
    pub(in crate::commands) rows: Rows,
    pub(in crate::commands) work: Workload,
    pub(in crate::commands) footprint: MemoryPlan,
    pub(in crate::commands) numbers: Numbers,
    /// Fields of the run's documents.
    pub(in crate::commands) about: Map<String, Value>,
    /// Rows and tokens, counted.
    pub(in crate::commands) counts: Value,
    pub(in crate::commands) budget: Option<u64>,
    pub(in crate::commands) sampler: SampleProcess,
}

/// Reads files, checks them, and plans.
pub(in crate::commands) fn prepare(
    args: &CommonArgs,
    mut settings: Setup,
    (dir, data, eval): (&Path, &Path, &Held),
    (cache, resume): (Option<&Path>, Option<&Path>),
    before: u64,
) -> Result<Ready> {
    let pool = threads(args.shared.threads)?;
    // Mapped first in any case: mistakes in the files show, and nothing large is in memory yet.
    let opened = inputs::load_model(dir, Base::Mapped)?;
    let (model, dtype) = (Arc::clone(opened.weights()), opened.dtype());
    drop(opened);
    settings.fit(&model.config)?;
    if let Some(path) = &args.adapter.adapter {
        mesp::source::check_adapter(path, &model)?;
        made_with::note_other_base(Some(path), (&model, dtype), dir);
    }
    let asked = Numbers::resumed(args.method.compute, resume)?;
    let held = held(settings.base, dtype);
    let numbers = Numbers::single(asked, held)?;
    settings.hold(Some(dir), dtype, model.config.parameters())?;
    let options = args.read_options(&model.config, true);
    // First, so that rows have the memory that this took.
    settings.run.made_with = made_with::of(args, (&model, dir), (data, eval), &options, resume)?;
    memory::keep_children_within(args.method.memory_budget);
    let rows = inputs::read_rows(dir, data, eval, &options, cache)?;
    settings.options.objective.check_form(&*rows.train)?;
    settings.options.objective.check_form(&*rows.eval)?;
    inputs::warn_of_length(&*rows.train, &model.config)?;
    settings.fix(&rows, dtype, numbers)?;

    let mut work = Workload::training(&rows, &settings.run, settings.base, pool.count())?;
    work.held = before;
    let budget = args.method.memory_budget;
    let sampler = SampleProcess {
        model: dir.to_path_buf(),
        prompts: args.run.sample_prompt.clone(),
        max_tokens: args.run.sample_tokens.unwrap_or(64),
        compute: numbers.name(),
        threads: pool.count(),
    };
    sampler.check()?;
    if budget.is_some() {
        work.beside = sampler.rehearse(args.adapter.adapter.as_deref())?;
    }
    let per_block = settings.may_step_blocks();
    let footprint = settings.decide(&model, &work, budget, per_block)?.allowed()?;
    let arithmetic = format!("{}{}", numbers.name(), numbers.reason(asked, held));
    announce(&model, &settings, &arithmetic, &footprint);
    let budget = budget.map(|b| b.0);
    let named = args.data.name(data);
    let about = About {
        model_path: settings.run.base_model.as_deref().unwrap_or_default(),
        revision: args.model.named.as_ref().and_then(|_| mesp::hub::commit_of(dir)),
        config: &model.config,
        dtype,
        settings: &settings,
        numbers,
        threads: pool.count(),
        data: &named,
        eval: eval.file(),
    };
    let (about, counts) = (about.json(), inputs::counts(&rows)?);
    let model = if settings.base == Base::Mapped {
        model
    } else {
        // Its vectors are not kept twice.
        drop(model);
        Arc::clone(inputs::load_model(dir, settings.base)?.weights())
    };
    Ok(Ready { settings, pool, model, rows, work, footprint, numbers, about, counts, budget, sampler })
}

/// Runs a job to its end or its interruption.
pub(crate) fn train(job: Job<'_>) -> Result<Done> {
    let Job { args, settings, model: dir, data, eval, dir: mut output, started, held: before } = job;
    let cache = output.path.join(tokens::FOLDER);
    let ready =
        prepare(args, settings, (dir, data, &eval), (Some(&cache), output.resume.as_deref()), before)?;
    ready.settings.room(&ready.footprint, &ready.work, &output.path)?;
    let scene = scene(&ready, args, &output)?;
    let Ready { mut settings, pool, model, rows, work, mut footprint, numbers, about, budget, .. } = ready;
    settings.run.output = Some(output.path.clone());
    let arena = (&model, footprint.arena());
    let folders = (Some(&*cache), &*output.path);
    let rows = settings.referenced::<f32>(rows, arena, numbers, &pool, folders, &mut reference_progress())?;
    memory::begin_training();
    let plan = std::mem::take(&mut footprint.plan);
    let mut session = settings.session::<f32>(&model, &work, plan, numbers, (&pool, &output.path))?;
    let from = start(&mut session, args.adapter.adapter.as_deref(), &settings, output.resume.as_deref())?;
    // From here on an interrupt waits for the step: what is there of the run stays, and is whole.
    interruptible();
    // Everything that is read was read.
    output.begin()?;
    let (metrics, losses) = match &output.resume {
        Some(_) => Metrics::go_on(&output.path, from.step)?,
        None => (Metrics::begin(&output.path)?, Vec::new()),
    };
    let board = args.run.tensorboard.then(|| Board::open(&output.path, from.step)).transpose()?;
    let prepare = started.elapsed().as_secs_f64();

    let every = settings.settings();
    let passes = settings.run.grad_accum * settings.options.estimator.passes();
    let run = Run::new(session, &rows, settings.run, from, CANCEL.clone())?;
    let mut trainer = Trainer::from_run(run, footprint);
    let mut watch = Watch::new(metrics, board, scene, losses, &CANCEL);
    let outcome = trainer.run(&mut |event| {
        watch.on(event);
        if matches!(event, Event::Notice { what: Notice::Checkpoint { .. }, .. }) {
            output.settle();
        }
    });
    output.end(outcome.is_ok() && watch.trouble.is_none());
    if let Some(trouble) = watch.trouble {
        return Err(stopped_by(trouble, outcome));
    }
    let summary = outcome?;
    let (marks, seconds) = (memory::marks(), started.elapsed().as_secs_f64());
    // The report takes memory too, and may have the session's.
    let footprint = trainer.into_plan();
    let report = Report {
        about,
        settings: every,
        passes,
        summary: &summary,
        footprint: &footprint,
        budget,
        marks,
        prepare,
        total: seconds,
    };
    let json = report.write(&output.path)?;
    card::write(&output.path, &json, Path::new(&args.data.name(data)), rows.train.count())?;
    if let Some(verdict) = verdict(budget, &marks) {
        ui::note(verdict);
    }
    let (planned, mapped) = (footprint.planned(), footprint.mapped);
    let output = output.path.clone();
    Ok(Done { json, losses: watch.losses, summary, marks, planned, mapped, output, seconds })
}

/// What events are written with.
fn scene(ready: &Ready, args: &CommonArgs, output: &RunDir) -> Result<Scene> {
    let Ready { settings, footprint, budget, sampler, .. } = ready;
    let (name, policy) = (settings.options.method_name.clone(), policy_json(&settings.options));
    let shown = args.run.samples.unwrap_or(if budget.is_some() { 0 } else { 3 });
    let shown = if output.resume.is_some() { 0 } else { shown };
    Ok(Scene {
        settings: ready.about.clone(),
        data: ready.counts.clone(),
        plan: PlanLine::new(footprint, name, policy, *budget, ready.model.config.layers),
        samples: sampler.samples(&*ready.rows.train, shown)?,
        sampler: sampler.clone(),
        adapter: args.adapter.adapter.clone(),
        output: output.path.clone(),
        memory: (footprint.planned(), *budget),
    })
}

/// An error of what watches a run, with what the run left.
fn stopped_by(trouble: mesp::Error, outcome: mesp::Result<Summary>) -> anyhow::Error {
    let left = match outcome {
        Ok(Summary { steps, checkpoint: Some(path), .. }) if steps > 0 => format!(
            "stopped after step {steps}; the same command with --resume goes on once there is room ({})",
            path.display()
        ),
        Ok(_) => return trouble.into(),
        Err(e) => format!("stopped; {e}"),
    };
    mesp::Error::Ended { cause: Box::new(trouble), left }.into()
}

/// Fills adapters and optimizer state: from a checkpoint, from an adapter, or anew.
pub(in crate::commands) fn start(
    session: &mut Session<Cpu<f32>>,
    adapter: Option<&Path>,
    settings: &Setup,
    resume: Option<&Path>,
) -> Result<Progress> {
    if let Some(checkpoint) = resume {
        let progress = checkpoint::load(session, checkpoint, &settings.run)?;
        checkpoint::remarks(checkpoint, &settings.run)?.iter().for_each(ui::note);
        return Ok(progress);
    }
    session.start_adapters(adapter, settings.run.seed)?;
    Ok(Progress::default())
}

fn announce(model: &ModelWeights, settings: &Setup, arithmetic: &str, footprint: &MemoryPlan) {
    let c = &model.config;
    let adapter = &settings.options.adapter;
    let trained = if let Some(elem) = settings.options.held {
        format!("all of them trained, in {}", elem.name())
    } else {
        let parameters = crate::sizes::count(adapter.parameters(c));
        format!("adapter: rank {}, {parameters} parameters", adapter.rank)
    };
    let parameters = crate::sizes::count(c.parameters());
    ui::note(format!("model: {}, {parameters} parameters; {trained}", c.arch));
    let mapped = match footprint.mapped {
        0 => String::new(),
        n => format!("; weights stay in their file, {} mapped", bytes(n)),
    };
    let (method, inputs) = (&settings.options.method_name, settings.options.policy.inputs().name());
    let method = match settings.options.estimator {
        Estimator::Subset(subset) => format!("{method} ({SURROGATE}: {subset})"),
        Estimator::Exact | Estimator::Directional(_) => method.clone(),
    };
    let mut with = format!("{method} in {arithmetic}, checkpoints {inputs}");
    if settings.options.policy.activations() == SavedAs::Bf16 {
        with += ", activations bf16";
    }
    ui::note(format!("plan: {with}, {}{mapped}", footprint.line(4)));
    if let Some(anonymous) = footprint.anonymous {
        ui::note(format!(
            "budget: the plan keeps it, with {} of anonymous memory, the process around it included",
            bytes(anonymous)
        ));
    }
}

/// The first interrupt asks the run to stop after its step, the second ends the program.
fn interruptible() {
    interrupt::instead(|| {
        if CANCEL.cancel() {
            interrupt::end();
        }
        ui::note("finishing this step, then writing a checkpoint (interrupt again to stop at once)");
    });
}

/// Whether the budget was kept, by the most anonymous memory that this process and its children had.
fn verdict(budget: Option<u64>, marks: &Marks) -> Option<String> {
    let (budget, most) = (budget?, marks.tree()?);
    let (most_text, of) = (bytes(most), bytes(budget));
    if most <= budget {
        return Some(format!("budget: kept, {most_text} of anonymous memory at most, of {of}"));
    }
    let why = match marks.with_child {
        [tokens, _] if tokens == most => {
            "while another process turned text into tokens: `mesp data tokenize` makes a file of them beforehand"
        }
        [_, said] if said == most => "while another process answered --sample-prompt or spelled sample rows",
        _ => "in this process",
    };
    Some(format!("budget: exceeded, {most_text} of anonymous memory at most, of {of}: {why}"))
}

impl Done {
    /// Measured memory beside planned, in a line.
    pub(crate) fn memory_line(&self) -> String {
        let m = &self.marks;
        let resident = match (m.rss_anonymous, m.rss) {
            (Some(anonymous), Some(all)) => {
                let mapped = if self.mapped > 0 { ", with mapped weights" } else { ", in all" };
                format!("; process: anonymous {}{mapped} {}", bytes(anonymous), bytes(all))
            }
            _ => String::new(),
        };
        format!(
            "memory: planned {}; heap peak {} in training, {} from start to end{resident}",
            bytes(self.planned),
            bytes(m.heap_training),
            bytes(m.heap)
        )
    }

    /// What a run came to, for people.
    pub(crate) fn closing(&self) -> String {
        let s = &self.summary;
        let change = |from: Option<f64>, to: Option<f64>| match (from, to) {
            (Some(from), Some(to)) => format!("{from:.4} -> {to:.4}"),
            (None, Some(to)) => format!("{to:.4}"),
            _ => "none".to_owned(),
        };
        let mut text = format!("loss: {}", change(s.first_loss, s.last_loss));
        if s.eval_after.is_some() {
            let _ = write!(text, "; held-out: {}", change(s.eval_before, s.eval_after));
        }
        let _ = writeln!(text, "\n{}", self.memory_line());
        let full = self.json.get("full").is_some_and(Value::is_object);
        let (what, at) = if full {
            ("model", self.output.join(checkpoint::MODEL))
        } else {
            ("adapter", self.output.clone())
        };
        let _ = writeln!(text, "{what}: {} ({} steps in {})", at.display(), s.steps, duration(self.seconds));
        text
    }

    /// The JSON document where it is asked for, and the exit status of an interrupted run.
    pub(crate) fn end(&self, args: &CommonArgs) -> Result<()> {
        if args.shared.json {
            ui::json(&self.json)?;
        }
        if self.summary.interrupted {
            let (dir, step) = (self.output.display(), self.summary.steps);
            let text = format!(
                "interrupted after step {step}; the same command with --resume goes on ({dir}/checkpoints/step-{step})"
            );
            return Err(Interrupted(text).into());
        }
        Ok(())
    }
}
