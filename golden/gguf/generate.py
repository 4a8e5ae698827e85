#!/usr/bin/env python3
"""Writes quants.gguf: numbers, blocks and what the `gguf` package (llama.cpp's own, PyPI) makes of them.

    python golden/gguf/generate.py                        # rewrites golden/gguf/quants.gguf
    python golden/gguf/generate.py --rows 4096 --out big  # the same with more rows, for a longer comparison

Tensors, each of `rows` x 256 numbers:

* `x`              F32, the numbers to be quantized: random, and rows of zeros, of one value, of values halfway
                   between codes, of one large value among small ones;
* `<type>`         `x` quantized by gguf.quants.quantize, or random blocks for the types it does not write;
* `<type>.f32`     what gguf.quants.dequantize reads from `<type>`;
* `<type>.random`  random blocks, scales finite, and `<type>.random.f32` what they mean.

Made with gguf 0.19.0 and numpy 2.4.6.
"""

import argparse
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

WRITABLE = [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1]
READABLE = [T.Q4_K, T.Q5_K, T.Q6_K]
# Where the half-precision scales lie in a block.
HALVES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
COLS = 256


def numbers(rng, rows):
    x = rng.standard_normal((rows, COLS)).astype(np.float32)
    x *= np.float32(10.0) ** rng.integers(-4, 4, (rows, 1)).astype(np.float32)
    blocks = x.reshape(rows * COLS // 32, 32)
    blocks[0] = 0
    blocks[1] = 0.37
    blocks[2] = -0.37
    blocks[3] = np.arange(32) - 16 + 0.5
    blocks[4] = np.linspace(-127, 127, 32).round() / 2
    blocks[5, 7] = -1000
    blocks[6, 8] = 1000
    blocks[7, ::2] = -blocks[7, 1::2]
    return x


def random_blocks(rng, qtype, rows):
    length, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (rows * COLS // length, size)).astype(np.uint8)
    for at in HALVES[qtype]:
        scale = (rng.standard_normal(len(blocks)) * 0.1).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--out", default=str(pathlib.Path(__file__).with_name("quants.gguf")))
    args = parser.parse_args()
    rng = np.random.default_rng(20)
    x = numbers(rng, args.rows)

    writer = gguf.GGUFWriter(args.out, "none")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -3)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -300)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -70000)
    writer.add_float32("test.f32", 1e-6)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "naïve 日本")
    writer.add_array("test.strings", ["", "a", "日本"])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.bools", [True, False, True])
    writer.add_uint64("test.u64", 1 << 60)
    writer.add_int64("test.i64", -(1 << 60))
    writer.add_float64("test.f64", 0.1)

    def put(name, data, qtype):
        writer.add_tensor(name, data, raw_dtype=None if qtype in (T.F32, T.F16) else qtype)

    put("x", x, T.F32)
    for qtype in WRITABLE:
        data = gguf.quants.quantize(x, qtype)
        put(qtype.name, data, qtype)
        put(f"{qtype.name}.f32", gguf.quants.dequantize(data, qtype).astype(np.float32), T.F32)
    for qtype in HALVES:
        name = qtype.name if qtype in READABLE else f"{qtype.name}.random"
        data = random_blocks(rng, qtype, args.rows)
        put(name, data, qtype)
        put(f"{name}.f32", gguf.quants.dequantize(data, qtype), T.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
