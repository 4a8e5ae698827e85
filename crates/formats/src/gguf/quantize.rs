//! `f32` to stored numbers, equal to the bit to ggml's `quantize_row_*_ref`.

use half::{bf16, f16};

use super::TensorType;

/// Whether [`quantize_row`] writes a type.
pub const fn can_quantize(ty: TensorType) -> bool {
    !matches!(ty, TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K)
}

/// Appends one row, or any whole blocks. The numbers must be finite; of others the result means nothing.
///
/// # Panics
/// When `x` is not whole blocks, or the type is one that [`can_quantize`] excludes.
pub fn quantize_row(ty: TensorType, x: &[f32], out: &mut Vec<u8>) {
    assert!(can_quantize(ty), "{} is read only", ty.name());
    assert!(ty.row_bytes(x.len()).is_some(), "{} numbers are not whole blocks of {}", x.len(), ty.name());
    match ty {
        TensorType::F32 => out.extend(x.iter().flat_map(|v| v.to_le_bytes())),
        TensorType::F16 => out.extend(x.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        TensorType::BF16 => out.extend(x.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
        _ => {
            for block in x.as_chunks::<32>().0 {
                match ty {
                    TensorType::Q8_0 => q8_0(block, out),
                    TensorType::Q4_0 => centred(block, 4, out),
                    TensorType::Q5_0 => centred(block, 5, out),
                    TensorType::Q4_1 => from_minimum(block, 4, out),
                    _ => from_minimum(block, 5, out),
                }
            }
        }
    }
}

/// The scale maps the largest magnitude to 127; halves round away from zero.
fn q8_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = largest / 127.0;
    let inverse = inverse(d);
    put_half(d, out);
    out.extend(x.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
}

/// `Q4_0` and `Q5_0`: the number of the largest magnitude, the first of equals, becomes the lowest code, so that
/// it is kept exactly whatever its sign.
fn centred(x: &[f32; 32], bits: u32, out: &mut Vec<u8>) {
    let half = (1u32 << (bits - 1)) as f32;
    let (mut largest, mut signed) = (0.0f32, 0.0f32);
    for &v in x {
        if largest < v.abs() {
            (largest, signed) = (v.abs(), v);
        }
    }
    let d = signed / -half;
    let inverse = inverse(d);
    put_half(d, out);
    pack(&x.map(|v| code(v * inverse + (half + 0.5), bits)), bits, out);
}

/// `Q4_1` and `Q5_1`: from the least number up.
fn from_minimum(x: &[f32; 32], bits: u32, out: &mut Vec<u8>) {
    let (mut least, mut most) = (f32::MAX, f32::MIN);
    for &v in x {
        if v < least {
            least = v;
        }
        if v > most {
            most = v;
        }
    }
    let d = (most - least) / ((1u32 << bits) - 1) as f32;
    let inverse = inverse(d);
    put_half(d, out);
    put_half(least, out);
    pack(&x.map(|v| code((v - least) * inverse + 0.5, bits)), bits, out);
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Cut to a whole number, and to the largest code.
fn code(v: f32, bits: u32) -> u8 {
    (v as u8).min((1 << bits) - 1)
}

fn put_half(v: f32, out: &mut Vec<u8>) {
    out.extend(f16::from_f32(v).to_le_bytes());
}

/// Fifth bits, if there are, as 32 bits; then number i beside number i + 16 in a byte.
fn pack(codes: &[u8; 32], bits: u32, out: &mut Vec<u8>) {
    if bits == 5 {
        let high = codes.iter().enumerate().fold(0u32, |h, (i, &c)| h | u32::from(c >> 4) << i);
        out.extend(high.to_le_bytes());
    }
    out.extend((0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4));
}
