//! `mesp generate`.

use std::time::Instant;

use anyhow::Result;
use mesp::generate::Sampling;
use mesp::source::Base;
use serde_json::json;

use super::speak::{Language, Pieces, generator};
use crate::args::GenerateArgs;
use crate::inputs::{self, usage};
use crate::numbers::{Numbers, held};
use crate::ui;

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let sampling = sampling(args)?;
    let dir = inputs::model_path(&args.model)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let numbers = Numbers::single(args.compute, held(base, loaded.dtype))?;
    let language = Language::open(dir)?;
    let prompt = language.prompt(&args.prompt, args.raw)?;
    if language.chats() && !args.raw {
        ui::note("the prompt is put into the model's chat template (--raw leaves it as it stands)");
    }
    let capacity = prompt.len() + args.max_tokens;
    inputs::warn_of_length(capacity, &loaded.model.config);
    let pool = inputs::pool(args.shared.threads)?;
    let mut generator = generator(&loaded, args.adapter.as_deref(), capacity, numbers, &pool)?;
    let stops = language.stops(&loaded.eos);

    let started = Instant::now();
    let mut pieces = Pieces::after(&language.encoder, &prompt);
    let (mut ids, mut text, mut trouble) = (Vec::new(), String::new(), None);
    let mut say = |piece: &str| {
        text.push_str(piece);
        if args.shared.json { Ok(()) } else { ui::print(piece) }
    };
    pool.install(|| {
        generator.generate(&prompt, args.max_tokens, sampling, &stops, &mut |id| {
            ids.push(id);
            let said = pieces.push(id).map_err(Into::into).and_then(|piece| say(&piece));
            trouble = said.err();
            trouble.is_none()
        });
    });
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    say(&pieces.rest()?)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.shared.json {
        return ui::json(
            &json!({ "prompt": args.prompt, "text": text, "token_ids": ids, "seconds": seconds }),
        );
    }
    ui::print("\n")
}

fn sampling(args: &GenerateArgs) -> Result<Sampling> {
    let wrong = |name: &str, value: f64, expected: &str| {
        Err(usage(format!("{name} is {value}, expected {expected}"), "leave it out for the default"))
    };
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return wrong("--temperature", args.temperature, "0 or more");
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return wrong("--top-p", args.top_p, "a number above 0 and at most 1");
    }
    if args.max_tokens == 0 {
        return Err(usage("--max-tokens is 0, expected 1 or more", "leave it out for 128"));
    }
    Ok(Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed })
}
