#!/usr/bin/env python3
"""Writes golden/preference: pairs and marked completions, and what PyTorch gives for every preference loss on the golden
models: the loss, what is reported beside it, and the gradients of the adapter.

    python golden/preference.py            # rewrites them
    python golden/preference.py --check    # recomputes and compares with what is committed

Models and adapters are those of golden/FAMILY and golden/head/FAMILY. The losses are written from the formulas of
docs/math/preference.md with PyTorch's functions, the reference is the model with the adapter switched off. Gradients
are float64 as in generate.py, held against differences, and stored as F32.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM

from generate import ARCHES, HERE, VOCAB, eager_in_double, make_exact, save_tensors

# Adapters in the blocks alone; on the head and the embeddings too.
ADAPTERS = {"qwen2": "qwen2/adapter", "llama_head": "head/llama"}

# By name: the loss, and its numbers. With beta 0.5 some pairs of hinge are beyond the margin and some are not.
CASES = {
    "sigmoid": ("sigmoid", {}),
    "sigmoid_smoothed_rpo": ("sigmoid", {"beta": 0.3, "label_smoothing": 0.1, "rpo_alpha": 0.5}),
    "hinge": ("hinge", {"beta": 0.5}),
    "ipo": ("ipo", {}),
    "simpo": ("simpo", {"simpo_gamma": 0.7}),
    "orpo": ("orpo", {}),
    "kto": ("kto", {}),
}
DEFAULTS = {"beta": 0.1, "label_smoothing": 0.0, "rpo_alpha": 0.0, "simpo_gamma": 0.5}


def make_rows():
    generator = torch.Generator().manual_seed(97)

    def ids(n):
        return torch.randint(4, VOCAB, (n,), generator=generator).tolist()

    lengths = [(5, 7, 4), (11, 1, 9), (2, 13, 13), (8, 3, 1)]
    pairs = [
        {"prompt_input_ids": ids(p), "chosen_input_ids": ids(c), "rejected_input_ids": ids(r)} for p, c, r in lengths
    ]
    marked = [
        {"prompt_input_ids": ids(p), "completion_input_ids": ids(c), "label": label}
        for p, c, label in [(5, 6, True), (9, 2, False), (3, 11, False), (4, 4, True), (6, 1, True)]
    ]
    return pairs, marked


def logp(model, prompt, completion):
    """Sum of the log-probabilities of a completion's tokens."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum()


class Pairs:
    """A loss of pairs."""

    def __init__(self, loss_type, numbers, rows, reference):
        self.loss_type, self.rows, self.reference = loss_type, rows, reference
        for name, value in (DEFAULTS | ({"beta": 2.0} if loss_type == "simpo" else {}) | numbers).items():
            setattr(self, name, value)

    @staticmethod
    def completions(rows):
        return [(row["prompt_input_ids"], row[f"{side}_input_ids"]) for row in rows for side in ("chosen", "rejected")]

    def __call__(self, model):
        all_logps = torch.stack([logp(model, *of) for of in self.completions(self.rows)])
        lengths = torch.tensor([len(of[1]) for of in self.completions(self.rows)])
        chosen, rejected = all_logps[0::2], all_logps[1::2]
        ref_chosen, ref_rejected = self.reference[0::2], self.reference[1::2]
        nll = -chosen.sum() / lengths[0::2].sum()
        if self.loss_type in ("ipo", "simpo", "orpo"):
            chosen, rejected = chosen / lengths[0::2], rejected / lengths[1::2]
            ref_chosen, ref_rejected = ref_chosen / lengths[0::2], ref_rejected / lengths[1::2]
        if self.loss_type in ("simpo", "orpo"):
            ref_chosen, ref_rejected = torch.zeros_like(chosen), torch.zeros_like(rejected)
        logits = (chosen - ref_chosen) - (rejected - ref_rejected)
        beta, eps = self.beta, self.label_smoothing
        if self.loss_type == "simpo":
            logits = logits - self.simpo_gamma / beta
        if self.loss_type in ("sigmoid", "simpo"):
            losses = -F.logsigmoid(beta * logits) * (1 - eps) - F.logsigmoid(-beta * logits) * eps
        elif self.loss_type == "hinge":
            losses = torch.relu(1 - beta * logits)
        elif self.loss_type == "ipo":
            losses = (logits - 1 / (2 * beta)) ** 2
        elif self.loss_type == "orpo":
            log_odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
            losses = -chosen - beta * F.logsigmoid(log_odds)
        rewards = [beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)]
        self.metrics = {
            "rewards/chosen": rewards[0].mean().item(),
            "rewards/rejected": rewards[1].mean().item(),
            "rewards/accuracies": (rewards[0] > rewards[1]).double().mean().item(),
            "rewards/margins": (rewards[0] - rewards[1]).mean().item(),
            "logps/chosen": chosen.mean().item(),
            "logps/rejected": rejected.mean().item(),
        }
        return losses.mean() + self.rpo_alpha * nll


class Marked:
    """KTO. Its estimate of the divergence is a constant, taken at the start."""

    def __init__(self, loss_type, numbers, rows, reference):
        assert loss_type == "kto" and not numbers
        self.rows, self.reference, self.beta, self.kl = rows, reference, DEFAULTS["beta"], None

    @staticmethod
    def completions(rows):
        return [(row["prompt_input_ids"], row["completion_input_ids"]) for row in rows]

    def mismatched(self):
        """Each prompt with the completion of the row before it."""
        return [
            (row["prompt_input_ids"], self.rows[i - 1]["completion_input_ids"]) for i, row in enumerate(self.rows)
        ]

    def divergence(self, model):
        with torch.no_grad():
            policy = torch.stack([logp(model, *of) for of in self.mismatched()])
            with model.disable_adapter():
                base = torch.stack([logp(model, *of) for of in self.mismatched()])
            return (policy - base).mean().clamp(min=0)

    def __call__(self, model):
        if self.kl is None:
            self.kl = self.divergence(model)
        logps = torch.stack([logp(model, *of) for of in self.completions(self.rows)])
        ratio = logps - self.reference
        good = torch.tensor([row["label"] for row in self.rows])
        losses = torch.where(
            good, 1 - torch.sigmoid(self.beta * (ratio - self.kl)), 1 - torch.sigmoid(self.beta * (self.kl - ratio))
        )
        rewards = self.beta * ratio
        self.metrics = {
            "rewards/chosen": rewards[good].mean().item(),
            "rewards/rejected": rewards[~good].mean().item(),
            "rewards/margins": (rewards[good].mean() - rewards[~good].mean()).item(),
            "logps/chosen": logps[good].mean().item(),
            "logps/rejected": logps[~good].mean().item(),
            "kl": self.kl.item(),
        }
        return losses.mean()


def differences(model, loss, grads, generator):
    """Central differences along one random direction of all tensors; the relative error."""
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for _, p in parameters]
        start = [p.clone() for _, p in parameters]

        def at(step):
            for (_, p), s, d in zip(parameters, start, directions):
                p.copy_(s + step * d)
            return loss(model).item()

        # Two step sizes, combined so that the cubic term cancels.
        found = (8 * (at(1e-4) - at(-1e-4)) - (at(2e-4) - at(-2e-4))) / 12e-4
        at(0.0)
        expected = sum((grads[name] * d).sum().item() for (name, _), d in zip(parameters, directions))
    return abs(found - expected) / abs(expected)


def make(name, adapter, directory):
    family = name.removesuffix("_head")
    path = HERE / family / "model"
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, HERE / adapter, is_trainable=True).eval()
    make_exact(model, ARCHES[family]["config"])
    pairs, marked = make_rows()
    with eager_in_double(family):
        for case, (loss_type, numbers) in CASES.items():
            kind, rows = (Marked, marked) if loss_type == "kto" else (Pairs, pairs)
            with torch.no_grad(), model.disable_adapter():
                reference = torch.stack([logp(model, *of) for of in kind.completions(rows)])
            loss = kind(loss_type, numbers, rows, reference)
            model.zero_grad()
            value = loss(model)
            value.backward()
            metrics = {key: repr(number) for key, number in loss.metrics.items()}
            grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
            far = differences(model, loss, grads, torch.Generator().manual_seed(7))
            assert far < 1e-6, f"{name} {case}: differences are off by {far}"
            tensors = {
                n.replace(".default.weight", ".weight").removesuffix(".default"): g.float().contiguous()
                for n, g in sorted(grads.items())
            }
            settings = {key: repr(number) for key, number in numbers.items()}
            metadata = {"loss": repr(value.item()), "loss_type": loss_type} | settings | metrics
            save_tensors(directory / f"{case}.safetensors", tensors, metadata)
            print(f"{name} {case}: loss {value.item():.6f}, differences {far:.1e}, {loss.metrics}")


def main():
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        pairs, marked = make_rows()
        for stem, rows in (("pairs", pairs), ("marked", marked)):
            (Path(scratch) / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, adapter in ADAPTERS.items():
            directory = Path(scratch) / name
            directory.mkdir()
            make(name, adapter, directory)
        committed = HERE / "preference"
        if "--check" in sys.argv:
            for path in sorted(Path(scratch).rglob("*.*")):
                beside = committed / path.relative_to(scratch)
                if path.read_bytes() != beside.read_bytes():
                    print(f"differs: {beside}")
                    different += 1
        else:
            shutil.rmtree(committed, ignore_errors=True)
            shutil.copytree(scratch, committed)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
