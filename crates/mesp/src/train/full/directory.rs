//! A trained model as a directory.

use std::io::{self, Write};
use std::path::Path;

use mesp_device::{Act, Backend, Elem};
use mesp_formats::atomic::StagedDir;
use mesp_formats::{Dtype, model_dir};

use crate::arch::{Param, Tensor as Of};
use crate::source::{beside, retype, untie};
use crate::train::Session;
use crate::{Error, ErrorKind, Result};

/// Bytes of a weight file, unless one tensor is larger.
const SHARD: u64 = 5_000_000_000;

/// A tensor of the checkpoint, and what the checkpoint's values have less than the buffer's.
struct Tensor<'a> {
    param: &'a Param,
    act: &'a Act,
    offset: f32,
}

/// Writes the model that a session has trained: matrices in the type that they are held in, norms and biases in single
/// precision, and beside them the files of the `base` directory that are no weights. It is there whole or not at all.
///
/// # Errors
/// When the session trains an adapter; when a file cannot be read or written.
pub fn save<B: Backend>(session: &Session<B>, base: &Path, output: &Path) -> Result<()> {
    let (Some(elem), Some(weights), model) = (session.options().held, session.weights(), session.model())
    else {
        return Err(Error::usage(ErrorKind::State, "an adapter was trained, and no model"));
    };
    let offset = |param: &Param| match param.tensor {
        Of::Norm(_) => weights.left_offset(),
        _ => 0.0,
    };
    let tensors: Vec<_> =
        weights.iter().map(|(param, act)| Tensor { param, act, offset: offset(param) }).collect();
    let staged = StagedDir::new(output)?;
    beside(base, staged.path())?;
    let dtype = if elem == Elem::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    retype(&staged.path().join("config.json"), dtype)?;
    if !model.config.tied {
        untie(&staged.path().join("config.json"))?;
    }
    let heads: Vec<_> = tensors.iter().map(|t| (t.param.name(), t.dtype(), t.param.file_shape())).collect();
    model_dir::write_weights(staged.path(), &heads, SHARD, &mut |i, out| tensors[i].write(session, out))?;
    staged.commit()?;
    Ok(())
}

impl Tensor<'_> {
    fn dtype(&self) -> Dtype {
        if self.act.elem() == Elem::Bf16 { Dtype::BF16 } else { Dtype::F32 }
    }

    fn write<B: Backend>(&self, session: &Session<B>, out: &mut dyn Write) -> io::Result<()> {
        let Self { act, offset, .. } = self;
        let mut bytes = Vec::new();
        for row in 0..act.rows() {
            bytes.clear();
            session.backend().store(act.rows_view(row..row + 1), &mut |_, x| {
                let x = (x as f32 - offset).to_le_bytes();
                // A bf16 is the upper half.
                bytes.extend_from_slice(if act.elem() == Elem::Bf16 { &x[2..] } else { &x });
            });
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}
