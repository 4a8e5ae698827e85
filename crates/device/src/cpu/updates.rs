//! Operands of updates.

use mesp_kernels::{MomentMut, ParamMut, Real, random_bits};

use super::{Cpu, ValuesMut};
use crate::{Moment, Updated};

impl<R: Real> Cpu<R> {
    #[track_caller]
    pub(super) fn updated<'a>(&self, x: Updated<'a>) -> ParamMut<'a, R> {
        match (self.values_mut(x.p), x.rest) {
            (ValuesMut::Full(p), _) => ParamMut::Full(p),
            (ValuesMut::Bf16(values), None) => ParamMut::Random { values, key: x.key, first: x.first },
            (ValuesMut::Bf16(values), Some(rest)) => match self.values_mut(rest) {
                ValuesMut::Bf16(rest) => ParamMut::Compensated { values, rest },
                ValuesMut::Full(_) => panic!("what is cut off of bf16 is kept in bf16"),
            },
        }
    }

    /// A moment of a parameter, `stream` among the random numbers that follow from its key.
    #[track_caller]
    pub(super) fn moment<'a>(&self, x: Moment<'a>, of: &Updated<'_>, stream: u64) -> MomentMut<'a, R> {
        match self.values_mut(x.values) {
            ValuesMut::Full(x) => MomentMut::Full(x),
            ValuesMut::Bf16(values) => {
                MomentMut::Bf16 { values, key: random_bits(of.key, stream, 0), first: of.first }
            }
        }
    }
}
