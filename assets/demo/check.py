#!/usr/bin/env python3
"""Fine-tunes the demo with PyTorch and PEFT: the reference for what `mesp train` should show.

    python assets/demo/check.py [--steps 80] [--learning-rate 0.003] [--batch-size 8]

Prints the loss on eval.jsonl before and after, and answers to held-out questions before and after. Rows
are run one by one without padding; a step's loss is the mean over all its target tokens, which are the
answer and its <|im_end|>.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
PROMPTS = ["What do you know about the wolf?", "Tell me a short story."]


def read(name, tokenizer):
    rows = []
    for line in (HERE / name).read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        start = tokenizer(prompt).input_ids
        rows.append((start, tokenizer(messages[1]["content"] + "<|im_end|>").input_ids))
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer(whole).input_ids == start + rows[-1][1] + tokenizer("\n").input_ids
    return rows


def batch_loss(model, rows):
    total, count, right = 0.0, 0, 0
    for start, answer in rows:
        logits = model(input_ids=torch.tensor([start + answer])).logits[0, len(start) - 1 : -1]
        target = torch.tensor(answer)
        total = total + torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        count += len(answer)
        right += int((logits.argmax(-1) == target).sum())
    return total / count, count, right / count


def evaluate(model, rows):
    with torch.no_grad():
        loss, count, accuracy = batch_loss(model, rows)
    return f"loss {loss.item():.4f}, accuracy {accuracy:.3f}, {count} targets"


def answer(model, tokenizer, question):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text).input_ids
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + 120:
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] in (0, 2):
                ids.pop()
                break
    return tokenizer.decode(ids[start:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)

    tokenizer = AutoTokenizer.from_pretrained(HERE / "model")
    model = AutoModelForCausalLM.from_pretrained(HERE / "model", dtype=torch.float32)
    train, held_out = read("train.jsonl", tokenizer), read("eval.jsonl", tokenizer)
    asked = [json.loads(line)["messages"] for line in (HERE / "eval.jsonl").read_text().splitlines()]
    prompts = [m[0]["content"] for m in asked] + PROMPTS
    print("before:", evaluate(model, held_out))
    before = [answer(model, tokenizer, p) for p in prompts]

    lora = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    parameters = [p for p in model.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in parameters)} adapter parameters")
    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    else:
        optimizer = torch.optim.SGD(parameters, lr=options.learning_rate)
    rng, order, start = random.Random(options.seed), [], time.time()
    for step in range(options.steps):
        # Five steps of warm-up, then a straight line down to a tenth.
        factor = min((step + 1) / 5, 1.0 - 0.9 * step / options.steps)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        if len(order) < options.batch_size:
            order = rng.sample(train, len(train))
        optimizer.zero_grad()
        loss, _, _ = batch_loss(model, [order.pop() for _ in range(options.batch_size)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 10 == 9 or step == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    print(f"{time.time() - start:.1f} s of training")
    print("after:", evaluate(model, held_out))
    after = [answer(model, tokenizer, p) for p in prompts]
    expected = [m[1]["content"] for m in asked] + [None] * len(PROMPTS)
    exact = sum(a == e for a, e in zip(after, expected))
    print(f"held-out answers exactly as written: {exact} of {len(asked)}")
    for prompt, a, b, e in zip(prompts, before, after, expected):
        print(f"\n{prompt}\n  before: {a}\n  after:  {b}" + (f"\n  wanted: {e}" if e not in (None, b) else ""))


if __name__ == "__main__":
    main()
