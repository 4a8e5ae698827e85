#!/usr/bin/env python3
"""Checks adapters and merged models against PEFT, llama.cpp and mlx-lm, on the small golden models.

    python -m venv venv && venv/bin/pip install torch transformers peft gguf mlx mlx-lm llama-cpp-python
    cargo build --release -p mesp-cli
    venv/bin/python scripts/interop.py --mesp target/release/mesp      # writes results/interop.json

What is compared is the logarithm of the probability of every word of the vocabulary after a prompt. `mesp eval`
gives one loss a row, so a prompt is as many rows as there are words, each with another last token. A figure is
|ours - theirs| / |theirs| over all of them. Packages that are not installed are skipped, and the output says so.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 97
PROMPTS = [[3, 14, 15, 92, 65], [7, 1, 8, 2, 8, 1, 8, 2, 8], [42]]
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3", "phi3"]
# Single precision on both sides, sums in another order.
F32 = 1e-4
# llama.cpp rounds the inputs of quantized products to 8 bits.
ROUNDED = 0.05


def mesp(*args):
    ran = subprocess.run([MESP, *map(str, args), "--threads", "1"], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"mesp {' '.join(map(str, args))}\n{ran.stderr}")
    return ran.stdout


def ours(model, adapter=None, prompts=PROMPTS):
    """Log-probabilities of every word after every prompt."""
    with tempfile.TemporaryDirectory() as tmp:
        rows = Path(tmp) / "rows.jsonl"
        with rows.open("w") as out:
            for prompt in prompts:
                for word in range(VOCAB):
                    labels = [-100] * len(prompt) + [word]
                    out.write(json.dumps({"input_ids": prompt + [word], "labels": labels}) + "\n")
        args = ["eval", "--model", model, "--data", rows, "--compute", "f32", "--batch-size", 97, "--json"]
        if adapter:
            args += ["--adapter", adapter]
        losses = [-row["loss"] for row in json.loads(mesp(*args))["rows"]]
    return [losses[i : i + VOCAB] for i in range(0, len(losses), VOCAB)]


def logprobs(logits):
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits)) + top
    return [x - total for x in logits]


def apart(a, b):
    a, b = [x for row in a for x in row], [x for row in b for x in row]
    return math.dist(a, b) / math.hypot(*b)


def moved(a, base_a, b, base_b):
    """How alike two changes are: 1 - cosine."""
    flat = lambda x, y: [p - q for r, s in zip(x, y) for p, q in zip(r, s)]
    u, v = flat(a, base_a), flat(b, base_b)
    return 1 - sum(x * y for x, y in zip(u, v)) / (math.hypot(*u) * math.hypot(*v))


CHECKS, NOTES = [], []


def check(family, what, figure, at_most):
    passed = figure <= at_most
    CHECKS.append({"family": family, "check": what, "figure": figure, "at_most": at_most, "passed": passed})
    print(f"{'ok  ' if passed else 'FAIL'} {family:12} {what:70} {figure:.2e} (at most {at_most:.0e})", flush=True)


# PEFT ------------------------------------------------------------------------------------------------------


def torch_model(path):
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def theirs(model):
    import torch

    with torch.no_grad():
        return [logprobs(model(torch.tensor([p])).logits[0, -1].double().tolist()) for p in PROMPTS]


def loaded(model, adapter):
    """A model with an adapter, and how many keys PEFT missed or did not expect."""
    from peft import LoraConfig, PeftModel

    config = LoraConfig.from_pretrained(adapter)
    peft_model = PeftModel(model, config)
    result = peft_model.load_adapter(adapter, "default", is_trainable=False)
    wrong = [k for k in result.missing_keys if "lora" in k] + list(result.unexpected_keys)
    return peft_model.eval(), len(wrong)


def made_by_peft(model, to, **settings):
    """An adapter with every matrix random."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    fused = any(name.endswith("qkv_proj") for name, _ in model.named_modules())
    split = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] if fused else split
    targets = settings.pop("target_modules", targets + settings.pop("outside", []))
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", **settings)
    peft_model = get_peft_model(model, config).eval()
    for name, parameter in peft_model.named_parameters():
        if "lora_magnitude_vector" in name:
            # Away from the norms of the rows, which they begin at.
            parameter.data.mul_(1 + 0.1 * torch.randn(parameter.shape))
        elif "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.08)
    peft_model.save_pretrained(to)
    return peft_model


# Of modules that every family has.
RANKS = {"down_proj": 2, "layers.1.self_attn.o_proj": 6}
ALPHAS = {"o_proj": 11}
# Kinds of adapters: what PEFT calls them, and what mesp train does.
KINDS = {
    "LoRA": ({}, []),
    "rsLoRA": ({"use_rslora": True}, ["--rslora"]),
    "patterns": (
        {"rank_pattern": RANKS, "alpha_pattern": ALPHAS, "use_rslora": True},
        ["--rslora", "--rank-pattern", ",".join(f"{k}={v}" for k, v in RANKS.items()),
         "--alpha-pattern", ",".join(f"{k}={v}" for k, v in ALPHAS.items())],
    ),
    "regular expressions": (
        {"rank_pattern": {r".*\.1\.mlp\..*": 3}, "alpha_pattern": {"[od]o?w?n?_proj": 5}},
        ["--rank-pattern", r".*\.1\.mlp\..*=3", "--alpha-pattern", "[od]o?w?n?_proj=5"],
    ),
    "some layers": ({"layers_to_transform": [1]}, ["--layers", "1"]),
    "DoRA": ({"use_dora": True}, ["--dora"]),
    "DoRA with patterns": (
        {"use_dora": True, "rank_pattern": RANKS, "alpha_pattern": ALPHAS, "layers_to_transform": [1]},
        ["--dora", "--rank-pattern", ",".join(f"{k}={v}" for k, v in RANKS.items()),
         "--alpha-pattern", "o_proj=11", "--layers", "1"],
    ),
    "head and embeddings": (
        {"outside": ["lm_head", "embed_tokens"], "rank_pattern": {"lm_head": 3}, "alpha_pattern": {"embed_tokens": 2}},
        ["--target-modules", "all-linear,lm_head,embed_tokens", "--rank-pattern", "lm_head=3", "--alpha-pattern",
         "embed_tokens=2"],
    ),
    # Which mesp train is given by an adapter only.
    "modules by an expression": ({"target_modules": r".*\.1\.(self_attn|mlp)\..*_proj|lm_head"}, None),
}
STEPS, RATE = 5, 0.05


def trained_there(model, rows):
    """Steps of SGD over all rows at once, by PyTorch."""
    import torch

    parameters = [p for name, p in model.named_parameters() if "lora_" in name]
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        total, count = 0.0, 0
        for row in rows:
            labels = torch.tensor(row["labels"][1:])
            keep = labels != -100
            if keep.any():
                logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1][keep]
                total = total + torch.nn.functional.cross_entropy(logits, labels[keep], reduction="sum")
                count += int(keep.sum())
        (total / count).backward()
        optimizer.step()
    return model


def train(golden, output, *settings):
    rows = golden / "rows.jsonl"
    mesp("train", "--model", golden / "model", "--data", rows, "--output", output, "--compute", "f32", *settings)
    return output


def with_peft(family, golden, tmp, kinds):
    model_dir = golden / "model"
    rows = [json.loads(line) for line in (golden / "rows.jsonl").read_text().splitlines()]
    runs = {}
    for kind, (settings, flags) in KINDS.items():
        if kind not in kinds:
            continue
        name = kind.replace(" ", "-")
        apart_from_tied = tied(model_dir) and ("outside" in settings or "target_modules" in settings)
        # Ours, there.
        if flags is not None:
            made = train(golden, tmp / f"run-{name}", "--steps", 12, "--rank", 4, "--learning-rate", 0.02, *flags)
            runs[kind] = made
            model, wrong = loaded(torch_model(model_dir), made)
            check(family, f"{kind} trained here: keys that PEFT misses or does not expect", wrong, 0)
            there = theirs(model)
            check(family, f"{kind} trained here: logits in PEFT", apart(ours(model_dir, made), there), F32)
            merged = tmp / f"merged-{name}"
            mesp("merge", "--model", model_dir, "--adapter", made, "--output", merged, "--type", "f32")
            # PEFT's merge adds to a tied table what is learned of either place: there it is no measure.
            if not apart_from_tied:
                there = theirs(model.merge_and_unload())
            what = "PEFT unmerged" if apart_from_tied else "PEFT's merge"
            check(family, f"{kind} merged here: logits in transformers, against {what}", apart(theirs(torch_model(merged)), there), F32)

        # PEFT's, here.
        adapter = tmp / f"peft-{name}"
        model = made_by_peft(torch_model(model_dir), adapter, **dict(settings))
        there = theirs(model)
        check(family, f"{kind} of PEFT: logits here", apart(ours(model_dir, adapter), there), F32)
        merged = tmp / f"merged-peft-{name}"
        mesp("merge", "--model", model_dir, "--adapter", adapter, "--output", merged, "--type", "f32")
        check(family, f"{kind} of PEFT: logits of the model merged here", apart(ours(merged), there), F32)
        went_on = train(
            golden, tmp / f"on-{name}", "--adapter", adapter, "--steps", STEPS, "--learning-rate", RATE,
            "--optimizer", "sgd", "--lr-schedule", "constant", "--warmup-ratio", 0, "--max-grad-norm", 0,
            "--batch-size", len(rows),
        )
        after = theirs(trained_there(model, rows).eval())
        check(family, f"{kind} of PEFT, trained on here and there: logits", apart(ours(model_dir, went_on), after), F32)
        _, wrong = loaded(torch_model(model_dir), went_on)
        check(family, f"{kind} of PEFT, trained on here: keys that PEFT misses or does not expect", wrong, 0)
        if "use_dora" in settings:
            continue
        if apart_from_tied:
            # Other programs have one adapter for a tied table.
            refused = subprocess.run([MESP, "export", "--adapter", adapter, "--model", model_dir, "--output", tmp / "none.gguf"],
                                     capture_output=True, text=True)
            told = refused.returncode == 2 and "is its embeddings" in refused.stderr
            check(family, f"{kind} of PEFT: exported though other programs would say something else", int(not told), 0)
            continue
        # Around through the other layouts, and back.
        chain = [adapter, tmp / f"{name}.gguf", tmp / f"{name}-mlx", tmp / f"{name}-back"]
        for source, output, to in zip(chain, chain[1:], ["gguf", "mlx", "peft"]):
            mesp("export", "--adapter", source, "--model", model_dir, "--output", output, "--to", to)
        model, wrong = loaded(torch_model(model_dir), chain[-1])
        check(family, f"{kind}, by GGUF and mlx-lm: keys that PEFT misses or does not expect", wrong, 0)
        check(family, f"{kind}, by GGUF and mlx-lm: logits in PEFT", apart(theirs(model), there), F32)
    return runs


def tied(model_dir):
    return json.loads((model_dir / "config.json").read_text())["tie_word_embeddings"]


def plain(golden, family, to):
    """The golden without what GGUF or other programs have no word for: a copy of its directory."""
    shutil.copytree(golden / "model", to)
    shutil.copy(golden / "config_v4.json", to / "config_v4.json")
    for name in ["config.json", "config_v4.json"]:
        config = json.loads((to / name).read_text())
        layers = config["num_hidden_layers"]
        if family in ("mistral", "phi3"):
            # Neither llama.cpp, which has no windows in files of llama and of phi3, nor mlx-lm has this one.
            config["sliding_window"] = None
            for part in [config, *(config.get(key) for key in ("rope_parameters", "rope_scaling"))]:
                # The divisors for long texts are used by llama.cpp in contexts beyond this, and its least is 256.
                if part and "original_max_position_embeddings" in part:
                    part["original_max_position_embeddings"] = 256
        elif family == "smollm3":
            # Which layers are not rotated is fixed: every fourth.
            config["no_rope_layers"] = [1] * layers
        elif family == "gemma3_text":
            # Which layers are windowed is fixed, all but every sixth, and so is the scale of scores.
            config.update(layer_types=["sliding_attention"] * layers, sliding_window=64, sliding_window_pattern=6,
                          query_pre_attn_scalar=config["head_dim"])
        (to / name).write_text(json.dumps(config))
    return to


# mlx-lm ----------------------------------------------------------------------------------------------------


def with_mlx(family, golden, runs, tmp):
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    run, adapter, merged = runs["LoRA"], tmp / "mlx", tmp / "merged-LoRA"
    mesp("export", "--adapter", run, "--to", "mlx", "--output", adapter)
    # mlx-lm reads the rotation from the keys that transformers had before version 5.
    base_model = plain(golden, None if family == "gemma3_text" else family, tmp / "plain")
    old = shutil.copytree(base_model, tmp / "old-keys")
    shutil.copy(old / "config_v4.json", old / "config.json")
    model, _ = load_model(old)
    # One golden is stored in 16 bits, in which mlx-lm would compute.
    model.set_dtype(mx.float32)
    model.eval()

    def there():
        return [logprobs(model(mx.array([p]))[0, -1].astype(mx.float32).tolist()) for p in PROMPTS]

    before = there()
    model = load_adapters(model, str(adapter))
    model.set_dtype(mx.float32)
    model.eval()
    after, here, here_before = there(), ours(base_model, run), ours(base_model)
    # Some of its models differ from transformers' without any adapter: the rotation, a rounded factor.
    base = apart(here_before, before)
    NOTES.append(f"{family}: without an adapter mlx-lm's logits are {base:.1e} from ours")
    at_most = max(F32, 3 * base)
    check(family, "exported to mlx-lm: logits there", apart(here, after), at_most)
    check(family, "exported to mlx-lm: direction of the change", moved(here, here_before, after, before), at_most)
    weights = {}
    for file in merged.glob("*.safetensors"):
        weights.update(mx.load(str(file)))
    worst, fused = 0.0, 0
    for name, module in model.named_modules():
        if hasattr(module, "fuse") and "lora_a" in module:
            theirs, mine = module.fuse().weight, weights[f"{name}.weight"]
            worst = max(worst, (mx.linalg.norm(theirs - mine) / mx.linalg.norm(mine)).item())
            fused += 1
    expected = len(list_pairs(run))
    check(family, "exported to mlx-lm: matrices with an adapter that it lacks", abs(expected - fused), 0)
    check(family, "exported to mlx-lm: its fused weights, against those merged here", worst, 1e-6)
    outside = runs.get("head and embeddings")
    if outside and not tied(base_model):
        adapter = tmp / "mlx-outside"
        mesp("export", "--adapter", outside, "--model", base_model, "--to", "mlx", "--output", adapter)
        model, _ = load_model(old)
        model.set_dtype(mx.float32)
        model = load_adapters(model, str(adapter))
        model.set_dtype(mx.float32)
        model.eval()
        check(family, "head and embeddings exported to mlx-lm: logits there", apart(ours(base_model, outside), there()), at_most)


def list_pairs(run):
    from safetensors import safe_open

    with safe_open(run / "adapter_model.safetensors", "pt") as file:
        return [name for name in file.keys() if name.endswith("lora_A.weight")]


# llama.cpp -------------------------------------------------------------------------------------------------


def with_vocabulary(golden, family, to):
    """The model with a tokenizer: llama.cpp opens no file without one."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    llama3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    qwen2 = llama3.replace(r"\p{N}{1,3}", r"\p{N}")
    plain(golden, family, to)
    words = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCAB - 2]
    vocab = {word: i for i, word in enumerate([*words, words[0] + words[1], "<|end|>"])}
    tokenizer = Tokenizer(models.BPE(vocab, [(words[0], words[1])]))
    tokenizer.add_special_tokens(["<|end|>"])
    pattern = qwen2 if family.startswith("qwen") else llama3
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(to / "tokenizer.json"))
    (to / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return to


def llama_cpp(model, adapter=None):
    from llama_cpp import Llama

    return Llama(str(model), lora_path=str(adapter) if adapter else None, n_ctx=64, n_threads=1, verbose=False,
                 type_k=0, type_v=0, logits_all=True, flash_attn=False, use_mmap=False)


def last_logits(llama, tokens):
    llama.reset()
    llama.eval(tokens)
    return logprobs([float(x) for x in llama.scores[llama.n_tokens - 1]])


def greedy(step, prompt, tokens):
    text = list(prompt)
    for _ in range(tokens):
        row = step(text)
        text.append(max(range(VOCAB), key=row.__getitem__))
    return text


def with_llama_cpp(family, golden, runs, tmp):
    run, model = runs["LoRA"], with_vocabulary(golden, family, tmp / "vocabulary")
    adapter = tmp / "adapter.gguf"
    mesp("export", "--adapter", run, "--model", model, "--output", adapter)
    for ty in ["f32", "q8_0"]:
        base, merged = tmp / f"{ty}.gguf", tmp / f"merged-{ty}.gguf"
        mesp("quantize", "--model", model, "--type", ty, "--output", base)
        at_most = F32 if ty == "f32" else ROUNDED
        plain, adapted = llama_cpp(base), llama_cpp(base, adapter)
        there = [last_logits(adapted, p) for p in PROMPTS]
        before = [last_logits(plain, p) for p in PROMPTS]
        here, here_before = ours(base, run), ours(base)
        check(family, f"{ty} file of mesp quantize: logits in llama.cpp", apart(here_before, before), at_most)
        check(family, f"{ty} file and GGUF adapter: logits in llama.cpp", apart(here, there), at_most)
        check(family, f"{ty} file and GGUF adapter: direction of the change", moved(here, here_before, there, before), at_most)
        mesp("merge", "--model", base, "--adapter", adapter, "--output", merged)
        joined = llama_cpp(merged)
        check(family, f"{ty} file merged here: logits in llama.cpp", apart(ours(merged), [last_logits(joined, p) for p in PROMPTS]), at_most)
        outside = runs.get("head and embeddings")
        if ty == "f32" and outside and not tied(model):
            extended = tmp / "outside.gguf"
            mesp("export", "--adapter", outside, "--model", model, "--output", extended)
            there = [last_logits(llama_cpp(base, extended), p) for p in PROMPTS]
            check(family, "f32 file, head and embeddings: logits in llama.cpp", apart(ours(base, outside), there), at_most)
        if ty == "f32":
            theirs = greedy(lambda text: last_logits(adapted, text), PROMPTS[0], 16)
            mine = greedy(lambda text: ours(base, run, [text])[0], PROMPTS[0], 16)
            check(family, "GGUF adapter: greedy tokens of 16 that differ", sum(a != b for a, b in zip(mine, theirs)), 0)


def version(package):
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main():
    global MESP
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesp", default=str(ROOT / "target/release/mesp"))
    parser.add_argument("--output", type=Path, default=ROOT / "results/interop.json")
    parser.add_argument("--kind", action="append", help="one of the kinds of adapters, and LoRA [default: all]")
    parser.add_argument("families", nargs="*", default=FAMILIES)
    args = parser.parse_args()
    MESP = str(Path(args.mesp).resolve())
    packages = ["peft", "transformers", "torch", "mlx", "mlx-lm", "llama-cpp-python"]
    versions, skipped = {name: version(name) for name in packages}, []
    if not versions["peft"]:
        sys.exit("PEFT is not installed: see the first lines of this script")
    for family in args.families:
        golden = ROOT / "golden" / family
        with tempfile.TemporaryDirectory() as tmp:
            tmp = Path(tmp)
            runs = with_peft(family, golden, tmp, ["LoRA", *args.kind] if args.kind else list(KINDS))
            if versions["mlx-lm"]:
                with_mlx(family, golden, runs, tmp)
            else:
                skipped.append(f"{family}: mlx-lm is not installed")
            if versions["llama-cpp-python"]:
                with_llama_cpp(family, golden, runs, tmp)
            else:
                skipped.append(f"{family}: llama-cpp-python is not installed")
    failed = [c for c in CHECKS if not c["passed"]]
    document = {"versions": versions, "checks": CHECKS, "failed": len(failed), "notes": NOTES, "skipped": skipped}
    args.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(CHECKS)} checks, {len(failed)} failed; {args.output}")
    for line in [*NOTES, *(f"skipped {line}" for line in skipped)]:
        print(line)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
