//! What people read of a run: rows with their mask, and what the model says. Both need a tokenizer, which may hold
//! more memory than training does, so the program runs itself as `mesp say` for them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use mesp::data::{Example, Examples, UNTRAINED};
use mesp::source::{GgufSource, Kind};
use serde::{Deserialize, Serialize};

use crate::child;
use crate::failure::Elsewhere;
use crate::lines::{SampleLine, SampleToken};
use crate::memory::{self, Child};

/// Tokens of a row that are written at most.
const TOKENS: usize = 512;

/// What `mesp say` reads from standard input.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Tokens of rows, to be spelled.
    pub(crate) rows: Vec<Vec<u32>>,
    /// Prompts to answer.
    pub(crate) prompts: Vec<String>,
    /// Prompts to look at only: whether they can be answered.
    pub(crate) checked: Vec<String>,
}

/// What it writes to standard output.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// Texts of the rows' tokens.
    pub(crate) rows: Vec<Vec<String>>,
    /// Answers, and the number of their tokens.
    pub(crate) answers: Vec<(String, usize)>,
}

/// How the program is run for it.
#[derive(Debug, Clone)]
pub(crate) struct SampleProcess {
    pub(crate) model: PathBuf,
    pub(crate) prompts: Vec<String>,
    pub(crate) max_tokens: usize,
    pub(crate) compute: &'static str,
    pub(crate) threads: usize,
}

impl SampleProcess {
    /// Whether the model has a tokenizer.
    pub(crate) fn can_generate(&self) -> bool {
        if Kind::of(&self.model) != Kind::Gguf {
            return self.model.join("tokenizer.json").is_file();
        }
        GgufSource::open(&self.model, mesp::source::Base::Mapped).is_ok_and(|source| source.has_tokenizer())
    }

    /// Refuses prompts that the model cannot be given, before anything is trained.
    pub(crate) fn check(&self) -> Result<()> {
        if self.prompts.is_empty() {
            return Ok(());
        }
        self.ask(None, &Asked { checked: self.prompts.clone(), ..Asked::default() }).map(|_| ())
    }

    /// What anonymous memory answers take in the process that makes them, besides this one's: they are made once.
    pub(crate) fn rehearse(&self, adapter: Option<&Path>) -> Result<u64> {
        if self.prompts.is_empty() {
            return Ok(0);
        }
        self.answers(adapter)?;
        Ok(memory::childs(Child::Sample))
    }

    /// Answers to the prompts, with an adapter or without.
    pub(crate) fn answers(&self, adapter: Option<&Path>) -> Result<Vec<(String, usize)>> {
        let asked = Asked { prompts: self.prompts.clone(), ..Asked::default() };
        Ok(self.ask(adapter, &asked)?.answers)
    }

    /// The first rows as they are trained.
    pub(crate) fn samples(&self, all: &dyn Examples, count: usize) -> Result<Vec<SampleLine>> {
        let mut rows = Vec::new();
        for row in 0..all.count() {
            if rows.len() == count {
                break;
            }
            if all.size(row)?.targets > 0 {
                rows.push(all.read(row)?);
            }
        }
        let cut = |row: &Example| row.tokens[..row.tokens.len().min(TOKENS)].to_vec();
        let asked = Asked { rows: rows.iter().map(cut).collect(), ..Asked::default() };
        let said = if self.can_generate() { self.ask(None, &asked).ok() } else { None };
        let sample = |(i, row): (usize, &Example)| {
            let text = |t: usize| said.as_ref().and_then(|s| s.rows.get(i)?.get(t).cloned());
            // The label of the first token is never predicted.
            let trained = |t: usize| t > 0 && row.labels[t] != UNTRAINED;
            let token = |(t, id): (usize, &u32)| SampleToken { id: *id, text: text(t), trained: trained(t) };
            SampleLine {
                kind: "sample",
                step: 0,
                row: row.origin.to_string(),
                tokens: row.tokens.iter().take(TOKENS).enumerate().map(token).collect(),
                total_tokens: row.tokens.len(),
                cut: row.tokens.len() > TOKENS,
            }
        };
        Ok(rows.iter().enumerate().map(sample).collect())
    }

    fn ask(&self, adapter: Option<&Path>, asked: &Asked) -> Result<Samples> {
        let mut command = child::program();
        command.args(["sample", "--compute", self.compute, "--model"]).arg(&self.model);
        command.args(["--max-tokens", &self.max_tokens.to_string(), "--threads", &self.threads.to_string()]);
        if let Some(dir) = adapter {
            command.arg("--adapter").arg(dir);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("this program could not be started again")?;
        let json = serde_json::to_vec(asked)?;
        if let Some(mut input) = child.stdin.take() {
            // A child that has ended says itself why.
            let _ = input.write_all(&json);
        }
        let output = memory::wait(Child::Sample, child, || {})?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            // Notes may come before it.
            let message = said.rsplit_once("error: ").map_or(said.as_ref(), |(_, message)| message);
            let status = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Err(Elsewhere { message: message.trim().to_owned(), status }.into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
