#!/usr/bin/env python3
"""What transformers makes of logits before it draws a token, for golden/sampling.json.

    python golden/sampling.py            # writes the file
    python golden/sampling.py --check    # computes again and compares, writes nothing

The processors and their order are those that `generate` itself builds from a GenerationConfig, penalty included.
"""

import itertools
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

HERE = Path(__file__).resolve().parent
VOCAB = 60


def main():
    model = AutoModelForCausalLM.from_pretrained(HERE / "qwen2" / "model", dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    logits = (3 * torch.randn(VOCAB, generator=generator)).tolist()
    seen = [5, 17, 5, 40, 2, 17, 33, 8]
    cases = []
    for temperature, top_k, top_p, min_p, penalty in itertools.product(
        (0.6, 1.0, 1.7), (0, 12), (1.0, 0.8), (0.0, 0.05), (1.0, 1.3)
    ):
        options = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": penalty,
        }
        config = GenerationConfig(do_sample=True, **{k: v for k, v in options.items() if v not in (0, 0.0)})
        if top_k == 0:
            config.top_k = 0
        processors = model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=len(seen),
            encoder_input_ids=None,
            prefix_allowed_tokens_fn=None,
            logits_processor=transformers.LogitsProcessorList(),
            device="cpu",
        )
        scores = processors(torch.tensor([seen]), torch.tensor([logits], dtype=torch.float32))[0].double()
        probabilities = scores.softmax(-1)
        kept = [[i, p] for i, p in enumerate(probabilities.tolist()) if p > 0]
        cases.append({**options, "order": [type(p).__name__ for p in processors], "kept": kept})
    found = {"transformers": transformers.__version__, "logits": logits, "seen": seen, "cases": cases}
    path = HERE / "sampling.json"
    if "--check" in sys.argv:
        kept = json.loads(path.read_text())
        apart = 0.0
        for a, b in zip(kept["cases"], cases, strict=True):
            assert a["order"] == b["order"] and [i for i, _ in a["kept"]] == [i for i, _ in b["kept"]], (a, b)
            apart = max([apart] + [abs(p - q) for (_, p), (_, q) in zip(a["kept"], b["kept"])])
        print(f"apart by at most {apart:.1e}")
        sys.exit(apart > 1e-6)
    path.write_text(json.dumps(found) + "\n")
    print(len(cases), "cases;", max((c["order"] for c in cases), key=len), min(len(c["kept"]) for c in cases))


if __name__ == "__main__":
    main()
