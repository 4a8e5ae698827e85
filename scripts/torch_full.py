#!/usr/bin/env python3
"""Times steps of training all weights with PyTorch and transformers on this machine's CPU, beside `mesp train --full`.

    OMP_NUM_THREADS=2 python scripts/torch_full.py --model DIR [--data rows.jsonl] [--dtype f32] [--optimizer adamw]

Needs transformers and torch. DIR is a model as `mesp init-model` makes it. --data has lines with `input_ids` and,
if they are there, `labels`, as `mesp train` reads them; without it there are --rows rows of --length random tokens.

A step is one batch of all rows, padded to the longest: forward with the model's own loss, the mean over target tokens,
backward with gradient checkpointing (--checkpointing 0 switches it off), and the optimizer on all weights; gradients
are freed before the next step. Nothing is clipped, logged or saved, and the rate is constant. The optimizers are
torch.optim.AdamW, transformers' Adafactor (factored, not scaled by parameters) and torch.optim.SGD. Weights are in
--dtype, and so are gradients and the states of AdamW. The clock runs from the forward's start to the optimizer's end.
The first step, which allocates, is left out of the median.

Prints one line of JSON: seconds of each step, their median, processor seconds of each step (well under threads times
seconds where the machine is busy with something else), losses before each step, memory in MiB and versions.
rss_anon_peak_mb is the highest anonymous memory of the process from its first step on, of samples a few milliseconds
apart, rss_anon_load_mb the same before, rss_anon_import_mb what the libraries alone have taken when the model is still
to be loaded, rss_peak_mb the highest resident memory of all (files are in it, such as libraries and mapped weights;
weights of the file's own type are mapped until the first step writes them).
"""

import argparse
import json
import os
import re
import statistics
import sys
import threading
import time
import warnings
from importlib.metadata import version

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "2")
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

IGNORE = -100
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
RATES = {"adamw": 1e-5, "adafactor": 1e-4, "sgd": 1e-2}


def memory(field):
    """A field of the process's status in MiB."""
    with open("/proc/self/status") as status:
        return int(re.search(rf"{field}:\s+(\d+)", status.read()).group(1)) / 1024


class Peak(threading.Thread):
    """The highest anonymous memory, looked at again and again: the system keeps no peak of it."""

    def __init__(self, interval=0.004):
        super().__init__(daemon=True)
        self.interval, self.highest, self.ended = interval, 0.0, threading.Event()

    def run(self):
        while not self.ended.wait(self.interval):
            self.look()

    def look(self):
        self.highest = max(self.highest, memory("RssAnon"))

    def restart(self):
        """The highest so far; from now on anew."""
        self.look()
        highest, self.highest = self.highest, 0.0
        return highest

    def end(self):
        self.ended.set()
        self.join()
        self.look()
        return self.highest


def read_rows(path):
    with open(path) as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [(row["input_ids"], row.get("labels", row["input_ids"])) for row in rows]


def random_rows(count, length, vocab):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(vocab, (count, length), generator=generator).tolist()
    return [(row, row) for row in rows]


def make_batch(rows):
    """Rows padded at their ends. The model's loss leaves out the first label of a row by itself."""
    longest = max(len(ids) for ids, _ in rows)

    def padded(values, filler):
        return torch.tensor([row + [filler] * (longest - len(row)) for row in values])

    batch = {"input_ids": padded([ids for ids, _ in rows], 0), "labels": padded([labels for _, labels in rows], IGNORE)}
    if any(len(ids) < longest for ids, _ in rows):
        batch["attention_mask"] = padded([[1] * len(ids) for ids, _ in rows], 0)
    return batch, int((batch["labels"][:, 1:] != IGNORE).sum())


def make_optimizer(name, parameters, rate):
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    if name == "adafactor":
        return Adafactor(parameters, lr=rate, scale_parameter=False, relative_step=False, warmup_init=False)
    return torch.optim.SGD(parameters, lr=rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--optimizer", choices=RATES, default="adamw")
    parser.add_argument("--learning-rate", type=float, help=f"by default of the optimizer: {RATES}")
    parser.add_argument("--checkpointing", type=int, choices=[0, 1], default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.steps < 2:
        sys.exit("--steps is to be at least 2, since the first is left out of the median")
    args.learning_rate = args.learning_rate or RATES[args.optimizer]
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    imported = memory("RssAnon")
    peak = Peak()
    peak.start()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[args.dtype])
    # Training mode is what switches checkpointing on; these models have no dropout unless their configuration says so.
    model.train()
    model.config.use_cache = False
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = read_rows(args.data) if args.data else random_rows(args.rows, args.length, model.config.vocab_size)
    batch, targets = make_batch(rows)
    optimizer = make_optimizer(args.optimizer, model.parameters(), args.learning_rate)

    seconds, cpu_seconds, losses = [], [], []
    before = peak.restart()
    for _ in range(args.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        losses.append(loss.item())
    result = {
        "seconds": [round(second, 4) for second in seconds],
        "median": statistics.median(seconds[1:]),
        "cpu_seconds": [round(second, 4) for second in cpu_seconds],
        "losses": losses,
        "target_tokens": targets,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rss_anon_peak_mb": round(peak.end(), 1),
        "rss_anon_load_mb": round(before, 1),
        "rss_anon_import_mb": round(imported, 1),
        "rss_peak_mb": round(memory("VmHWM"), 1),
        "arguments": vars(args),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
