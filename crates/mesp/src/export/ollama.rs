//! A directory for `ollama create`: a GGUF file and a Modelfile.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use mesp_formats::Error as FileError;
use mesp_formats::atomic::{StagedDir, write_atomic};
use mesp_formats::gguf::TensorType;
use mesp_formats::lora::Layout;

use super::go_template::Pieces;
use super::{Report, export};
use crate::data::{ChatFormat, Date, TextEncoder};
use crate::merge::{self, merge};
use crate::source::AdapterFile;
use crate::source::{Base, Opened, open_model, shape_source, text_encoder};
use crate::{Error, ErrorKind, Result};

/// The file that `ollama create` reads.
pub const MODELFILE: &str = "Modelfile";
const MODEL: &str = "model.gguf";
const ADAPTER: &str = "adapter.gguf";

/// What the directory contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The model with the adapter merged in; merged matrices in the given type, or in the base's.
    Merged(Option<TensorType>),
    /// Only the adapter; the Modelfile refers to the base where it is. Ollama 0.34.1 and later refuse such a Modelfile
    /// (ollama/ollama#14969).
    Adapter,
}

/// Writes the directory. `progress(done, total)` is called with the numbers of values written when a model is merged.
///
/// # Errors
/// As [`export`] and [`merge`](fn@merge).
pub fn export_ollama(
    adapter: &Path,
    model: &Path,
    output: &Path,
    contents: Contents,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report> {
    let staged = StagedDir::new(output)?;
    let (mut report, from) = match contents {
        Contents::Adapter => {
            let report = export(adapter, Layout::Gguf, Some(model), &staged.path().join(ADAPTER))?;
            let base = model.canonicalize().map_err(|e| FileError::io("find", model, e))?;
            (report, format!("FROM {}\nADAPTER ./{ADAPTER}\n", base.display()))
        }
        Contents::Merged(ty) => {
            let shape = shape_source(model)?;
            let lora = AdapterFile::open(adapter, Some(&shape.config))?;
            let (pairs, from) = (&lora.lora().pairs, lora.lora().layout);
            let parameters = pairs.iter().map(|p| (p.rank * (p.input + p.output)) as u64).sum();
            let options = merge::Options { ty, max_shard: u64::MAX };
            let merged = merge(model, adapter, &staged.path().join(MODEL), options, progress)?;
            let report = Report { from, pairs: pairs.len(), parameters, notes: merged.notes };
            (report, format!("FROM ./{MODEL}\n"))
        }
    };
    if contents == Contents::Adapter {
        report.notes.push(
            "Ollama 0.34.1 and later refuse a Modelfile with ADAPTER: export without --unmerged for them"
                .to_owned(),
        );
    }
    let text = from + &talk(model, &mut report.notes)?;
    write_atomic(&staged.path().join(MODELFILE), |out| out.write_all(text.as_bytes()))?;
    staged.commit()?;
    Ok(report)
}

/// How to talk to the model: template and stops.
fn talk(model: &Path, notes: &mut Vec<String>) -> Result<String> {
    let Some(encoder) = text_encoder(model)? else {
        notes.push("the model has no tokenizer: the Modelfile says neither template nor stops".to_owned());
        return Ok(String::new());
    };
    let chat = ChatFormat::for_encoder(&encoder)?;
    let mut out = String::new();
    if chat.has_template() {
        match template(&encoder)? {
            Some((text, dated)) => {
                let _ = writeln!(out, "TEMPLATE \"\"\"{text}\"\"\"");
                if dated {
                    notes.push("the model's template prints the date: the Modelfile has that of today".to_owned());
                }
            }
            None => notes.push(
                "the model's chat template is none that Ollama's can express; Ollama takes one that it knows for similar, \
                 or give the Modelfile a TEMPLATE"
                    .to_owned(),
            ),
        }
    }
    for stop in stops(model, &encoder, &chat)? {
        let _ = writeln!(out, "PARAMETER stop {}", quoted(&stop)?);
    }
    Ok(out)
}

/// The template of Go, and whether it has a date in it.
fn template(encoder: &TextEncoder) -> Result<Option<(String, bool)>> {
    let bos = encoder.info().bos_token.as_deref().filter(|_| encoder.wants_bos());
    let on = |date: Date| -> Result<Option<Pieces>> {
        Ok(Pieces::of(&ChatFormat::for_encoder(encoder)?.with_date(date), bos))
    };
    let (today, first) = (on(Date::today())?, on(Date::from_unix(0))?);
    Ok(today.map(|pieces| (pieces.text(), Some(pieces) != first)))
}

/// Texts of the tokens that end an answer.
fn stops(model: &Path, encoder: &TextEncoder, chat: &ChatFormat) -> Result<Vec<String>> {
    let Opened { file_config, .. } = open_model(model, Base::Mapped)?;
    let mut ids = file_config.eos_token_ids;
    ids.extend(chat.stop_ids(encoder));
    ids.sort_unstable();
    ids.dedup();
    let texts = ids.into_iter().map(|id| encoder.decode(&[id], false)).collect::<Result<Vec<_>>>()?;
    Ok(texts.into_iter().filter(|text| !text.trim().is_empty()).collect())
}

/// A text as a value: the reader of a Modelfile knows no escapes.
fn quoted(text: &str) -> Result<String> {
    match (text.contains('"'), text.contains("\"\"\"")) {
        (false, _) => Ok(format!("\"{text}\"")),
        (true, false) => Ok(format!("\"\"\"{text}\"\"\"")),
        (true, true) => {
            Err(Error::usage(ErrorKind::Unsupported, format!("a Modelfile cannot say the stop {text:?}")))
        }
    }
}
