//! A backend that computes nothing and records what would live when, and how much would be multiplied.

use mesp_kernels::{AdamW, Dropout, Dtype, Gate, Noise, RowStat, Sgd, attention_scratch, matmul_scratch};

use crate::act::PERSISTENT;
use crate::plan::{ALIGN, Entry, MOST, ProgramPlan, TooLarge, padded};
use crate::{
    Act, Attention, Backend, Elem, Form, Label, Mark, Plan, Probs, Program, Rope, View, ViewMut, Weight,
};

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

    fn scratch(&mut self, values: usize) {
        self.scratch_values = self.scratch_values.max(values);
    }

    fn multiplied(&mut self, m: usize, n: usize, k: usize, conversion: f64) {
        self.scratch(matmul_scratch(self.threads));
        let products = (m as u64).saturating_mul(n as u64).saturating_mul(k as u64);
        let now = self.now();
        now.multiply_adds = now.multiply_adds.saturating_add(products);
        self.now().cost += products as f64 * (1.0 + conversion / m.max(1) as f64);
    }

    /// `products` of scores' size for every query and the keys it sees.
    fn attended(&mut self, shape: Attention<'_>, products: u64) {
        self.scratch(attention_scratch(self.threads, shape.head_dim, shape.key_tile));
        let cols = (shape.heads as u64).saturating_mul(shape.head_dim as u64);
        let products = products.saturating_mul(attention_pairs(shape)).saturating_mul(cols);
        let now = self.now();
        now.multiply_adds = now.multiply_adds.saturating_add(products);
        // Attention multiplies in full precision, in small tiles.
        self.now().cost += 3.0 * products as f64;
    }
}

/// Queries and the keys they see, counted in pairs.
pub(crate) fn attention_pairs(shape: Attention<'_>) -> u64 {
    let sequences = shape.queries.windows(2).zip(shape.keys.windows(2));
    // Of the first `keys` positions of a sequence, each with the keys in its window.
    let seen = |keys: usize| {
        let short = keys.min(shape.window) as u64;
        short * (short + 1) / 2 + (keys as u64 - short) * short
    };
    sequences.map(|(q, k)| seen(k[1] - k[0]) - seen(k[1] - k[0] - (q[1] - q[0]))).sum()
}

/// Rows of a product whose multiplications take as long as reading and converting its weight.
const PLAIN: f64 = 40.0;
const QUANTIZED: f64 = 90.0;

fn conversion(w: &Weight) -> f64 {
    if matches!(w.dtype(), Dtype::F32 | Dtype::F16 | Dtype::Bf16) { PLAIN } else { QUANTIZED }
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
        Act { owner: 0, entry, at: 0, rows, cols, elem: elem.on(self.value_bytes) }
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
        Act { owner: 0, entry: now.next as u32 - 1, at: 0, rows, cols, elem }
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
    fn zero(&mut self, _: ViewMut<'_>) {}
    fn copy(&mut self, _: ViewMut<'_>, _: View<'_>) {}
    fn add_bias(&mut self, _: ViewMut<'_>, _: &[f32]) {}
    fn bias_grad(&mut self, _: ViewMut<'_>, _: View<'_>) {}
    fn scale(&mut self, _: ViewMut<'_>, _: f64) {}
    fn sum_of_squares(&mut self, _: View<'_>) -> f64 {
        0.0
    }
    fn dot(&mut self, _: View<'_>, _: View<'_>) -> f64 {
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
    fn load_weight(&mut self, _: ViewMut<'_>, _: &Weight) {}
    fn embedding(&mut self, _: ViewMut<'_>, _: &Weight, _: &[u32]) {}
    fn gather_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn scatter_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn scatter_add_rows(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[u32]) {}
    fn rms_norm(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_add(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_backward(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_backward_in_place(&mut self, _: ViewMut<'_>, _: View<'_>, _: &[f32], _: f64) {}
    fn rms_norm_weight_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: f64) {}
    fn rms_norm_tangent(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: &[f32], _: f64, _: bool) {}
    fn rope(&mut self, _: ViewMut<'_>, _: &[u32], _: &Rope, _: bool) {}

    fn linear(&mut self, y: ViewMut<'_>, x: View<'_>, w: &Weight, _: Option<&[f32]>, _: bool) {
        self.multiplied(y.rows, y.cols, x.cols, conversion(w));
        self.scratch(matmul_scratch(self.threads) + w.tile());
    }
    fn input_grad(&mut self, dx: ViewMut<'_>, dy: View<'_>, w: &Weight, _: bool) {
        self.multiplied(dx.rows, dx.cols, dy.cols, conversion(w));
    }
    fn product(&mut self, y: ViewMut<'_>, form: Form, a: View<'_>, _: View<'_>, _: f64, _: bool) {
        let depth = if form == Form::LeftTransposed { a.rows } else { a.cols };
        self.multiplied(y.rows, y.cols, depth, PLAIN);
    }
    fn dropout(&mut self, _: ViewMut<'_>, _: View<'_>, _: Dropout, _: usize, _: bool) {}
    fn row_squares(&mut self, _: ViewMut<'_>, _: &Weight) {}
    fn dora_gains(
        &mut self,
        _: (ViewMut<'_>, ViewMut<'_>),
        _: (View<'_>, View<'_>),
        _: View<'_>,
        _: (View<'_>, View<'_>),
        _: f64,
    ) {
    }
    fn dora_gain(&mut self, _: ViewMut<'_>, _: View<'_>, _: Option<&[f32]>) {}
    fn dora_gain_add(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: Option<&[f32]>) {}
    fn dora_magnitude_grad(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>, _: View<'_>) {}
    fn gated_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: View<'_>) {}
    fn gated_tangent_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2]) {}
    fn gated_backward_in_place(&mut self, _: Gate, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>) {}

    fn attention(&mut self, _: ViewMut<'_>, _: ViewMut<'_>, _: [View<'_>; 3], shape: Attention<'_>) {
        self.attended(shape, 2);
    }
    fn attention_probs(&mut self, _: ViewMut<'_>, _: View<'_>, _: [View<'_>; 2], shape: Attention<'_>) {
        self.attended(shape, 1);
    }
    fn attention_tangent(
        &mut self,
        _: ViewMut<'_>,
        _: [View<'_>; 2],
        _: [View<'_>; 3],
        _: [View<'_>; 3],
        shape: Attention<'_>,
    ) {
        self.attended(shape, 5);
    }
    fn attention_delta(&mut self, _: ViewMut<'_>, _: View<'_>, _: View<'_>) {}
    fn attention_backward_q(
        &mut self,
        _: ViewMut<'_>,
        _: View<'_>,
        _: [View<'_>; 3],
        _: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    ) {
        self.attended(shape, if matches!(probs, Probs::Rebuild) { 3 } else { 2 });
    }
    fn attention_backward_kv(
        &mut self,
        _: ViewMut<'_>,
        _: ViewMut<'_>,
        _: View<'_>,
        _: [View<'_>; 3],
        _: [View<'_>; 2],
        probs: Probs<'_>,
        shape: Attention<'_>,
    ) {
        self.attended(shape, if matches!(probs, Probs::Rebuild) { 4 } else { 3 });
    }
    fn softmax_stats(&mut self, _: View<'_>, _: &[u32], _: usize, _: &mut [RowStat]) {}
    fn softmax_gradient(&mut self, _: ViewMut<'_>, _: &[u32], _: usize, _: f64, _: &[RowStat]) {}
    fn softmax_sum(
        &mut self,
        sum: ViewMut<'_>,
        _: ViewMut<'_>,
        _: &[u32],
        _: usize,
        _: &mut [RowStat],
        words: &Weight,
    ) {
        self.multiplied(sum.rows, sum.cols, words.rows(), conversion(words));
    }
    fn softmax_sum_gradient(&mut self, _: ViewMut<'_>, _: View<'_>, _: f64, _: &[RowStat]) {}
    fn sgd(&mut self, _: ViewMut<'_>, _: Option<ViewMut<'_>>, _: View<'_>, _: Sgd, _: u64) {}
    fn adamw(&mut self, _: ViewMut<'_>, _: ViewMut<'_>, _: ViewMut<'_>, _: View<'_>, _: AdamW, _: u64) {}
    fn perturb(&mut self, _: ViewMut<'_>, _: View<'_>, _: [f64; 2], _: Noise) {}
    fn drift(&mut self, _: ViewMut<'_>, _: f64, _: f64, _: Noise) {}
}
