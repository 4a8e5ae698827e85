//! Converts an adapter between the layouts of PEFT, llama.cpp and mlx-lm, and exports a directory for Ollama.
//!
//! What the target layout cannot express is put into the matrices where that gives the same adapter: scales that differ
//! by module are folded into B, smaller ranks are padded with zeros, and where PEFT needs a module in every layer the
//! missing ones are zero. Everything else is an error of the readers in [`mesp_formats::lora`].

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use mesp_formats::atomic::{StagedDir, write_atomic};
use mesp_formats::gguf;
use mesp_formats::lora::{Layout, Pair, write_gguf, write_mlx, write_peft};
use mesp_formats::peft::{MODULES, Matrix};
use mesp_formats::regular;

use crate::arch::Config;
use crate::source::adapter::{AdapterFile, reordered};
use crate::source::shape_source;
use crate::{Error, ErrorKind, Result};

#[cfg(feature = "text")]
mod go_template;
#[cfg(feature = "text")]
mod ollama;

#[cfg(feature = "text")]
pub use ollama::{Contents, MODELFILE, export_ollama};

/// The result of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The layout that was read.
    pub from: Layout,
    /// The number of matrices with an adapter.
    pub pairs: usize,
    /// The number of parameters.
    pub parameters: u64,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Converts `adapter` to the layout `to` and writes it to `output`. `model` is the base model, a directory
/// (`config.json` is enough) or a GGUF file; it is needed to convert to or from GGUF, where the order of rows depends
/// on the heads.
///
/// # Errors
/// When the adapter is damaged, is for another model or cannot be expressed in the layout, or when a file cannot be
/// written.
pub fn export(adapter: &Path, to: Layout, model: Option<&Path>, output: &Path) -> Result<Report> {
    let shape = model.map(shape_source).transpose()?;
    let config = shape.as_ref().map(|s| &s.config);
    let file = AdapterFile::open(adapter, config)?;
    let lora = file.lora();
    match model {
        Some(model) => file.check_tables_of(model)?,
        None => file.no_tables()?,
    }
    if lora.pairs.iter().any(|p| p.magnitudes) {
        return Err(mesp_formats::Error::invalid(adapter, ErrorKind::Unsupported)
            .expected("a LoRA")
            .found("DoRA: its magnitudes divide by norms of the base's rows, which no other layout holds")
            .hint(format!(
                "fold it into its base: mesp merge --model BASE --adapter {} --output MERGED, or MERGED.gguf for \
                 llama.cpp and Ollama",
                adapter.display()
            ))
            .into());
    }
    if let Some(pair) = lora.pairs.iter().find(|p| p.is_outside_blocks() && to != Layout::Peft) {
        apart(adapter, &pair.module, to, config)?;
    }
    let mut notes = Vec::new();
    let pairs = if to == Layout::Peft { grid(&lora.pairs, &mut notes) } else { lora.pairs.clone() };
    folds(&pairs, to, &mut notes);
    let read = |i: usize, matrix: Matrix| -> io::Result<Vec<f32>> {
        let pair = &pairs[i];
        // Those that fill the grid are not in the file.
        let Some(i) = lora.pairs.iter().position(|p| (p.layer, &p.module) == (pair.layer, &pair.module))
        else {
            let [rows, cols] = pair.shape(matrix);
            return Ok(vec![0.0; rows * cols]);
        };
        file.values(i, matrix).map_err(io::Error::other)
    };
    let given = model.map(|path| path.display().to_string());
    let base = lora.config.base_model.clone().or(given);
    match to {
        Layout::Gguf => {
            let Some(c) = config else {
                return Err(Error::usage(
                    ErrorKind::Missing,
                    "a GGUF adapter names its model's architecture and has its order of rows",
                )
                .hint("give the model it is for with ‘model’"));
            };
            let name = adapter.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            let turned = gguf::interleaved(&c.arch);
            write_gguf(output, &pairs, &c.arch, &name, &mut |i, matrix| {
                let values = read(i, matrix)?;
                let p = &pairs[i];
                let head = matrix == Matrix::B && turned && matches!(p.module.as_str(), "q_proj" | "k_proj");
                Ok(if head {
                    reordered(&values, p.rank, &gguf::to_interleaved(p.output / c.head_dim, c.head_dim))
                } else {
                    values
                })
            })?;
        }
        Layout::Peft | Layout::Mlx => {
            let staged = StagedDir::new(output)?;
            if to == Layout::Peft {
                let layers = config.map(|c| c.layers);
                write_peft(staged.path(), &pairs, layers, base.as_deref(), &mut { read })?;
            } else {
                write_mlx(staged.path(), &pairs, base.as_deref(), &mut { read })?;
            }
            let card = adapter.join("README.md");
            if card.is_file() {
                let text = regular::read(&card, regular::CONFIG_LIMIT)?;
                write_atomic(&staged.path().join("README.md"), |out| io::Write::write_all(out, &text))?;
            }
            staged.commit()?;
        }
    }
    let parameters = pairs.iter().map(|p| (p.rank * (p.input + p.output)) as u64).sum();
    Ok(Report { from: lora.layout, pairs: pairs.len(), parameters, notes })
}

/// Whether an adapter of the head or of embeddings means the same there: other programs compute a tied head with the
/// embeddings' own adapter, and know no other one of it.
fn apart(adapter: &Path, module: &str, to: Layout, config: Option<&Config>) -> Result<()> {
    let program = if to == Layout::Gguf { "llama.cpp" } else { "mlx-lm" };
    let error = |kind| mesp_formats::Error::invalid(adapter, kind);
    match config {
        Some(c) if !c.tied => Ok(()),
        Some(_) => Err(error(ErrorKind::Unsupported)
            .what(format!(
                "an adapter on {module} cannot be exported: the model's head is its embeddings, of which {program} \
                 knows one adapter for both"
            ))
            .hint("fold it into its base by mesp merge, which gives the model a head of its own")
            .into()),
        None => Err(error(ErrorKind::Missing)
            .what(format!(
                "an adapter on {module} means the same to {program} only where the model's \
                            head is not its embeddings"
            ))
            .hint("give the model it is for with ‘model’")
            .into()),
    }
}

/// Every module in every layer that has one: PEFT says which modules and which layers, not which of which.
fn grid(pairs: &[Pair], notes: &mut Vec<String>) -> Vec<Pair> {
    let layers: BTreeSet<usize> = pairs.iter().filter(|p| !p.is_outside_blocks()).map(|p| p.layer).collect();
    let mut all = Vec::new();
    for layer in layers {
        for module in MODULES {
            let of = |p: &&Pair| p.module == module;
            let Some(like) = pairs.iter().find(of) else { continue };
            let here = pairs.iter().filter(of).find(|p| p.layer == layer);
            all.push(here.cloned().unwrap_or_else(|| Pair { layer, ..like.clone() }));
        }
    }
    all.extend(pairs.iter().filter(|p| p.is_outside_blocks()).cloned());
    if all.len() > pairs.len() {
        notes.push(format!("{} modules that some layers lack are written as zeros", all.len() - pairs.len()));
    }
    all
}

/// Says what is put into the matrices.
fn folds(pairs: &[Pair], to: Layout, notes: &mut Vec<String>) {
    let Some(first) = pairs.first() else { return };
    let alpha = |p: &Pair| p.scale * p.rank as f64;
    let (scales, alphas, ranks) = (
        pairs.iter().any(|p| p.scale != first.scale),
        pairs.iter().any(|p| (alpha(p) - alpha(first)).abs() > 1e-9 * alpha(first).abs()),
        pairs.iter().any(|p| p.rank != first.rank),
    );
    if (to == Layout::Mlx && scales) || (to == Layout::Gguf && alphas) {
        notes.push("modules have scales of their own: what differs is multiplied into B".to_owned());
    }
    if to == Layout::Mlx && ranks {
        notes.push("modules have ranks of their own: lower ones are filled up with zeros".to_owned());
    }
}
