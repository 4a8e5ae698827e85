#!/usr/bin/env python3
"""GGUF files as llama.cpp's own converter writes them, evaluated, trained and used here.

    python scripts/converter.py --converter llama.cpp/convert_hf_to_gguf.py [--mesp target/release/mesp]
                                [--shared ../shared] [--output results/converter.json]

Needs transformers, torch, gguf and safetensors. The converter comes with llama.cpp; the source package of
llama-cpp-python on PyPI has it in vendor/llama.cpp. For each model and type the file is made, then

- its held-out loss by `mesp eval` is that of the Hugging Face directory, as near as the type allows;
- a few steps of `mesp train` on it lower the loss, and in f32 are those on the directory;
- the tokens of a text are the same, read by the tokenizer inside the file. A vocabulary whose scores the converter
  did not have is refused, and the file is used with rows that were made into tokens before.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Allowed difference of two losses in nats: f32 files hold the same numbers, the others round them.
TOLERANCE = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2, "q8_0": 5e-2}
TEXT = "Once upon a time there was a little cat. She said: \"Where is my hat?\" It was 3 o'clock.\n\n  Then it rained."


def models(shared, folder):
    """Directories to convert: a trained model, and small random ones with real tokenizers."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    source = shared / "models/TinyStories-656K"
    stories = folder / "tinystories"
    shutil.copytree(source, stories)
    stories.chmod(0o755)
    for path in stories.iterdir():
        path.chmod(0o644)
    # The converter takes a tied head for a head of its own where only that name is in the file.
    tensors = load_file(source / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors.pop("lm_head.weight")
    save_file(tensors, stories / "model.safetensors", metadata={"format": "pt"})
    yield "llama, trained (TinyStories-656K)", stories

    small = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=512)
    qwen = dict(small, vocab_size=151_936, tie_word_embeddings=True, bos_token_id=151_643, eos_token_id=151_645)
    # Divisors for short and for long texts, and a window, which the converter writes and mesp reads.
    phi = dict(small, vocab_size=32_064, original_max_position_embeddings=128, sliding_window=40, pad_token_id=0,
               rope_parameters=dict(rope_type="longrope", rope_theta=10_000.0, original_max_position_embeddings=128,
                                    short_factor=[1.0 + 0.05 * i for i in range(8)], long_factor=[1.0 + 4 * i for i in range(8)]))
    kinds = [
        ("qwen2, random, tokenizer of Qwen2.5", Qwen2Config(**qwen), Qwen2ForCausalLM, "qwen2.5"),
        ("qwen3, random, tokenizer of Qwen2.5", Qwen3Config(**qwen, head_dim=16), Qwen3ForCausalLM, "qwen2.5"),
        ("llama, random, tokenizer of Llama 2", LlamaConfig(**small, vocab_size=32_000), LlamaForCausalLM, "llama2"),
        ("phi3 with longrope, random, tokenizer of Llama 2", Phi3Config(**phi), Phi3ForCausalLM, "llama2"),
    ]
    for i, (name, config, kind, tokenizer) in enumerate(kinds):
        torch.manual_seed(i)
        path = folder / f"random-{i}"
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(path)
        for file in (shared / "tokenizers" / tokenizer).iterdir():
            if file.name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"):
                shutil.copyfile(file, path / file.name)
        yield name, path


class Checks:
    def __init__(self):
        self.all = []

    def add(self, name, ok, detail):
        self.all.append({"check": name, "ok": bool(ok), "detail": detail})
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--converter", required=True, type=pathlib.Path)
    parser.add_argument("--mesp", default="target/release/mesp")
    parser.add_argument("--shared", default="../shared/data", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()

    def mesp(*words):
        done = subprocess.run([args.mesp, *map(str, words), "--json"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mesp {' '.join(map(str, words))}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        text = (args.shared / "datasets/tinystories-sample/tinystories_sample.txt").read_text()[:6000]
        data = folder / "text.txt"
        data.write_text(text)
        rows = folder / "rows.jsonl"
        rows.write_text(json.dumps({"text": TEXT}) + "\n")

        def rows_of(path):
            """The text as tokens of the model's own directory."""
            to = folder / f"{path.name}.tokens"
            mesp("data", "tokenize", "--model", path, "--data", data, "--max-seq-len", 96, "--output", to)
            return to

        def loss(model, data):
            found = mesp("eval", "--model", model, "--data", data, "--max-seq-len", 96, "--compute", "f32")
            return found["loss"]

        def train(model, data, compute):
            run = folder / "run"
            done = mesp("train", "--model", model, "--data", data, "--max-seq-len", 96, "--steps", 8, "--output", run,
                        "--learning-rate", 3e-3, "--compute", compute, "--overwrite", "--samples", 0)
            return done["loss"]["first"], done["loss"]["last"]

        def tokens(model):
            return mesp("data", "show", "--model", model, "--data", rows)["rows"][0]["tokens"]

        for name, path in models(args.shared, folder):
            own = rows_of(path)
            expected = loss(path, own)
            first, last = train(path, own, "f32")
            counted = tokens(path)
            for kind, tolerance in TOLERANCE.items():
                file = folder / f"{path.name}-{kind}.gguf"
                made = subprocess.run([sys.executable, args.converter, path, "--outfile", file, "--outtype", kind],
                                      capture_output=True, text=True)
                label = f"{name}, {kind}"
                if made.returncode:
                    checks.add(f"{label}: converted", False, made.stderr.strip().splitlines()[-1])
                    continue
                try:
                    scores = path.name != "tinystories"
                    if not scores:
                        # Its vocabulary has no scores, and the converter writes one for all: that is no tokenizer.
                        try:
                            tokens(file)
                            checks.add(f"{label}: refused without scores", False, "it was read")
                        except RuntimeError as e:
                            said = "mesp data tokenize" in str(e)
                            checks.add(f"{label}: refused without scores", said, "it was" if said else str(e)[-300:])
                    text_or_tokens = data if scores else own
                    found = loss(file, text_or_tokens)
                    checks.add(f"{label}: loss", abs(found - expected) <= tolerance, f"{found:.6f}, {expected:.6f}")
                    a, b = train(file, text_or_tokens, "f32")
                    same = kind != "f32" or (abs(a - first) < 1e-5 and abs(b - last) < 1e-4)
                    checks.add(f"{label}: trained", b < a and same, f"{a:.5f} to {b:.5f}, {first:.5f} to {last:.5f}")
                    count = tokens(file) if scores else counted
                    checks.add(f"{label}: tokens", count == counted, "the same" if count == counted else f"{count}, {counted}")
                except (RuntimeError, KeyError) as e:
                    checks.add(label, False, str(e)[:400])

    failed = sum(not c["ok"] for c in checks.all)
    print(f"{len(checks.all)} checks, {failed} failed")
    if args.output:
        args.output.write_text(json.dumps({"kind": "converter", "checks": checks.all, "failed": failed}, indent=1) + "\n")
    sys.exit(failed > 0)


main()
