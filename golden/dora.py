#!/usr/bin/env python3
"""Writes golden/dora/FAMILY: DoRA adapters made by PEFT on the golden models, and the gradients that PyTorch gives.

    python golden/dora.py            # rewrites them
    python golden/dora.py --check    # recomputes and compares with what is committed

Models and rows are those of golden/FAMILY; everything random comes from fixed seeds. Float32 is the stock model under
PEFT, float64 as in generate.py. PEFT takes the norms of the adapted rows for constants, so its gradients are not the
loss's: there is nothing to hold against differences here.
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

from generate import ARCHES, HERE, TARGETS, in_both_precisions, normal, save_tensors

# Biases and tied tables; another order of rows in GGUF; norms behind the layers; fused layers.
FAMILIES = ["qwen2", "llama", "gemma3_text", "phi3"]


def base(family):
    path = HERE / family / "model"
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


def make_adapter(family, directory):
    generator = torch.Generator().manual_seed(71 + FAMILIES.index(family))
    targets = ARCHES[family].get("targets", TARGETS)
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, use_dora=True, task_type="CAUSAL_LM",
        rank_pattern={"down_proj": 5}, use_rslora=family == "llama",
    )
    model = get_peft_model(base(family), config)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name:
                parameter.copy_(normal(generator, parameter.shape, 1.0 / math.sqrt(parameter.shape[1])))
            elif "lora_B" in name:
                parameter.copy_(normal(generator, parameter.shape, 0.2))
            elif "lora_magnitude_vector" in name:
                # Away from the norms, which they begin at.
                parameter.mul_(1 + normal(generator, parameter.shape, 0.2))
    model.peft_config["default"].base_model_name_or_path = f"golden/{family}/model"
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"] = [t for t in targets if t in saved["target_modules"]]
    path.write_text(json.dumps(saved, indent=2, sort_keys=True))


def make(family, directory):
    make_adapter(family, directory)
    rows = [json.loads(line) for line in (HERE / family / "rows.jsonl").read_text().splitlines()]
    model = PeftModel.from_pretrained(base(family), directory, is_trainable=True).eval()
    single, double, count, apart = in_both_precisions(model, family, rows)
    for stem, (loss, grads) in (("grads", single), ("grads_f64", double)):
        # As PEFT saves them: a magnitude is a parameter without a layer's name.
        tensors = {n.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector"): g for n, g in grads.items()}
        tensors = {n: g.float().contiguous() for n, g in sorted(tensors.items())}
        save_tensors(directory / f"{stem}.safetensors", tensors, {"loss": repr(loss), "target_tokens": str(count)})
    print(f"{family}: targets {count}, loss {double[0]:.6f}, {apart}")


def main():
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            directory = Path(scratch) / family
            directory.mkdir()
            make(family, directory)
            committed = HERE / "dora" / family
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
