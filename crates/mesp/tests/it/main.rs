//! The whole engine: gradients against differences and PyTorch, policies against each other, memory against
//! its plan.

mod accumulation_equals_batch;
mod activations_bf16;
mod adapter_kinds;
mod adapters_bf16;
mod checkpoints;
mod counting;
mod dora;
mod dropout;
mod forward;
mod full_gradients;
mod gguf;
mod goldens;
mod gradients_f64;
mod greedy;
mod head;
mod head_tiles;
mod imports;
mod lcsb;
mod merge;
mod merge_identity;
mod nan_loss;
mod objective;
mod peak_equals_plan;
mod peft_round_trip;
mod per_block_equals_accumulate;
mod policies_agree;
mod real_model;
mod residency;
mod support;
mod ten_losses;
mod threads_agree;
mod weights;
mod whole;
mod zeroth;
