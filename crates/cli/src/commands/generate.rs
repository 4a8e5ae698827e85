//! `mesp generate`.

use anyhow::Result;
use mesp::generate::Sampler;
use mesp::source::Base;
use serde_json::json;

use super::generation::{self, End, Language, Request, Spelling, answer, interrupt};
use crate::args::GenerateArgs;
use crate::failure::Interrupted;
use crate::failure::usage;
use crate::inputs;
use crate::progress::Counter;
use crate::sizes::bytes;
use crate::{made_with, ui};
use mesp::settings::{Numbers, held, threads};

pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    generation::check(&args.options)?;
    if args.max_tokens == 0 {
        return Err(usage("--max-tokens is 0, expected 1 or more", "leave it out for 128"));
    }
    let dir = inputs::model_path(&args.model)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let numbers = Numbers::single(args.options.compute, held(base, loaded.dtype()))?;
    let language = Language::open(dir, loaded.config().vocab_size)?;
    let spelling = match (args.raw, args.chat) {
        (true, _) => Spelling::Raw,
        (_, true) => Spelling::Chat,
        // A system prompt has no place in a text.
        _ if args.options.system.is_some() => Spelling::Chat,
        _ => Spelling::Auto,
    };
    let prompt = language.prompt(&args.prompt, spelling, args.options.system.as_deref())?;
    if spelling == Spelling::Auto && language.chats() {
        ui::note("the prompt is put into the model's chat template (--raw leaves it as it stands)");
    }
    generation::note_of_context(prompt.len(), args.max_tokens, loaded.config());
    let pool = threads(args.shared.threads)?;
    let (adapter, scale) = (args.options.adapter.as_deref(), args.options.adapter_scale.unwrap_or(1.0));
    made_with::note_other_base(adapter, (loaded.weights(), loaded.dtype()), dir);
    let room = generation::room(prompt.len(), args.max_tokens, loaded.config());
    let mut generator = loaded.generator(adapter, scale, room, numbers, &pool)?;
    let stops = language.stops(loaded.end_tokens());
    let request =
        Request { prompt: &prompt, max_tokens: args.max_tokens, stops: &stops, texts: &args.options.stop };
    let mut sampler = Sampler::new(args.options.sampling());

    interrupt::listen();
    let mut counter = Counter::new("generating", args.max_tokens as u64);
    let mut said = 0;
    let shown = !args.shared.json;
    interrupt::answering(true);
    let answer = answer(&mut generator, &language, &request, &mut sampler, &mut |piece| {
        said += 1;
        if shown {
            return ui::stream(piece);
        }
        counter.at(said);
        Ok(true)
    })?;
    interrupt::answering(false);
    drop(counter);
    let planned = generator.backend().plan().bytes();
    if args.shared.json {
        let mut document = json!({ "prompt": args.prompt });
        answer.describe(&mut document);
        document["planned_bytes"] = json!(planned);
        ui::json(&document)?;
    } else if answer.end != End::Closed {
        ui::print("\n")?;
        ui::note(format!("{}; planned {}", answer.line(), bytes(planned as u64)));
    }
    if answer.end == End::Interrupted {
        return Err(Interrupted("interrupted".to_owned()).into());
    }
    Ok(())
}
