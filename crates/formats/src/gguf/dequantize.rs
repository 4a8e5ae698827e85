//! Stored numbers as `f32`: the plain reference that faster code is held against.
//!
//! The same operations in the same order as ggml's `dequantize_row_*`, so equal to the bit. In blocks of 32,
//! the low halves of the bytes are the first 16 numbers and the high halves the last 16.

use half::{bf16, f16};

use super::TensorType;

/// Reads numbers of one row, or of any whole blocks.
///
/// # Panics
/// When `out` is not whole blocks, or `bytes` are not as many as they take.
pub fn dequantize_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "{} bytes against numbers", ty.name());
    match ty {
        TensorType::F32 => each(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
        TensorType::F16 => each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = half_at(b, 0)),
        TensorType::BF16 => {
            each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16::from_le_bytes(*b).to_f32());
        }
        TensorType::Q8_0 => each(bytes, out, |b: &[u8; 34], o: &mut [f32; 32]| {
            let d = half_at(b, 0);
            for (o, &q) in o.iter_mut().zip(&b[2..]) {
                *o = f32::from(q.cast_signed()) * d;
            }
        }),
        TensorType::Q4_0 => each(bytes, out, |b: &[u8; 18], o: &mut [f32; 32]| {
            let d = half_at(b, 0);
            fill(o, |i| (f32::from(nibble(&b[2..], i)) - 8.0) * d);
        }),
        TensorType::Q4_1 => each(bytes, out, |b: &[u8; 20], o: &mut [f32; 32]| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            fill(o, |i| f32::from(nibble(&b[4..], i)) * d + m);
        }),
        TensorType::Q5_0 => each(bytes, out, |b: &[u8; 22], o: &mut [f32; 32]| {
            let d = half_at(b, 0);
            fill(o, |i| (f32::from(nibble(&b[6..], i) | bit(&b[2..6], i) << 4) - 16.0) * d);
        }),
        TensorType::Q5_1 => each(bytes, out, |b: &[u8; 24], o: &mut [f32; 32]| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            fill(o, |i| f32::from(nibble(&b[8..], i) | bit(&b[4..8], i) << 4) * d + m);
        }),
        TensorType::Q4_K => each(bytes, out, |b: &[u8; 144], o: &mut [f32; 256]| {
            let scales = scales_and_minima(b);
            fill(o, |i| {
                let (d, m) = scales[i / 32];
                d * f32::from(group_nibble(&b[16..], i)) - m
            });
        }),
        TensorType::Q5_K => each(bytes, out, |b: &[u8; 176], o: &mut [f32; 256]| {
            let scales = scales_and_minima(b);
            fill(o, |i| {
                let (d, m) = scales[i / 32];
                let high = b[16 + i % 32] >> (i / 32) & 1;
                d * f32::from(group_nibble(&b[48..], i) | high << 4) - m
            });
        }),
        TensorType::Q6_K => each(bytes, out, |b: &[u8; 210], o: &mut [f32; 256]| {
            let d = half_at(b, 208);
            fill(o, |i| {
                // Halves of 128: four runs of 32 that share 64 bytes of low and 32 bytes of high bits.
                let (half, run, j) = (i / 128, i % 128 / 32, i % 32);
                let low = b[64 * half + 32 * (run % 2) + j] >> (4 * (run / 2)) & 15;
                let high = b[128 + 32 * half + j] >> (2 * run) & 3;
                let scale = f32::from(b[192 + i / 16].cast_signed());
                d * scale * (f32::from(low | high << 4) - 32.0)
            });
        }),
    }
}

/// Calls `f` for each block with its numbers.
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn(&[u8; B], &mut [f32; N])) {
    for (b, o) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        f(b, o);
    }
}

fn fill<const N: usize>(out: &mut [f32; N], f: impl Fn(usize) -> f32) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = f(i);
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Four bits of a block of 32.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i % 16] >> (4 * (i / 16)) & 15
}

/// Four bits of a block of 256: 64 numbers share 32 bytes.
fn group_nibble(b: &[u8], i: usize) -> u8 {
    b[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15
}

fn bit(b: &[u8], i: usize) -> u8 {
    b[i / 8] >> (i % 8) & 1
}

/// Scale and minimum of the eight groups: 6 bits each in 12 bytes, the first four groups whole in the low
/// bits of bytes 0 to 7, the others with their low four bits in bytes 8 to 11 and the rest on top of 0 to 7.
fn scales_and_minima(b: &[u8]) -> [(f32, f32); 8] {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    let s = &b[4..16];
    std::array::from_fn(|g| {
        let (scale, minimum) = if g < 4 {
            (s[g] & 63, s[g + 4] & 63)
        } else {
            (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
        };
        (d * f32::from(scale), min * f32::from(minimum))
    })
}
