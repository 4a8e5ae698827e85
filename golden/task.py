#!/usr/bin/env python3
"""Likelihoods of choices by transformers, for golden/task/likelihoods.json.

    python golden/task.py            # writes the file
    python golden/task.py --check    # computes again and compares, writes nothing

The built-in model of assets/demo, in float32, answers the questions of golden/task/questions.jsonl. The tokens of a
choice are found as lm-evaluation-harness finds them: white space at the end of the prompt goes to the choice, the two
are encoded together, and the prompt's own tokens are left out. A space stands between the two where neither has one.
`chat` has the same questions as turns of the user.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "assets" / "demo" / "model"


def pair(tokenizer, prompt, choice, chat):
    if chat:
        turn = [{"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        continuation = choice
    else:
        before, continuation = prompt.rstrip(), prompt[len(prompt.rstrip()) :] + choice
        if not continuation[0].isspace():
            continuation = " " + continuation
    start = tokenizer(before).input_ids
    return start, tokenizer(before + continuation).input_ids[len(start) :]


def likelihood(model, start, tokens):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([start + tokens])).logits[0, len(start) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item()


def main():
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    questions = [json.loads(line) for line in (HERE / "task" / "questions.jsonl").read_text().splitlines()]
    found = {"transformers": transformers.__version__}
    for name, chat in (("text", False), ("chat", True)):
        found[name] = [
            [likelihood(model, *pair(tokenizer, q["prompt"], choice, chat)) for choice in q["choices"]]
            for q in questions
        ]
    path = HERE / "task" / "likelihoods.json"
    if "--check" in sys.argv:
        kept = json.loads(path.read_text())
        flat = lambda x: [v for name in ("text", "chat") for row in x[name] for v in row]
        apart = max(abs(a - b) for a, b in zip(flat(kept), flat(found), strict=True))
        print(f"apart by at most {apart:.1e}")
        sys.exit(apart > 1e-4)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
