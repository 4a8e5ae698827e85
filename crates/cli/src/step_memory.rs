//! The memory of one training step over time, from the plan itself: every buffer from its birth to its death.

use mesp::tape::Site;
use mesp_device::{Class, Plan};
use serde::Serialize;

/// Columns at most.
const COLUMNS: usize = 160;

/// From the ground up: what lives throughout, then what comes and goes.
const CLASSES: [Class; 8] = [
    Class::Trained,
    Class::Adapter,
    Class::Gradient,
    Class::Optimizer,
    Class::Scratch,
    Class::Checkpoint,
    Class::WithinBlock,
    Class::Head,
];

/// See `docs/metrics.md`.
#[derive(Debug, Serialize)]
pub(crate) struct StepMemory {
    classes: Vec<&'static str>,
    columns: Vec<Vec<u64>>,
    moments: usize,
    peak_bytes: u64,
    peak_column: usize,
    phases: Vec<Part>,
    blocks: Vec<BlockPart>,
    alive_at_peak: Vec<Alive>,
}

#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    from: usize,
    to: usize,
}

#[derive(Debug, Serialize)]
struct BlockPart {
    block: usize,
    phase: &'static str,
    from: usize,
    to: usize,
}

#[derive(Debug, Serialize)]
struct Alive {
    class: &'static str,
    name: &'static str,
    bytes: u64,
}

impl StepMemory {
    /// Nothing, once it is written.
    pub(crate) fn forget(&mut self) {
        (self.columns, self.blocks, self.alive_at_peak) = (Vec::new(), Vec::new(), Vec::new());
    }

    /// The course of the plan's first program, a training step of the largest batch.
    pub(crate) fn of(plan: &Plan, layers: usize) -> Self {
        let layer = |class: Class| CLASSES.iter().position(|c| *c == class).unwrap_or(CLASSES.len() - 2);
        let mut now = [0i64; CLASSES.len()];
        now[layer(Class::Scratch)] = plan.scratch_bytes as i64;
        for entry in &plan.persistent {
            now[layer(entry.label.class)] += entry.bytes as i64;
        }
        let entries = plan.programs.first().map_or(&[][..], |p| &p.entries);
        // Deaths come before births; a buffer that is not freed ends with the step.
        let mut changes: Vec<(u32, i64, usize)> = Vec::with_capacity(2 * entries.len());
        for e in entries {
            changes.push((e.birth, e.bytes as i64, layer(e.label.class)));
            if e.death != u32::MAX {
                changes.push((e.death, -(e.bytes as i64), layer(e.label.class)));
            }
        }
        changes.sort_unstable();
        let moments = changes.last().map_or(1, |c| c.0 as usize + 1);
        let count = moments.min(COLUMNS);
        let column = |time: u32| time as usize * count / moments;
        let mut columns = Vec::with_capacity(count);
        let mut next = 0;
        let (mut peak_bytes, mut peak_column) = (0, 0);
        let sum = |at: &[i64; CLASSES.len()]| at.iter().sum::<i64>();
        for i in 0..count {
            // What is alive when the column begins counts in it too.
            let mut fullest = now;
            while let Some((time, bytes, layer)) = changes.get(next).filter(|c| column(c.0) <= i) {
                now[*layer] += bytes;
                next += 1;
                let settled = changes.get(next).is_none_or(|c| c.0 != *time);
                if settled && sum(&now) > sum(&fullest) {
                    fullest = now;
                }
            }
            if sum(&fullest) > peak_bytes {
                (peak_bytes, peak_column) = (sum(&fullest), i);
            }
            columns.push(fullest);
        }
        // A class that has nothing is left out.
        let used: Vec<usize> = (0..CLASSES.len()).filter(|c| columns.iter().any(|x| x[*c] != 0)).collect();
        let (phases, blocks) = parts(plan, layers, &column, count.saturating_sub(1));
        let mut alive: Vec<Alive> = plan
            .programs
            .first()
            .map(mesp_device::ProgramPlan::at_peak)
            .unwrap_or_default()
            .into_iter()
            .map(|(l, bytes)| Alive { class: l.class.name(), name: l.name, bytes: bytes as u64 })
            .collect();
        alive.sort_by_key(|a| std::cmp::Reverse(a.bytes));
        Self {
            classes: used.iter().map(|c| CLASSES[*c].name()).collect(),
            columns: columns.iter().map(|x| used.iter().map(|c| x[*c] as u64).collect()).collect(),
            moments,
            peak_bytes: peak_bytes as u64,
            peak_column,
            phases,
            blocks,
            alive_at_peak: alive,
        }
    }
}

/// Where the forward pass, the head and the backward pass are, and each block in them. A block's rules begin with
/// its norm, which each of its runs makes once; the head is where its buffers are.
fn parts(
    plan: &Plan,
    layers: usize,
    column: &dyn Fn(u32) -> usize,
    last: usize,
) -> (Vec<Part>, Vec<BlockPart>) {
    let entries = plan.programs.first().map_or(&[][..], |p| &p.entries);
    let head = || entries.iter().filter(|e| e.label.class == Class::Head);
    let Some(begin) = head().map(|e| e.birth).min() else { return (Vec::new(), Vec::new()) };
    let end = head().filter(|e| e.death != u32::MAX).map(|e| e.death).max().unwrap_or(begin);
    let (from, to) = (column(begin), column(end));
    let phase = |name, from, to: usize| Part { name, from, to: to.min(last) };
    let phases = vec![phase("forward", 0, from), phase("head", from, to), phase("backward", to, last)];
    let births = || entries.iter().filter(|e| e.label.name == Site::AttnNorm.name()).map(|e| e.birth);
    let starts: Vec<u32> = births().filter(|t| *t < begin).collect();
    let mut blocks = Vec::new();
    for (block, start) in starts.iter().enumerate().take(layers) {
        let until = starts.get(block + 1).map_or(from, |t| column(*t));
        blocks.push(BlockPart { block, phase: "forward", from: column(*start), to: until });
    }
    // A block whose forward is kept is not run again: those that are run again are the first so many.
    let replayed: Vec<u32> = births().filter(|t| *t >= end).collect();
    let kept = layers.saturating_sub(replayed.len());
    let until = replayed.first().map_or(last, |t| column(*t));
    if let Some(width) = until.saturating_sub(to).checked_div(kept) {
        for i in 0..kept {
            let from = to + i * width;
            blocks.push(BlockPart { block: layers - 1 - i, phase: "backward", from, to: from + width });
        }
    }
    for (i, start) in replayed.iter().enumerate().take(layers) {
        let until = replayed.get(i + 1).map_or(last, |t| column(*t));
        let block = layers - 1 - kept - i;
        blocks.push(BlockPart { block, phase: "backward", from: column(*start), to: until });
    }
    (phases, blocks)
}
