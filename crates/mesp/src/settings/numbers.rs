//! The number type of a computation: what products multiply and what they add.

use std::path::Path;

use mesp_device::Dtype;

use super::Compute;
use crate::source::Base;
use crate::train::checkpoint;
use crate::{Error, ErrorKind, Result};

/// The name of the number type among what a resumed run has in common with its beginning.
pub(super) const COMPUTE: &str = "compute";

/// Likewise of what weights are rounded to before they are used.
pub(super) const BASE: &str = "base";

/// The number types of a computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Single precision.
    F32,
    /// Products with frozen weights and of attention multiply bf16 and add in f32.
    Bf16,
    /// Double precision, the reference.
    F64,
}

impl Numbers {
    /// Resolves a requested type for weights that are held in type `held`; no request means `Auto`.
    pub fn new(asked: Option<Compute>, held: Dtype) -> Self {
        match asked.unwrap_or(Compute::Auto) {
            Compute::Auto if held != Dtype::F32 && !mesp_device::f32_is_faster() => Self::Bf16,
            Compute::F64 => Self::F64,
            Compute::Bf16 => Self::Bf16,
            Compute::Auto | Compute::F32 => Self::F32,
        }
    }

    /// As [`Numbers::new`], for computations without double precision.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) when double precision is requested.
    pub fn single(asked: Option<Compute>, held: Dtype) -> Result<Self> {
        match Self::new(asked, held) {
            Self::F64 => Err(Error::usage(
                ErrorKind::Unsupported,
                "‘compute’ f64 is the reference for `mesp grads` and `mesp eval`; elsewhere it is \
                        f32 or bf16",
            )
            .hint("leave ‘compute’ out")),
            numbers => Ok(numbers),
        }
    }

    /// A text to put after the name that says why `Auto` chose f32 for weights of fewer bits; empty otherwise.
    pub fn reason(self, asked: Option<Compute>, held: Dtype) -> &'static str {
        let chosen = matches!(asked, None | Some(Compute::Auto)) && held != Dtype::F32;
        if chosen && self == Self::F32 { " (faster on this processor than bf16)" } else { "" }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// The requested type of a resumed run: without a request the type that the run began with, whatever the processor
    /// was.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn resumed(asked: Option<Compute>, resume: Option<&Path>) -> Result<Option<Compute>> {
        let (None | Some(Compute::Auto), Some(checkpoint)) = (asked, resume) else { return Ok(asked) };
        let began = checkpoint::identity(checkpoint)?.remove(COMPUTE);
        let began = [Self::F32, Self::Bf16].into_iter().find(|n| Some(n.name()) == began.as_deref());
        Ok(began
            .map_or(asked, |numbers| Some(if numbers == Self::F32 { Compute::F32 } else { Compute::Bf16 })))
    }

    /// The type as the backend names it.
    pub fn compute(self) -> mesp_device::Compute {
        match self {
            Self::Bf16 => mesp_device::Compute::Bf16,
            Self::F32 | Self::F64 => mesp_device::Compute::Full,
        }
    }
}

/// The type to which weights stored as `stored` are rounded when they are held as `base`; `none` where no value
/// changes.
pub fn rounded(base: Base, stored: Dtype) -> &'static str {
    match base {
        Base::Resident(dtype) if dtype != stored && dtype != Dtype::F32 => dtype.name(),
        _ => "none",
    }
}

/// The type in which weights stored as `stored` are held.
pub fn held(base: Base, stored: Dtype) -> Dtype {
    match base {
        Base::Mapped => stored,
        Base::Resident(dtype) => dtype,
    }
}
