//! `mesp grads`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use mesp::BatchGradient;
use mesp::adapter::peft;
use mesp::settings::threads;
use mesp_device::Real;
use serde_json::json;

use crate::args::{CommonArgs, Compute, GradsArgs};
use crate::failure::usage;
use crate::inputs::{self, Held};
use crate::memory;
use crate::outputs;
use crate::progress::Counter;
use crate::settings::setup;
use crate::{made_with, ui};

pub(crate) fn run(args: &GradsArgs) -> Result<()> {
    match args.common.method.compute {
        Some(Compute::F64) => grads::<f64>(&args.common),
        _ => grads::<f32>(&args.common),
    }
}

/// What is ready to make gradients of all rows.
fn ready<R: Real>(args: &CommonArgs, beside: &Path) -> Result<BatchGradient<R>> {
    setup(args)?;
    let settings = args.settings();
    let mut setup = settings.for_gradients()?;
    let dir = inputs::model_path(&args.model)?;
    memory::keep_children_within(args.method.memory_budget);
    let data = inputs::data_file(&args.data)?;
    let pool = threads(args.shared.threads)?;
    let model = inputs::load_model(dir, setup.base)?;
    setup.fit(model.config())?;
    setup.differentiable(model.dtype())?;
    made_with::note_other_base(args.adapter.adapter.as_deref(), (model.weights(), model.dtype()), dir);
    let read = args.read_options(model.config(), false);
    let rows = inputs::read_rows(dir, data, &Held::None, &read, None)?;
    Ok(BatchGradient::new(&settings, setup, &model, rows, (beside, usize::MAX, false), &pool)?)
}

fn grads<R: Real>(args: &CommonArgs) -> Result<()> {
    let Some(output) = &args.output.output else {
        return Err(usage("no output was given", "give --output FILE.safetensors"));
    };
    let read = args.reads(args.data.data.as_deref(), None);
    outputs::file(output, &read, args.output.overwrite)?;
    let beside = mesp_formats::atomic::folder_of(output);
    let mut ready = ready::<R>(args, beside)?;
    let mut counter = Counter::new("gradients", ready.passes() as u64);
    let (targets, mut done) = (ready.targets()?, 0);
    let loss = ready.gradient(1, &mut |rows| {
        done += rows as u64;
        counter.at(done);
    })?;
    if !loss.is_finite() {
        bail!("the loss is {loss}: the model or the adapter holds values that are no numbers");
    }
    let metadata = BTreeMap::from([
        ("loss".to_owned(), loss.to_string()),
        ("target_tokens".to_owned(), targets.to_string()),
    ]);
    let session = ready.session();
    let gradients: Vec<_> = session.grads().iter().collect();
    peft::write_params(session.backend(), output, &gradients, &metadata)?;
    let shown = output.display().to_string();
    if args.shared.json {
        return ui::json(&json!({ "loss": loss, "target_tokens": targets, "output": shown }));
    }
    let text = format!("loss {loss} over {targets} target tokens; gradients in {shown}\n");
    ui::result(outputs::is_standard(output), &text)
}
