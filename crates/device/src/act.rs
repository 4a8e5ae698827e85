//! Handles of buffers, and views of their rows.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// How a buffer's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Elem {
    /// As the backend's numbers.
    #[default]
    Full,
    /// In 16 bits, the upper half of a single precision number. A backend of another precision, which is there
    /// to check against, stores its own numbers instead.
    Bf16,
    /// In a byte, whatever the backend: codes of a [`Moment`](crate::Moment). `load` and `store` hand over 0 to 255;
    /// no other operation reads or writes them as values.
    Byte,
}

impl Elem {
    /// What a backend whose numbers have `value_bytes` stores for it.
    #[must_use]
    pub const fn on(self, value_bytes: usize) -> Self {
        match self {
            Self::Bf16 if value_bytes != size_of::<f32>() => Self::Full,
            elem => elem,
        }
    }

    /// The name on the command line, of a backend that computes in `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "f32",
            Self::Bf16 => "bf16",
            Self::Byte => "bytes",
        }
    }

    /// Bytes of a value there.
    pub const fn bytes(self, value_bytes: usize) -> usize {
        match self.on(value_bytes) {
            Self::Full => value_bytes,
            Self::Bf16 => 2,
            Self::Byte => 1,
        }
    }
}

/// Marks the entry of a persistent buffer.
pub(crate) const PERSISTENT: u32 = 1 << 31;

/// A buffer of `rows × cols` values in a backend's arena. It cannot be copied: freeing it consumes it, so
/// nothing can be read after its death, and writing needs the handle exclusively, so an operation's output
/// cannot overlap its inputs.
#[derive(Debug)]
#[must_use = "a buffer that is dropped without `free` stays planned as alive"]
pub struct Act {
    /// Which backend it belongs to.
    pub(crate) owner: u32,
    /// Its entry in the plan: of the program, or with [`PERSISTENT`] of the persistent buffers.
    pub(crate) entry: u32,
    /// Where the backend's buffer begins, in bytes from the arena's start.
    pub(crate) at: usize,
    /// Values of the backend's buffer before its own: not 0 for a part of one ([`Act::carve`]).
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) elem: Elem,
}

/// Parts of a buffer begin at multiples of so many values: a cache line of single precision numbers.
pub const LINE: usize = 16;

/// Makes the buffers of one backend. No two are alike, so that nobody else can make a handle of them.
#[derive(Debug)]
pub struct Owner(u32);

impl Owner {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The owner of buffers of backends without values, which are all alike.
    pub(crate) const NOBODY: Self = Self(0);

    /// A handle: the backend's own number of the buffer, where it begins in bytes, its rows and columns.
    pub const fn act(&self, entry: u32, at: usize, [rows, cols]: [usize; 2], elem: Elem) -> Act {
        Act { owner: self.0, entry, at, first: 0, rows, cols, elem }
    }

    /// Whether a view is of one of its buffers.
    pub const fn owns(&self, view: &View<'_>) -> bool {
        view.owner == self.0
    }
}

impl Act {
    /// Its number, which its backend gave it.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its values are stored.
    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// Refuses a view that does not lie in it.
    #[track_caller]
    fn holds(&self, first: usize, rows: usize, cols: usize) {
        let (end, all) = (first as u128 + values(rows, cols), values(self.rows, self.cols));
        assert!(end <= all, "values up to {end} of {all}");
    }

    /// All of it.
    pub fn view(&self) -> View<'_> {
        self.rows_view(0..self.rows)
    }

    /// Some rows of it.
    ///
    /// # Panics
    /// When it has fewer rows.
    #[track_caller]
    pub fn rows_view(&self, rows: Range<usize>) -> View<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        View {
            owner: self.owner,
            entry: self.entry,
            at: self.at,
            // A buffer that is only planned may be larger than there are numbers for.
            first: self.first.saturating_add(rows.start.saturating_mul(self.cols)),
            rows: rows.len(),
            cols: self.cols,
            elem: self.elem,
            life: PhantomData,
        }
    }

    /// A matrix of any shape inside it, whose values begin at the `first`.
    ///
    /// # Panics
    /// When it does not lie in the buffer.
    #[track_caller]
    pub fn block(&self, first: usize, [rows, cols]: [usize; 2]) -> View<'_> {
        self.holds(first, rows, cols);
        let Self { owner, entry, at, elem, .. } = *self;
        let first = self.first.saturating_add(first);
        View { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// Buffers in place of this one, which lie in it: each begins at a multiple of [`LINE`] values, which is given, and
    /// has a shape. [`View::joined`] puts them together again.
    ///
    /// # Panics
    /// When they are not in order, overlap, or do not lie in it.
    #[track_caller]
    pub fn carve(self, parts: impl IntoIterator<Item = (usize, [usize; 2])>) -> Vec<Self> {
        let mut end = 0;
        let part = |(first, [rows, cols]): (usize, [usize; 2])| {
            assert!(
                first.is_multiple_of(LINE) && first as u128 >= end,
                "a part at {first}, after {end} values"
            );
            self.holds(first, rows, cols);
            end = first as u128 + values(rows, cols);
            let Self { owner, entry, at, elem, .. } = self;
            Self { owner, entry, at, first: self.first.saturating_add(first), rows, cols, elem }
        };
        parts.into_iter().map(part).collect()
    }

    /// Values up to its end, in the backend's buffer.
    fn end(&self) -> usize {
        self.first.saturating_add(self.rows.saturating_mul(self.cols))
    }

    /// Whether another begins on the line after its own last.
    fn precedes(&self, next: &Self) -> bool {
        let place = |act: &Self| (act.owner, act.entry, act.at, act.elem);
        place(self) == place(next) && self.end().checked_next_multiple_of(LINE) == Some(next.first)
    }

    /// The same, to write.
    ///
    /// # Panics
    /// As [`Act::block`].
    #[track_caller]
    pub fn block_mut(&mut self, first: usize, shape: [usize; 2]) -> ViewMut<'_> {
        let View { owner, entry, at, first, rows, cols, elem, .. } = self.block(first, shape);
        ViewMut { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// Where it lies, for a weight that is read there: it is resolved by the buffer's backend alone.
    pub(crate) fn place(&self) -> View<'static> {
        let View { owner, entry, at, first, rows, cols, elem, .. } = self.view();
        View { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        self.rows_mut(0..self.rows)
    }

    /// Some rows of it, to write.
    ///
    /// # Panics
    /// When it has fewer rows.
    #[track_caller]
    pub fn rows_mut(&mut self, rows: Range<usize>) -> ViewMut<'_> {
        let View { owner, entry, at, first, rows, cols, elem, .. } = self.rows_view(rows);
        ViewMut { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }
}

/// Rows to read.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) owner: u32,
    pub(crate) entry: u32,
    /// Where the buffer begins, in bytes.
    pub(crate) at: usize,
    /// Values of the buffer before these.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) elem: Elem,
    life: PhantomData<&'a Act>,
}

impl View<'_> {
    /// All values of buffers that lie behind one another in one ([`Act::carve`]), as one column, with what is between
    /// them; none where they do not, or where there are none.
    pub fn joined<'a>(acts: impl IntoIterator<Item = &'a Act>) -> Option<View<'a>> {
        let mut acts = acts.into_iter();
        let first = acts.next()?;
        let last = acts.try_fold(first, |last, next| last.precedes(next).then_some(next))?;
        let Act { owner, entry, at, first, elem, .. } = *first;
        Some(View { owner, entry, at, first, rows: last.end() - first, cols: 1, elem, life: PhantomData })
    }

    /// The same rows of another buffer of the same shape as the one whose first value is `from` in its backend's.
    #[track_caller]
    pub(crate) fn on(self, from: usize, other: &Act) -> Self {
        let first = self.first - from;
        other.holds(first, self.rows, self.cols);
        let Act { owner, entry, at, elem, .. } = *other;
        Self { owner, entry, at, elem, first: other.first + first, ..self }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// When it has fewer.
    #[must_use]
    #[track_caller]
    pub fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let first = self.first.saturating_add(rows.start.saturating_mul(self.cols));
        Self { first, rows: rows.len(), ..self }
    }

    /// The same values as rows of `cols`.
    ///
    /// # Panics
    /// When they are not whole rows.
    #[must_use]
    #[track_caller]
    pub fn reshape(self, cols: usize) -> Self {
        Self { rows: whole_rows(self.rows, self.cols, cols), cols, ..self }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How its values are stored.
    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// The number of its buffer, which the backend gave it.
    pub fn entry(&self) -> u32 {
        self.entry
    }

    /// Values of the buffer before these.
    pub fn first(&self) -> usize {
        self.first
    }
}

/// How many rows of `to` columns as many values are.
#[track_caller]
fn whole_rows(rows: usize, cols: usize, to: usize) -> usize {
    let len = values(rows, cols);
    assert!(to > 0 && len.is_multiple_of(to as u128), "{len} values in rows of {to}");
    usize::try_from(len / to as u128).unwrap_or(usize::MAX)
}

/// How many values there are, of any numbers of rows and columns.
fn values(rows: usize, cols: usize) -> u128 {
    rows as u128 * cols as u128
}

/// Rows to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) owner: u32,
    pub(crate) entry: u32,
    /// Where the buffer begins, in bytes.
    pub(crate) at: usize,
    /// Values of the buffer before these.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) elem: Elem,
    life: PhantomData<&'a mut Act>,
}

impl ViewMut<'_> {
    /// As [`View::joined`], to write.
    pub fn joined<'a>(acts: impl IntoIterator<Item = &'a mut Act>) -> Option<ViewMut<'a>> {
        let View { owner, entry, at, first, rows, cols, elem, .. } =
            View::joined(acts.into_iter().map(|act| &*act))?;
        Some(ViewMut { owner, entry, at, first, rows, cols, elem, life: PhantomData })
    }

    /// The same rows of another buffer, as [`View::on`], which goes with this one: whoever has this view exclusively
    /// has that one too. An operation asks for it once.
    #[track_caller]
    pub(crate) fn on(&self, from: usize, other: &Act) -> ViewMut<'_> {
        let View { owner, entry, at, first, rows, cols, elem, .. } = self.view().on(from, other);
        ViewMut { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// The same values as rows of `cols`.
    ///
    /// # Panics
    /// When they are not whole rows.
    #[must_use]
    #[track_caller]
    pub fn reshape(self, cols: usize) -> Self {
        Self { rows: whole_rows(self.rows, self.cols, cols), cols, ..self }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// When it has fewer.
    #[must_use]
    #[track_caller]
    pub fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        Self { first: self.first + rows.start * self.cols, rows: rows.len(), ..self }
    }

    /// The same rows, to read.
    pub fn view(&self) -> View<'_> {
        let Self { owner, entry, at, first, rows, cols, elem, .. } = *self;
        View { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// The same rows for a shorter time, so that the view can be used again.
    pub fn again(&mut self) -> ViewMut<'_> {
        let Self { owner, entry, at, first, rows, cols, elem, .. } = *self;
        ViewMut { owner, entry, at, first, rows, cols, elem, life: PhantomData }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(rows: usize, cols: usize) -> Act {
        Act { owner: 1, entry: 0, at: 0, first: 0, rows, cols, elem: Elem::Full }
    }

    #[test]
    fn views_lie_in_their_buffers() {
        let (a, b) = (act(4, 3), act(2, 6));
        assert_eq!((a.rows_view(1..3).first, a.view().reshape(6).rows), (3, 2));
        assert_eq!(a.rows_view(1..3).on(0, &b).first, 3);
        let outside = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        assert!(outside(&|| _ = a.rows_view(3..5)));
        assert!(outside(&|| _ = a.rows_view(2..4).on(0, &act(2, 5))));
        assert!(outside(&|| _ = a.view().reshape(5)));
        assert!(outside(&|| _ = a.view().reshape(0)));
        assert_eq!((a.block(2, [5, 2]).first, a.block(2, [5, 2]).rows), (2, 5));
        assert!(outside(&|| _ = a.block(3, [5, 2])));
        assert!(outside(&|| _ = a.block(usize::MAX, [1, 1])));
        // 2^62 rows of 4 values are not none.
        let large = act(1 << 62, 4);
        assert!(outside(&|| _ = large.view().on(0, &a)));
        assert_eq!(large.view().reshape(8).rows, 1 << 61);
    }

    #[test]
    fn parts_of_a_buffer_are_joined_where_they_lie_together() {
        let shapes = [(0, [3, 5]), (16, [4, 4]), (32, [1, 20]), (64, [2, 2])];
        let mut parts = act(5, LINE).carve(shapes);
        let firsts: Vec<_> =
            parts.iter().map(|part| part.rows_view(part.rows() - 1..part.rows()).first).collect();
        assert_eq!(firsts, [10, 28, 32, 66]);
        assert_eq!(parts[1].block(3, [2, 2]).first, 19);
        let span = |view: Option<View<'_>>| view.map(|v| (v.first, v.rows, v.cols));
        assert_eq!(span(View::joined(&parts)), Some((0, 68, 1)));
        assert_eq!(span(View::joined(&parts[1..3])), Some((16, 36, 1)));
        assert_eq!(ViewMut::joined(&mut parts).map(|v| (v.first, v.rows)), Some((0, 68)));
        assert_eq!(span(View::joined(&parts[..0])), None);
        assert_eq!(span(View::joined([&parts[0], &parts[2]])), None, "one is missing");
        assert_eq!(span(View::joined([&parts[1], &parts[0]])), None, "the other order");
        assert_eq!(span(View::joined([&act(1, 16), &act(1, 16)])), None, "both are a beginning");
        // A tangent of a part has the part's rows.
        let tangent = act(4, 4);
        assert_eq!(parts[1].rows_view(2..3).on(16, &tangent).first, 8);
        let refused = |shapes: &[(usize, [usize; 2])]| {
            std::panic::catch_unwind(|| act(2, LINE).carve(shapes.iter().copied())).is_err()
        };
        assert!(refused(&[(0, [1, 17]), (16, [1, 1])]), "they overlap");
        assert!(refused(&[(4, [1, 1])]), "between lines");
        assert!(refused(&[(16, [1, 17])]), "beyond its end");
        assert!(refused(&[(usize::MAX - 15, [1, 16])]), "far beyond its end");
    }
}
