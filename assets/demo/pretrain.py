#!/usr/bin/env python3
"""Makes the built-in demo: corpus, tokenizer, pretrained model, and the rows to fine-tune it with.

    python assets/demo/pretrain.py               # everything, 4 minutes on two free CPU cores, 11 on busy ones
    python assets/demo/pretrain.py --rows-only   # only the rows to fine-tune with, a second

The corpus (about 6 MB of text about the valley of Miron, see world.py) is written from a fixed seed into
memory and not kept. The model is a Qwen2 of 1.3 million parameters, trained in float32 on the CPU and
stored in BF16 under model/. Needs torch, transformers, tokenizers and safetensors.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import world
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
SEED = 20
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 1024
CORPUS_CHARACTERS = 6_000_000
LENGTH = 256
BATCH = 16
STEPS = 600
WARMUP = 60
PEAK_RATE = 4e-3
THREADS = 2

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


def write_corpus():
    rng, table = random.Random(SEED), world.facts()
    documents, characters = [], 0
    while characters < CORPUS_CHARACTERS:
        documents.append(world.document(rng, table))
        characters += len(documents[-1])
    return documents


def train_tokenizer(documents):
    """Byte-level BPE. Words, numbers and signs are split first, each with at most one space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    plain = (d.replace("<|im_start|>", "").replace("<|im_end|>", "") for d in documents)
    tokenizer.train_from_iterator(plain, trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


def pack(tokenizer, documents):
    """Rows of LENGTH + 1 tokens. Each row begins with a whole document, as a prompt will; the last is cut."""
    end = tokenizer.token_to_id("<|endoftext|>")
    rows, row = [], []
    for encoding in tokenizer.encode_batch(documents):
        row += encoding.ids + [end]
        if len(row) > LENGTH:
            rows.append(row[: LENGTH + 1])
            row = []
    return torch.tensor(rows)


def make_model():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
        max_window_layers=6,
    )
    return Qwen2ForCausalLM(config)


def learning_rate(step):
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(model, rows):
    decay = [p for p in model.parameters() if p.dim() == 2]
    other = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), eps=1e-8)
    order, start, recent = torch.empty(0, dtype=torch.long), time.time(), 0.0
    model.train()
    for step in range(STEPS):
        if len(order) < BATCH:
            order = torch.cat((order, torch.randperm(len(rows))))
        batch, order = rows[order[:BATCH]], order[BATCH:]
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += loss.item()
        if step % 50 == 49:
            tokens = (step + 1) * BATCH * LENGTH / (time.time() - start)
            print(f"step {step + 1}/{STEPS}: loss {recent / 50:.3f}, {tokens:.0f} tokens/s", flush=True)
            recent = 0.0


def save(model, tokenizer, directory):
    directory.mkdir(exist_ok=True)
    model = model.eval().to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config.eos_token_id = [SPECIAL.index("<|im_end|>"), SPECIAL.index("<|endoftext|>")]
    model.generation_config.pad_token_id = SPECIAL.index("<|endoftext|>")
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 512,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_rows():
    """Questions about different facts in the two files, answered by the old captain."""
    rng, table = random.Random(SEED + 1), world.facts()
    rng.shuffle(table)
    rows = {"train": table[:170], "eval": table[170:197]}
    # Rare kinds of questions must be seen in training to be answered in style.
    rows["train"] += [("unknown", [world.unknown(rng)], world.UNKNOWN_ANSWER) for _ in range(8)]
    while len(rows["train"]) < 190:
        story = world.story(rng)
        if story.endswith(".") and len(story) < 220:
            rows["train"].append(("story", ["Tell me a story.", "Tell me a short story."], story))
    rows["eval"] += [("unknown", [world.unknown(rng)], world.UNKNOWN_ANSWER)]
    for name, facts in rows.items():
        rng.shuffle(facts)
        with open(HERE / f"{name}.jsonl", "w") as file:
            for _, forms, answer in facts:
                messages = [
                    {"role": "user", "content": rng.choice(forms)},
                    {"role": "assistant", "content": world.captain(answer)},
                ]
                file.write(json.dumps({"messages": messages}) + "\n")


def write_preferences():
    """Pairs of answers to the same question: the friendly one is preferred to the plain one."""
    rng, table = random.Random(SEED + 2), world.facts()
    rng.shuffle(table)
    for name, facts in {"preference_train": table[:160], "preference_eval": table[160:184]}.items():
        with open(HERE / f"{name}.jsonl", "w") as file:
            for _, forms, answer in facts:
                said = {"chosen": f"{rng.choice(world.OPENINGS)} {answer}", "rejected": answer}
                row = {"prompt": [{"role": "user", "content": rng.choice(forms)}]}
                row |= {side: [{"role": "assistant", "content": text}] for side, text in said.items()}
                file.write(json.dumps(row) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows-only", action="store_true")
    options = parser.parse_args()
    write_rows()
    write_preferences()
    if options.rows_only:
        return

    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    start = time.time()
    documents = write_corpus()
    tokenizer = train_tokenizer(documents)
    rows = pack(tokenizer, documents)
    model = make_model()
    print(
        f"{len(documents)} documents, {sum(map(len, documents))} characters, {rows.numel()} tokens in rows, "
        f"{sum(p.numel() for p in model.parameters())} parameters, {time.time() - start:.0f} s"
    )
    pretrain(model, rows)
    save(model, tokenizer, HERE / "model")
    print(f"done in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
