//! Handles of buffers, and views of their rows.

use std::marker::PhantomData;
use std::ops::Range;

/// A buffer of `rows × cols` values in a backend's arena. It cannot be copied: freeing it consumes it, so
/// nothing can be read after its death, and writing needs the handle exclusively, so an operation's output
/// cannot overlap its inputs.
#[derive(Debug)]
#[must_use = "a buffer that is dropped without `free` stays planned as alive"]
pub struct Act {
    /// Which backend it belongs to.
    pub(crate) owner: u32,
    /// Its entry in the plan.
    pub(crate) entry: u32,
    /// First value, counted in values from the arena's start.
    pub(crate) at: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Act {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
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
            at: self.at + rows.start * self.cols,
            rows: rows.len(),
            cols: self.cols,
            life: PhantomData,
        }
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
        let View { owner, at, rows, cols, .. } = self.rows_view(rows);
        ViewMut { owner, at, rows, cols, life: PhantomData }
    }
}

/// Rows to read.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) owner: u32,
    pub(crate) at: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    life: PhantomData<&'a Act>,
}

impl View<'_> {
    /// The same values as rows of `cols`.
    ///
    /// # Panics
    /// When they are not whole rows.
    #[must_use]
    #[track_caller]
    pub fn reshape(self, cols: usize) -> Self {
        let len = self.rows * self.cols;
        assert!(len.is_multiple_of(cols), "{len} values in rows of {cols}");
        Self { rows: len / cols, cols, ..self }
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

/// Rows to write.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) owner: u32,
    pub(crate) at: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    life: PhantomData<&'a mut Act>,
}

impl ViewMut<'_> {
    /// The same values as rows of `cols`.
    ///
    /// # Panics
    /// When they are not whole rows.
    #[must_use]
    #[track_caller]
    pub fn reshape(self, cols: usize) -> Self {
        let len = self.rows * self.cols;
        assert!(len.is_multiple_of(cols), "{len} values in rows of {cols}");
        Self { rows: len / cols, cols, ..self }
    }

    /// The same rows, to read.
    pub fn view(&self) -> View<'_> {
        View { owner: self.owner, at: self.at, rows: self.rows, cols: self.cols, life: PhantomData }
    }

    /// The same rows for a shorter time, so that the view can be used again.
    pub fn again(&mut self) -> ViewMut<'_> {
        ViewMut { owner: self.owner, at: self.at, rows: self.rows, cols: self.cols, life: PhantomData }
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
