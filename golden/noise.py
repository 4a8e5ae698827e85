"""Bits of a few values of the noise in crates/kernels/src/noise.rs, from its equations in NumPy float32.

Usage: python golden/noise.py    (prints element, bits, value for seed 7, step 3, direction 1, tensor 5)
"""

import struct

import numpy as np

f = np.float32


def philox(c, k):
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def poly(x, coefficients):
    p = f(coefficients[0])
    for c in coefficients[1:]:
        p = f(f(p * x) + f(c))
    return p


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def from_bits(b):
    return f(struct.unpack("<f", struct.pack("<I", b & 0xFFFFFFFF))[0])


ROOT_HALF = bits(f(0.5**0.5))
LN = [7.0376836e-2, -1.151461e-1, 1.1676999e-1, -1.2420141e-1, 1.4249323e-1, -1.6668058e-1, 2.0000715e-1]
LN += [-2.4999994e-1, 3.333333e-1]
NEAR = [2.8102264e-8, 3.4327394e-7, -3.5233877e-6, -4.3915065e-6, 2.1858087e-4, -1.253725e-3, -4.1776816e-3]
NEAR += [2.4664073e-1, 1.5014094]
FAR = [-2.0021426e-4, 1.0095056e-4, 1.3493432e-3, -3.6734284e-3, 5.7395077e-3, -7.6224613e-3, 9.4388705e-3]
FAR += [1.001674, 2.8329768]


def ln(x):
    shifted = (bits(x) - ROOT_HALF) & 0xFFFFFFFF
    k = f((shifted - (1 << 32) if shifted >> 31 else shifted) >> 23)
    m = f(from_bits((shifted & 0x7FFFFF) + ROOT_HALF) - f(1))
    p, square = poly(m, LN), f(m * m)
    small = f(f(m * square) * p)
    return f(f(k * f(0.6933594)) + f(f(f(small - f(k * f(2.1219444e-4))) - f(f(0.5) * square)) + m))


def normal(word):
    tail, step = word & 0x7FFFFFFF, f(1 / 2147483648)
    v, x = f(f(f(tail) + f(0.5)) * step), f(f(f(0x7FFFFFFF - tail) + f(0.5)) * step)
    w = f(-ln(f(v * f(f(1) + x))))
    p = poly(f(w - f(2.5)), NEAR) if w < 5 else poly(f(np.sqrt(w) - f(3)), FAR)
    return from_bits(bits(f(f(p * x) * f(2**0.5))) | (word & 0x80000000))


for e in [0, 1, 2, 17, 35, 63, 64, 1000]:
    z = normal(philox([16 * (e // 64) + e % 16, 5, 3, 1], [7, 0])[(e // 16) % 4])
    print(e, bits(z), z)
