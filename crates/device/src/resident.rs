//! Which pages of mapped weights stay in memory: those of the parts that were used last.
//!
//! A block's matrices are read several times between its replay and the end of its backward, once more for every
//! tile of rows. Pages that were let go come back by faults, sixteen pages each: what is likely to be read again
//! waits, and nothing else does.

use std::collections::VecDeque;

use mesp_kernels::Par;

use crate::Weight;

/// Bytes that stay. A block of a 0.5B model in four bits is 8.4 MB, the two matrices of a 1.5B model's MLP that
/// are read first and last are 15.5 MB.
const KEPT: usize = 16 << 20;
/// Parts that stay, so that nothing is allocated while a step runs.
const PARTS: usize = 128;

/// Parts of mapped weights, the last used at the end.
#[derive(Debug)]
pub(crate) struct Resident {
    parts: VecDeque<Weight>,
    bytes: usize,
}

impl Resident {
    pub(crate) fn new() -> Self {
        Self { parts: VecDeque::with_capacity(PARTS), bytes: 0 }
    }

    /// A part is about to be used: maps it, and lets go of those that were not used for longest. Weights held in
    /// memory are none of its business.
    pub(crate) fn using(&mut self, part: &Weight, par: Par<'_>) {
        if !part.is_mapped() {
            return;
        }
        let place = part.addresses();
        let known = self.parts.iter().position(|p| p.addresses() == place);
        if let Some(known) = known.and_then(|at| self.parts.remove(at)) {
            return self.parts.push_back(known);
        }
        self.bytes += part.bytes();
        let mut old = 0;
        while (self.bytes > KEPT || self.parts.len() - old == PARTS) && old < self.parts.len() {
            self.bytes -= self.parts[old].bytes();
            old += 1;
        }
        let parts = &self.parts;
        // Each takes a twentieth of a short step. Two threads that map, or let go, would wait for each other's locks
        // of the same page tables.
        par.tasks(2, |task, _| {
            if task == 0 {
                part.populate();
            } else {
                parts.iter().take(old).for_each(Weight::done_with);
            }
        });
        self.parts.drain(..old);
        self.parts.push_back(part.clone());
    }

    /// A weight that will not be used soon, whole.
    pub(crate) fn done_with(&mut self, whole: &Weight) {
        let Some(all) = whole.addresses() else { return };
        let bytes = &mut self.bytes;
        self.parts.retain(|p| {
            let inside = p.addresses().is_some_and(|p| all.start <= p.start && p.end <= all.end);
            *bytes -= if inside { p.bytes() } else { 0 };
            !inside
        });
        whole.done_with();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use mesp_kernels::Dtype;

    use super::*;
    use crate::Mapping;

    fn file(bytes: usize) -> Weight {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&vec![1; bytes]).expect("its bytes");
        let map = Arc::new(Mapping::open(file.path()).expect("a mapping"));
        Weight::mapped(Dtype::F32, bytes / 4096, 1024, map, 0..bytes)
    }

    fn parts(resident: &Resident) -> Vec<usize> {
        resident.parts.iter().map(Weight::bytes).collect()
    }

    #[test]
    fn what_was_used_last_stays() {
        let w = file(2 * KEPT);
        let part = |at: usize, rows: usize| w.rows_range(at..at + rows);
        let third = KEPT / 3 / 4096;
        let mut resident = Resident::new();
        for at in 0..3 {
            resident.using(&part(at * third, third - at), Par::serial());
        }
        let size = |n: usize| n * 4096;
        assert_eq!(parts(&resident), [size(third), size(third - 1), size(third - 2)]);
        resident.using(&part(0, third), Par::serial());
        assert_eq!(parts(&resident), [size(third - 1), size(third - 2), size(third)], "used again");
        resident.using(&part(3 * third, third - 3), Par::serial());
        assert_eq!(parts(&resident), [size(third - 2), size(third), size(third - 3)], "the oldest went");
        resident.using(&w, Par::serial());
        assert_eq!(parts(&resident), [w.bytes()], "more than fits goes alone");
        resident.using(&part(0, 1), Par::serial());
        assert_eq!(parts(&resident), [4096]);
        resident.done_with(&part(1, 5));
        assert_eq!(parts(&resident), [4096], "another part");
        resident.done_with(&w);
        assert!(parts(&resident).is_empty() && resident.bytes == 0);
    }

    #[test]
    fn many_small_parts_take_no_more_room() {
        let w = file(4096 * 3 * PARTS);
        let mut resident = Resident::new();
        let room = resident.parts.capacity();
        for row in 0..3 * PARTS {
            resident.using(&w.rows_range(row..row + 1), Par::serial());
        }
        assert!(resident.parts.len() == PARTS && resident.parts.capacity() == room);
        assert_eq!(resident.bytes, 4096 * PARTS);
        resident.using(&Weight::owned(Dtype::F32, 1, 1, vec![0; 4]), Par::serial());
        assert_eq!(resident.bytes, 4096 * PARTS, "not mapped");
    }
}
