//! `mesp say`, which a run starts for what needs a tokenizer: texts of tokens, answers to prompts. Not for people;
//! they have `mesp generate` and `mesp data`.

use std::io::Read as _;

use anyhow::{Context as _, Result};
use mesp::data::TextEncoder;
use mesp::source::{Base, shape_source};

use super::generation::{Language, Request, Spelling, greedy, room};
use crate::args::SampleArgs;
use crate::inputs;
use crate::samples::{Asked, Samples};
use crate::ui;
use mesp::settings::{Numbers, threads};

pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).context("cannot read standard input")?;
    let asked: Asked = serde_json::from_slice(&input).context("expected a document of the program itself")?;
    let mut said = Samples::default();
    if !asked.rows.is_empty() {
        let encoder = inputs::encoder(&args.model)?;
        for row in &asked.rows {
            said.rows.push(spelled(&encoder, row)?);
        }
    }
    if !asked.checked.is_empty() {
        let language = Language::open(&args.model, shape_source(&args.model)?.config.vocab_size)?;
        for prompt in &asked.checked {
            language.prompt(prompt, Spelling::Auto, None)?;
        }
    }
    if !asked.prompts.is_empty() {
        said.answers = answers(args, &asked.prompts)?;
    }
    ui::print_raw(&serde_json::to_string(&said)?)
}

/// What each token adds to the text before it; a character of several tokens comes with the last of them.
fn spelled(encoder: &TextEncoder, ids: &[u32]) -> Result<Vec<String>> {
    /// Tokens before a token that may change its text.
    const BEFORE: usize = 4;
    let mut texts = Vec::with_capacity(ids.len());
    let (mut from, mut shown) = (0, 0);
    for end in 1..=ids.len() {
        let before = encoder.decode(&ids[from..shown], false)?;
        let now = encoder.decode(&ids[from..end], false)?;
        if now.ends_with(char::REPLACEMENT_CHARACTER) && end < ids.len() && end - shown < BEFORE {
            texts.push(String::new());
            continue;
        }
        texts.push(now.get(before.len()..).unwrap_or_default().to_owned());
        shown = end;
        from = shown.saturating_sub(BEFORE);
    }
    Ok(texts)
}

fn answers(args: &SampleArgs, prompts: &[String]) -> Result<Vec<(String, usize)>> {
    let loaded = inputs::load_model(&args.model, Base::Mapped)?;
    let language = Language::open(&args.model, loaded.config().vocab_size)?;
    let prompts =
        prompts.iter().map(|p| language.prompt(p, Spelling::Auto, None)).collect::<Result<Vec<_>>>()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let capacity = room(longest, args.max_tokens, loaded.config());
    let pool = threads(args.shared.threads)?;
    let numbers = Numbers::single(args.compute, loaded.dtype())?;
    let mut generator = loaded.generator(args.adapter.as_deref(), 1.0, capacity, numbers, &pool)?;
    let stops = language.stops(loaded.end_tokens());
    let mut said = Vec::new();
    for prompt in &prompts {
        let request = Request { prompt, max_tokens: args.max_tokens, stops: &stops, texts: &[] };
        let answer = greedy(&mut generator, &language, &request)?;
        said.push((answer.text.trim().to_owned(), answer.ids.len()));
    }
    Ok(said)
}
