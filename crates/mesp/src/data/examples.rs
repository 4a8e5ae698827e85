//! Rows wherever they lie: in memory, in a file of tokens, some of either.

use std::fmt::Debug;
use std::ops::AddAssign;
use std::sync::Arc;

use super::{Example, RaggedBatch, Subset};
use crate::Result;

/// How large a row is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSize {
    /// Its tokens.
    pub tokens: usize,
    /// The positions that are predicted and trained, [`Example::targets`].
    pub targets: usize,
    /// The sequences that it is: two of a pair of completions.
    pub sequences: usize,
    /// Sum of the squares of their lengths.
    pub squares: usize,
}

impl RowSize {
    /// A row of one sequence.
    pub fn of_sequence(tokens: usize, targets: usize) -> Self {
        Self { tokens, targets, sequences: 1, squares: tokens.saturating_mul(tokens) }
    }
}

impl AddAssign for RowSize {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.targets += other.targets;
        self.sequences += other.sequences;
        self.squares = self.squares.saturating_add(other.squares);
    }
}

/// Rows that can be read in any order. Reading fails where they lie in a file that fails.
pub trait Examples: Debug + Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// How large a row is.
    ///
    /// # Errors
    /// When it cannot be read.
    fn size(&self, row: usize) -> Result<RowSize>;

    /// Adds a row to a batch. Allocates only where it does not fit.
    ///
    /// # Errors
    /// When it cannot be read.
    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()>;

    /// Adds a row's prompt with the completion of another row, where rows have that (those with a
    /// label, for kto); says whether they do.
    ///
    /// # Errors
    /// When it cannot be read.
    fn append_mismatched(&self, _row: usize, _batch: &mut RaggedBatch) -> Result<bool> {
        Ok(false)
    }

    /// How large that is; none where rows do not have it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn mismatched_size(&self, _row: usize) -> Result<Option<RowSize>> {
        Ok(None)
    }

    /// Whether rows come with log-probabilities of a reference model.
    fn has_reference(&self) -> bool {
        false
    }

    /// A row of its own.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, row: usize) -> Result<Example>;

    /// The size of every row, in their order.
    ///
    /// # Errors
    /// When one cannot be read.
    fn each_size(&self, visit: &mut dyn FnMut(usize, RowSize)) -> Result<()> {
        for row in 0..self.count() {
            visit(row, self.size(row)?);
        }
        Ok(())
    }

    /// Its bytes on the heap.
    fn heap_bytes(&self) -> usize;
}

/// The rows of a run.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Rows to train on.
    pub train: Arc<dyn Examples>,
    /// Rows that are held out to evaluate; there may be none.
    pub eval: Arc<dyn Examples>,
    /// Bytes of both on the heap.
    pub heap: usize,
}

impl Rows {
    /// Rows to train on, and none to evaluate.
    pub fn of(train: Arc<dyn Examples>) -> Self {
        let heap = train.heap_bytes();
        Self { train, eval: Arc::new(Vec::new()), heap }
    }
}

impl Example {
    /// How large it is.
    pub fn size(&self) -> RowSize {
        RowSize::of_sequence(self.tokens.len(), self.targets())
    }
}

/// Forwards to what is behind a reference.
macro_rules! behind {
    ($($reference:ty),*) => {$(
        impl<T: Examples + ?Sized> Examples for $reference {
            fn count(&self) -> usize {
                (**self).count()
            }
            fn size(&self, row: usize) -> Result<RowSize> {
                (**self).size(row)
            }
            fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
                (**self).append(row, batch)
            }
            fn append_mismatched(&self, row: usize, batch: &mut RaggedBatch) -> Result<bool> {
                (**self).append_mismatched(row, batch)
            }
            fn mismatched_size(&self, row: usize) -> Result<Option<RowSize>> {
                (**self).mismatched_size(row)
            }
            fn has_reference(&self) -> bool {
                (**self).has_reference()
            }
            fn read(&self, row: usize) -> Result<Example> {
                (**self).read(row)
            }
            fn each_size(&self, visit: &mut dyn FnMut(usize, RowSize)) -> Result<()> {
                (**self).each_size(visit)
            }
            fn heap_bytes(&self) -> usize {
                (**self).heap_bytes()
            }
        }
    )*};
}
behind!(&T, Arc<T>);

impl Examples for Vec<Example> {
    fn count(&self) -> usize {
        self.len()
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        Ok(self[row].size())
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        batch.push(&self[row]);
        Ok(())
    }

    fn read(&self, row: usize) -> Result<Example> {
        Ok(self[row].clone())
    }

    fn heap_bytes(&self) -> usize {
        let one = |row: &Example| 4 * (row.tokens.capacity() + row.labels.capacity());
        self.capacity() * size_of::<Example>() + self.iter().map(one).sum::<usize>()
    }
}

/// The prompt of each row with the completion of another, as rows.
#[derive(Debug)]
pub struct Mismatched<'a>(&'a dyn Examples);

impl<'a> Mismatched<'a> {
    /// Those of rows that have them.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn of(rows: &'a dyn Examples) -> Result<Option<Self>> {
        let some = rows.count() > 0 && rows.mismatched_size(0)?.is_some();
        Ok(some.then_some(Self(rows)))
    }
}

impl Examples for Mismatched<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        Ok(self.0.mismatched_size(row)?.unwrap_or_default())
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        self.0.append_mismatched(row, batch).map(|_| ())
    }

    fn read(&self, row: usize) -> Result<Example> {
        self.0.read(row)
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Some of the rows of `all`.
#[derive(Debug, Clone)]
pub struct Part {
    /// The rows it is a part of.
    pub all: Arc<dyn Examples>,
    /// Which of them.
    pub chosen: Subset,
}

impl Examples for Part {
    fn count(&self) -> usize {
        self.chosen.count()
    }

    fn size(&self, row: usize) -> Result<RowSize> {
        self.all.size(self.chosen.nth(row))
    }

    fn append(&self, row: usize, batch: &mut RaggedBatch) -> Result<()> {
        self.all.append(self.chosen.nth(row), batch)
    }

    fn append_mismatched(&self, row: usize, batch: &mut RaggedBatch) -> Result<bool> {
        self.all.append_mismatched(self.chosen.nth(row), batch)
    }

    fn mismatched_size(&self, row: usize) -> Result<Option<RowSize>> {
        self.all.mismatched_size(self.chosen.nth(row))
    }

    fn has_reference(&self) -> bool {
        self.all.has_reference()
    }

    fn read(&self, row: usize) -> Result<Example> {
        self.all.read(self.chosen.nth(row))
    }

    fn each_size(&self, visit: &mut dyn FnMut(usize, RowSize)) -> Result<()> {
        let mut next = 0;
        self.all.each_size(&mut |row, size| {
            if self.chosen.has(row) {
                visit(next, size);
                next += 1;
            }
        })
    }

    /// Those of the choice; the rows themselves are counted where they are held.
    fn heap_bytes(&self) -> usize {
        self.chosen.heap_bytes()
    }
}

/// Tokens and targets of all rows, and the tokens of the longest.
///
/// # Errors
/// When a row cannot be read.
pub fn totals(rows: &dyn Examples) -> Result<(RowSize, usize)> {
    let (mut sum, mut longest) = (RowSize::default(), 0);
    rows.each_size(&mut |_, size| {
        sum += size;
        longest = longest.max(size.tokens);
    })?;
    Ok((sum, longest))
}
