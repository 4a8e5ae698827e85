#!/usr/bin/env python3
"""Writes the PyTorch goldens: small models, adapters, rows, and the answers PyTorch + PEFT give.

Run from anywhere:

    python golden/generate.py            # rewrites golden/FAMILY for every family
    python golden/generate.py phi3       # one family
    python golden/generate.py --check    # recomputes and compares with what is committed

Every random number comes from a fixed seed, so a second run on the same machine with the same library
versions writes the same bytes. The script checks what it writes (no gradient is zero, float32 and float64 agree, the
float64 gradients agree with central differences) and stops if a check fails.

Two computations of everything:

* float32: the stock transformers model with attn_implementation="eager" under PEFT.
* float64: the same modules, but the stock code computes RMSNorm statistics, the attention softmax and
  the rotary angles in float32 whatever the dtype of the model. Those three are replaced here by float64
  ones, so that the float64 answers are good to about 1e-15 and not only to 1e-7.
"""

import argparse
import importlib
import json
import math
import os
import shutil
import sys
import tempfile
import types
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)

HERE = Path(__file__).resolve().parent
VOCAB = 97
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED_TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
IGNORE = -100
SGD_LR = 0.05
ADAM_LR = 0.01
CLIP = 0.5
STEPS = 10


# ---------------------------------------------------------------------------------------------------
# The architectures
# ---------------------------------------------------------------------------------------------------

ARCHES = {
    # Grouped heads (4 query, 2 key/value), tied embeddings, non-zero q/k/v biases.
    "qwen2": dict(
        seed=11,
        model=Qwen2ForCausalLM,
        config=Qwen2Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=1,
            eos_token_id=2,
        ),
        dtype=torch.float32,
        rslora=False,
        shard=None,
    ),
    # head_dim 16 where hidden/heads is 4, q_norm/k_norm, three query heads a group.
    "qwen3": dict(
        seed=12,
        model=Qwen3ForCausalLM,
        config=Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=24,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            bos_token_id=1,
            eos_token_id=2,
        ),
        dtype=torch.float32,
        rslora=True,
        shard=None,
    ),
    # llama3 rope scaling that bites at these lengths, one key/value head, untied lm_head, two bf16 shards.
    "llama": dict(
        seed=13,
        model=LlamaForCausalLM,
        config=LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=40,
            intermediate_size=72,
            num_hidden_layers=2,
            num_attention_heads=5,
            num_key_value_heads=1,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "llama3",
                # Small, so that two of the four frequencies lie in the smoothed band and two beyond it.
                "rope_theta": 20.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            bos_token_id=1,
            eos_token_id=[2, 3],
        ),
        dtype=torch.bfloat16,
        rslora=False,
        shard="45KB",
    ),
    # A window that bites in every layer, untied lm_head, head_dim 12 where hidden/heads is 8.
    "mistral": dict(
        seed=24,
        model=MistralForCausalLM,
        config=MistralConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=72,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=128,
            rms_norm_eps=1e-5,
            sliding_window=7,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=1,
            eos_token_id=2,
        ),
        dtype=torch.float32,
        rslora=False,
        shard=None,
    ),
    # Windowed, full and windowed layers with two rotary bases, the full one scaled; scores divided by another
    # number than the root of the head's width; norms everywhere.
    "gemma3_text": dict(
        seed=15,
        model=Gemma3ForCausalLM,
        config=Gemma3TextConfig(
            vocab_size=VOCAB,
            hidden_size=24,
            intermediate_size=56,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=128,
            rms_norm_eps=1e-6,
            query_pre_attn_scalar=10,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            bos_token_id=2,
            eos_token_id=[1, 3],
        ),
        pattern=2,
        dtype=torch.float32,
        rslora=False,
        shard=None,
    ),
    # One layer of three that is not rotated.
    "smollm3": dict(
        seed=16,
        model=SmolLM3ForCausalLM,
        config=SmolLM3Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=72,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rms_norm_eps=1e-6,
            no_rope_layers=[1, 0, 1],
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 5000000.0},
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        dtype=torch.float32,
        rslora=False,
        shard=None,
    ),
    # Fused projections, a window, divisors of the rotary frequencies, scores raised with the longer context.
    "phi3": dict(
        seed=17,
        model=Phi3ForCausalLM,
        config=Phi3Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=72,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            original_max_position_embeddings=128,
            rms_norm_eps=1e-5,
            sliding_window=11,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.3, 1.6],
                "long_factor": [1.0, 2.0, 5.0, 12.0],
                "original_max_position_embeddings": 128,
            },
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        targets=FUSED_TARGETS,
        dtype=torch.float32,
        rslora=False,
        shard=None,
    ),
}


def normal(generator, shape, std, mean=0.0):
    return torch.randn(shape, generator=generator) * std + mean


def randomize(model, generator):
    """Weights that keep activations near one: 1/sqrt(in) for linears, norms scattered around one."""
    middle = 0.0 if "Gemma" in type(model).__name__ else 1.0
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                parameter.copy_(normal(generator, parameter.shape, 0.2, middle))
            elif name.endswith("bias"):
                parameter.copy_(normal(generator, parameter.shape, 0.4))
            elif "embed_tokens" in name:
                parameter.copy_(normal(generator, parameter.shape, 0.25))
            else:
                scale = 0.5 if "lm_head" in name else 1.0
                parameter.copy_(normal(generator, parameter.shape, scale / math.sqrt(parameter.shape[1])))


def make_rows(generator):
    """Rows of odd lengths; prompts masked, masks in the middle, and one row with nothing to predict."""

    def ids(n):
        return torch.randint(4, VOCAB, (n,), generator=generator).tolist()

    def row(n, masked):
        tokens = ids(n)
        return {"input_ids": tokens, "labels": [IGNORE if t in masked else tokens[t] for t in range(n)]}

    return [
        row(17, set(range(6))),
        # One token, and its label is set: position 0 has no past, so this row has no target.
        row(1, set()),
        # Trained from the start (label 0 is set and must be skipped), a hole in the middle, a masked end.
        row(33, set(range(12, 19)) | {32}),
        row(2, {0}),
        # Single targets between masked positions.
        row(9, {0, 1, 2, 4, 5, 7}),
    ]


# ---------------------------------------------------------------------------------------------------
# float64 without float32 inside
# ---------------------------------------------------------------------------------------------------


def exact_inverse_frequencies(config, layer_type=None):
    """Rotary frequencies in float64, from the definition."""
    rope = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    out = []
    for pair in range(dim // 2):
        frequency = rope["rope_theta"] ** (-2.0 * pair / dim)
        if rope["rope_type"] == "llama3":
            # Turns completed over the original context decide: many turns keep the frequency, less than
            # low_freq_factor divides it by the factor, in between is a straight line from one to the other.
            turns = rope["original_max_position_embeddings"] * frequency / (2.0 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            keep = min(1.0, max(0.0, (turns - low) / (high - low)))
            frequency *= keep + (1.0 - keep) / rope["factor"]
        elif rope["rope_type"] == "linear":
            frequency /= rope["factor"]
        elif rope["rope_type"] == "longrope":
            frequency /= rope["short_factor"][pair]
        out.append(frequency)
    return torch.tensor(out, dtype=torch.float64)


def make_exact(peft_model, config):
    """Turns a PEFT model into float64 all the way through."""
    peft_model.double()
    kinds = sorted(set(config.layer_types)) if config.model_type == "gemma3_text" else [None]
    frequencies = {kind: exact_inverse_frequencies(config, kind) for kind in kinds}
    amplitude = 1.0
    if kinds == [None] and config.rope_parameters["rope_type"] == "longrope":
        original = config.rope_parameters["original_max_position_embeddings"]
        ratio = config.max_position_embeddings / original
        amplitude = math.sqrt(1.0 + math.log(ratio) / math.log(original))

    def norm_forward(self, x):
        eps = self.eps if hasattr(self, "eps") else self.variance_epsilon
        rho = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        weight = 1.0 + self.weight if hasattr(self, "eps") else self.weight
        return weight * (x * rho)

    def rotary_forward(self, x, position_ids, layer_type=None):
        angles = position_ids[..., None].double() * frequencies[layer_type]
        angles = torch.cat((angles, angles), dim=-1)
        return amplitude * angles.cos(), amplitude * angles.sin()

    for module in peft_model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = types.MethodType(norm_forward, module)
        elif kind.endswith("RotaryEmbedding"):
            for layer_type, exact in frequencies.items():
                stock = getattr(module, f"{layer_type}_inv_freq" if layer_type else "inv_freq")
                difference = (stock.double() - exact).abs().max().item()
                assert difference < 1e-7, f"rotary frequencies differ from the library's by {difference}"
            if kinds == [None]:
                assert abs(module.attention_scaling - amplitude) < 1e-12
            module.forward = types.MethodType(rotary_forward, module)


def exact_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    # The library's mask says what is hidden: what comes later, and what is outside of the window.
    hidden = attention_mask < 0
    n, m = scores.shape[-2:]
    assert hidden[..., torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)].all()
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class eager_in_double:
    """While active, the eager attention of one architecture is `exact_attention`."""

    def __init__(self, arch):
        arch = arch.removesuffix("_text")
        self.module = importlib.import_module(f"transformers.models.{arch}.modeling_{arch}")

    def __enter__(self):
        self.stock = self.module.eager_attention_forward
        self.module.eager_attention_forward = exact_attention

    def __exit__(self, *_):
        self.module.eager_attention_forward = self.stock


# ---------------------------------------------------------------------------------------------------
# Losses and gradients
# ---------------------------------------------------------------------------------------------------


def row_loss(model, row):
    """Sum of nats over a row's targets, the number of targets, and the logits."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
    labels = torch.tensor(row["labels"][1:])
    keep = labels != IGNORE
    count = int(keep.sum())
    if count == 0:
        return logits.new_zeros(()), 0, logits
    picked = logits[:-1][keep].log_softmax(-1).gather(1, labels[keep][:, None])
    return -picked.sum(), count, logits


def mean_loss(model, rows):
    total, count = 0.0, 0
    for row in rows:
        loss, targets, _ = row_loss(model, row)
        total, count = total + loss, count + targets
    return total / count, count


def saved_name(name):
    return name.replace(".default.weight", ".weight")


def gradients(model, rows):
    """dLoss/dParameter of the mean loss over all targets of all rows, by PEFT's saved names."""
    model.zero_grad()
    loss, count = mean_loss(model, rows)
    loss.backward()
    grads = {saved_name(n): p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return loss.item(), count, grads


def relative_error(a, b):
    """Largest over tensors of max|a-b| / max|b|."""
    return max(((a[n].double() - b[n].double()).abs().max() / b[n].double().abs().max()).item() for n in b)


def check_by_differences(model, rows, grads, generator):
    """Central differences along one random direction per tensor; returns the worst relative error."""
    worst = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            start = parameter.clone()

            def slope(step):
                parameter.copy_(start + step * direction)
                up = mean_loss(model, rows)[0].item()
                parameter.copy_(start - step * direction)
                return (up - mean_loss(model, rows)[0].item()) / (2 * step)

            # Two step sizes, combined so that the cubic term cancels.
            found = (4 * slope(1e-4) - slope(2e-4)) / 3
            parameter.copy_(start)
            grad = grads[saved_name(name)]
            expected = (grad * direction).sum().item()
            size = (grad.norm() * direction.norm() / math.sqrt(grad.numel())).item()
            worst = max(worst, abs(found - expected) / size)
    return worst


def in_both_precisions(model, family, rows, seed=None):
    """Loss and gradients in float32 and in float64, held against each other and, with a seed, against differences.

    The model ends in float64. Gives both, the number of targets, and how far apart they are, in words.
    """
    loss32, count, grads32 = gradients(model, rows)
    make_exact(model, ARCHES[family]["config"])
    with eager_in_double(family):
        loss64, _, grads64 = gradients(model, rows)
        far = None
        if seed is not None:
            far = check_by_differences(model, rows, grads64, torch.Generator().manual_seed(seed))
    error = relative_error(grads32, grads64)
    assert error < 5e-6, f"{family}: float32 is off by {error}"
    assert far is None or far < 1e-7, f"{family}: differences are off by {far}"
    apart = f"f32/f64 {error:.1e}" + ("" if far is None else f", differences {far:.1e}")
    return (loss32, grads32), (loss64, grads64), count, apart


def ten_losses(model, rows, optimizer_name):
    """Ten full-batch steps; the loss and the gradient norm before each, and the loss after the last."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    if optimizer_name.startswith("sgd"):
        optimizer = torch.optim.SGD(parameters, lr=SGD_LR)
        out = {"optimizer": "sgd", "learning_rate": SGD_LR, "momentum": 0.0, "weight_decay": 0.0}
    else:
        optimizer = torch.optim.AdamW(parameters, lr=ADAM_LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        out = {
            "optimizer": "adamw",
            "learning_rate": ADAM_LR,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.01,
        }
    clip = CLIP if optimizer_name.endswith("clip") else None
    out |= {"max_grad_norm": clip, "losses": [], "grad_norms": []}
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = mean_loss(model, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip if clip else float("inf"))
        out["losses"].append(loss.item())
        out["grad_norms"].append(norm.item())
        optimizer.step()
    with torch.no_grad():
        out["loss_after"] = mean_loss(model, rows)[0].item()
        for parameter, value in zip(parameters, start):
            parameter.copy_(value)
    if clip:
        assert min(out["grad_norms"]) > clip, "clipping must bite at every step"
    assert out["loss_after"] < 0.97 * out["losses"][0], "the loss must clearly fall"
    return out


def greedy(model, prompt, count):
    """The most likely continuation, without a cache, and the smallest lead over the runner-up in logits."""
    tokens, lead = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(count):
            best = model(input_ids=torch.tensor([tokens])).logits[0, -1].topk(2)
            lead = min(lead, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
    return {"prompt_ids": list(prompt), "token_ids": tokens[len(prompt) :], "smallest_lead": lead}


# ---------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def save_tensors(path, tensors, metadata):
    """A safetensors file whose header comes in one fixed order (the library shuffles the metadata)."""
    save_file(tensors, path, metadata=metadata)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def config_in_old_keys(config, pattern):
    """config.json as transformers v4 wrote it: torch_dtype, rope_theta and rope_scaling at the top."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype")
    rope = dict(old.pop("rope_parameters"))
    if "sliding_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        old["sliding_window_pattern"] = pattern
        old.pop("_sliding_window_pattern", None)
    old["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "longrope":
        # Phi-3's own name, and the original length beside it.
        old["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings")
        rope.pop("partial_rotary_factor", None)
        rope["type"] = rope.pop("rope_type")
        old["rope_scaling"] = rope
    else:
        old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    old.pop("layer_types", None)
    old["transformers_version"] = "4.46.0"
    return dict(sorted(old.items()))


def make_model(arch, spec, directory):
    generator = torch.Generator().manual_seed(spec["seed"])
    config = spec["config"]
    model = spec["model"](config)
    randomize(model, generator)
    model = model.to(spec["dtype"])
    model.config.dtype = spec["dtype"]
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory / "model")
    extra = {"max_shard_size": spec["shard"]} if spec["shard"] else {}
    model.save_pretrained(directory / "model", **extra)
    (directory / "model" / "generation_config.json").unlink(missing_ok=True)
    write_json(
        directory / "config_v4.json",
        config_in_old_keys(json.loads((directory / "model" / "config.json").read_text()), spec.get("pattern")),
    )

    base = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32, attn_implementation="eager")
    lora = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=spec.get("targets", TARGETS),
        use_rslora=spec["rslora"],
        bias="none",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in sorted(adapted.named_parameters()):
            if "lora_A" in name:
                parameter.copy_(normal(generator, parameter.shape, 1.0 / math.sqrt(parameter.shape[1])))
            elif "lora_B" in name:
                parameter.copy_(normal(generator, parameter.shape, 0.2))
    adapted.peft_config["default"].base_model_name_or_path = f"golden/{arch}/model"
    adapted.save_pretrained(directory / "adapter", save_embedding_layers=False)
    (directory / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes a set here, in an order that changes from run to run.
    path = directory / "adapter" / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"] = [t for t in spec.get("targets", TARGETS) if t in saved["target_modules"]]
    path.write_text(json.dumps(saved, indent=2, sort_keys=True))

    rows = make_rows(generator)
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def load(directory):
    """Model and adapter as a user would load them from the written files."""
    base = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, directory / "adapter", is_trainable=True)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.eval()


def long_greedy(directory, rows):
    """64 tokens in float32 by the stock model, with its cache and without, with the adapter and without."""
    model = load(directory)
    prompt = rows[0]["input_ids"][:5]
    result = {"adapted": greedy(model, prompt, 64)}
    cached = model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert cached[0, len(prompt) :].tolist() == result["adapted"]["token_ids"], "the cache changes the tokens"
    with model.disable_adapter():
        result["base"] = greedy(model, prompt, 64)
    for run in result.values():
        # Logits of size 10 are rounded at 1e-6, and a few of those add up.
        assert run["smallest_lead"] > 1e-4, f"a lead of {run['smallest_lead']} is within rounding"
    write_json(directory / "greedy.json", result)


def answers(arch, spec, directory, rows):
    long_greedy(directory, rows)
    model = load(directory)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            assert parameter.abs().max() > 0.05, f"{name} is (nearly) zero"
    loss32, count, grads32 = gradients(model, rows)
    runs = ("sgd", "adamw", "sgd_clip")
    ten32 = {n: ten_losses(model, rows, n) for n in runs}

    make_exact(model, spec["config"])
    with eager_in_double(arch):
        loss64, count64, grads64 = gradients(model, rows)
        assert count == count64
        differences = check_by_differences(model, rows, grads64, torch.Generator().manual_seed(1))
        with torch.no_grad():
            adapted = [row_loss(model, row) for row in rows]
            with model.disable_adapter():
                plain = [row_loss(model, row) for row in rows]
        result = {
            "target_tokens": count,
            "loss": loss64,
            "loss_f32": loss32,
            "loss_without_adapter": sum(l.item() for l, _, _ in plain) / count,
            "rows": [
                {
                    "tokens": len(row["input_ids"]),
                    "target_tokens": a[1],
                    "loss_sum": a[0].item(),
                    "loss_sum_without_adapter": b[0].item(),
                    "last_logits": a[2][-1, :5].tolist(),
                    "last_log_sum_exp": a[2][-1].logsumexp(-1).item(),
                    "last_argmax": a[2][-1].argmax().item(),
                }
                for row, a, b in zip(rows, adapted, plain)
            ],
        }
        prompt = rows[0]["input_ids"][:5]
        result["greedy"] = greedy(model, prompt, 12)
        with model.disable_adapter():
            result["greedy_without_adapter"] = greedy(model, prompt, 12)
        result["ten_losses"] = {n: ten_losses(model, rows, n) for n in runs}

    smallest = min(g.abs().max().item() for g in grads64.values())
    error = relative_error(grads32, grads64)
    assert set(grads32) == set(load_file(directory / "adapter" / "adapter_model.safetensors"))
    assert smallest > 1e-4, f"a gradient tensor is (nearly) zero: {smallest}"
    assert error < 3e-6, f"float32 is off by {error}"
    assert differences < 1e-8, f"central differences are off by {differences}"
    for name, run in result["ten_losses"].items():
        pairs = zip(run["losses"] + [run["loss_after"]], ten32[name]["losses"] + [ten32[name]["loss_after"]])
        run["f32_largest_difference"] = max(abs(a - b) for a, b in pairs)
        assert run["f32_largest_difference"] < 1e-4, (name, run)
    result["checks"] = {
        "f32_against_f64_relative_error": error,
        "central_differences_relative_error": differences,
        "smallest_gradient_maximum": smallest,
    }
    for stem, loss, grads in (("grads", loss32, grads32), ("grads_f64", loss64, grads64)):
        save_tensors(
            directory / f"{stem}.safetensors",
            {n: g.float().contiguous() for n, g in sorted(grads.items())},
            {"loss": repr(loss), "target_tokens": str(count)},
        )
    write_json(directory / "losses.json", result)
    print(
        f"{arch}: targets {count}, loss {loss64:.6f} (without adapter {result['loss_without_adapter']:.6f}), "
        f"f32/f64 {error:.1e}, differences {differences:.1e}, smallest gradient {smallest:.1e}"
    )
    for name, run in result["ten_losses"].items():
        print(
            f"  {name:9} {run['losses'][0]:.4f} -> {run['loss_after']:.4f}, "
            f"grad norms {min(run['grad_norms']):.2f}..{max(run['grad_norms']):.2f}, "
            f"float32 differs by at most {run['f32_largest_difference']:.1e}"
        )
    leads = [result[name]["smallest_lead"] for name in ("greedy", "greedy_without_adapter")]
    print(f"  greedy leads {leads[0]:.3f}, {leads[1]:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    parser.add_argument("family", nargs="*", help="only these; all without")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")

    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        different = 0
        for arch, spec in ARCHES.items():
            if options.family and arch not in options.family:
                continue
            directory = scratch / arch
            directory.mkdir()
            rows = make_model(arch, spec, directory)
            answers(arch, spec, directory, rows)
            committed = HERE / arch
            if options.check:
                for path in sorted(p for p in directory.rglob("*") if p.is_file()):
                    other = committed / path.relative_to(directory)
                    if not other.exists() or other.read_bytes() != path.read_bytes():
                        print(f"differs: {other.relative_to(HERE)}")
                        different += 1
            else:
                shutil.rmtree(committed, ignore_errors=True)
                shutil.copytree(directory, committed)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
