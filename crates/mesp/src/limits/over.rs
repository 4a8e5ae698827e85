//! Why a run does not fit, in bytes.

use std::fmt;

use mesp_device::Class;

use super::{ByteSize, Room};

/// The limit that a run exceeds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The memory budget of the run.
    Budget(ByteSize),
    /// What the system has free.
    System(Room),
}

impl Limit {
    /// The limit in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Budget(ByteSize(bytes)) | Self::System(Room { bytes, .. }) => bytes,
        }
    }
}

/// A setting that saves memory and changes the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saving {
    /// Per-block updates: each block is stepped as soon as its gradients are finished.
    PerBlock,
    /// An optimizer without state: SGD without momentum.
    Sgd,
    /// Activation checkpoints (the blocks' inputs) in bf16.
    Bf16Checkpoints,
    /// Other activations inside blocks in bf16.
    Bf16Activations,
}

impl Saving {
    /// The setting's name and the value that saves memory.
    pub const fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::PerBlock => ("update", "per-block"),
            Self::Sgd => ("optimizer", "sgd"),
            Self::Bf16Checkpoints => ("checkpoints", "bf16"),
            Self::Bf16Activations => ("activations", "bf16"),
        }
    }
}

/// A run that does not fit: the bytes that it needs, the bytes that it may use, and the smallest budgets that would do.
/// Every budget that is named was planned and fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    /// `run`: the figures are the anonymous memory of the process; `plan`: they are what the engine allocates.
    pub what: &'static str,
    /// Bytes needed.
    pub needs: u64,
    /// Bytes allowed.
    pub limit: Limit,
    /// The largest classes of the plan in bytes, largest first; empty if only the arena's size is known.
    pub largest: Vec<(Class, u64)>,
    /// The requested method, if one was requested.
    pub method: Option<String>,
    /// The smallest budget with that method, in bytes.
    pub least_with_method: Option<u64>,
    /// The smallest budget with any policy that gives the same result, in bytes.
    pub least: Option<u64>,
    /// Smaller budgets in bytes, each with the settings that it needs, which change the result.
    pub others: Vec<(Vec<Saving>, u64)>,
}

impl OverBudget {
    /// An arena that the system has no room for.
    pub(crate) fn arena(needs: u64, room: Room) -> Self {
        Self {
            what: "plan",
            needs,
            limit: Limit::System(room),
            largest: Vec::new(),
            method: None,
            least_with_method: None,
            least: None,
            others: Vec::new(),
        }
    }

    /// Whether even the smallest budget with the same result exceeds the limit.
    pub fn is_beyond(&self) -> bool {
        self.least
            .into_iter()
            .chain(self.least_with_method)
            .min()
            .is_none_or(|least| least > self.limit.bytes())
    }
}

/// `1000 bytes (1.00 kB)`.
fn sized(n: u64) -> String {
    format!("{n} bytes ({})", ByteSize(n))
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needs, limit, largest, method, least_with_method, least, others } = self;
        let with = method.as_ref().map_or_else(String::new, |method| format!(" with ‘method’ {method}"));
        write!(f, "the {what} needs {}{with}, ", sized(*needs))?;
        match limit {
            Limit::Budget(budget) => write!(f, "the memory budget is {}", sized(budget.0))?,
            Limit::System(room) => write!(f, "the system gives {room}")?,
        }
        if !largest.is_empty() {
            let items: Vec<_> =
                largest.iter().map(|(c, n)| format!("{} {}", c.name(), ByteSize(*n))).collect();
            write!(f, "\n  its largest items: {}", items.join(", "))?;
        }
        if let Some(least) = least_with_method {
            write!(f, "\n  the smallest budget that would do is {} with this method", sized(*least))?;
        }
        match (least, least_with_method) {
            (Some(any), None) => write!(f, "\n  the smallest budget that would do is {}", sized(*any))?,
            (Some(any), Some(with_method)) if any < with_method => {
                write!(f, ", and {} with ‘method’ auto, without ‘mlp_rows’ and ‘head_rows’", sized(*any))?;
            }
            _ => {}
        }
        if !others.is_empty() {
            let how = if method.is_some() { ", with ‘method’ auto" } else { "" };
            let named = |savings: &[Saving]| {
                let each = savings.iter().map(|saving| {
                    let (setting, value) = saving.setting();
                    format!("‘{setting}’ {value}")
                });
                each.collect::<Vec<_>>().join(" ")
            };
            let list: Vec<_> =
                others.iter().map(|(savings, n)| format!("{} {}", named(savings), ByteSize(*n))).collect();
            write!(f, "\n  other results in less{how}: {}", list.join(", "))?;
        }
        if largest.is_empty() {
            f.write_str("\n  lower what it grows with: ‘rank’, ‘max_seq_len’, ‘batch_size’, ‘max_tokens’")?;
        } else if self.is_beyond() {
            f.write_str("\n  shorter rows (‘max_seq_len’) and a lower ‘rank’ need less too")?;
        }
        Ok(())
    }
}

impl std::error::Error for OverBudget {}
