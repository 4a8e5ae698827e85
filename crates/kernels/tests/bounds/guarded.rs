//! Buffers beside pages that may not be touched.

use std::ops::{Deref, DerefMut};

/// Where a buffer lies: its first or its last byte beside a page that may not be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Start,
    End,
}

/// Values in memory of their own between two such pages.
#[cfg(not(miri))]
pub(crate) struct Guarded<T> {
    map: *mut libc::c_void,
    bytes: usize,
    start: *mut T,
    len: usize,
}

#[cfg(not(miri))]
const PAGE: usize = 4096;

#[cfg(not(miri))]
impl<T: Copy> Guarded<T> {
    pub(crate) fn new(side: Side, values: &[T]) -> Self {
        let inner = size_of_val(values).next_multiple_of(PAGE).max(PAGE);
        let bytes = inner + 2 * PAGE;
        // SAFETY: a new mapping anywhere.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0)
        };
        assert!(map != libc::MAP_FAILED, "mmap of {bytes} bytes");
        let offset = match side {
            Side::Start => 0,
            Side::End => inner - size_of_val(values),
        };
        // SAFETY: pages inside the mapping become usable; the values fit and are aligned, as a page is a multiple of
        // their size's alignment.
        let start = unsafe {
            let first = map.byte_add(PAGE);
            assert_eq!(libc::mprotect(first, inner, libc::PROT_READ | libc::PROT_WRITE), 0, "mprotect");
            let start = first.byte_add(offset).cast::<T>();
            assert!(start.is_aligned(), "values at the end of a page");
            std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            start
        };
        Self { map, bytes, start, len: values.len() }
    }
}

#[cfg(not(miri))]
impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone.
        unsafe { libc::munmap(self.map, self.bytes) };
    }
}

#[cfg(not(miri))]
impl<T> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: initialized by `new`, inside the mapping.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

#[cfg(not(miri))]
impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// Miri watches every allocation itself.
#[cfg(miri)]
pub(crate) struct Guarded<T>(Box<[T]>);

#[cfg(miri)]
impl<T: Copy> Guarded<T> {
    pub(crate) fn new(_: Side, values: &[T]) -> Self {
        Self(values.into())
    }
}

#[cfg(miri)]
impl<T> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

#[cfg(miri)]
impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
