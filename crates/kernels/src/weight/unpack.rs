//! Quantized blocks, 32 values at a time, in two steps: bits to signed bytes, then bytes to floats.
//!
//! Bytes first because loops of sixteen or 32 over bytes become one vector operation each; a loop that goes from
//! bits to floats is unrolled before it is vectorized, and then ends up half scalar. Products and sums are those
//! of ggml's `dequantize_row_*` in the same order, so equal to the bit.

/// Values that are unpacked together: a block of 32, or a group of a block of 256.
pub(crate) const GROUP: usize = 32;

/// Bytes of a block and its groups, and how a group is read.
pub(crate) trait Blocks<const BYTES: usize> {
    /// Groups of a block.
    const GROUPS: usize;
    /// The bytes of a group.
    fn unpack(block: &[u8; BYTES], group: usize) -> Group;
}

/// 32 values: x = scale·q, or x = scale·q + minimum.
pub(crate) struct Group {
    pub(crate) q: [i8; GROUP],
    /// The scales of the first and the second half.
    pub(crate) scales: [f32; 2],
    pub(crate) minimum: Option<f32>,
}

macro_rules! blocks {
    ($($name:ident, $bytes:literal, $groups:literal, |$block:ident, $group:pat_param| $body:block)*) => {$(
        pub(crate) struct $name;
        impl Blocks<$bytes> for $name {
            const GROUPS: usize = $groups;
            #[inline(always)]
            fn unpack($block: &[u8; $bytes], $group: usize) -> Group $body
        }
    )*};
}

blocks! {
    Q8_0, 34, 1, |block, _| {
        let mut q = [0; GROUP];
        for (q, byte) in q.iter_mut().zip(&block[2..]) {
            *q = byte.cast_signed();
        }
        Group { q, scales: [f16_at(block, 0); 2], minimum: None }
    }
    Q4_0, 18, 1, |block, _| {
        Group { q: nibbles(&block[2..], |q, _| q - 8), scales: [f16_at(block, 0); 2], minimum: None }
    }
    Q4_1, 20, 1, |block, _| {
        Group { q: nibbles(&block[4..], |q, _| q), scales: [f16_at(block, 0); 2], minimum: Some(f16_at(block, 2)) }
    }
    Q5_0, 22, 1, |block, _| {
        let fifth = fifth(block, 2);
        Group { q: nibbles(&block[6..], |q, i| (q | fifth[i]) - 16), scales: [f16_at(block, 0); 2], minimum: None }
    }
    Q5_1, 24, 1, |block, _| {
        let fifth = fifth(block, 4);
        Group { q: nibbles(&block[8..], |q, i| q | fifth[i]), scales: [f16_at(block, 0); 2], minimum: Some(f16_at(block, 2)) }
    }
    Q4_K, 144, 8, |block, group| {
        let mut q = [0; GROUP];
        let shift = 4 * (group % 2);
        for (q, byte) in q.iter_mut().zip(&block[16 + 32 * (group / 2)..]) {
            *q = (byte >> shift & 15).cast_signed();
        }
        scaled_twice(block, group, q)
    }
    Q5_K, 176, 8, |block, group| {
        let mut q = [0; GROUP];
        let shift = 4 * (group % 2);
        for ((q, byte), high) in q.iter_mut().zip(&block[48 + 32 * (group / 2)..]).zip(&block[16..]) {
            *q = (byte >> shift & 15 | (high >> group & 1) << 4).cast_signed();
        }
        scaled_twice(block, group, q)
    }
    Q6_K, 210, 8, |block, group| {
        // Halves of 128: four groups that share 64 bytes of low and 32 bytes of high bits.
        let (half, run) = (group / 4, group % 4);
        let (low_shift, high_shift) = (4 * (run / 2), 2 * run);
        let mut q = [0; GROUP];
        let low = &block[64 * half + 32 * (run % 2)..];
        for ((q, low), high) in q.iter_mut().zip(low).zip(&block[128 + 32 * half..]) {
            *q = (low >> low_shift & 15 | (high >> high_shift & 3) << 4).cast_signed() - 32;
        }
        let d = f16_at(block, 208);
        let scales = [0, 1].map(|side| d * f32::from(block[192 + 2 * group + side].cast_signed()));
        Group { q, scales, minimum: None }
    }
}

/// Bytes to floats.
#[inline(always)]
pub(super) fn scale(group: &Group, out: &mut [f32; GROUP]) {
    for (half, scale) in group.scales.into_iter().enumerate() {
        let half = half * GROUP / 2..(half + 1) * GROUP / 2;
        for (o, q) in out[half.clone()].iter_mut().zip(&group.q[half]) {
            let x = scale * f32::from(*q);
            *o = group.minimum.map_or(x, |m| x + m);
        }
    }
}

/// Calls `value(q, i)` with the 4 bits of each value.
#[inline(always)]
fn nibbles(bytes: &[u8], value: impl Fn(i8, usize) -> i8) -> [i8; GROUP] {
    let mut all = [0; GROUP];
    let (first, second) = all.split_at_mut(GROUP / 2);
    for (i, (low, byte)) in first.iter_mut().zip(bytes).enumerate() {
        *low = value((byte & 15).cast_signed(), i);
    }
    for (i, (high, byte)) in second.iter_mut().zip(bytes).enumerate() {
        *high = value((byte >> 4).cast_signed(), i + GROUP / 2);
    }
    all
}

/// The fifth bits in their places.
#[inline(always)]
fn fifth(block: &[u8], at: usize) -> [i8; GROUP] {
    let mut all = [0; GROUP];
    for (i, bit) in all.iter_mut().enumerate() {
        *bit = if block[at + i / 8] & 1 << (i % 8) == 0 { 0 } else { 16 };
    }
    all
}

/// Scale and minimum of a group of `Q4_K` or `Q5_K`. 6 bits each in 12 bytes: those of the first four groups whole in the low bits
/// of bytes 0 to 7, of the others four bits in bytes 8 to 11 and two on top of bytes 0 to 7.
#[inline(always)]
fn scaled_twice(block: &[u8], group: usize, q: [i8; GROUP]) -> Group {
    let s = &block[4..16];
    let (scale, minimum) = if group < 4 {
        (s[group] & 63, s[group + 4] & 63)
    } else {
        (s[group + 4] & 15 | s[group - 4] >> 6 << 4, s[group + 4] >> 4 | s[group] >> 6 << 4)
    };
    let (scale, minimum) = (f16_at(block, 0) * f32::from(scale), f16_at(block, 2) * f32::from(minimum));
    Group { q, scales: [scale; 2], minimum: Some(-minimum) }
}

#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32([block[at], block[at + 1]])
}

/// Exact: every `f16` is an `f32`. Shifts the exponent by a multiplication, which also brings out subnormals.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let half = u32::from(u16::from_le_bytes(bytes));
    let (sign, rest) = ((half & 0x8000) << 16, (half & 0x7fff) << 13);
    // 2¹¹² moves the exponent's bias from 15 to 127; infinities and NaN get the largest exponent by hand.
    let scaled = f32::from_bits(rest) * f32::from_bits(0x7780_0000);
    let special = if rest >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | sign | special)
}
