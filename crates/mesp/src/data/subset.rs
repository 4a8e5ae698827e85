//! Some of many rows: a bit a row, and counts that find the k-th of them. 10 million rows take 1.4 MB.

/// Bits of a block that has its count; the counts take a sixteenth of what the bits do.
const BLOCK: usize = 512;
const WORD: usize = u64::BITS as usize;

/// Some of the rows 0 to `rows`, in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    bits: Vec<u64>,
    /// How many are chosen before each block, and at last in all.
    before: Vec<u32>,
    rows: usize,
}

impl Subset {
    /// Room for so many rows, none of them chosen.
    pub(crate) fn none_of(rows: usize) -> Self {
        let blocks = rows.div_ceil(BLOCK);
        Self { bits: vec![0; rows.div_ceil(WORD)], before: vec![0; blocks + 1], rows }
    }

    /// The first `chosen` of so many rows.
    pub fn first(chosen: usize, rows: usize) -> Self {
        let mut subset = Self::none_of(rows);
        (0..chosen.min(rows)).for_each(|row| subset.choose(row));
        subset.finish();
        subset
    }

    /// Chooses a row. [`count`](Self::count) knows of it after [`finish`](Self::finish).
    pub(crate) fn choose(&mut self, row: usize) {
        self.bits[row / WORD] |= 1 << (row % WORD);
    }

    /// Takes those that are not chosen in place of those that are.
    pub fn invert(&mut self) {
        self.bits.iter_mut().for_each(|word| *word = !*word);
        if let Some(last) = self.bits.last_mut().filter(|_| !self.rows.is_multiple_of(WORD)) {
            *last &= (1 << (self.rows % WORD)) - 1;
        }
        self.finish();
    }

    /// Counts what was chosen.
    pub(crate) fn finish(&mut self) {
        let mut sum = 0;
        let blocks = self.bits.chunks(BLOCK / WORD);
        for (before, words) in self.before.iter_mut().zip(blocks) {
            *before = sum;
            sum += words.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        if let Some(last) = self.before.last_mut() {
            *last = sum;
        }
    }

    /// How many are chosen.
    pub fn count(&self) -> usize {
        self.before.last().map_or(0, |all| *all as usize)
    }

    /// Whether a row is chosen.
    pub fn has(&self, row: usize) -> bool {
        self.bits.get(row / WORD).is_some_and(|word| word >> (row % WORD) & 1 == 1)
    }

    /// The row that is the `k`-th chosen one, counted from 0.
    ///
    /// # Panics
    /// When fewer are chosen.
    pub fn nth(&self, k: usize) -> usize {
        assert!(k < self.count(), "the {k}th of {} chosen rows", self.count());
        let block = self.before.partition_point(|before| *before as usize <= k) - 1;
        let mut left = k - self.before[block] as usize;
        let mut at = block * (BLOCK / WORD);
        loop {
            let ones = self.bits[at].count_ones() as usize;
            if left < ones {
                break;
            }
            (left, at) = (left - ones, at + 1);
        }
        let word = (0..left).fold(self.bits[at], |word, _| word & (word - 1));
        at * WORD + word.trailing_zeros() as usize
    }

    /// Its bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bits.capacity() * size_of::<u64>() + self.before.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_kth_is_the_kth(rows in 0usize..3000, chosen in prop::collection::btree_set(0usize..3000, 0..400)) {
            let chosen: Vec<usize> = chosen.into_iter().filter(|row| *row < rows).collect();
            let mut subset = Subset::none_of(rows);
            for row in &chosen {
                subset.choose(*row);
            }
            subset.finish();
            prop_assert_eq!(subset.count(), chosen.len());
            for (k, row) in chosen.iter().enumerate() {
                prop_assert_eq!(subset.nth(k), *row);
                prop_assert!(subset.has(*row));
            }
            let others: Vec<usize> = (0..rows).filter(|row| !chosen.contains(row)).collect();
            subset.invert();
            prop_assert_eq!(subset.count(), others.len());
            for (k, row) in others.iter().enumerate() {
                prop_assert_eq!(subset.nth(k), *row);
            }
        }
    }
}
