#!/usr/bin/env python3
"""Gradients in bf16 against float64: PEFT's and ours, on the same models.

    python golden/bf16.py target/release/mesp            # writes results/bf16-gradients.json, prints a table

The models of golden/FAMILY with their weights rounded to bf16, which is then exact for all, their adapters (A and B
both random) and rows. The reference is float64 throughout (`make_exact` of generate.py). Beside it:

* ours: `mesp grads --compute bf16`, and with `--activations bf16` and `--checkpoints bf16` too;
* PEFT as it comes: the model in bf16, adapters that PEFT makes float32 by default, stock attention;
* PEFT with adapters in bf16 too.

The error is |g - reference| / |reference| over all adapter gradients of a model, in the Euclidean norm.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import generate
import torch
import transformers
from peft import PeftModel, __version__ as peft_version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent


def peft_gradients(model_dir, adapter, rows, dtype, attention=None, autocast=True, exact=False):
    options = {"attn_implementation": attention} if attention else {}
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, **options)
    config = model.config
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True, autocast_adapter_dtype=autocast)
    model.eval()
    if exact:
        generate.make_exact(model, config)
        with generate.eager_in_double(config.model_type):
            return generate.gradients(model, rows)[2]
    if not autocast:
        for p in model.parameters():
            p.data = p.data.to(dtype)

    # As the library's loss does: logits of a model in bf16 become float32 first.
    def forward(input_ids):
        out = model(input_ids=input_ids)
        out.logits = out.logits.float()
        return out

    forward.zero_grad, forward.named_parameters = model.zero_grad, model.named_parameters
    return generate.gradients(forward, rows)[2]


def our_gradients(mesp, model_dir, adapter, rows, *options):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "grads.safetensors"
        command = [mesp, "grads", "--model", model_dir, "--adapter", adapter, "--data", rows]
        command += ["--output", out, *options]
        subprocess.run([str(c) for c in command], check=True, capture_output=True)
        return load_file(out)


def error(found, reference):
    assert found.keys() == reference.keys(), "gradients of other tensors"
    off = sum(((found[n].double() - r) ** 2).sum() for n, r in reference.items())
    return (off / sum((r**2).sum() for r in reference.values())).sqrt().item()


def main():
    mesp = Path(sys.argv[1]).resolve()
    table = {}
    for family in generate.ARCHES:
        golden = HERE / family
        rows = [json.loads(line) for line in (golden / "rows.jsonl").read_text().splitlines()]
        with tempfile.TemporaryDirectory() as folder:
            AutoModelForCausalLM.from_pretrained(golden / "model", dtype=torch.bfloat16).save_pretrained(folder)
            adapter, data = golden / "adapter", golden / "rows.jsonl"
            reference = peft_gradients(folder, adapter, rows, torch.float32, "eager", exact=True)
            # The two programs compute the same thing, or their errors would say nothing of bf16.
            ours = our_gradients(mesp, folder, adapter, data, "--compute", "f64")
            assert error(ours, reference) < 1e-6, f"{family}: in float64 we differ by {error(ours, reference)}"
            bf16 = torch.bfloat16
            found = {
                "ours": our_gradients(mesp, folder, adapter, data, "--compute", "bf16"),
                "ours_stored_in_bf16": our_gradients(
                    mesp, folder, adapter, data, *"--compute bf16 --activations bf16 --checkpoints bf16".split()
                ),
                "peft": peft_gradients(folder, adapter, rows, bf16),
                "peft_adapters_in_bf16": peft_gradients(folder, adapter, rows, bf16, autocast=False),
            }
        table[family] = {name: float(f"{error(g, reference):.3g}") for name, g in found.items()}
        print(family, table[family], flush=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft_version}
    what = "|g - reference| / |reference| over all adapter gradients, the reference in float64"
    result = {"error": what, "versions": versions, "families": table}
    (HERE.parent / "results" / "bf16-gradients.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
