//! A backend that computes nothing and records what would live when, and how much would be multiplied.

use crate::act::PERSISTENT;
use crate::op::attended;
use crate::plan::{ALIGN, Entry, MOST, ProgramPlan, TooLarge, padded};
use crate::{Act, Backend, Elem, Label, Mark, Op, Owner, Plan, Program, View, ViewMut, Weight};

/// The recorder. Run the programs on it with their largest inputs, then take the [`Plan`].
#[derive(Debug)]
pub struct Dry {
    value_bytes: usize,
    threads: usize,
    persistent: Vec<Entry>,
    persistent_bytes: usize,
    scratch_values: usize,
    programs: Vec<Recording>,
    current: usize,
    /// Whether a buffer was asked for that is larger than any machine's memory.
    beyond: bool,
}

#[derive(Debug, Default)]
struct Recording {
    entries: Vec<Entry>,
    next: usize,
    clock: u32,
    multiply_adds: u64,
    cost: f64,
}

/// A buffer that was not freed lives to the program's end.
const ALIVE: u32 = u32::MAX;

impl Dry {
    /// For a backend whose values have `value_bytes` and that runs on `threads`.
    pub fn new(value_bytes: usize, threads: usize) -> Self {
        Self {
            value_bytes,
            threads,
            persistent: Vec::new(),
            persistent_bytes: 0,
            scratch_values: 0,
            programs: Vec::new(),
            current: 0,
            beyond: false,
        }
    }

    /// Places everything recorded.
    ///
    /// # Panics
    /// When no machine has as much memory.
    pub fn finish(self) -> Plan {
        self.try_finish().expect("a plan for a machine")
    }

    /// The same, or that no machine has as much memory.
    ///
    /// # Errors
    /// When none has.
    pub fn try_finish(self) -> Result<Plan, TooLarge> {
        if self.is_beyond() {
            return Err(TooLarge);
        }
        let programs =
            self.programs.into_iter().map(|p| ProgramPlan::place(p.entries, p.multiply_adds)).collect();
        let scratch_bytes = (self.scratch_values * self.value_bytes).next_multiple_of(ALIGN);
        Ok(Plan { value_bytes: self.value_bytes, persistent: self.persistent, scratch_bytes, programs })
    }

    /// Whether sizes are larger than any machine's memory, each or together.
    fn is_beyond(&self) -> bool {
        let bytes = |p: &Recording| p.entries.iter().fold(0usize, |sum, e| sum.saturating_add(e.bytes));
        let program = self.programs.iter().map(bytes).max().unwrap_or(0);
        let scratch = self.scratch_values.saturating_mul(self.value_bytes);
        self.beyond || self.persistent_bytes.saturating_add(program).saturating_add(scratch) > MOST
    }

    /// Without placing anything: the bytes that are alive at the peak, and a cost that orders programs by the
    /// time they would take, in multiplications with additions. A product of few rows costs more, as each
    /// reads and converts its weight anew: by a share of 40/rows, measured on AVX512-BF16, and of 90/rows where
    /// the weight is quantized, measured there with `Q4_0`.
    pub fn estimate(&self) -> (usize, f64) {
        if self.is_beyond() {
            return (usize::MAX, f64::INFINITY);
        }
        let persistent = self.persistent_bytes;
        let live = self.programs.iter().map(|p| crate::plan::live_peak(&p.entries).0).max().unwrap_or(0);
        let cost = self.programs.first().map_or(0.0, |p| p.cost);
        (persistent + self.scratch_values * self.value_bytes + live, cost)
    }

    fn padded(&mut self, rows: usize, cols: usize, elem: Elem) -> usize {
        let bytes = padded(rows, cols, elem.bytes(self.value_bytes));
        self.beyond |= bytes.is_none();
        bytes.unwrap_or(MOST)
    }

    fn now(&mut self) -> &mut Recording {
        &mut self.programs[self.current]
    }
}

/// Rows of a product whose multiplications take as long as reading and converting its weight.
const PLAIN: f64 = 40.0;
const QUANTIZED: f64 = 90.0;

fn conversion(w: &Weight) -> f64 {
    if w.dtype().is_quantized() { QUANTIZED } else { PLAIN }
}

impl Backend for Dry {
    fn begin(&mut self, program: Program) {
        self.current = program.0;
        while self.programs.len() <= program.0 {
            self.programs.push(Recording::default());
        }
        *self.now() = Recording::default();
    }

    fn persist_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        let bytes = self.padded(rows, cols, elem);
        let offset = self.persistent_bytes;
        self.persistent_bytes = offset.saturating_add(bytes);
        let entry = PERSISTENT | self.persistent.len() as u32;
        self.persistent.push(Entry { label, bytes, offset, birth: 0, death: ALIVE });
        Owner::NOBODY.act(entry, 0, [rows, cols], elem.on(self.value_bytes))
    }

    fn alloc_as(&mut self, rows: usize, cols: usize, elem: Elem, label: Label) -> Act {
        let bytes = self.padded(rows, cols, elem);
        let elem = elem.on(self.value_bytes);
        let now = self.now();
        if let Some(entry) = now.entries.get(now.next) {
            // A further turn of a loop: the first turn planned it.
            assert!(
                entry.label == label && bytes <= entry.bytes,
                "a loop's turns must allocate alike: {label:?}"
            );
        } else {
            let birth = now.clock;
            now.clock += 1;
            now.entries.push(Entry { label, bytes, offset: 0, birth, death: ALIVE });
        }
        now.next += 1;
        Owner::NOBODY.act(now.next as u32 - 1, 0, [rows, cols], elem)
    }

    fn free(&mut self, act: Act) {
        let now = self.now();
        let entry = &mut now.entries[act.entry as usize];
        if entry.death == ALIVE {
            entry.death = now.clock;
            now.clock += 1;
        }
    }

    fn mark(&self) -> Mark {
        Mark(self.programs[self.current].next)
    }

    fn rewind(&mut self, mark: Mark) {
        self.now().next = mark.0;
    }

    fn load(&mut self, _: ViewMut<'_>, _: &mut dyn FnMut(usize) -> f64) {}
    fn store(&self, _: View<'_>, _: &mut dyn FnMut(usize, f64)) {}
    fn dot(&mut self, _: View<'_>, _: View<'_>) -> f64 {
        0.0
    }
    fn sum_of_squares(&mut self, _: View<'_>) -> f64 {
        0.0
    }
    fn spill(&mut self, _: usize, _: View<'_>) {}
    fn fetch(&mut self, _: usize, _: ViewMut<'_>) {}
    fn faulty(&self) -> bool {
        false
    }
    fn take_fault(&mut self) -> Option<std::io::Error> {
        None
    }
    fn will_need(&self, _: &Weight) {}

    fn run(&mut self, op: Op<'_>) {
        self.scratch_values = self.scratch_values.max(op.scratch(self.threads));
        // What is run before any program begins is no part of one.
        let Some(now) = self.programs.get_mut(self.current) else { return };
        op.each_product(&mut |product| {
            let products = product.multiply_adds();
            now.multiply_adds = now.multiply_adds.saturating_add(products);
            let rows = product.size[0].max(1) as f64;
            now.cost += products as f64 * (1.0 + product.weight.map_or(PLAIN, conversion) / rows);
        });
        if let Some((shape, products)) = op.attention() {
            let products = attended(shape, products);
            now.multiply_adds = now.multiply_adds.saturating_add(products);
            // Attention multiplies in full precision, in small tiles.
            now.cost += 3.0 * products as f64;
        }
    }
}
