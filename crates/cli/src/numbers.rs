//! What numbers a computation multiplies.

use anyhow::Result;
use mesp::source::Base;
use mesp_device::Dtype;

use crate::args::Compute;
use crate::inputs::usage;

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
            Compute::Auto if held != Dtype::F32 => Self::Bf16,
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

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// For the backend.
    pub(crate) fn compute(self) -> mesp_device::Compute {
        match self {
            Self::Bf16 => mesp_device::Compute::Bf16,
            Self::F32 | Self::F64 => mesp_device::Compute::Full,
        }
    }
}

/// The type that weights are held in.
pub(crate) fn held(base: Base, stored: Dtype) -> Dtype {
    match base {
        Base::Mapped => stored,
        Base::Resident(dtype) => dtype,
    }
}
