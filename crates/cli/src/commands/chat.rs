//! `mesp chat`: turns of a conversation, from a terminal or from a pipe, a line each.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use mesp::data::Conversation;
use mesp::generate::{Finish, Generator, Sampler};
use mesp::source::Base;
use mesp_device::Cpu;
use serde_json::{Value, json};

use super::generation::typed::{self, HELP, Typed, understood};
use super::generation::{self, End, Language, Request, answer, interrupt};
use crate::args::ChatArgs;
use crate::failure;
use crate::failure::usage;
use crate::inputs;
use crate::sizes::bytes;
use crate::{made_with, ui};
use mesp::settings::{Numbers, held, threads};

/// The longest conversation, unless told otherwise.
const CONTEXT: usize = 4096;

/// A line has at most so many bytes for each token that there is room for: more than any text needs.
const BYTES_A_TOKEN: usize = 128;

pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    generation::check(&args.options)?;
    if args.max_tokens == 0 || args.context == Some(0) {
        let name = if args.max_tokens == 0 { "--max-tokens" } else { "--context" };
        return Err(usage(format!("{name} is 0, expected 1 or more"), "leave it out for the default"));
    }
    let dir = inputs::model_path(&args.model)?;
    let base = Base::parse(&args.model.base)?;
    let loaded = inputs::load_model(dir, base)?;
    let numbers = Numbers::single(args.options.compute, held(base, loaded.dtype()))?;
    let language = Language::open(dir, loaded.config().vocab_size)?;
    let made = loaded.config().max_positions;
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
    let pool = threads(args.shared.threads)?;
    let (adapter, scale) = (args.options.adapter.as_deref(), args.options.adapter_scale.unwrap_or(1.0));
    made_with::note_other_base(adapter, (loaded.weights(), loaded.dtype()), dir);
    let generator = loaded.generator(adapter, scale, capacity, numbers, &pool)?;
    let planned = generator.backend().plan().bytes();
    ui::note(format!("room for {capacity} tokens, planned {}; {HELP}", bytes(planned as u64)));
    let stops = language.stops(loaded.end_tokens());
    interrupt::listen();
    let mut chat = Chat {
        args,
        language: &language,
        generator,
        stops: &stops,
        sampler: Sampler::new(args.options.sampling()),
        system: None,
        conversation: Conversation::default(),
        line: 0,
        turns: Vec::new(),
        refused: Vec::new(),
    };
    chat.begin_with(args.options.system.clone())?;
    chat.talk()?;
    if args.shared.json {
        return ui::json(&json!({
            "turns": chat.turns,
            "refused": chat.refused,
            "context": capacity,
            "planned_bytes": planned,
        }));
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
    /// Lines read so far.
    line: usize,
    turns: Vec<Value>,
    /// Lines that came to nothing, each with the reason.
    refused: Vec<Value>,
}

impl Chat<'_> {
    /// Forgets all turns.
    fn begin(&mut self) {
        self.conversation = Conversation::default();
        if let Some(system) = &self.system {
            self.conversation.push("system", system);
        }
    }

    /// The same with another system prompt; where the template refuses it, or there is no room for it, everything stays
    /// as it was.
    fn begin_with(&mut self, system: Option<String>) -> Result<()> {
        // Also without one: markers that the model has no tokens for are its files' fault, and nothing typed helps.
        let mut trial = Conversation::default();
        if let Some(system) = &system {
            trial.push("system", system);
        }
        trial.push("user", "?");
        let (tokens, capacity) = (self.language.turn(&trial)?.len(), self.generator.capacity());
        if system.is_some() && tokens > capacity {
            let problem = format!(
                "the system prompt and a word take {tokens} tokens, and there is room for {capacity}"
            );
            return Err(usage(problem, "shorten it, or give more room with --context"));
        }
        self.system = system;
        self.begin();
        Ok(())
    }

    /// Turns until the input ends. Nothing that is typed ends it but /exit: what cannot be done is said.
    fn talk(&mut self) -> Result<()> {
        let asks = io::stdin().is_terminal() && ui::watched();
        let most = self.generator.capacity().saturating_mul(BYTES_A_TOKEN).max(1 << 16);
        let mut line = Vec::new();
        loop {
            if asks {
                // That nobody sees it is no reason to end.
                let _ = write!(io::stderr(), "> ").and_then(|()| io::stderr().flush());
            }
            let length = typed::read(&mut io::stdin().lock(), most, &mut line)
                .context("cannot read standard input")?;
            self.line += 1;
            if length == 0 {
                if asks {
                    ui::note("");
                }
                return Ok(());
            }
            if length > line.len() {
                let room = self.generator.capacity();
                self.refuse(&format!(
                    "expected a line that {room} tokens have room for, found {length} bytes"
                ));
                continue;
            }
            match std::str::from_utf8(&line) {
                Ok(text) => match self.heard(text) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    // Where the answer cannot be written, no other can.
                    Err(error) if error.is::<io::Error>() => return Err(error),
                    Err(error) => self.refuse(&failure::message(&error)),
                },
                Err(e) => {
                    let (at, found) = (e.valid_up_to(), line[e.valid_up_to()]);
                    self.refuse(&format!(
                        "expected UTF-8 text, found byte 0x{found:02X} after {at} bytes; type it again"
                    ));
                }
            }
        }
    }

    /// Says why a line came to nothing.
    fn refuse(&mut self, message: &str) {
        ui::note(message);
        self.refused.push(json!({ "line": self.line, "message": message }));
    }

    /// Does what a line asks for; false where it ends the conversation.
    fn heard(&mut self, line: &str) -> Result<bool> {
        match understood(line) {
            Typed::Nothing => {}
            Typed::Exit => return Ok(false),
            Typed::Reset => {
                self.begin();
                ui::note("a new conversation");
            }
            Typed::System(text) => {
                self.begin_with(Some(text.to_owned()).filter(|system| !system.is_empty()))?;
                ui::note("a new conversation");
            }
            Typed::Note(note) => ui::note(note),
            Typed::Text(text) => {
                let before = self.conversation.clone();
                let turn = self.turn(text, &before);
                if turn.is_err() {
                    interrupt::answering(false);
                    self.conversation = before;
                }
                return turn;
            }
        }
        Ok(true)
    }

    /// A turn of the user and the answer; false when nobody reads it.
    fn turn(&mut self, text: &str, before: &Conversation) -> Result<bool> {
        self.conversation.push("user", text);
        let prompt = self.language.turn(&self.conversation)?;
        let capacity = self.generator.capacity();
        if prompt.is_empty() {
            anyhow::bail!("the chat template makes no token of the conversation, expected at least one");
        }
        if prompt.len() > capacity {
            anyhow::bail!(
                "with this turn the conversation has {} tokens, and there is room for {capacity}: \
                 /reset begins anew, --context gives more room",
                prompt.len()
            );
        }
        let request = Request {
            prompt: &prompt,
            max_tokens: self.args.max_tokens,
            stops: self.stops,
            texts: &self.args.options.stop,
        };
        let json = self.args.shared.json;
        interrupt::answering(true);
        let answer = answer(&mut self.generator, self.language, &request, &mut self.sampler, &mut |piece| {
            if json {
                // Standard output is the document's.
                ui::stream_note(piece);
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
            self.conversation = before.clone();
        } else {
            self.conversation.push("assistant", &answer.text);
        }
        Ok(true)
    }
}
