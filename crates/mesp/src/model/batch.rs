//! A micro-batch as the engine reads it.

use crate::preference::PreferenceLabel;

/// Several sequences back to back, never padded.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Place of each row in its sequence.
    pub positions: Vec<u32>,
    /// Where each sequence begins, and the end.
    pub offsets: Vec<usize>,
    /// Rows that are trained, in order.
    pub target_rows: Vec<u32>,
    /// What each of them should predict.
    pub target_labels: Vec<u32>,
    /// By what the loss of each of them is multiplied; nothing where that is 1 for all.
    pub target_weights: Vec<f32>,
    /// What each sequence is to a preference loss; nothing for others.
    pub preferences: Vec<PreferenceLabel>,
    /// Values per head of attention's probabilities, Σ length²; a plan's batch carries the largest.
    pub probs: usize,
}

impl Batch {
    /// Replaces the content. `targets[t]` is what row `t` should predict, or negative when it is not trained.
    /// Allocates only when a batch is larger than every one before.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn fill(&mut self, tokens: &[u32], targets: &[i32], offsets: &[usize]) {
        assert!(tokens.len() == targets.len() && offsets.last() == Some(&tokens.len()), "a batch's lengths");
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.offsets.clear();
        self.offsets.extend_from_slice(offsets);
        self.positions.clear();
        for w in offsets.windows(2) {
            self.positions.extend((0..w[1] - w[0]).map(|p| p as u32));
        }
        self.target_rows.clear();
        self.target_labels.clear();
        self.target_weights.clear();
        self.preferences.clear();
        for (row, target) in targets.iter().enumerate() {
            if let Ok(label) = u32::try_from(*target) {
                self.target_rows.push(row as u32);
                self.target_labels.push(label);
            }
        }
        self.probs = mesp_device::probs_len(offsets);
    }

    /// A batch for planning: as large in each respect as the largest of several.
    pub fn for_plan(rows: usize, targets: usize, probs: usize, offsets: &[usize]) -> Self {
        Self {
            tokens: vec![0; rows],
            positions: vec![0; rows],
            offsets: offsets.to_vec(),
            target_rows: (0..targets as u32).collect(),
            target_labels: vec![0; targets],
            target_weights: Vec::new(),
            preferences: Vec::new(),
            probs,
        }
    }

    /// Says what each sequence is to a preference loss, after [`Batch::fill`].
    ///
    /// # Panics
    /// When there are not as many as sequences.
    pub fn set_preferences(&mut self, labels: &[PreferenceLabel]) {
        assert_eq!(labels.len() + 1, self.offsets.len(), "one for each sequence");
        self.preferences.extend_from_slice(labels);
    }

    /// Trained rows of each sequence, as a range of those of the batch.
    pub fn targets_by_sequence(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut next = 0;
        self.offsets.iter().skip(1).map(move |end| {
            let first = next;
            next += self.target_rows[first..].partition_point(|row| (*row as usize) < *end);
            first..next
        })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Trained rows.
    pub fn targets(&self) -> usize {
        self.target_rows.len()
    }

    /// Bytes of memory that it holds.
    pub fn heap_bytes(&self) -> usize {
        4 * (self.tokens.capacity() + self.positions.capacity())
            + 4 * (self.target_rows.capacity()
                + self.target_labels.capacity()
                + self.target_weights.capacity())
            + 8 * self.offsets.capacity()
            + size_of::<PreferenceLabel>() * self.preferences.capacity()
    }
}
