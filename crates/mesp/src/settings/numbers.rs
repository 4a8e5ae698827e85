//! What numbers a computation multiplies.

use std::path::Path;

use mesp_device::Dtype;

use super::{Compute, usage};
use crate::Result;
use crate::source::Base;
use crate::train::checkpoint;

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
    /// What was asked for, with weights that are held in a type. Nothing asked for is `Auto`.
    pub fn new(asked: Option<Compute>, held: Dtype) -> Self {
        match asked.unwrap_or(Compute::Auto) {
            Compute::Auto if held != Dtype::F32 && !mesp_device::f32_is_faster() => Self::Bf16,
            Compute::F64 => Self::F64,
            Compute::Bf16 => Self::Bf16,
            Compute::Auto | Compute::F32 => Self::F32,
        }
    }

    /// As [`Numbers::new`], where double precision has no use.
    ///
    /// # Errors
    /// When it is asked for.
    pub fn single(asked: Option<Compute>, held: Dtype) -> Result<Self> {
        match Self::new(asked, held) {
            Self::F64 => Err(usage(
                "‘compute’ f64 is the reference for `mesp grads` and `mesp eval`; elsewhere it is f32 or bf16",
                "leave ‘compute’ out",
            )),
            numbers => Ok(numbers),
        }
    }

    /// Why f32 was chosen where weights are held in fewer bits, if it was; to stand behind the name.
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

    /// What a run that goes on asks for: where nothing is asked for, the arithmetic that it began with, on whatever
    /// processor that was.
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

    /// For the backend.
    pub fn compute(self) -> mesp_device::Compute {
        match self {
            Self::Bf16 => mesp_device::Compute::Bf16,
            Self::F32 | Self::F64 => mesp_device::Compute::Full,
        }
    }
}

/// What weights that are stored in one type are rounded to by being held in another; none where every value stays.
pub fn rounded(base: Base, stored: Dtype) -> &'static str {
    match base {
        Base::Resident(dtype) if dtype != stored && dtype != Dtype::F32 => dtype.name(),
        _ => "none",
    }
}

/// The type that weights are held in.
pub fn held(base: Base, stored: Dtype) -> Dtype {
    match base {
        Base::Mapped => stored,
        Base::Resident(dtype) => dtype,
    }
}
