//! From births and deaths to offsets in one arena.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Class, Label};

/// Offsets and sizes are multiples of a cache line, which is also the widest vector.
pub(crate) const ALIGN: usize = 64;

/// The most bytes of a plan: far more than machines have, and few enough that sums of such sizes have room in a
/// number. 562 TB where numbers have 64 bits.
pub(crate) const MOST: usize = usize::MAX >> 15;

/// Buffers of which one, or all together, are larger than any machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its buffers need more than {} TB of memory", MOST / 1_000_000_000_000)
    }
}

impl std::error::Error for TooLarge {}

/// Bytes of a buffer, a multiple of [`ALIGN`]; none where that is more than [`MOST`].
pub(crate) fn padded(rows: usize, cols: usize, value_bytes: usize) -> Option<usize> {
    let bytes = rows.checked_mul(cols)?.checked_mul(value_bytes)?.checked_next_multiple_of(ALIGN)?;
    (bytes <= MOST).then_some(bytes)
}

/// One buffer of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub label: Label,
    /// Size, a multiple of 64.
    pub bytes: usize,
    /// Where it lies, from the start of the program's part of the arena.
    pub offset: usize,
    /// When it is born, in allocations and frees from the program's start.
    pub birth: u32,
    /// When it dies; it is alive at times `birth ≤ t < death`.
    pub death: u32,
}

/// A program's buffers, placed.
#[derive(Debug, Clone, Default)]
pub struct ProgramPlan {
    /// In the order in which they are allocated.
    pub entries: Vec<Entry>,
    /// The end of the last one.
    pub bytes: usize,
    /// The most that is alive at one time: what no placement can go below.
    pub live_peak: usize,
    /// When that is.
    pub peak_time: u32,
    /// Multiplications with additions that the program makes.
    pub multiply_adds: u64,
}

impl ProgramPlan {
    /// Places buffers: the largest first, each at the lowest offset that is free for its whole life
    /// (greedy by size, Pisarchyk & Lee 2020).
    pub(crate) fn place(mut entries: Vec<Entry>, multiply_adds: u64) -> Self {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(entries[*i].bytes), entries[*i].birth));
        // Placed entries, by offset: the first gap is found in one walk.
        let mut placed: Vec<usize> = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for i in order {
            let e = entries[i];
            let mut offset = 0;
            for p in &placed {
                let p = entries[*p];
                if p.birth >= e.death || e.birth >= p.death {
                    continue;
                }
                if p.offset >= offset + e.bytes {
                    break;
                }
                offset = offset.max(p.offset + p.bytes);
            }
            entries[i].offset = offset;
            bytes = bytes.max(offset + e.bytes);
            let at = placed.partition_point(|p| entries[*p].offset <= offset);
            placed.insert(at, i);
        }
        let (live_peak, peak_time) = live_peak(&entries);
        Self { entries, bytes, live_peak, peak_time, multiply_adds }
    }

    /// Bytes alive at the peak, by label.
    pub fn at_peak(&self) -> BTreeMap<Label, usize> {
        let mut by = BTreeMap::new();
        for e in self.alive_at_peak() {
            *by.entry(e.label).or_default() += e.bytes;
        }
        by
    }

    /// The buffers that are there when most bytes are.
    pub fn alive_at_peak(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.birth <= self.peak_time && self.peak_time < e.death)
    }
}

pub(crate) fn live_peak(entries: &[Entry]) -> (usize, u32) {
    let mut changes: Vec<(u32, i64)> =
        entries.iter().flat_map(|e| [(e.birth, e.bytes as i64), (e.death, -(e.bytes as i64))]).collect();
    // At one time, deaths come before births.
    changes.sort_unstable();
    let (mut live, mut peak, mut time) = (0, 0, 0);
    for (t, change) in changes {
        live += change;
        if live > peak {
            (peak, time) = (live, t);
        }
    }
    (usize::try_from(peak).unwrap_or(0), time)
}

/// Everything a backend will allocate.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Buffers that live throughout.
    pub persistent: Vec<Entry>,
    /// Kernel scratch.
    pub scratch_bytes: usize,
    /// Programs share the rest of the arena: one runs at a time.
    pub programs: Vec<ProgramPlan>,
}

impl Plan {
    /// Bytes of the persistent part.
    pub fn persistent_bytes(&self) -> usize {
        self.persistent.iter().map(|e| e.bytes).sum()
    }

    /// Bytes of the arena: persistent, scratch, and the largest program.
    pub fn bytes(&self) -> usize {
        self.persistent_bytes()
            + self.scratch_bytes
            + self.programs.iter().map(|p| p.bytes).max().unwrap_or(0)
    }

    /// The arena by class, as it stands at the peak of the largest program; holes count as `other`.
    pub fn ledger(&self) -> BTreeMap<Class, usize> {
        let mut by: BTreeMap<Class, usize> = BTreeMap::new();
        for e in &self.persistent {
            *by.entry(e.label.class).or_default() += e.bytes;
        }
        by.insert(Class::Scratch, self.scratch_bytes);
        if let Some(largest) = self.programs.iter().max_by_key(|p| p.bytes) {
            for (label, bytes) in largest.at_peak() {
                *by.entry(label.class).or_default() += bytes;
            }
            *by.entry(Class::Other).or_default() += largest.bytes - largest.live_peak;
        }
        by
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry((birth, life, size): (u32, u32, usize)) -> Entry {
        Entry {
            label: Label::new(Class::Other, "x"),
            bytes: size * ALIGN,
            offset: 0,
            birth,
            death: birth + life,
        }
    }

    proptest! {
        #[test]
        fn buffers_alive_together_do_not_overlap(lives in prop::collection::vec((0u32..60, 1u32..30, 1usize..50), 0..80)) {
            let plan = ProgramPlan::place(lives.into_iter().map(entry).collect(), 0);
            prop_assert!(plan.bytes >= plan.live_peak);
            prop_assert_eq!(plan.at_peak().values().sum::<usize>(), plan.live_peak);
            for (i, a) in plan.entries.iter().enumerate() {
                prop_assert!(a.offset + a.bytes <= plan.bytes);
                for b in &plan.entries[..i] {
                    let together = a.birth < b.death && b.birth < a.death;
                    let overlap = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
                    prop_assert!(!(together && overlap));
                }
            }
        }
    }

    #[test]
    fn sizes_that_no_number_holds_are_none() {
        assert_eq!(padded(3, 5, 4), Some(64));
        assert_eq!(padded(0, 1 << 40, 4), Some(0));
        for (rows, cols) in
            [(1 << 62, 4), (1 << 62, 1), (usize::MAX, usize::MAX), (MOST / 4 + 1, 1), (1, usize::MAX)]
        {
            assert_eq!(padded(rows, cols, 4), None, "{rows} x {cols}");
        }
    }

    #[test]
    fn a_stack_of_lives_needs_no_more_than_is_alive() {
        let plan = ProgramPlan::place([(0, 10, 4), (1, 3, 2), (5, 2, 2), (8, 1, 1)].map(entry).to_vec(), 0);
        assert_eq!((plan.bytes, plan.live_peak), (6 * ALIGN, 6 * ALIGN));
    }
}
