//! Lines of `metrics.jsonl` that the program adds to the library's events. `docs/metrics.md` has the fields.

use mesp::memory::MemoryPlan;
use mesp::train::Event;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::memory::Marks;
use crate::run_json::ledger_json;
use crate::step_memory::StepMemory;

/// `run`, with what the library does not know.
#[derive(Serialize)]
pub(crate) struct RunLine<'a> {
    #[serde(flatten)]
    pub(crate) event: &'a Event,
    pub(crate) time: f64,
    pub(crate) mesp: &'static str,
    pub(crate) settings: &'a Map<String, Value>,
    pub(crate) data: &'a Value,
}

/// `train`, with the running mean and the marks.
#[derive(Serialize)]
pub(crate) struct TrainLine<'a> {
    #[serde(flatten)]
    pub(crate) event: &'a Event,
    pub(crate) loss_mean: f64,
    pub(crate) heap_peak_bytes: u64,
    pub(crate) rss_anon_peak_bytes: Option<u64>,
    pub(crate) rss_peak_bytes: Option<u64>,
}

/// `plan`.
#[derive(Serialize)]
pub(crate) struct PlanLine {
    #[serde(rename = "type")]
    kind: &'static str,
    pub(crate) step: usize,
    method: String,
    policy: Value,
    planned_bytes: u64,
    anonymous_planned_bytes: Option<u64>,
    budget_bytes: Option<u64>,
    base_mapped_bytes: u64,
    pub(crate) ledger: Map<String, Value>,
    pub(crate) timeline: StepMemory,
}

impl PlanLine {
    pub(crate) fn new(
        footprint: &MemoryPlan,
        method: String,
        policy: Value,
        budget: Option<u64>,
        layers: usize,
    ) -> Self {
        Self {
            kind: "plan",
            step: 0,
            method,
            policy,
            planned_bytes: footprint.planned(),
            anonymous_planned_bytes: footprint.anonymous,
            budget_bytes: budget,
            base_mapped_bytes: footprint.mapped,
            ledger: ledger_json(footprint),
            timeline: StepMemory::of(&footprint.plan, layers),
        }
    }
}

/// `memory`.
#[derive(Serialize)]
pub(crate) struct MemoryLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    step: usize,
    planned_bytes: u64,
    budget_bytes: Option<u64>,
    heap_peak_bytes: u64,
    heap_training_peak_bytes: u64,
    rss_anon_bytes: Option<u64>,
    rss_anon_peak_bytes: Option<u64>,
    rss_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<&'a Map<String, Value>>,
}

impl<'a> MemoryLine<'a> {
    pub(crate) fn new(
        step: usize,
        marks: Marks,
        (planned_bytes, budget_bytes): (u64, Option<u64>),
        ledger: Option<&'a Map<String, Value>>,
    ) -> Self {
        Self {
            kind: "memory",
            step,
            planned_bytes,
            budget_bytes,
            heap_peak_bytes: marks.heap,
            heap_training_peak_bytes: marks.heap_training,
            rss_anon_bytes: marks.rss_anonymous_now,
            rss_anon_peak_bytes: marks.rss_anonymous,
            rss_peak_bytes: marks.rss,
            ledger,
        }
    }
}

/// A row as it is trained.
#[derive(Serialize)]
pub(crate) struct SampleLine {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) step: usize,
    pub(crate) row: String,
    pub(crate) tokens: Vec<SampleToken>,
    pub(crate) total_tokens: usize,
    pub(crate) cut: bool,
}

/// A token of it.
#[derive(Serialize)]
pub(crate) struct SampleToken {
    pub(crate) id: u32,
    pub(crate) text: Option<String>,
    pub(crate) trained: bool,
}

/// What the model says.
#[derive(Serialize)]
pub(crate) struct GenerationLine<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) step: usize,
    pub(crate) when: &'static str,
    pub(crate) prompt: &'a str,
    pub(crate) text: &'a str,
    pub(crate) tokens: usize,
}
