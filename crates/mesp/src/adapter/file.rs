//! An adapter in any of the three layouts, held against the model it is for.

use std::path::Path;

use mesp_device::Mapping;
use mesp_formats::Error as FileError;
use mesp_formats::gguf;
use mesp_formats::lora::{Layout, Lora, Pair};
use mesp_formats::peft::Matrix;

use super::Projection;
use crate::model::Config;
use crate::{Error, Result};

/// A mapped adapter; matrices are read one at a time.
pub struct AdapterFile {
    map: Mapping,
    lora: Lora,
    /// Values of a head, where the file has the rows of q and k interleaved within each.
    interleaved: Option<usize>,
}

impl AdapterFile {
    /// Maps an adapter and reads what belongs to it. With a model's shape, every pair is held against it.
    ///
    /// # Errors
    /// When it is damaged, not understood, of another model, or when its rows cannot be told without the model.
    pub fn open(path: &Path, model: Option<&Config>) -> Result<Self> {
        let layout = Layout::of(path)?;
        let file = layout.tensors(path);
        let map = Mapping::open(&file).map_err(|e| FileError::io("map", &file, e))?;
        let lora = Lora::read(path, layout, map.bytes())?;
        let mut interleaved = None;
        if let Some(arch) = &lora.architecture {
            if let Some(c) = model.filter(|c| gguf::architecture(&c.arch) != arch) {
                let problem = format!(
                    "expected an adapter of architecture {}, the model's, found {arch}",
                    gguf::architecture(&c.arch)
                );
                return Err(FileError::invalid(path, problem).hint("Give the model it was made for.").into());
            }
            let turned = |p: &Pair| matches!(p.module.as_str(), "q_proj" | "k_proj");
            if gguf::interleaved(arch) && lora.pairs.iter().any(turned) {
                let Some(c) = model else {
                    let problem = format!(
                        "{}: rows of q_proj and k_proj are in the order of {arch} files, which depends on the heads",
                        path.display()
                    );
                    return Err(Error::usage(problem).hint("give the model it is for with --model"));
                };
                interleaved = Some(c.head_dim);
            }
        }
        let opened = Self { map, lora, interleaved };
        if let Some(c) = model {
            opened.check(c)?;
        }
        Ok(opened)
    }

    /// What the file holds.
    pub fn lora(&self) -> &Lora {
        &self.lora
    }

    /// A pair's matrix in PEFT's orientation, rows as Hugging Face's checkpoints have them.
    ///
    /// # Errors
    /// When the file has become shorter.
    pub fn values(&self, pair: usize, matrix: Matrix) -> Result<Vec<f32>> {
        let values = self.lora.values(pair, matrix, self.map.bytes())?;
        let p = &self.lora.pairs[pair];
        Ok(match self.interleaved {
            Some(head) if matrix != Matrix::A && matches!(p.module.as_str(), "q_proj" | "k_proj") => {
                reordered(&values, p.shape(matrix)[1], &gguf::to_halves(p.output / head, head))
            }
            _ => values,
        })
    }

    /// Modules first: shapes of another family's say less.
    fn check(&self, c: &Config) -> Result<()> {
        let wrong = |p: &Pair, problem: String| -> Error {
            let place = if p.outside() { String::new() } else { format!("layer {}, ", p.layer) };
            FileError::invalid(&self.lora.path, format!("{place}{}: {problem}", p.module))
                .hint("This adapter was made for another model.")
                .into()
        };
        let mut shapes = Vec::with_capacity(self.lora.pairs.len());
        for p in &self.lora.pairs {
            if p.layer >= c.layers {
                return Err(wrong(p, format!("expected a layer below {}, the model's number", c.layers)));
            }
            let known = Projection::from_name(&p.module).filter(|m| m.exists(c));
            let Some(module) = known else {
                return Err(wrong(p, format!("a {} model has no such module", c.arch)));
            };
            shapes.push(module.shape(c));
        }
        for (p, (output, input)) in self.lora.pairs.iter().zip(shapes) {
            if (p.output, p.input) != (output, input) {
                return Err(wrong(
                    p,
                    format!(
                        "expected a matrix of {output} by {input}, as the model has, found an adapter for {} by {}",
                        p.output, p.input
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Row `r` of the result is row `map[r]`.
pub(crate) fn reordered(values: &[f32], cols: usize, map: &[usize]) -> Vec<f32> {
    map.iter().flat_map(|r| &values[r * cols..][..cols]).copied().collect()
}
