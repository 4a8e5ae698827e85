//! `mesp chat`: turns of a conversation, from a terminal or from a pipe, a line each.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use mesp::data::Conversation;
use mesp::generate::{Finish, Generator, Sampler};
use mesp::source::Base;
use mesp_device::Cpu;
use serde_json::{Value, json};

use super::speak::{self, End, Language, Request, answer, generator, interrupt};
use crate::args::ChatArgs;
use crate::inputs::{self, usage};
use crate::numbers::{Numbers, held};
use crate::sizes::bytes;
use crate::ui;

/// The longest conversation, unless told otherwise.
const CONTEXT: usize = 4096;

const HELP: &str = "/reset begins anew, /system TEXT begins anew with another system prompt, /exit ends";

pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    speak::check(&args.speak)?;
    if args.max_tokens == 0 || args.context == Some(0) {
        let name = if args.max_tokens == 0 { "--max-tokens" } else { "--context" };
        return Err(usage(format!("{name} is 0, expected 1 or more"), "leave it out for the default"));
    }
    let dir = inputs::model_path(&args.model)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let numbers = Numbers::single(args.speak.compute, held(base, loaded.dtype))?;
    let language = Language::open(dir, loaded.model.config.vocab_size)?;
    let made = loaded.model.config.max_positions;
    let capacity = args.context.unwrap_or(CONTEXT.min(made));
    if capacity > made {
        ui::note(format!(
            "a context of {capacity} tokens; the model was made for {made}: expect worse text beyond"
        ));
    }
    if !language.chats() {
        let spelled = if language.spells_markers() { ", whose markers it has no tokens for" } else { "" };
        ui::note(format!("the model has no chat template: turns are written in ChatML{spelled}"));
    }
    let pool = inputs::pool(args.shared.threads)?;
    let (adapter, scale) = (args.speak.adapter.as_deref(), args.speak.adapter_scale.unwrap_or(1.0));
    let generator = generator(&loaded, adapter, scale, capacity, numbers, &pool)?;
    let planned = generator.backend().plan().bytes();
    ui::note(format!("room for {capacity} tokens, planned {}; {HELP}", bytes(planned as u64)));
    let stops = language.stops(&loaded.eos);
    interrupt::listen()?;
    let mut chat = Chat {
        args,
        language: &language,
        generator,
        stops: &stops,
        sampler: Sampler::new(args.speak.sampling()),
        system: args.speak.system.clone(),
        conversation: Conversation::default(),
        turns: Vec::new(),
    };
    chat.begin();
    chat.talk()?;
    if args.shared.json {
        return ui::json(&json!({ "turns": chat.turns, "context": capacity, "planned_bytes": planned }));
    }
    Ok(())
}

struct Chat<'a> {
    args: &'a ChatArgs,
    language: &'a Language,
    generator: Generator<Cpu<f32>>,
    stops: &'a [u32],
    sampler: Sampler,
    system: Option<String>,
    conversation: Conversation,
    turns: Vec<Value>,
}

impl Chat<'_> {
    /// Forgets all turns.
    fn begin(&mut self) {
        self.conversation = Conversation::default();
        if let Some(system) = &self.system {
            self.conversation.push("system", system);
        }
    }

    /// Turns until the input ends.
    fn talk(&mut self) -> Result<()> {
        let asks = io::stdin().is_terminal() && ui::watched();
        let mut line = Vec::new();
        loop {
            if asks {
                // That nobody sees it is no reason to end.
                let _ = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush());
            }
            line.clear();
            let read =
                io::stdin().lock().read_until(b'\n', &mut line).context("cannot read standard input")?;
            if read == 0 {
                if asks {
                    ui::note("");
                }
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            match word {
                "" => {}
                "/exit" | "/quit" => return Ok(()),
                "/reset" => {
                    self.begin();
                    ui::note("a new conversation");
                }
                "/system" => {
                    self.system = Some(rest.trim().to_owned()).filter(|system| !system.is_empty());
                    self.begin();
                    ui::note("a new conversation");
                }
                // A path may begin a question; a word alone was meant as a command.
                _ if text.starts_with('/') && rest.is_empty() => ui::note(HELP),
                _ => {
                    if !self.turn(text)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A turn of the user and the answer; false when nobody reads it.
    fn turn(&mut self, text: &str) -> Result<bool> {
        let before = self.conversation.clone();
        self.conversation.push("user", text);
        let prompt = self.language.turn(&self.conversation)?;
        let capacity = self.generator.capacity();
        if prompt.len() > capacity {
            self.conversation = before;
            ui::note(format!(
                "with this turn the conversation has {} tokens, and there is room for {capacity}: \
                 /reset begins anew, --context gives more room",
                prompt.len()
            ));
            return Ok(true);
        }
        let request = Request {
            prompt: &prompt,
            max_tokens: self.args.max_tokens,
            stops: self.stops,
            texts: &self.args.speak.stop,
        };
        let json = self.args.shared.json;
        interrupt::answering(true);
        let answer = answer(&mut self.generator, self.language, &request, &mut self.sampler, &mut |piece| {
            if json {
                // Standard output is the document's.
                let _ = write!(io::stderr(), "{piece}");
                return Ok(true);
            }
            ui::stream(piece)
        })?;
        interrupt::answering(false);
        if answer.end == End::Closed {
            return Ok(false);
        }
        ui::result(json, "\n")?;
        ui::note(format!("({})", answer.line()));
        match answer.end {
            End::Tokens(Finish::Full) => {
                ui::note(format!(
                    "the context of {capacity} tokens is full: /reset begins anew, --context gives more room"
                ));
            }
            End::Tokens(Finish::Length) => {
                ui::note(format!("the answer was cut after {} tokens (--max-tokens)", answer.ids.len()));
            }
            End::Interrupted => ui::note("the answer was interrupted"),
            _ => {}
        }
        let mut turn = json!({ "user": text });
        answer.describe(&mut turn);
        self.turns.push(turn);
        if answer.ids.is_empty() && answer.end == End::Interrupted {
            // It was not even read.
            self.conversation = before;
        } else {
            self.conversation.push("assistant", &answer.text);
        }
        Ok(true)
    }
}
