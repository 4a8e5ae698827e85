//! The whole engine: gradients against PyTorch, policies against each other, memory against its plan.

mod goldens;
mod support;
