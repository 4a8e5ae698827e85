#!/usr/bin/env python3
"""Times steps of TRL's DPOTrainer on this machine's CPU, beside `mesp train --objective preference`.

    OMP_NUM_THREADS=2 python scripts/trl_dpo.py --model DIR [--chosen 256] [--rejected 256] [--dtype float32]

Needs trl, peft, transformers, datasets and torch. DIR is a model as `mesp init-model` makes it; its weights are random,
and so are the tokens. --chosen and --rejected are the tokens of a sequence, with the prompt in both.

A step is one pair: forward and backward of both sequences in one batch, and AdamW on a LoRA adapter of all seven
projections, by `DPOTrainer.train`. The reference's log-probabilities are computed before (--precompute 1), as mesp
does; with 0 every step has a forward pass of the reference too. The clock runs from the trainer's start of a step to
its end. Not in it are loading, making the batch, and the reference when it is computed before. Nothing is logged,
evaluated, saved or clipped. The first step, which allocates, is left out of the median. In bfloat16 the frozen weights
have that type and the adapter is in float32, as PEFT makes it; with --autocast 1 (what TRL does if nothing is said)
the adapter's products are in bfloat16 too.

Prints one line of JSON: seconds of each step, their median, processor seconds of each step (well under threads times
seconds where the machine is busy with something else), memory in MiB and versions. rss_peak_mb is the highest resident
memory of the process, rss_peak_steps_mb the same from the first step on (null where the system does not let it be
measured), rss_anon_mb what is not of mapped files after the last step.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
import warnings
from importlib.metadata import version

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "2")
warnings.filterwarnings("ignore")

import datasets
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def memory(field):
    """A field of the process's status in MiB."""
    with open("/proc/self/status") as status:
        return int(re.search(rf"{field}:\s+(\d+)", status.read()).group(1)) / 1024


def restart_peak():
    """Sets the highest resident memory back to the present one; whether the system allowed it."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        return False
    return True


class Clock(TrainerCallback):
    """Seconds of each step, and memory when the last one has ended."""

    def __init__(self):
        self.seconds, self.cpu_seconds = [], []

    def on_train_begin(self, *_, **__):
        self.peak_before = memory("VmHWM")
        self.peak_restarted = restart_peak()

    def on_step_begin(self, *_, **__):
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.start)
        self.cpu_seconds.append(time.process_time() - self.cpu_start)
        self.peak, self.anon = memory("VmHWM"), memory("RssAnon")


class TokenTrainer(DPOTrainer):
    """Takes rows that are tokens already."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def make_rows(count, prompt, chosen, rejected, vocab):
    generator = torch.Generator().manual_seed(0)

    def ids(n):
        return torch.randint(vocab, (n,), generator=generator).tolist()

    return [
        {"prompt_ids": ids(prompt), "chosen_ids": ids(chosen - prompt), "rejected_ids": ids(rejected - prompt)}
        for _ in range(count)
    ]


def make_tokenizer():
    """The trainer wants one; only its id for padding is used."""
    tokenizer = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--chosen", type=int, default=256)
    parser.add_argument("--rejected", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    for flag, default in (("checkpointing", 0), ("precompute", 1), ("autocast", 0)):
        parser.add_argument(f"--{flag}", type=int, choices=[0, 1], default=default)
    args = parser.parse_args()
    if args.steps < 2:
        sys.exit("--steps is to be at least 2, since the first is left out of the median")
    if min(args.chosen, args.rejected) <= args.prompt:
        sys.exit("--chosen and --rejected are to be longer than --prompt")
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    rows = make_rows(args.steps, args.prompt, args.chosen, args.rejected, model.config.vocab_size)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=args.dtype == "bfloat16" and bool(args.autocast),
            gradient_checkpointing=bool(args.checkpointing),
            precompute_ref_log_probs=bool(args.precompute),
            per_device_train_batch_size=1,
            max_steps=args.steps,
            max_length=None,
            max_grad_norm=0.0,
            learning_rate=1e-4,
            optim="adamw_torch",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        adapter = LoraConfig(
            r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
        )
        trainer = TokenTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=make_tokenizer(),
            peft_config=adapter,
            callbacks=[clock],
        )
        # It prints a summary when training ends.
        trainer.remove_callback(transformers.PrinterCallback)
        loss = trainer.train().training_loss
    assert len(clock.seconds) == args.steps
    result = {
        "seconds": [round(second, 4) for second in clock.seconds],
        "median": statistics.median(clock.seconds[1:]),
        "cpu_seconds": [round(second, 4) for second in clock.cpu_seconds],
        "rss_peak_mb": round(max(clock.peak_before, clock.peak), 1),
        "rss_peak_steps_mb": round(clock.peak, 1) if clock.peak_restarted else None,
        "rss_anon_mb": round(clock.anon, 1),
        "loss": loss,
        "arguments": vars(args),
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
