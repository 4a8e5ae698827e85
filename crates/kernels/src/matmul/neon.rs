//! Microkernels for aarch64: NEON, which every such machine has, and its products of bf16 pairs.
//!
//! A 6 × 16 tile fills 24 of the 32 registers: per step of depth four loads and six broadcasts feed 24
//! multiply-adds.
//!
//! The bf16 tile is the same with `BFDOT`, a pair of depth a lane, whose intrinsic is not stable: one line of
//! assembly. `BFMMLA` would do twice the work an instruction, on tiles of 2 × 2 that want another layout of both
//! factors. The instruction's sum of a pair is rounded on its own and subnormals count as zero, so bits differ from
//! those of AVX512-BF16 as these differ from products of rounded factors in single precision.

use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vst1q_f32};

use super::tile::microkernel;

microkernel!(
    neon,
    tile_neon,
    "neon",
    float32x4_t,
    4,
    zero,
    vld1q_f32,
    vst1q_f32,
    vdupq_n_f32,
    multiply_add,
    vld1q_f32,
    [1, 2, 3, 4]
);
microkernel!(
    neon_bf16,
    tile_neon_bf16,
    "neon,bf16",
    float32x4_t,
    4,
    zero,
    vld1q_f32,
    vst1q_f32,
    vdupq_n_f32,
    dot_pairs,
    vld1q_f32,
    [1, 2, 3, 4]
);

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> float32x4_t {
    vdupq_n_f32(0.0)
}

/// `c + a·b` in each lane, rounded once.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

/// `c + a·b` for each lane, both values of the pair. Lanes are moved as `f32` and never computed with as such.
#[inline]
#[target_feature(enable = "neon,bf16")]
fn dot_pairs(a: float32x4_t, b: float32x4_t, mut c: float32x4_t) -> float32x4_t {
    // SAFETY: registers only, on a machine that has the instruction.
    unsafe {
        std::arch::asm!(
            "bfdot {c:v}.4s, {a:v}.8h, {b:v}.8h",
            c = inout(vreg) c,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    c
}
