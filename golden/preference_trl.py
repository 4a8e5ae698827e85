#!/usr/bin/env python3
"""Holds golden/preference against the losses of TRL, the library most preference training is done with.

    OMP_NUM_THREADS=1 python golden/preference_trl.py

Needs trl beside what preference.py needs. Run with trl 1.16.0, torch 2.15.0, transformers 5.24.0, peft 0.21.2,
accelerate 1.15.0, datasets 5.2.0 and Python 3.11, on x86-64. Takes half a minute and writes nothing.

For every file of golden/preference a trainer of TRL is made with the golden model and adapter (DPOTrainer, KTOTrainer,
and CPOTrainer and ORPOTrainer of trl.experimental). Its collator makes one batch of all golden rows, its loss is taken,
and the loss, the gradients of the adapter and the reported numbers are compared with the golden's. One line a case has
the relative differences: |a - b| / |b| of the loss, ||a - b|| / ||b|| of the worst gradient, and |a - b| / max(1, |b|)
of the worst reported number. Exits with 1 if one is over 1e-5. The models are in float64 as in preference.py; TRL
computes log-probabilities (DPO, KTO) and odds (ORPO) in float32.

Where TRL 1.16 defines something else than docs/math/preference.md:

* The dataset functions of the trainers are not used: they make tokens of texts, and end completions with an eos token.
* DPOTrainer and KTOTrainer take for reference a copy of an adapter that the model comes with. The copy is removed here;
  the reference is then the model with the adapter off, as for a new adapter.
* They also refuse an adapter on the head (llama_head), since they multiply by the head's weights and would leave it
  out. Their check is passed over, and they are given log-probabilities from the model's ordinary logits.
* sigmoid has no label smoothing in DPOTrainer. "robust" is ((1 - e)*A - e*B) / (1 - 2*e) with A = -ln s(z),
  B = -ln s(-z), z = beta*delta, another formula; but 2*(1 - e)*sigmoid - (1 - 2*e)*robust is (1 - e)*A + e*B.
* rpo_alpha is a loss type of its own, "sft", with alpha as weight. CPOTrainer has an nll term too (cpo_alpha, 1 unless
  set; 0 here).
* ipo: the loss is that of the document, but rewards and log-probabilities are reported as sums over tokens, not means.
  The line shows both, and they are not held against each other.
* orpo: the term -m_c is in TRL the cross-entropy of prompt and completion, one mean over all tokens of the batch. Here
  it is made of TRL's own mean log-probability a completion, and the rest is TRL's. The line shows TRL's value too.
* kto: TRL pairs prompts with completions inside each micro-batch (the last row's with the first), whether or not they
  answer the same prompt. For one batch of rows with different prompts this is the golden's pairing.
"""

import json
import logging
import os
import sys
import tempfile
import warnings
from contextlib import nullcontext
from unittest.mock import patch

os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="")
warnings.filterwarnings("ignore")

import datasets
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from generate import ARCHES, HERE, IGNORE, eager_in_double, make_exact
from preference import ADAPTERS, CASES, DEFAULTS

TOLERANCE = 1e-5
COMMON = dict(
    bf16=False,
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    gradient_checkpointing=False,
    per_device_train_batch_size=8,
    max_length=None,
)
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
MARKED = {"prompt": "a", "completion": "b", "label": True}


def make_tokenizer():
    """The trainers want one; only its id for padding is used."""
    words = {word: i for i, word in enumerate(("<pad>", "<eos>", "a", "b", "c"))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_trainer(case, model, scratch):
    """The trainer of a case, set to the case's loss and numbers."""
    loss_type, numbers = CASES[case]
    numbers = DEFAULTS | ({"beta": 2.0} if loss_type == "simpo" else {}) | numbers
    beta, eps = numbers["beta"], numbers["label_smoothing"]
    row, reference = PAIR, {}
    if loss_type == "simpo":
        trainer, config = CPOTrainer, CPOConfig
        settings = dict(loss_type="simpo", cpo_alpha=0.0, simpo_gamma=numbers["simpo_gamma"], label_smoothing=eps)
        settings["max_length"] = 512
    elif loss_type == "orpo":
        trainer, config, settings = ORPOTrainer, ORPOConfig, {"max_length": 512}
    elif loss_type == "kto":
        trainer, config, settings, row = KTOTrainer, KTOConfig, dict(loss_type="kto"), MARKED
    else:
        trainer, config = DPOTrainer, DPOConfig
        terms = {loss_type: 1.0}
        if eps:
            terms = {"sigmoid": 2 * (1 - eps), "robust": -(1 - 2 * eps)}
        if numbers["rpo_alpha"]:
            terms["sft"] = numbers["rpo_alpha"]
        settings = dict(loss_type=list(terms), loss_weights=list(terms.values()), label_smoothing=eps)
    arguments = config(**COMMON | settings | dict(output_dir=scratch, beta=beta))
    on_head = trainer in (DPOTrainer, KTOTrainer) and hasattr(model.get_output_embeddings(), "lora_A")
    passed_over = patch.object(model, "get_output_embeddings", return_value=None) if on_head else nullcontext()
    stock = model.get_base_model().forward
    with passed_over:
        made = trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([row]),
            processing_class=make_tokenizer(),
        )
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    if on_head:
        model.get_base_model().forward = lambda **inputs: from_logits(stock, **inputs)
    return made


def from_logits(forward, labels, fused_lm_head, **inputs):
    """What TRL's own head gives of each token, from the model's logits."""
    logits, labels = forward(**inputs).logits[:, :-1], labels[:, 1:]
    all_logps, mask = logits.log_softmax(-1), labels != IGNORE
    with torch.no_grad():
        entropy = -(all_logps.exp() * all_logps).sum(-1)
    return FusedCausalLMOutput(
        log_probs=all_logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * mask,
        entropy=entropy,
        mean_logits=logits.detach().mean(-1),
        is_top1=logits.argmax(-1) == labels,
    )


def make_batch(trainer, loss_type, pairs, marked):
    """All rows as one batch, by the trainer's collator."""
    rows = []
    if loss_type == "kto":
        for i, row in enumerate(marked):
            other = marked[i - 1]["completion_input_ids"]
            names = {"prompt_ids": row["prompt_input_ids"], "completion_ids": row["completion_input_ids"]}
            rows.append(names | {"KL_completion_ids": other, "label": row["label"]})
    elif isinstance(trainer, DPOTrainer):
        rows = [{name.replace("_input_ids", "_ids"): ids for name, ids in row.items()} for row in pairs]
    else:
        for row in pairs:
            prompt = row["prompt_input_ids"]
            made = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
            for side in ("chosen", "rejected"):
                ids = row[f"{side}_input_ids"]
                made[f"{side}_input_ids"] = prompt + ids
                made[f"{side}_attention_mask"] = [1] * len(prompt + ids)
                made[f"{side}_labels"] = [IGNORE] * len(prompt) + ids
            rows.append(made)
    return trainer.data_collator(rows)


def reported(trainer):
    """What the trainer would log, by its names."""
    stored = getattr(trainer, "_metrics", None) or trainer._stored_metrics
    return {name: values[-1] for kind in stored.values() for name, values in kind.items()}


def compare(case, name, model, pairs, marked, scratch):
    """Prints a case's line; gives the worst of its differences."""
    loss_type = CASES[case][0]
    model.zero_grad()
    trainer = make_trainer(case, model, scratch)
    batch = make_batch(trainer, loss_type, pairs, marked)
    loss, notes = trainer.compute_loss(model, batch), []
    metrics = reported(trainer)
    if loss_type == "orpo":
        chosen, rejected = trainer.concatenated_forward(model, batch)[:2]
        notes.append(f"TRL's loss with the prompt's tokens is {loss.item():.6f}")
        loss = -chosen.mean() - trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    loss.backward()
    with safe_open(HERE / "preference" / name / f"{case}.safetensors", "pt") as golden:
        metadata = golden.metadata()
        expected = {key: golden.get_tensor(key).double() for key in golden.keys()}
    value = float(metadata["loss"])
    of_loss = abs(loss.item() - value) / abs(value)
    grads = {
        n.replace(".default.weight", ".weight").removesuffix(".default"): p.grad
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    assert grads.keys() == expected.keys(), f"{name} {case}: other tensors than the golden's"
    of_grads = max(((grads[key] - b).norm() / b.norm()).item() for key, b in expected.items())
    of_reported = 0.0
    for key, text in sorted(metadata.items()):
        if key.startswith(("rewards/", "logps/")) or key == "kl":
            number = float(text)
            if loss_type == "ipo":
                notes.append(f"{key} {number:.4f}, TRL {metrics[key]:.4f}")
            else:
                of_reported = max(of_reported, abs(metrics[key] - number) / max(1.0, abs(number)))
    note = f" ({'; '.join(notes)})" if notes else ""
    shown = "not compared" if loss_type == "ipo" else f"by {of_reported:.1e}"
    print(
        f"{name} {case} by {type(trainer).__name__}: loss {value:.6f} differs by {of_loss:.1e}, "
        f"gradients by {of_grads:.1e}, reported {shown}{note}",
        flush=True,
    )
    return max(of_loss, of_grads, of_reported)


def main():
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    pairs, marked = (
        [json.loads(line) for line in (HERE / "preference" / f"{stem}.jsonl").read_text().splitlines()]
        for stem in ("pairs", "marked")
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for name, adapter in ADAPTERS.items():
            family = name.removesuffix("_head")
            for case in CASES:
                path = HERE / family / "model"
                base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
                model = PeftModel.from_pretrained(base, HERE / adapter, is_trainable=True).eval()
                make_exact(model, ARCHES[family]["config"])
                with eager_in_double(family):
                    worst = max(worst, compare(case, name, model, pairs, marked, scratch))
    print(f"worst difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
