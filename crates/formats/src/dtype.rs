//! The number types of safetensors files.

/// A number type of a tensor in a file. All that the format knows are here, so that no tensor goes unseen; those
/// with a [`held`](Self::held) type are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// IEEE double precision.
    F64,
    /// 8 bits, 4 of them the exponent, without infinities.
    F8E4M3,
    /// 8 bits, 5 of them the exponent.
    F8E5M2,
    Bool,
    U8,
    I8,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F4,
    F6E2M3,
    F6E3M2,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    C64,
}

/// Name in safetensors headers, bits of a number, name in `config.json` where it is one for weights.
const TYPES: [(Dtype, &str, usize, Option<&str>); 22] = [
    (Dtype::F32, "F32", 32, Some("float32")),
    (Dtype::F16, "F16", 16, Some("float16")),
    (Dtype::BF16, "BF16", 16, Some("bfloat16")),
    (Dtype::F64, "F64", 64, Some("float64")),
    (Dtype::F8E4M3, "F8_E4M3", 8, Some("float8_e4m3fn")),
    (Dtype::F8E5M2, "F8_E5M2", 8, Some("float8_e5m2")),
    (Dtype::Bool, "BOOL", 8, None),
    (Dtype::U8, "U8", 8, None),
    (Dtype::I8, "I8", 8, None),
    (Dtype::F8E8M0, "F8_E8M0", 8, None),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", 8, None),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", 8, None),
    (Dtype::F4, "F4", 4, None),
    (Dtype::F6E2M3, "F6_E2M3", 6, None),
    (Dtype::F6E3M2, "F6_E3M2", 6, None),
    (Dtype::U16, "U16", 16, None),
    (Dtype::I16, "I16", 16, None),
    (Dtype::U32, "U32", 32, None),
    (Dtype::I32, "I32", 32, None),
    (Dtype::U64, "U64", 64, None),
    (Dtype::I64, "I64", 64, None),
    (Dtype::C64, "C64", 64, None),
];

impl Dtype {
    // The table stands in the order of the variants.
    const fn entry(self) -> &'static (Self, &'static str, usize, Option<&'static str>) {
        &TYPES[self as usize]
    }

    /// Bits of one number.
    pub const fn bits(self) -> usize {
        self.entry().2
    }

    /// Bytes of one number; of less than a byte, a whole one.
    pub const fn size(self) -> usize {
        self.bits().div_ceil(8)
    }

    /// The name in safetensors headers: `F32`, `F16`, `BF16`, …
    pub const fn name(self) -> &'static str {
        self.entry().1
    }

    /// The name in `config.json`: `float32`, `float16`, `bfloat16`, …; of a type that is none for weights, that of
    /// `float32`.
    pub fn torch_name(self) -> &'static str {
        self.entry().3.unwrap_or("float32")
    }

    /// The type of a [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|t| t.1 == name).map(|t| t.0)
    }

    /// The type of a [`torch_name`](Self::torch_name), with or without a leading `torch.`.
    pub fn from_torch_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        TYPES.iter().find(|t| t.3 == Some(name)).map(|t| t.0)
    }

    /// The type that its numbers are computed with: `F32`, `F16` and `BF16` are their own; `BF16` holds every number
    /// of the two 8-bit types; `F32` holds those of `F64` rounded. None for types that are not read.
    pub const fn held(self) -> Option<Self> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Some(self),
            Self::F8E4M3 | Self::F8E5M2 => Some(Self::BF16),
            Self::F64 => Some(Self::F32),
            _ => None,
        }
    }

    /// Whether products take its numbers as they lie in a file.
    pub fn is_native(self) -> bool {
        self.held() == Some(self)
    }

    /// Numbers as `f32`: exactly, but for those of `F64`, which are rounded. None where the type is not read, or the
    /// bytes are not as many as the numbers take.
    #[must_use]
    pub fn read(self, bytes: &[u8], out: &mut [f32]) -> Option<()> {
        self.held()?;
        if Some(bytes.len()) != out.len().checked_mul(self.size()) {
            return None;
        }
        match self {
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            Self::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F8E4M3 => each(bytes, out, |[b]| e4m3(b)),
            Self::F8E5M2 => each(bytes, out, |[b]| e5m2(b)),
            _ => return None,
        }
        Some(())
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
        *o = read(*b);
    }
}

/// E4M3 as OCP's 8-bit specification has it: bias 7, no infinities, one NaN of each sign (all other bits set).
fn e4m3(b: u8) -> f32 {
    let (sign, exponent, mantissa) = (f32::from(1 - 2 * (b >> 7).cast_signed()), b >> 3 & 15, b & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, m) => f32::from(m) / 512.0,
        (e, m) => f32::from(8 + m) * 2f32.powi(i32::from(e) - 10),
    };
    sign * magnitude
}

/// E5M2 is the upper half of an IEEE half-precision number.
fn e5m2(b: u8) -> f32 {
    half::f16::from_bits(u16::from(b) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_variants() {
        for (i, (dtype, name, ..)) in TYPES.iter().enumerate() {
            assert_eq!((*dtype as usize, dtype.name()), (i, *name));
            assert_eq!(Dtype::from_name(name), Some(*dtype));
        }
    }

    fn one(dtype: Dtype, byte: u8) -> f32 {
        let mut out = [0.0];
        dtype.read(&[byte], &mut out).unwrap();
        out[0]
    }

    /// The corner values of table 1 of the OCP 8-bit Floating Point Specification (revision 1.0).
    #[test]
    fn eight_bits_have_the_values_of_their_specification() {
        let two = |e| 2f32.powi(e);
        for (byte, expected) in [
            (0x00, 0.0),
            (0x01, two(-9)),
            (0x07, 0.875 * two(-6)),
            (0x08, two(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(one(Dtype::F8E4M3, byte), expected, "E4M3 {byte:#x}");
        }
        for (byte, expected) in [
            (0x01, two(-16)),
            (0x03, 0.75 * two(-14)),
            (0x04, two(-14)),
            (0x3c, 1.0),
            (0x7b, 57_344.0),
            (0x7c, f32::INFINITY),
            (0xfc, f32::NEG_INFINITY),
        ] {
            assert_eq!(one(Dtype::F8E5M2, byte), expected, "E5M2 {byte:#x}");
        }
        assert!(one(Dtype::F8E4M3, 0x80).is_sign_negative());
        for (dtype, byte) in [(Dtype::F8E4M3, 0x7f), (Dtype::F8E4M3, 0xff), (Dtype::F8E5M2, 0x7d)] {
            assert!(one(dtype, byte).is_nan());
        }
    }

    #[test]
    fn every_number_of_eight_bits_is_one_of_bf16() {
        for byte in 0..=u8::MAX {
            for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
                let x = one(dtype, byte);
                assert!(half::bf16::from_f32(x).to_f32() == x || x.is_nan(), "{dtype:?} {byte:#x}");
            }
        }
    }

    #[test]
    fn other_types_and_other_lengths_are_not_read() {
        let mut out = [0.0; 2];
        assert!(Dtype::I64.read(&[0; 16], &mut out).is_none());
        assert!(Dtype::F32.read(&[0; 7], &mut out).is_none());
        let two: Vec<u8> = [0.1f64, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        Dtype::F64.read(&two, &mut out).unwrap();
        assert_eq!(out, [0.1f32, -2.5]);
    }
}
