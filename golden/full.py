#!/usr/bin/env python3
"""Writes golden/full/FAMILY.safetensors: the gradients of all weights of the golden models, as PyTorch gives them.

    python golden/full.py            # rewrites them
    python golden/full.py --check    # recomputes and compares with what is committed

Models and rows are those of golden/FAMILY, without an adapter. Names and shapes are the checkpoint's: a tied table is
there once, with the sum of both its uses. Float32 is the stock model; the script holds it against float64, and float64
against differences, as generate.py does, and stores float32.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from generate import ARCHES, HERE, in_both_precisions, save_tensors


def make(family, path):
    rows = [json.loads(line) for line in (HERE / family / "rows.jsonl").read_text().splitlines()]
    base = HERE / family / "model"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(True)
    (loss, grads), _, count, apart = in_both_precisions(model, family, rows, seed=7)
    tensors = {n: g.float().contiguous() for n, g in sorted(grads.items())}
    save_tensors(path, tensors, {"loss": repr(loss), "target_tokens": str(count)})
    print(f"{family}: {len(tensors)} tensors, {apart}")


def main():
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        for family in ARCHES:
            path = Path(scratch) / f"{family}.safetensors"
            make(family, path)
            committed = HERE / "full" / path.name
            if "--check" not in sys.argv:
                committed.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, committed)
            elif path.read_bytes() != committed.read_bytes():
                print(f"differs: {committed}")
                different += 1
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
