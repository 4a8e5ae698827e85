//! Operands of updates.

use mesp_kernels::{MomentMut, ParamMut, Real, random_bits};

use super::{Cpu, ValuesMut};
use crate::{Elem, Moment, Updated, View, ViewMut};

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
        if x.values.elem == Elem::Byte {
            let scales = self.write(x.scales.expect("bytes of a moment have scales"));
            return MomentMut::Blocks { codes: self.bytes_mut(x.values), scales, signed: x.signed };
        }
        match self.values_mut(x.values) {
            ValuesMut::Full(x) => MomentMut::Full(x),
            ValuesMut::Bf16(values) => {
                MomentMut::Bf16 { values, key: random_bits(of.key, stream, 0), first: of.first }
            }
        }
    }

    /// A buffer of bytes.
    #[track_caller]
    pub(super) fn bytes<'a>(&self, view: View<'a>) -> &'a [u8] {
        assert!(self.owner.owns(&view) && view.elem == Elem::Byte, "a buffer of bytes of this backend");
        // SAFETY: as in `values`.
        unsafe { self.arena.read(view) }
    }

    /// As [`Cpu::bytes`], to write.
    #[track_caller]
    pub(super) fn bytes_mut<'a>(&self, view: ViewMut<'a>) -> &'a mut [u8] {
        let bytes = self.owner.owns(&view.view()) && view.elem == Elem::Byte;
        assert!(bytes, "a buffer of bytes of this backend");
        // SAFETY: as in `values_mut`.
        unsafe { self.arena.write(view) }
    }
}

#[cfg(test)]
mod tests;
