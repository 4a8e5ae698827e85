//! Batches as the engine reads them.

use std::ops::Range;

use crate::Result;
use crate::data::{Examples, RaggedBatch};
use crate::model::Batch;

/// Host buffers in which batches are assembled, allocated once.
#[derive(Debug, Default)]
pub struct Staging {
    /// Rows end to end.
    pub ragged: RaggedBatch,
    /// The batch as the model reads it.
    pub batch: Batch,
}

impl Staging {
    /// Replaces the batch by the rows of a range.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn fill(&mut self, examples: &dyn Examples, rows: Range<usize>) -> Result<()> {
        self.ragged.clear();
        for row in rows {
            examples.append(row, &mut self.ragged)?;
        }
        self.take();
        Ok(())
    }

    /// The rows end to end as the engine reads them.
    pub(super) fn take(&mut self) -> &Batch {
        let Self { ragged, batch } = self;
        batch.fill(&ragged.tokens, &ragged.labels, &ragged.offsets);
        if !ragged.preferences.is_empty() {
            batch.set_preferences(&ragged.preferences);
        }
        batch
    }
}
