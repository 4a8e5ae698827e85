#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, fuzz/seeds/TARGET/NAME, from golden/ and from what is here. Needs Python only.

    scripts/fuzz_seeds.py

Those of `checkpoint` are what a checkpoint of this version holds: crates/fuzz/tests/replay.rs writes them.
"""

import gzip
import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "golden"
SEEDS = ROOT / "fuzz" / "seeds"
MASK = (1 << 64) - 1


def seed(target, name, content):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(tensors, metadata=None):
    """`tensors`: name to type, shape and bytes."""
    head, at = {}, 0
    if metadata:
        head["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def floats(count, start=1.0):
    return struct.pack(f"<{count}f", *(start + i / 8 for i in range(count)))


def gguf(metadata, tensors):
    """`metadata`: name to kind and packed value; `tensors`: name to kind, shape as GGUF has it, and bytes."""
    text = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for name, (kind, value) in metadata.items():
        out += text(name) + struct.pack("<I", kind) + (text(value) if kind == 8 else value)
    at = 0
    for name, (kind, shape, data) in tensors.items():
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, at)
        at += len(data) + -len(data) % 32
    out += b"\0" * (-len(out) % 32)
    for _, _, data in tensors.values():
        out += data + b"\0" * (-len(data) % 32)
    return out


def strings(items):
    body = b"".join(struct.pack("<Q", len(s.encode())) + s.encode() for s in items)
    return struct.pack("<IQ", 8, len(items)) + body


def adapter_configs():
    for path in sorted(GOLDEN.glob("**/adapter_config.json")):
        name = "-".join(path.relative_to(GOLDEN).parts[:-1])
        seed("adapter_config", name, json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    base = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    for name, more in {
        "expression": {"target_modules": r"^(?!.*visual).*\.(q_proj|v_proj)"},
        "excluded": {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"},
        "excluded-names": {"exclude_modules": ["model.layers.1.self_attn.q_proj"]},
        "layers": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
        "patterns": {
            "rank_pattern": {r"(?!.*layers\.0\.).*q_proj": 9, r"(?<=self_attn\.)v_proj": 1},
            "alpha_pattern": {r"^model\.layers\.0\.(?=self_attn).*": 6.5},
            "use_rslora": True,
        },
        "outside": {"target_modules": ["lm_head", "model.embed_tokens"], "ensure_weight_tying": True},
    }.items():
        seed("adapter_config", name, json.dumps(base | more))
    for name, text in {
        "e-alone": "0.*q_proj\n\n[qv]_proj",
        "e-ahead": "0^(model(?=\\.).*\\.(q_proj|v_proj))$\n\n(?!.*layers\\.0\\.).*q_proj",
        "e-groups": "0model\\.layers\\.(?P<n>\\d)(?!(?P=n)).*\n\n(\\d)\\.mlp\\.up_proj",
        "e-sets": "0.*[^]q&&--~~[]_proj\n\n(?i)[Q-V]_PROJ",
        "e-except": "1.*\n.*(mlp|embed).*\n.*\\.(0|[1-9]\\d?)\\..*",
        "e-names": "2q_proj,mlp.up_proj,model.embed_tokens,Wqkv\nmodel.layers.1.self_attn.q_proj",
        "e-layers": "3q_proj,lm_head,model.layers.0.mlp.down_proj\n.*layers\\.2\\..*\nabc",
    }.items():
        seed("adapter_config", name, text)


def adapters():
    # Two pairs with a few numbers: q_proj of layer 0 and down_proj of layer 1.
    a, b, c, d = floats(6), floats(4, 3.0), floats(4, -1.0), floats(6, 0.25)
    meta = {
        "general.type": (8, "adapter"),
        "adapter.type": (8, "lora"),
        "general.architecture": (8, "qwen2"),
        "adapter.lora.alpha": (6, struct.pack("<f", 6.0)),
    }
    names = {
        "blk.0.attn_q.weight.lora_a": (0, [3, 2], a),
        "blk.0.attn_q.weight.lora_b": (0, [2, 2], b),
        "blk.1.ffn_down.weight.lora_a": (0, [2, 2], c),
        "blk.1.ffn_down.weight.lora_b": (0, [2, 3], d),
    }
    seed("adapter_gguf", "two-pairs", gguf(meta, names))
    half = {name: (1, shape, b"\x00\x3c" * (len(data) // 4)) for name, (_, shape, data) in names.items()}
    no_alpha = {k: v for k, v in meta.items() if k != "adapter.lora.alpha"}
    seed("adapter_gguf", "half-precision", gguf(no_alpha, half))
    blocks = {
        "blk.0.attn_q.weight.lora_a": (8, [32, 1], b"\x00\x3c" + bytes(range(32))),
        "blk.0.attn_q.weight.lora_b": (0, [1, 2], floats(2)),
        "token_embd.weight.lora_a": (0, [1, 3], floats(3)),
        "token_embd.weight.lora_b": (0, [1, 2], floats(2)),
    }
    seed("adapter_gguf", "blocks-and-embeddings", gguf(meta, blocks))

    def folder(target, name, config, tensors):
        text = json.dumps(config, separators=(",", ":")).encode()
        seed(target, name, struct.pack("<H", len(text)) + text + safetensors(tensors))

    mlx = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}, "num_layers": -1}
    q = "model.layers.0.self_attn.q_proj"
    folder("adapter_mlx", "one-pair", mlx, {f"{q}.lora_a": ("F32", [3, 2], a), f"{q}.lora_b": ("F32", [2, 2], b)})
    folder(
        "adapter_mlx",
        "ranks-and-embeddings",
        {"lora_parameters": {"scale": 20}},
        {
            f"{q}.lora_a": ("BF16", [3, 2], b"\x80\x3f" * 6),
            f"{q}.lora_b": ("F16", [2, 2], b"\x00\x3c" * 4),
            "model.embed_tokens.lora_a": ("F32", [4, 1], floats(4)),
            "model.embed_tokens.lora_b": ("F32", [1, 3], floats(3)),
        },
    )
    peft = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}}
    p = lambda module, matrix: f"base_model.model.model.layers.{module}.lora_{matrix}.weight"
    pairs = {
        p("0.self_attn.q_proj", "A"): ("F32", [2, 3], a),
        p("0.self_attn.q_proj", "B"): ("F32", [2, 2], b),
        p("1.mlp.down_proj", "A"): ("F32", [2, 2], c),
        p("1.mlp.down_proj", "B"): ("F32", [3, 2], d),
    }
    folder("adapter_peft", "two-pairs", peft, pairs)
    folder("adapter_peft", "expression", peft | {"target_modules": ".*(0.*q_proj|1.*down_proj)", "use_rslora": True}, pairs)
    dora = {
        p("0.self_attn.q_proj", "A"): ("F32", [2, 3], a),
        p("0.self_attn.q_proj", "B"): ("F32", [2, 2], b),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": ("F32", [2], floats(2)),
    }
    folder("adapter_peft", "magnitudes", peft | {"use_dora": True, "target_modules": ["q_proj"]}, dora)
    embeddings = {
        "base_model.model.model.embed_tokens.lora_embedding_A": ("F32", [2, 3], a),
        "base_model.model.model.embed_tokens.lora_embedding_B": ("F32", [2, 2], b),
        "base_model.model.model.embed_tokens.base_layer.weight": ("F32", [3, 2], floats(6)),
    }
    folder("adapter_peft", "embeddings", peft | {"target_modules": ["embed_tokens"]}, embeddings)


def templates():
    for path in sorted((GOLDEN / "chat/own_templates").glob("*.jinja")):
        seed("chat_template", path.stem, path.read_text())
    # Snippets of one subject together.
    parts, name = {}, ""
    for line in (GOLDEN / "chat/jinja_snippets.txt").read_text().splitlines():
        if line.startswith("## "):
            name = line[3:].split(";")[0].lower().replace(" ", "-").replace("`", "").replace("/", "-")
        elif line:
            parts.setdefault(name, []).append(line.replace("⏎", "\n"))
    for name, lines in parts.items():
        # A few each: a longer template is changed into a useful one less often.
        for i in range(0, len(lines), 4):
            seed("chat_template", f"s-{name[:24]}-{i // 4}", "\n".join(lines[i : i + 4]))
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}
    seed("chat_template", "own-conversation", chatml + "\x01" + json.dumps(row))


def models():
    for path in sorted(GOLDEN.glob("*/model/config.json")):
        seed("config", path.parts[-3], json.dumps(json.loads(path.read_text()), separators=(",", ":")))
    scaled = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 10, "rms_norm_eps": 1e-5, "rope_theta": 500000.0}
    for kind, more in {
        "linear": {"factor": 2.0},
        "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1},
        "longrope": {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "original_max_position_embeddings": 64},
    }.items():
        seed("config", f"rope-{kind}", json.dumps(scaled | {"rope_scaling": {"rope_type": kind} | more}))

    seed("safetensors", "types", safetensors({
        "a": ("F32", [2, 2], floats(4)),
        "b": ("BF16", [3], b"\x80\x3f" * 3),
        "c": ("F16", [1, 1, 2], b"\x00\x3c" * 2),
        "d": ("F64", [1], struct.pack("<d", 1.5)),
        "e": ("F8_E4M3", [2], b"\x38\x40"),
        "f": ("I64", [], struct.pack("<q", 7)),
    }, {"format": "pt"}))
    seed("safetensors", "empty", safetensors({"none": ("F32", [0, 3], b"")}))

    u32 = lambda n: (4, struct.pack("<I", n))
    f32 = lambda x: (6, struct.pack("<f", x))
    meta = {
        "general.architecture": (8, "qwen2"),
        "general.alignment": u32(32),
        "qwen2.block_count": u32(1),
        "qwen2.embedding_length": u32(4),
        "qwen2.feed_forward_length": u32(4),
        "qwen2.attention.head_count": u32(2),
        "qwen2.attention.head_count_kv": u32(1),
        "qwen2.context_length": u32(16),
        "qwen2.attention.layer_norm_rms_epsilon": f32(1e-6),
        "qwen2.rope.freq_base": f32(10000.0),
        "tokenizer.ggml.model": (8, "gpt2"),
        "tokenizer.ggml.tokens": (9, strings(["a", "b", "<s>"])),
        "tokenizer.ggml.token_type": (9, struct.pack("<IQ3i", 5, 3, 1, 1, 3)),
        "some.numbers": (9, struct.pack("<IQ2d", 12, 2, 0.5, 1.5)),
        "some.flag": (7, b"\x01"),
    }
    seed("gguf", "model", gguf(meta, {"token_embd.weight": (0, [4, 3], floats(12)), "output_norm.weight": (0, [4], floats(4))}))
    # A block of each type: its bytes, by its number.
    sizes = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2)}
    rows = {f"t{kind}": (kind, [values], bytes(i % 251 for i in range(size))) for kind, (values, size) in sizes.items()}
    seed("gguf", "blocks", gguf({"general.architecture": (8, "x")}, rows))


def data():
    for path in sorted((GOLDEN / "tables").glob("*.parquet")):
        seed("parquet", path.stem, path.read_bytes())
    dump = lambda *rows: "".join(json.dumps(row) + "\n" for row in rows)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    lines = {
        "tokens": dump({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4, 5]}),
        "text": dump({"text": "One two."}, "A string"),
        "messages": dump({"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]}),
        "sharegpt": dump({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}),
        "prompt": dump({"prompt": "a", "completion": " b"}, {"prompt": turns[:1], "completion": turns[1:]}),
        "instruction": dump({"instruction": "Add.", "input": "1 1", "output": "2"}),
        "question": dump({"question": "q", "answer": "a"}),
    }
    # The first byte: the name (jsonl), and what becomes of long rows, what is trained, how prompts are written.
    for i, (name, text) in enumerate(lines.items()):
        seed("rows", name, bytes([0b00_0000 | (i % 3) << 2 | (i % 3) << 4 | (i % 3) << 6 & 0xFF]) + text.encode())
    seed("rows", "array", b"\x01" + json.dumps([{"text": "a"}, {"text": "b"}]).encode())
    seed("rows", "document", b"\x02Once upon a time.\n\nThe end.\n")
    seed("rows", "no-extension", b"\x03" + lines["prompt"].encode())

    pair = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "assistant", "content": "No"}]}
    ids = {"prompt_input_ids": [1, 2], "chosen_input_ids": [3], "rejected_input_ids": [4, 5]}
    labeled = [{"prompt": "a", "completion": " b", "label": True}, {"messages": turns, "label": False}]
    preferences = {
        "pairs": dump(pair, {"prompt": "a", "chosen": "b", "rejected": "c"}, ids),
        "without-prompt": dump({side: turns[:1] + pair[side] for side in ("chosen", "rejected")}),
        "labels": dump(*labeled, {"prompt_input_ids": [1], "completion_input_ids": [2], "label": 0}),
        "turns": dump({"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}}),
        "instruction": dump({"instruction": "a", "input": "b", "chosen": "c", "rejected": "d"}),
    }
    # The first byte: the name (jsonl), whether pairs become completions with a label, what becomes of long rows.
    for i, (name, content) in enumerate(preferences.items()):
        seed("preferences", name, bytes([(i % 2) << 1 | (i % 2) << 2]) + content.encode())
    seed("preferences", "table", b"\x01prompt,chosen,rejected\na,b,c\n")

    for path in sorted((GOLDEN / "tables").glob("*.[ct]sv")):
        seed("tables", path.stem, bytes([path.suffix == ".tsv"]) + b"\n" + path.read_bytes())
    packed = gzip.compress(lines["messages"].encode(), mtime=0)
    seed("tables", "gzip-messages", b"\x04\n" + packed)
    seed("tables", "csv-messages", "\x00\nmessages,tools\n" + '"' + json.dumps(turns).replace('"', '""') + '",\n')


def tokenizers():
    added = [{"id": 5, "content": "<|im_end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    common = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "H": 4}, "merges": [["a", "b"]]}
    split = {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    seed("tokenizer_json", "bpe", json.dumps(common | {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "model": bpe,
    }))
    fallback = {f"<0x{i:02X}>": 10 + i for i in range(0, 256, 16)}
    seed("tokenizer_json", "llama", json.dumps(common | {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [5], "tokens": ["<|im_end|>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": bpe | {"unk_token": "a", "fuse_unk": True, "byte_fallback": True, "vocab": bpe["vocab"] | {"▁": 6} | fallback},
    }))
    seed("tokenizer_json", "unigram", json.dumps(common | {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["b", -2.5], ["ab", -2.2]], "byte_fallback": False},
    }))
    seed("tokenizer_json", "wordpiece", json.dumps(common | {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0, "b": 1, "##b": 2, "[UNK]": 3, "hello": 4}},
    }))
    seed("tokenizer_json", "wordlevel", json.dumps(common | {
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "hello": 2, "<unk>": 3}, "unk_token": "<unk>"},
    }))


def runs():
    adapter = {"rank": 2, "alpha": 4.0, "rslora": False, "target_modules": "q_proj,v_proj", "adapter_type": "f32"}
    settings = {"train": "lora", "method": "mezo", "eps": 0.001, "directions": 2, "noise": "gaussian", "one_sided": False, "momentum": 0.9, "sparsity": 0.0, "weight_decay": 0.0, "seed": 7, "learning_rate": 0.001, "lr_schedule": "cosine", "steps": 4, "optimizer": "sgd"}
    header = {"seed": 7, "weight_decay": 0.0, "start": "00ff00ff00ff00ff", "schedule": {"peak": 0.001, "warmup": 1, "total": 4, "kind": "cosine"}, "directions": 2, "layers": 2, "parameters": 96}

    def mix(x):
        x = x + 0x9E3779B97F4A7C15 & MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        return x ^ x >> 31

    def bits(seed, stream, index):
        """As crates/kernels/src/random.rs has it."""
        return mix(mix(mix(seed) + stream & MASK) + index & MASK)

    def records(steps):
        out, check = b"", 0
        for step in steps:
            packed = struct.pack(f"<{len(step)}f", *step)
            for (word,) in struct.iter_unpack("<I", packed):
                check = bits(check, 2, word)
            check &= 0xFFFFFFFF
            out += packed + struct.pack("<I", check)
        return out

    for name, (of_settings, more) in {
        "plain": (adapter, {}),
        "tangent": (adapter | {"method": "forward", "eps": None, "noise": "rademacher", "directions": 1, "blocks": "1-2", "places": "model\\.layers\\.0.*"}, {"directions": 1}),
        "bound-beyond-f32": (adapter, {"bounds": [1e300]}),
        "patterns": (adapter | {"rank_pattern": "q_proj=4", "alpha_pattern": "v_proj=2.5", "layers": "0"}, {}),
        "whole": ({"train": "full", "momentum": 0.0, "directions": 2}, {"full": "bf16", "bounds": [0.5, 1.25]}),
    }.items():
        of_run = header | more | {"settings": settings | of_settings}
        text = json.dumps(of_run, separators=(",", ":")).encode()
        steps = [[0.5, -0.25], [1e-3, 2.0]] if of_run["directions"] == 2 else [[0.5], [-1.5], [0.125]]
        seed("slopes", name, b"MESPRPL2" + struct.pack("<I", len(text)) + text + records(steps))

    summary = {"model": {"path": "m", "arch": "qwen2"}, "seconds": {"total": 2.5, "steps": [1.0, 1.5]}, "loss": {"first": 2.5, "last": 2.0}}
    events = [
        {"type": "run", "step": 0, "total_steps": 2},
        {"type": "memory", "step": 0, "heap": 5, "ledger": {"adapter": 7}},
        {"type": "train", "step": 1, "loss": 2.5, "learning_rate": 1e-4},
        {"type": "eval", "step": 1, "loss": 2.25},
        {"type": "sample", "text": "a\r\nb"},
        {"type": "train", "step": 2, "loss": None},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events).encode()
    seed("run_json", "run", json.dumps(summary, indent=2).encode() + b"\0" + lines)
    torn = b'{"type":"train","step":2,"lo{"type":"run","step":1,"total_steps":9}\n{"type":"train","step":2,"loss":1e300}'
    seed("run_json", "resumed", b"{}\0" + lines + torn)
    seed("run_json", "events-alone", b"\0" + lines)


def token_files():
    def fnv(content):
        total = 0xCBF29CE484222325
        for byte in content:
            total = (total ^ byte) * 0x100000001B3 & MASK
        return struct.pack("<Q", total)

    def text(word):
        return struct.pack("<I", len(word.encode())) + word.encode()

    pair = [([1, 2], None, 1), ([1, 3], None, 1)]
    for name, rows, notes, grouping in [
        ("usual", [([1, 2, 3], None, 0), ([4, 5], None, 1), ([7], None, 0)], ["two of a kind"], b"\0"),
        ("labels", [([9, 8, 7, 6], [-100, 8, -100, 6], 4), ([1, 1], [-100, -100], 2)], [], b"\0"),
        ("empty", [], [], b"\0"),
        ("pairs", pair, [], b"\1"),
        ("completions-with-labels", pair * 2, [], b"\2" + struct.pack("<QQ", 2, 0b01)),
    ]:
        body, entries = b"MESPTOK\n" + struct.pack("<I", 6) + bytes(range(16)), b""
        for line, (tokens, labels, masked) in enumerate(rows):
            own = labels is not None
            marked = labels if own else [-100] * masked + tokens[masked:]
            targets = sum(label != -100 for label in marked[1:])
            entries += struct.pack("<QQIIII", len(body), line + 1, len(tokens), targets, MASK >> 32 if own else masked, 0)
            body += struct.pack(f"<{len(tokens)}I", *tokens)
            if own:
                body += struct.pack(f"<{len(labels)}i", *labels)
        body += fnv(body)
        end = entries + text("r.jsonl") + b"\0" + struct.pack("<I", len(notes)) + b"".join(map(text, notes))
        end += struct.pack("<I", 1) + text("r.jsonl") + grouping + struct.pack("<QQ", len(body), len(rows))
        seed("token_file", name, b"\x01" + body + end + fnv(end) + b"MESPTEND")
        seed("token_file", name + "-as-it-is", b"\0" + body + end + fnv(end) + b"MESPTEND")


def typed():
    for i, line in enumerate([
        "train --model m --data d.jsonl --rank 8 --alpha 16 --learning-rate 2e-4 --memory-budget 128MB",
        "train --method mezo --epochs 1.5 --batch-size 2 --grad-accum 4 --json --output runs/a",
        "plan --preset qwen2.5-0.5b --max-seq-len 256 --target-modules q_proj,v_proj",
        "grads --model m --data d --output g.safetensors --columns prompt=q,completion=a",
        "eval --model m --data d --task t.jsonl",
        "generate --model m --prompt Hi --temperature 0.7 --top-p 0.9 --seed 3 --max-tokens 16",
        "chat --model m --system s --repetition-penalty 1.1",
        "init-model --preset tiny --type q8_0 --output m.gguf",
        "quantize --model m --type q4_0 --output m.gguf --overwrite",
        "merge --model m --adapter a --output o",
        "export --adapter a --to gguf --model m --output o.gguf",
        "data check --data d --model m",
        "data show --data d --rows 3 --from-line 2 --ids",
        "data tokenize --data d --output t --whole",
        "inspect m",
        "bench memory --out r.json",
        "dash runs --port 6377",
        "report runs --output r.html",
        "replay run --output a --steps 3",
        "train --rank -1 --help",
        "--version",
    ]):
        seed("command_line", f"{i:02}", line.replace(" ", "\n"))
    seed("config_toml", "usual", b'\0model = "m"\ndata = ["a.jsonl", "b.jsonl"]\nrank = 8\nalpha = 16\nlearning_rate = 2e-4\nmemory-budget = "128MB"\njson = true\n')
    seed("config_toml", "plan", b"\x01# A comment\nmax_seq_len = 1_024\nbatch-size = 2\ndry_run = false\ntarget_modules = 'q_proj,v_proj'\n")
    seed("config_toml", "wrong", b"\x02rank = true\n[adapter]\nalpha = nan\nranks = 3\n")


adapter_configs()
adapters()
runs()
token_files()
typed()
templates()
models()
data()
tokenizers()
