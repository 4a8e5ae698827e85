//! `mesp replay`.

use std::sync::Arc;

use anyhow::Result;
use mesp::adapter::peft;
use mesp::method::{Estimator, Method};
use mesp::optim::{OptimizerKind, Trained};
use mesp::source::Base;
use mesp::train::replay::{self, Contents};
use mesp::train::{Options, Session, Shapes, Update, checkpoint, plan};
use mesp_device::Cpu;
use mesp_formats::peft::MODEL_FILE;
use serde_json::json;

use crate::args::ReplayArgs;
use crate::inputs::{self, usage};
use crate::ui;

pub(crate) fn run(args: &ReplayArgs) -> Result<()> {
    let log = if args.log.is_dir() { args.log.join(replay::FILE) } else { args.log.clone() };
    let Contents { header, mut slopes, .. } = replay::read(&log)?;
    if let Some(steps) = args.steps {
        if steps > slopes.len() {
            let problem = format!("--steps {steps}: {} has {} steps", log.display(), slopes.len());
            return Err(usage(problem, "leave --steps out for all of them"));
        }
        slopes.truncate(steps);
    }
    if args.output.join(MODEL_FILE).exists() && !args.overwrite {
        let problem = format!("{}: an adapter is there already", args.output.display());
        return Err(usage(problem, "name another folder with --output, or replace it by --overwrite"));
    }
    let path = inputs::model_path(&args.model)?;
    let pool = inputs::pool(args.shared.threads)?;
    let model = inputs::load_model(path, Base::Mapped)?.model;
    let options = Options {
        adapter: header.adapter()?,
        adapter_type: header.elem()?,
        seed: header.seed,
        method_name: header.slope.clone(),
        policy: Method::Mesp.policy(),
        estimator: Estimator::Directional(header.along()?),
        update: Update::Accumulate,
        optimizer: OptimizerKind::Sgd { momentum: 0.0 },
        weight_decay: header.weight_decay,
        trained: Trained::ALIKE,
        gradients: false,
        training: true,
    };
    let shapes = Shapes { train: None, eval: None };
    let plan = plan(&model, &options, &shapes, size_of::<f32>(), pool.current_num_threads())?;
    let be = Cpu::<f32>::new(plan, Arc::clone(&pool));
    let mut session = Session::new(be, Arc::clone(&model), options, 0);
    if let Some(dir) = &args.adapter {
        let (be, params, _) = session.state_mut();
        peft::read_tensors(be, &dir.join(MODEL_FILE), params, &model.config)?;
    } else {
        session.init_adapters(header.seed);
    }
    pool.install(|| header.apply(&mut session, &slopes))?;
    mesp_formats::atomic::create_dir_all(&args.output)?;
    checkpoint::save_adapter(&session, &args.output, Some(&path.display().to_string()))?;
    let digest = replay::digest(&session);
    let (steps, shown) = (slopes.len(), args.output.display().to_string());
    if args.shared.json {
        return ui::json(&json!({ "steps": steps, "digest": digest, "output": shown }));
    }
    ui::print(&format!("{steps} steps replayed, adapter {digest} in {shown}\n"))
}
