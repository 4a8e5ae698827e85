//! Memory-efficient structured backpropagation: exact LoRA fine-tuning in a planned amount of memory.
