//! What numbers a computation multiplies.

use std::path::Path;

use anyhow::Result;
use mesp::source::Base;
use mesp::train::checkpoint;
use mesp_device::Dtype;

use crate::args::Compute;
use crate::failure::usage;

/// The name of the number type among what a resumed run has in common with its beginning.
pub(crate) const COMPUTE: &str = "compute";

/// Likewise of what weights are rounded to before they are used.
pub(crate) const BASE: &str = "base";

/// The number types of a computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    F32,
    /// Products with frozen weights and of attention multiply bf16 and add in f32.
    Bf16,
    F64,
}

impl Numbers {
    /// What was asked for, with weights that are held in a type. Nothing asked for is `Auto`.
    pub(crate) fn new(asked: Option<Compute>, held: Dtype) -> Self {
        match asked.unwrap_or(Compute::Auto) {
            Compute::Auto if held != Dtype::F32 && !mesp_device::f32_is_faster() => Self::Bf16,
            Compute::F64 => Self::F64,
            Compute::Bf16 => Self::Bf16,
            Compute::Auto | Compute::F32 => Self::F32,
        }
    }

    /// As [`Numbers::new`], for commands that have no use for double precision.
    pub(crate) fn single(asked: Option<Compute>, held: Dtype) -> Result<Self> {
        match Self::new(asked, held) {
            Self::F64 => Err(usage(
                "--compute f64 is the reference for grads and eval; this command computes in f32 or bf16",
                "leave --compute out",
            )),
            numbers => Ok(numbers),
        }
    }

    /// Why f32 was chosen where weights are held in fewer bits, if it was; to stand behind the name.
    pub(crate) fn reason(self, asked: Option<Compute>, held: Dtype) -> &'static str {
        let chosen = matches!(asked, None | Some(Compute::Auto)) && held != Dtype::F32;
        if chosen && self == Self::F32 { " (faster on this processor than bf16)" } else { "" }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// What a run that goes on asks for: where nothing is asked for, the arithmetic that it began with, on whatever
    /// processor that was.
    pub(crate) fn resumed(asked: Option<Compute>, resume: Option<&Path>) -> Result<Option<Compute>> {
        let (None | Some(Compute::Auto), Some(checkpoint)) = (asked, resume) else { return Ok(asked) };
        let began = checkpoint::identity(checkpoint)?.remove(COMPUTE);
        let began = [Self::F32, Self::Bf16].into_iter().find(|n| Some(n.name()) == began.as_deref());
        Ok(began
            .map_or(asked, |numbers| Some(if numbers == Self::F32 { Compute::F32 } else { Compute::Bf16 })))
    }

    /// For the backend.
    pub(crate) fn compute(self) -> mesp_device::Compute {
        match self {
            Self::Bf16 => mesp_device::Compute::Bf16,
            Self::F32 | Self::F64 => mesp_device::Compute::Full,
        }
    }
}

/// What weights that are stored in one type are rounded to by being held in another; none where every value stays.
pub(crate) fn rounded(base: Base, stored: Dtype) -> &'static str {
    match base {
        Base::Resident(dtype) if dtype != stored && dtype != Dtype::F32 => dtype.name(),
        _ => "none",
    }
}

/// The type that weights are held in.
pub(crate) fn held(base: Base, stored: Dtype) -> Dtype {
    match base {
        Base::Mapped => stored,
        Base::Resident(dtype) => dtype,
    }
}
