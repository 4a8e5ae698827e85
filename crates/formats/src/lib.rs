//! Files: safetensors, Hugging Face directories, PEFT adapters, atomic writes.
