//! One allocation, handed out by offsets.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use mesp_kernels::Real;

use crate::heap::without_message;
use crate::plan::ALIGN;
use crate::{View, ViewMut};

/// The memory of a backend: zeroed, aligned to a cache line, allocated once.
///
/// Its pages are taken from the system as they are first written.
#[derive(Debug)]
pub(crate) struct Arena<R> {
    /// On a cache line inside the block.
    start: NonNull<u8>,
    bytes: usize,
    numbers: PhantomData<R>,
    /// What was allocated.
    block: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the arena owns its memory, as a `Vec<R>` does, and `R: Real` is `Send + Sync`.
unsafe impl<R: Real> Send for Arena<R> {}
// SAFETY: as above; shared access hands out nothing by itself.
unsafe impl<R: Real> Sync for Arena<R> {}

impl<R: Real> Arena<R> {
    /// None where the system does not have so many bytes.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        // A larger alignment than the allocator's own would make it write the zeros itself and so touch every
        // page; the cache line is found by hand instead.
        let layout = Layout::from_size_align(bytes.checked_add(ALIGN)?, align_of::<R>()).ok()?;
        // SAFETY: the layout's size is not zero.
        let block = without_message(|| unsafe { alloc_zeroed(layout) });
        let block = NonNull::new(block)?;
        let skip = block.align_offset(ALIGN);
        // SAFETY: `skip < ALIGN`, and the block has `ALIGN` bytes more than the arena. Zero bytes are valid
        // values of `R`, `u16` and `u8`, and a cache line is aligned for all.
        let start = unsafe { block.add(skip) };
        Some(Self { start, bytes, numbers: PhantomData, block, layout })
    }

    /// The values of a view, of the type that its buffer was given.
    ///
    /// # Safety
    /// The view's buffer belongs to this arena, `T` is the type of its values ([`Elem`](crate::Elem)), and
    /// buffers alive together do not overlap (the plan's promise). Then the borrow of the handle inside the view
    /// is the borrow of these values.
    pub(crate) unsafe fn read<'a, T>(&self, view: View<'a>) -> &'a [T] {
        let len = view.rows.checked_mul(view.cols).expect("a view inside the arena");
        let start = self.place::<T>(view.at, view.first, len);
        // SAFETY: `place` is in bounds and aligned; exclusive writers are excluded by the caller's promise.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The bytes of a view, as many as it has.
    ///
    /// # Safety
    /// As [`Arena::read`], for `T` of the view's values.
    pub(crate) unsafe fn bytes<'a>(&self, view: View<'a>, value_bytes: usize) -> &'a [u8] {
        let first = view.first.checked_mul(value_bytes).expect("a view inside the arena");
        let len = view.rows.checked_mul(view.cols).and_then(|n| n.checked_mul(value_bytes));
        let len = len.expect("a view inside the arena");
        let start = self.place::<u8>(view.at, first, len);
        // SAFETY: `place` is in bounds; exclusive writers are excluded by the caller's promise.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The values of a view, to write.
    ///
    /// # Safety
    /// As [`Arena::read`].
    pub(crate) unsafe fn write<'a, T>(&self, view: ViewMut<'a>) -> &'a mut [T] {
        let len = view.rows.checked_mul(view.cols).expect("a view inside the arena");
        let start = self.place::<T>(view.at, view.first, len);
        // SAFETY: `place` is in bounds and aligned; a `ViewMut` borrows its handle exclusively; the rest is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Any bytes, as the arena's numbers.
    ///
    /// # Safety
    /// Nobody else reads or writes them during `'a`, which the arena outlives.
    #[allow(clippy::mut_from_ref, reason = "exclusiveness is the caller's promise")]
    pub(crate) unsafe fn range<'a>(&self, at: usize, bytes: usize) -> &'a mut [R] {
        let len = bytes / size_of::<R>();
        let start = self.place::<R>(at, 0, len);
        // SAFETY: `place` is in bounds and aligned; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The place of `len` values of `T`, `first` values behind the byte `at`.
    fn place<T>(&self, at: usize, first: usize, len: usize) -> *mut T {
        let end = first.checked_add(len).and_then(|n| n.checked_mul(size_of::<T>())?.checked_add(at));
        assert!(end.is_some_and(|end| end <= self.bytes), "a view inside the arena");
        assert!(at.is_multiple_of(ALIGN), "a buffer on a cache line");
        // SAFETY: inside the block by the assertion.
        unsafe { self.start.as_ptr().add(at).cast::<T>().add(first) }
    }
}

impl<R> Drop for Arena<R> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_does_not_have_is_none() {
        for bytes in [usize::MAX, usize::MAX - ALIGN, isize::MAX as usize - 2 * ALIGN] {
            assert!(Arena::<f32>::new(bytes).is_none(), "{bytes}");
        }
        assert!(Arena::<f32>::new(0).is_some());
    }
}
