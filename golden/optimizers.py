#!/usr/bin/env python3
"""Writes golden/optimizers: what three steps of training all weights change, by optimizer, and AdamW with moments of
eight bits.

    python golden/optimizers.py            # rewrites them
    python golden/optimizers.py --check    # recomputes and compares with what is committed

Models and rows are those of golden/FAMILY, without an adapter, in float64 as in generate.py. All rows are one batch and
the same at every step, nothing is clipped, the rate is constant. Weights have the checkpoint's names, shapes and values
(the stored w where a family computes with 1+w, one tensor a fused matrix); a tied table is there once and has the sum
of both its gradients. Weight decay is of what has two dimensions: norms and biases have none.

Where PyTorch or transformers have an optimizer, it is theirs. The others are written from their formulas and held
against these where the definitions meet, and against bitsandbytes where that is installed.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

from generate import ARCHES, HERE, eager_in_double, make_exact, mean_loss, save_tensors

try:
    import bitsandbytes
    from bitsandbytes.backends.triton.kernels_optim import optimizer_update_8bit_blockwise_pytorch as peer_8bit
except ImportError:
    bitsandbytes = peer_8bit = None

STEPS = 3

# ---------------------------------------------------------------------------------------------------
# Optimizers
# ---------------------------------------------------------------------------------------------------


def is_matrix(p):
    return p.ndim == 2


def of_block(name, p):
    return is_matrix(p) and ".layers." in name


def groups(named, weight_decay):
    """Matrices, which decay, and the rest, which does not."""
    matrices = [p for _, p in named if is_matrix(p)]
    rest = [p for _, p in named if not is_matrix(p)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


class Rule:
    """An optimizer written from its formulas."""

    def __init__(self, named, settings):
        self.named, self.step_number = named, 0
        self.states = {name: {} for name, _ in named}
        for key, value in settings.items():
            setattr(self, key, value)

    def decay(self, p):
        return self.weight_decay if is_matrix(p) else 0.0

    def step(self):
        self.step_number += 1
        with torch.no_grad():
            for name, p in self.named:
                self.update(name, p, p.grad, self.states[name], self.step_number)

    @staticmethod
    def average(state, key, beta, value):
        """state ← β·state + (1−β)·value, from zero."""
        state[key] = beta * state.get(key, 0.0) + (1.0 - beta) * value
        return state[key]


class Lion(Rule):
    """Chen et al. 2023: u = sign(β₁·m + (1−β₁)·g);  θ ← θ − η·(u + λ·θ);  m ← β₂·m + (1−β₂)·g."""

    def update(self, name, p, g, state, t):
        direction = self.beta1 * state.get("m", 0.0) + (1.0 - self.beta1) * g
        p.sub_(self.learning_rate * (direction.sign() + self.decay(p) * p))
        self.average(state, "m", self.beta2, g)


class AdaLomo(Rule):
    """Lv et al. 2023, with the schedule of β that their program has.

    β = 1 − t^−0.8;  averages of g² + ε₁: a matrix's means over rows r and over columns c, v = r·cᵀ / mean(r);
    u = g / √v;  û = u / max(1, RMS(u)/τ);  η' = η·max(ε₂, RMS(θ));  θ ← (1 − η'·λ)·θ − η'·û.
    """

    def update(self, name, p, g, state, t):
        beta = 1.0 - t**-0.8
        squares = g * g + self.epsilon1
        if is_matrix(p):
            rows = self.average(state, "r", beta, squares.mean(1))
            cols = self.average(state, "c", beta, squares.mean(0))
            v = rows[:, None] * cols[None, :] / rows.mean()
        else:
            v = self.average(state, "v", beta, squares)
        u = g / v.sqrt()
        u = u / max(1.0, rms(u) / self.clip_threshold)
        rate = self.learning_rate * max(self.epsilon2, rms(p))
        p.mul_(1.0 - rate * self.decay(p)).sub_(rate * u)


def rms(x):
    return x.square().mean().sqrt().item()


class Foam(Rule):
    """Wen et al. 2025: Adam whose moments are kept for blocks of 2^level neighbours of a row.

    A makes means of blocks (of what is there, where a row's end cuts one), E repeats them;  g̃ = G·A;
    M̃ ← β₁·M̃ + (1−β₁)·g̃;  Ṽ ← β₂·Ṽ + (1−β₂)·(G²·A, or g̃²);  R = ρ·(G − g̃·E);
    θ ← θ − η·α·√(1−β₂ᵗ)/(1−β₁ᵗ) · (M̃·E + R) / (√(Ṽ·E + R²) + ε).
    Only matrices of blocks are folded; all else has level 0 and α = 1, which is Adam.
    """

    def update(self, name, p, g, state, t):
        folded = of_block(name, p)
        scale = self.scale if folded else 1.0
        flat = g if g.ndim == 2 else g[None, :]
        fold, unfold = folding(flat.shape[1], 2 ** (self.level if folded else 0), g.dtype)
        means = flat @ fold
        squares = (flat * flat) @ fold if self.second_moment == "mean-of-squares" else means * means
        m = self.average(state, "m", self.beta1, means)
        v = self.average(state, "v", self.beta2, squares)
        rest = self.residual * (flat - means @ unfold)
        correction = (1.0 - self.beta2**t) ** 0.5 / (1.0 - self.beta1**t)
        u = (m @ unfold + rest) / ((v @ unfold + rest * rest).sqrt() + self.epsilon)
        p.sub_(self.learning_rate * scale * correction * u.view(p.shape))


def folding(n, block, dtype):
    """The means of blocks as a matrix n × blocks, and the repetition as one of blocks × n."""
    unfold = (torch.arange(n) // block == torch.arange(-(-n // block))[:, None]).to(dtype)
    return (unfold / unfold.sum(1, keepdim=True)).T, unfold


class Muon(Rule):
    """Jordan et al. 2024, as torch.optim.Muon: m ← μ·m + (1−μ)·g;  g' = (1−μ)·g + μ·m;
    θ ← (1 − η·λ)·θ − 0.2·η·√max(rows, columns) · orthogonal(g'),
    the rate of adjust_lr_fn="match_rms_adamw" (Liu et al. 2025), with which one rate serves AdamW too.
    """

    def update(self, name, p, g, state, t):
        m = self.average(state, "m", self.momentum, g)
        direction = self.orthogonal((1.0 - self.momentum) * g + self.momentum * m)
        rate = 0.2 * self.learning_rate * max(p.shape) ** 0.5
        p.mul_(1.0 - self.learning_rate * self.weight_decay).sub_(rate * direction)

    def orthogonal(self, x):
        """Newton and Schulz: X ← a·X + (b·S + c·S²)·X with S = X·Xᵀ, of the wide form, from the norm 1."""
        a, b, c = self.coefficients
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / max(x.norm().item(), self.epsilon_norm)
        for _ in range(self.newton_schulz_steps):
            s = x @ x.T
            x = a * x + (b * s + c * s @ s) @ x
        return x.T if tall else x


def sgd(named, s):
    return torch.optim.SGD(groups(named, s["weight_decay"]), lr=s["learning_rate"])


def adamw(named, s):
    betas = (s["beta1"], s["beta2"])
    parameters = groups(named, s["weight_decay"])
    return torch.optim.AdamW(parameters, lr=s["learning_rate"], betas=betas, eps=s["epsilon"])


def adafactor(named, s, scale_parameter=False):
    """With `scale_parameter` its steps are AdaLomo's."""
    return Adafactor(
        groups(named, s["weight_decay"]), lr=s["learning_rate"], eps=(s["epsilon1"], s["epsilon2"]),
        clip_threshold=s["clip_threshold"], decay_rate=-0.8, beta1=None,
        scale_parameter=scale_parameter, relative_step=False, warmup_init=False,
    )


def muon_and_adamw(named, s, of_matrices=Muon):
    """For the matrices of blocks Muon, for the rest AdamW."""
    matrices = [(name, p) for name, p in named if of_block(name, p)]
    rest = [(name, p) for name, p in named if not of_block(name, p)]
    return [of_matrices(matrices, s), adamw(rest, s)]


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
FACTORED = {"epsilon1": 1e-30, "epsilon2": 1e-3, "clip_threshold": 1.0}
SGD = {"learning_rate": 0.05, "weight_decay": 0.0}
FOAM = {
    "learning_rate": 0.002, "weight_decay": 0.0, "level": 2, "scale": 0.25, "second_moment": "mean-of-squares",
    "residual": 1.0,
} | ADAM

# By name of the file: the optimizer, how it is made, its settings.
CASES = {
    "sgd": ("sgd", sgd, SGD),
    # Decay that is added to the gradient.
    "sgd_decay": ("sgd", sgd, SGD | {"weight_decay": 0.1}),
    "adamw": ("adamw", adamw, {"learning_rate": 0.001, "weight_decay": 0.01} | ADAM),
    "lion": ("lion", Lion, {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}),
    "adalomo": ("adalomo", AdaLomo, {"learning_rate": 0.01, "weight_decay": 0.1} | FACTORED),
    "adafactor": ("adafactor", adafactor, {"learning_rate": 0.001, "weight_decay": 0.0} | FACTORED),
    "foam": ("foam", Foam, FOAM),
    "foam_square": ("foam", Foam, FOAM | {"second_moment": "square-of-mean"}),
    # Blocks of 16, which cut a row's end in llama, and half of what is left over.
    "foam_level4": ("foam", Foam, FOAM | {"level": 4, "residual": 0.5}),
    "muon": (
        "muon",
        muon_and_adamw,
        {
            "learning_rate": 0.001, "weight_decay": 0.01, "momentum": 0.95,
            "newton_schulz_steps": 5, "coefficients": (3.4445, -4.775, 2.0315), "epsilon_norm": 1e-7,
        } | ADAM,
    ),
}
# What is stored of these are matrices of blocks, since all else is as in `foam`.
FOLDED_ONLY = ["foam_square", "foam_level4"]

ALL = ["sgd", "adamw", "lion", "adalomo", "adafactor", "foam", "muon"]
# A tied table; a head of its own, in two files of bf16; norms that store w and mean 1+w; fused matrices.
FAMILIES = {
    "qwen2": ALL + ["sgd_decay", "foam_square"],
    "llama": ALL + ["foam_level4"],
    "gemma3_text": ["sgd_decay", "adalomo"],
    "phi3": ["adalomo", "foam", "muon"],
}

# ---------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------


def train(model, rows, make, settings):
    """Three steps from the model's weights, which are put back; the changes by name, losses and the targets."""
    named = list(model.named_parameters())
    start = {name: p.detach().clone() for name, p in named}
    made = make(named, settings)
    optimizers = made if isinstance(made, list) else [made]
    losses = []
    for _ in range(STEPS):
        model.zero_grad()
        loss, count = mean_loss(model, rows)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        losses.append(mean_loss(model, rows)[0].item())
        changes = {name: p.detach() - start[name] for name, p in named}
        for name, p in named:
            p.copy_(start[name])
    return changes, losses, count


def far(a, b):
    """Largest over tensors of max|a−b| / max|b|."""
    return max(((a[name].double() - b[name].double()).abs().max() / b[name].abs().max()).item() for name in b)


def share(a, b):
    """|a−b| / |b| over all tensors."""
    apart = sum((a[name].double() - b[name].double()).square().sum().item() for name in b)
    return (apart / sum(b[name].double().square().sum().item() for name in b)) ** 0.5


class PeersMuon:
    """torch.optim.Muon, which multiplies in bfloat16, made to do it in the parameters' type."""

    def __init__(self, named, s):
        self.optimizer = torch.optim.Muon(
            [p for _, p in named], lr=s["learning_rate"], weight_decay=s["weight_decay"], momentum=s["momentum"],
            ns_coefficients=s["coefficients"], eps=s["epsilon_norm"], ns_steps=s["newton_schulz_steps"],
            adjust_lr_fn="match_rms_adamw",
        )

    def step(self):
        with mock.patch.object(torch, "bfloat16", torch.float64):
            self.optimizer.step()


def peers_lion(named, s):
    betas = (s["beta1"], s["beta2"])
    return bitsandbytes.optim.Lion(groups(named, s["weight_decay"]), lr=s["learning_rate"], betas=betas)


def check_rules(model, rows, family):
    """Where definitions meet, what is written here is held against what others wrote."""

    def apart(make, theirs, settings):
        return far(*(train(model, rows, each, settings)[0] for each in (make, theirs)))

    _, make, settings = CASES["adalomo"]
    found = {"adalomo": apart(make, lambda named, s: adafactor(named, s, scale_parameter=True), settings)}
    # Without ε its place says nothing, and blocks of one value leave nothing over.
    found["foam"] = apart(Foam, adamw, FOAM | {"level": 0, "scale": 1.0, "epsilon": 1e-30})
    _, make, settings = CASES["muon"]
    found["muon"] = apart(make, lambda named, s: muon_and_adamw(named, s, of_matrices=PeersMuon), settings)
    assert max(found.values()) < 1e-10, found
    if bitsandbytes:
        _, make, settings = CASES["lion"]
        found["lion"] = apart(make, peers_lion, settings)
        # It keeps float32.
        assert found["lion"] < 1e-4, found
    print(f"{family}: from what others wrote " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))


def representative(names):
    """One tensor of each kind, of the layers in turn; small files, and no layer is left out."""
    kinds = {}
    for name in sorted(names):
        before, _, rest = name.partition(".layers.")
        layer, _, module = rest.partition(".")
        kinds.setdefault(module or before, []).append((int(layer or 0), name))
    return sorted(sorted(of)[i % len(of)][1] for i, of in enumerate(kinds.values()))


def make(family, directory):
    rows = [json.loads(line) for line in (HERE / family / "rows.jsonl").read_text().splitlines()]
    base = HERE / family / "model"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(True)
    single = {case: train(model, rows, *CASES[case][1:])[0] for case in FAMILIES[family]}
    make_exact(model, ARCHES[family]["config"])
    with eager_in_double(family):
        check_rules(model, rows, family)
        for case in FAMILIES[family]:
            optimizer, rule, settings = CASES[case]
            changes, losses, count = train(model, rows, rule, settings)
            assert losses[-1] < losses[0], f"{family} {case}: {losses}"
            changes = {name: changes[name] for name in representative(changes)}
            if case in FOLDED_ONLY:
                changes = {name: change for name, change in changes.items() if of_block(name, change)}
            apart, most = share(single[case], changes), far(single[case], changes)
            assert apart < 1e-4 and most < 1e-3, f"{family} {case}: float32 is off by {apart}, {most}"
            tensors = {name: change.float().contiguous() for name, change in changes.items()}
            metadata = {key: str(value) for key, value in settings.items()}
            metadata |= {f"loss_{i}": repr(loss) for i, loss in enumerate(losses)}
            metadata |= {"optimizer": optimizer, "steps": str(STEPS), "target_tokens": str(count)}
            save_tensors(directory / f"{case}.safetensors", tensors, metadata)
            print(
                f"{family} {case}: losses {' '.join(f'{loss:.5f}' for loss in losses)}, float32 is off by "
                f"{apart:.1e} of the change, by {most:.1e} of a tensor's largest"
            )


# ---------------------------------------------------------------------------------------------------
# Moments of eight bits
# ---------------------------------------------------------------------------------------------------

BLOCK = 256
EXPONENTS = 7


def dynamic_map(signed):
    """The 256 values of a code (Dettmers 2015, arXiv:1511.04561; for moments Dettmers et al. 2021, arXiv:2110.02861).

    Each of seven powers of ten has a range from a tenth of it to itself, cut into twice as many equal parts as the
    power below; a value is the middle of a part. The signed map has half the parts and both signs. 0 and 1 are added.
    The numbers are float32 and rounded as bitsandbytes rounds them.
    """
    values = [0.0, 1.0]
    for exponent in range(EXPONENTS):
        parts = 2**exponent if signed else 2 ** (exponent + 1)
        ends = torch.linspace(0.1, 1, parts + 1)
        middles = (10.0 ** (exponent + 1 - EXPONENTS) * ((ends[:-1] + ends[1:]) / 2)).tolist()
        values += middles + [-middle for middle in middles if signed]
    assert len(values) == 256
    return np.sort(np.array(values))


def code(values, table):
    """The nearest value's place for each, a scale a block, and how near a value came to the middle of two, relative."""
    blocks = values.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(1)
    scaled = (blocks / scales[:, None]).ravel()
    distances = np.abs(scaled[:, None] - table)
    two = np.sort(distances, 1)[:, :2]
    lead = (two[:, 1] - two[:, 0]) / np.maximum(np.abs(scaled), 1e-30)
    return distances.argmin(1).astype(np.uint8), scales, lead.min()


def decode(codes, scales, table):
    return table[codes] * np.repeat(scales, BLOCK)


def eight_bit_example(tables):
    """Three steps of AdamW on 512 values. What a step uses are the moments before they are coded."""
    settings = {"learning_rate": 0.001, "weight_decay": 0.01} | ADAM
    eta, decay, beta1, beta2, epsilon = (
        settings[key] for key in ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon")
    )
    random = np.random.default_rng(48)
    short = np.vectorize(lambda x: float(f"{x:.5g}"))
    start = p = short(random.normal(0, 0.2, 2 * BLOCK))
    # Gradients of many sizes within a block; one block's are smaller; some are zero. None is so small that only its
    # second moment becomes 0: the next step would then divide by little more than ε.
    sizes = np.exp(random.uniform(-2.5, 2.5, 2 * BLOCK)) * np.repeat([1e-2, 1e-4], BLOCK)
    gradients = short(sizes * random.choice([-1, 1], (STEPS, 2 * BLOCK)) * random.uniform(0.5, 2, (STEPS, 2 * BLOCK)))
    gradients[:, ::37] = 0.0
    out = settings | {"block": BLOCK, "steps": STEPS, "parameters": p.tolist(), "gradients": gradients.tolist()}
    m_codes = v_codes = np.zeros(2 * BLOCK, np.uint8)
    m_scales = v_scales = np.zeros(2)
    leads = []
    for t, g in enumerate(gradients, 1):
        m = beta1 * decode(m_codes, m_scales, tables[0]) + (1 - beta1) * g
        v = beta2 * decode(v_codes, v_scales, tables[1]) + (1 - beta2) * g * g
        p = p * (1 - eta * decay) - eta * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
        m_codes, m_scales, lead = code(m, tables[0])
        leads.append(lead)
        v_codes, v_scales, lead = code(v, tables[1])
        leads.append(lead)
    # Float32 then finds the same codes.
    assert min(leads) > 1e-5, leads
    assert np.array_equal(v_codes == 0, gradients[0] == 0)
    assert np.abs(p - start).max() < 2 * STEPS * eta
    out["first_moment"] = {"codes": m_codes.tolist(), "scales": m_scales.tolist()}
    out["second_moment"] = {"codes": v_codes.tolist(), "scales": v_scales.tolist()}
    out["parameters_after"] = p.tolist()
    return out, min(leads)


def check_eight_bits(tables, example):
    """Against bitsandbytes' maps and its update in PyTorch, float32."""
    for signed, table in zip((True, False), tables):
        theirs = bitsandbytes.functional.create_dynamic_map(signed=signed)
        assert np.array_equal(theirs.double().numpy(), table)
    p = torch.tensor(example["parameters"], dtype=torch.float32)
    moments = [torch.zeros(len(p), dtype=torch.uint8) for _ in tables]
    scales = [torch.zeros(len(p) // BLOCK) for _ in tables]
    maps = [torch.tensor(table, dtype=torch.float32) for table in tables]
    for t, g in enumerate(example["gradients"], 1):
        peer_8bit(
            p, torch.tensor(g, dtype=torch.float32), *moments, example["beta1"], example["beta2"], 0.0, 0.0,
            example["epsilon"], t, example["learning_rate"], *maps, *scales, example["weight_decay"], 1.0, False,
            optimizer_name="adam",
        )
    for key, codes, scale in zip(("first_moment", "second_moment"), moments, scales):
        assert codes.tolist() == example[key]["codes"], key
        assert np.allclose(scale.numpy(), example[key]["scales"], rtol=1e-6, atol=0)
    apart = np.abs(p.numpy() - example["parameters_after"]).max()
    print(f"eight bits: maps and codes are those of bitsandbytes {bitsandbytes.__version__}, parameters {apart:.1e}")
    assert apart < 1e-6


def make_eight_bits(path):
    tables = [dynamic_map(signed) for signed in (True, False)]
    example, lead = eight_bit_example(tables)
    print(f"eight bits: no value is nearer to the middle of two than {lead:.1e} of itself")
    if peer_8bit:
        check_eight_bits(tables, example)
    result = {"signed": tables[0].tolist(), "unsigned": tables[1].tolist(), "example": example}
    # A list a line: a number a line would be thousands.
    lines = [f' "{key}": {json.dumps(value)}' for key, value in result.items() if key != "example"]
    inner = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in example.items())
    path.write_text("{\n" + ",\n".join(lines) + ',\n "example": {\n' + inner + "\n }\n}\n")


# ---------------------------------------------------------------------------------------------------


def main():
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if not bitsandbytes:
            print("without bitsandbytes, whose Lion and maps are then not compared")
        for family in FAMILIES:
            (scratch / family).mkdir()
            make(family, scratch / family)
        make_eight_bits(scratch / "update_8bit.json")
        committed = HERE / "optimizers"
        if "--check" in sys.argv:
            for path in sorted(scratch.rglob("*.*")):
                beside = committed / path.relative_to(scratch)
                if not beside.exists() or path.read_bytes() != beside.read_bytes():
                    print(f"differs: {beside.relative_to(HERE)}")
                    different += 1
        else:
            shutil.rmtree(committed, ignore_errors=True)
            shutil.copytree(scratch, committed)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
