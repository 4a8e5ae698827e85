//! Which rows a step sees, and how they are laid out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::shuffle::Order;
use super::{Examples, RaggedBatch, Subset};
use crate::{Error, ErrorKind, Result};

/// How much a batch holds: as many rows as stay within both limits, and always at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    /// The most rows.
    pub rows: usize,
    /// The most tokens. A row that is longer is a batch of its own.
    pub tokens: usize,
}

impl BatchSize {
    /// So many rows, however long they are.
    pub fn rows(rows: usize) -> Self {
        Self { rows, tokens: usize::MAX }
    }

    /// As many rows as fit in so many tokens.
    pub fn tokens(tokens: usize) -> Self {
        Self { rows: usize::MAX, tokens }
    }

    /// Where the batch ends that begins with the row at `start` of `count`; `length` gives the tokens of a row.
    ///
    /// # Errors
    /// Those of `length`.
    pub fn end(
        self,
        start: usize,
        count: usize,
        mut length: impl FnMut(usize) -> Result<usize>,
    ) -> Result<usize> {
        let mut tokens = 0usize;
        for place in start..count {
            if place > start {
                tokens = tokens.saturating_add(length(place)?);
                if place - start >= self.rows || tokens > self.tokens {
                    return Ok(place);
                }
            } else {
                tokens = length(place)?;
            }
        }
        Ok(count)
    }

    /// Ranges of rows in their order, as many at a time as it allows.
    ///
    /// # Errors
    /// When a row cannot be read, and those of `visit`.
    pub fn each_range(
        self,
        rows: &dyn Examples,
        visit: &mut dyn FnMut(Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let (mut first, count) = (0, rows.count());
        while first < count {
            let end = self.end(first, count, |row| Ok(rows.size(row)?.tokens))?;
            visit(first..end)?;
            first = end;
        }
        Ok(())
    }

    /// Whether a batch's rows depend on how long they are.
    fn packs(self) -> bool {
        self.tokens != usize::MAX
    }

    /// What is wrong with it, if anything.
    fn check(self) -> Result<()> {
        if self.rows == 0 {
            return Err(Error::usage(ErrorKind::OutOfRange, "‘batch_size’")
                .is(0)
                .expected("1 or more")
                .hint("a batch of no rows trains nothing"));
        }
        if self.tokens == 0 {
            return Err(Error::usage(ErrorKind::OutOfRange, "‘batch_tokens’")
                .is(0)
                .expected("1 or more")
                .hint("a batch of no tokens trains nothing"));
        }
        Ok(())
    }
}

impl From<usize> for BatchSize {
    fn from(rows: usize) -> Self {
        Self::rows(rows)
    }
}

/// Where batches are limited by tokens, the beginning of every so many is kept; the others are found from there.
const MARKED: usize = 64;

/// The order of rows over epochs.
///
/// The order of an epoch follows from the seed and the epoch alone, so a resumed run finds its place by
/// counting. Rows with nothing to train are passed over; the last batch of an epoch may be smaller. Where tokens
/// limit a batch, an epoch's number of batches depends on its order.
///
/// It takes 4 bytes a row up to 65,536 rows, and of more rows up to a quarter of a byte
/// ([`heap_bytes`](Self::heap_bytes)).
#[derive(Debug, Clone)]
pub struct Batches<E> {
    examples: E,
    size: BatchSize,
    seed: u64,
    /// The rows with targets, where there are others.
    trained: Option<Subset>,
    /// Their number.
    rows: usize,
    /// Their order in `epoch`.
    order: Order,
    epoch: Option<usize>,
    /// Where tokens limit batches: the places of `epoch` at which every 64th begins, and the last that was looked for.
    marks: Vec<u32>,
    last: (usize, usize),
    /// How many batches there are up to the end of each epoch that was looked at.
    counts: Vec<usize>,
}

impl<E: Examples> Batches<E> {
    /// Prepares batches.
    ///
    /// # Errors
    /// When `size` leaves no room for a row, when no example has anything to train, or one cannot be read.
    pub fn new(examples: E, size: impl Into<BatchSize>, seed: u64) -> Result<Self> {
        let size = size.into();
        size.check()?;
        let count = examples.count();
        if u32::try_from(count).is_err() {
            return Err(Error::usage(ErrorKind::OutOfRange, format!("{count} rows are given"))
                .expected("fewer than 2^32"));
        }
        // Most data have no row without targets, and need no list of the others.
        let mut trained: Option<Subset> = None;
        examples.each_size(&mut |row, size| match &mut trained {
            Some(trained) if size.targets > 0 => trained.choose(row),
            None if size.targets == 0 => trained = Some(Subset::first(row, count)),
            _ => {}
        })?;
        let rows = trained.as_mut().map_or(count, |trained| {
            trained.finish();
            trained.count()
        });
        if rows == 0 {
            return Err(Error::usage(
                ErrorKind::Empty,
                format!("none of {count} rows has a trainable token"),
            ));
        }
        // Room for the most batches there can be: an epoch that begins later allocates nothing.
        let marks = Vec::with_capacity(if size.packs() { rows.div_ceil(MARKED) } else { 0 });
        let order = Order::of(rows);
        Ok(Self {
            examples,
            size,
            seed,
            trained,
            rows,
            order,
            epoch: None,
            marks,
            last: (0, 0),
            counts: vec![],
        })
    }

    /// The number of rows that are trained in an epoch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its bytes on the heap; more once more epochs of packed rows were looked at.
    pub fn heap_bytes(&self) -> usize {
        self.trained.as_ref().map_or(0, Subset::heap_bytes)
            + self.order.heap_bytes()
            + self.marks.capacity() * size_of::<u32>()
            + self.counts.capacity() * size_of::<usize>()
    }

    /// The number of batches in so many epochs; at least one.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn in_epochs(&mut self, epochs: f64) -> Result<usize> {
        let (whole, part) = (epochs.floor(), epochs.fract());
        let before = self.through(whole as usize)?;
        let rest = if part > 0.0 { self.in_epoch(whole as usize)? } else { 0 };
        Ok((before + (part * rest as f64).round() as usize).max(1))
    }

    /// How many epochs so many batches are.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn epochs(&mut self, batches: usize) -> Result<f64> {
        let (epoch, index) = self.place(batches)?;
        Ok(epoch as f64 + index as f64 / self.in_epoch(epoch)? as f64)
    }

    /// The number of batches in the first epoch; where rows alone limit a batch, in every epoch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn per_epoch(&mut self) -> Result<usize> {
        self.in_epoch(0)
    }

    /// The batches of an epoch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn in_epoch(&mut self, epoch: usize) -> Result<usize> {
        Ok(self.through(epoch + 1)? - self.through(epoch)?)
    }

    /// The batches of the first epochs.
    fn through(&mut self, epochs: usize) -> Result<usize> {
        if !self.size.packs() {
            return Ok(epochs.saturating_mul(self.rows.div_ceil(self.size.rows)));
        }
        while self.counts.len() < epochs {
            let in_epoch = self.shuffle(self.counts.len())?;
            self.counts.push(self.counts.last().copied().unwrap_or(0) + in_epoch);
        }
        Ok(epochs.checked_sub(1).map_or(0, |last| self.counts[last]))
    }

    /// The epoch and the place in it of a batch, counted from the start of training.
    fn place(&mut self, batch: usize) -> Result<(usize, usize)> {
        let mut epoch = if self.size.packs() {
            self.counts.partition_point(|through| *through <= batch)
        } else {
            batch / self.through(1)?
        };
        while self.through(epoch + 1)? <= batch {
            epoch += 1;
        }
        Ok((epoch, batch - self.through(epoch)?))
    }

    /// The most rows and the most tokens that one batch can hold, in any epoch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn largest(&self) -> Result<(usize, usize)> {
        let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
        self.examples.each_size(&mut |_, size| {
            if size.targets > 0 {
                *lengths.entry(size.tokens).or_default() += 1;
            }
        })?;
        let (mut rows, mut tokens) = (0, 0usize);
        for (length, count) in &lengths {
            let fit = (self.size.tokens.saturating_sub(tokens)).checked_div(*length).unwrap_or(*count);
            rows += fit.min(*count);
            tokens = tokens.saturating_add(length.saturating_mul(fit.min(*count)));
            if fit < *count {
                break;
            }
        }
        let rows = rows.max(1).min(self.size.rows);
        let (mut left, mut sum) = (rows, 0usize);
        for (length, count) in lengths.iter().rev() {
            let taken = left.min(*count);
            sum = sum.saturating_add(length.saturating_mul(taken));
            left -= taken;
        }
        let longest = lengths.last_key_value().map_or(0, |(length, _)| *length);
        Ok((rows, sum.min(self.size.tokens).max(longest)))
    }

    /// The places of a batch's rows in the order of an epoch, see [`row`](Self::row); `index` counts from 0 within the
    /// epoch, whose order is the one that [`row`](Self::row) knows afterwards.
    ///
    /// # Errors
    /// When a row cannot be read.
    ///
    /// # Panics
    /// When `index` is not below [`in_epoch`](Self::in_epoch).
    pub fn places(&mut self, epoch: usize, index: usize) -> Result<Range<usize>> {
        if self.epoch != Some(epoch) {
            self.shuffle(epoch)?;
        }
        if !self.size.packs() {
            let start = index.saturating_mul(self.size.rows);
            assert!(start < self.rows, "batch {index} of {} rows in {:?}", self.rows, self.size);
            return Ok(start..self.rows.min(start.saturating_add(self.size.rows)));
        }
        let mark = self.marks.get(index / MARKED).map(|start| (index / MARKED * MARKED, *start as usize));
        let nearer = self.last.0 <= index && mark.is_some_and(|mark| mark.0 <= self.last.0);
        let (mut at, mut start) = if nearer { self.last } else { mark.unwrap_or((index, self.rows)) };
        while at < index {
            (at, start) = (at + 1, self.end(start)?);
        }
        assert!(start < self.rows, "batch {index} of an epoch with fewer");
        self.last = (index, start);
        Ok(start..self.end(start)?)
    }

    /// The row at a place of the order that was looked at last.
    pub fn row(&self, place: usize) -> usize {
        let row = self.order.at(place);
        self.trained.as_ref().map_or(row, |trained| trained.nth(row))
    }

    /// Where the batch ends that begins at a place.
    fn end(&self, start: usize) -> Result<usize> {
        self.size.end(start, self.rows, |place| Ok(self.examples.size(self.row(place))?.tokens))
    }

    /// Fills `batch` with the rows of the batch that is `step` batches after the start of training.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn fill(&mut self, step: usize, batch: &mut RaggedBatch) -> Result<()> {
        let (epoch, index) = self.place(step)?;
        batch.clear();
        for place in self.places(epoch, index)? {
            self.examples.append(self.row(place), batch)?;
        }
        Ok(())
    }

    /// Fills `batch` with the mismatched completions of the rows of that batch; says whether they have any.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn fill_mismatched(&mut self, step: usize, batch: &mut RaggedBatch) -> Result<bool> {
        let (epoch, index) = self.place(step)?;
        batch.clear();
        let mut all = true;
        for place in self.places(epoch, index)? {
            all &= self.examples.append_mismatched(self.row(place), batch)?;
        }
        Ok(all)
    }

    /// Goes over to an epoch; gives the number of its batches where tokens limit them.
    fn shuffle(&mut self, epoch: usize) -> Result<usize> {
        self.order.shuffle(self.seed, epoch);
        self.epoch = Some(epoch);
        let (mut batches, mut start) = (0, 0);
        if self.size.packs() {
            self.marks.clear();
            self.last = (0, 0);
            while start < self.rows {
                if batches % MARKED == 0 {
                    self.marks.push(start as u32);
                }
                (batches, start) = (batches + 1, self.end(start)?);
            }
        }
        Ok(batches)
    }
}

#[cfg(test)]
mod tests;
