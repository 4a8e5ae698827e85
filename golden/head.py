#!/usr/bin/env python3
"""Writes golden/head/FAMILY: adapters of PEFT on the head and on embeddings beside the blocks' layers, on the golden
models, and the gradients that PyTorch gives.

    python golden/head.py            # rewrites them
    python golden/head.py --check    # recomputes and compares with what is committed

Models and rows are those of golden/FAMILY; everything random comes from fixed seeds. Float32 is the stock model under
PEFT, float64 as in generate.py, where gradients are held against differences.
"""

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from generate import HERE, in_both_precisions, normal, save_tensors

# A tied table; a head of its own; a tied table whose rows are scaled; nothing but the head; nothing but embeddings.
TARGETS = {
    "qwen2": ["q_proj", "v_proj", "down_proj", "lm_head", "embed_tokens"],
    "llama": ["q_proj", "v_proj", "down_proj", "lm_head", "embed_tokens"],
    "gemma3_text": ["o_proj", "lm_head", "embed_tokens"],
    "mistral": ["lm_head"],
    "smollm3": ["embed_tokens"],
}


def base(family):
    path = HERE / family / "model"
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


def make_adapter(family, directory):
    generator = torch.Generator().manual_seed(83 + list(TARGETS).index(family))
    targets = TARGETS[family]
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM", use_rslora=family == "llama",
        rank_pattern={"lm_head": 5} if "lm_head" in targets else {},
        alpha_pattern={"embed_tokens": 2} if "embed_tokens" in targets else {},
    )
    model = get_peft_model(base(family), config)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_embedding_B" in name or "lora_B" in name:
                parameter.copy_(normal(generator, parameter.shape, 0.3))
            elif "lora_embedding_A" in name:
                parameter.copy_(normal(generator, parameter.shape, 0.5))
            elif "lora_A" in name:
                parameter.copy_(normal(generator, parameter.shape, 1.0 / math.sqrt(parameter.shape[1])))
    model.peft_config["default"].base_model_name_or_path = f"golden/{family}/model"
    # With the base's own tables beside the adapters of them, as PEFT does it unless told otherwise.
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"] = [t for t in targets if t in saved["target_modules"]]
    path.write_text(json.dumps(saved, indent=2, sort_keys=True))


def make(family, directory):
    make_adapter(family, directory)
    rows = [json.loads(line) for line in (HERE / family / "rows.jsonl").read_text().splitlines()]
    model = PeftModel.from_pretrained(base(family), directory, is_trainable=True).eval()
    single, double, count, apart = in_both_precisions(model, family, rows, seed=5)
    for stem, (loss, grads) in (("grads", single), ("grads_f64", double)):
        # As PEFT saves them: an embedding's matrices are parameters without a layer's name.
        tensors = {n.removesuffix(".default"): g.float().contiguous() for n, g in sorted(grads.items())}
        save_tensors(directory / f"{stem}.safetensors", tensors, {"loss": repr(loss), "target_tokens": str(count)})
    print(f"{family}: targets {count}, loss {double[0]:.6f}, {apart}")


def main():
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        for family in TARGETS:
            directory = Path(scratch) / family
            directory.mkdir()
            make(family, directory)
            committed = HERE / "head" / family
            if "--check" in sys.argv:
                for path in sorted(directory.iterdir()):
                    if path.read_bytes() != (committed / path.name).read_bytes():
                        print(f"differs: {committed / path.name}")
                        different += 1
            else:
                shutil.rmtree(committed, ignore_errors=True)
                shutil.copytree(directory, committed)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
