//! A trained model as a directory.

use std::io::{self, Write};
use std::path::Path;

use mesp_device::{Act, Backend, Elem};
use mesp_formats::atomic::StagedDir;
use mesp_formats::{Dtype, model_dir};

use crate::model::{Name, Part};
use crate::source::{beside, retype, untie};
use crate::train::Session;
use crate::{Error, Result};

/// Bytes of a weight file, unless one tensor is larger.
const SHARD: u64 = 5_000_000_000;

/// A tensor of the checkpoint: buffers one below the other, and what was added to them.
struct Tensor<'a> {
    name: String,
    acts: Vec<&'a Act>,
    vector: bool,
    offset: f32,
}

/// Writes the model that a session has trained: matrices in the type that they are held in, norms and biases in single
/// precision, and beside them the files of the `base` directory that are no weights. It is there whole or not at all.
///
/// # Errors
/// When the session trains an adapter; when a file cannot be read or written.
pub fn save<B: Backend>(session: &Session<B>, base: &Path, output: &Path) -> Result<()> {
    let (Some(elem), model) = (session.options().full, session.model()) else {
        return Err(Error::usage("an adapter was trained, and no model"));
    };
    let mut acts = session.tensors();
    let mut tensors: Vec<Tensor<'_>> = Vec::new();
    model.parts(&mut |name, part| {
        let Some(act) = acts.next() else { return };
        let offset = if name.is_norm() { model.config.norm_offset } else { 0.0 };
        let (full, vector) = (name.to_string(), matches!(part, Part::Vector(_)));
        // Parts of a fused matrix follow each other, its biases apart.
        let fused = matches!(name, Name::Weight(_, _, true) | Name::Bias(_, _, true));
        match tensors.iter_mut().rev().take(2 * usize::from(fused)).find(|t| t.name == full) {
            Some(tensor) => tensor.acts.push(act),
            None => tensors.push(Tensor { name: full, acts: vec![act], vector, offset }),
        }
    });
    let staged = StagedDir::new(output)?;
    beside(base, staged.path())?;
    let dtype = if elem == Elem::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    retype(&staged.path().join("config.json"), dtype)?;
    if !model.config.tied {
        untie(&staged.path().join("config.json"))?;
    }
    let heads: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.dtype(), t.shape())).collect();
    model_dir::write_weights(staged.path(), &heads, SHARD, &mut |i, out| tensors[i].write(session, out))?;
    staged.commit()?;
    Ok(())
}

impl Tensor<'_> {
    fn dtype(&self) -> Dtype {
        if self.acts[0].elem() == Elem::Bf16 { Dtype::BF16 } else { Dtype::F32 }
    }

    fn shape(&self) -> Vec<usize> {
        let rows = self.acts.iter().map(|act| act.rows()).sum();
        if self.vector { vec![rows] } else { vec![rows, self.acts[0].cols()] }
    }

    fn write<B: Backend>(&self, session: &Session<B>, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        for act in &self.acts {
            for row in 0..act.rows() {
                bytes.clear();
                session.backend().store(act.rows_view(row..row + 1), &mut |_, x| {
                    let x = (x as f32 - self.offset).to_le_bytes();
                    // A bf16 is the upper half.
                    bytes.extend_from_slice(if act.elem() == Elem::Bf16 { &x[2..] } else { &x });
                });
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}
