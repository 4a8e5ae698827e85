//! Metadata values. An array keeps its encoded bytes, in the file or of its own, and is decoded as it is
//! iterated: a vocabulary is 150 000 strings, and few who open a file want them.

use std::ops::Range;

use crate::json::quoted;

/// The kind of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ElementType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

/// The number of arrays among the kinds of values.
pub(super) const ARRAY_ID: u32 = 9;

/// Kind, number in the file, name for messages, bytes (of a string: of its length).
const KINDS: [(ElementType, u32, &str, usize); 12] = [
    (ElementType::U8, 0, "uint8", 1),
    (ElementType::I8, 1, "int8", 1),
    (ElementType::U16, 2, "uint16", 2),
    (ElementType::I16, 3, "int16", 2),
    (ElementType::U32, 4, "uint32", 4),
    (ElementType::I32, 5, "int32", 4),
    (ElementType::F32, 6, "float32", 4),
    (ElementType::Bool, 7, "bool", 1),
    (ElementType::String, 8, "string", 8),
    (ElementType::U64, 10, "uint64", 8),
    (ElementType::I64, 11, "int64", 8),
    (ElementType::F64, 12, "float64", 8),
];

impl ElementType {
    // The table stands in the order of the variants.
    const fn entry(self) -> &'static (Self, u32, &'static str, usize) {
        &KINDS[self as usize]
    }

    /// The number in the file.
    pub const fn id(self) -> u32 {
        self.entry().1
    }

    /// The name for messages.
    pub const fn name(self) -> &'static str {
        self.entry().2
    }

    /// The kind of a number in the file; none for an array.
    pub fn from_id(id: u32) -> Option<Self> {
        KINDS.iter().find(|k| k.1 == id).map(|k| k.0)
    }

    /// Bytes of an element, of a string the least: its length.
    pub(super) const fn bytes(self) -> usize {
        self.entry().3
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// A whole number of any width, zero or more.
    pub fn as_u64(&self) -> Option<u64> {
        u64::try_from(self.as_i128()?).ok()
    }

    /// A whole number of any width.
    pub fn as_i64(&self) -> Option<i64> {
        i64::try_from(self.as_i128()?).ok()
    }

    /// A number of any kind. One in single precision is read as the shortest decimal that stands for it: files
    /// hold 1e-6 that way, and 9.99999997e-7 is not what was meant.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::F32(v) if v.is_finite() => v.to_string().parse().ok(),
            Self::F32(v) => Some(f64::from(*v)),
            Self::F64(v) => Some(*v),
            other => other.as_i128().map(|v| v as f64),
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(a) = self { Some(a) } else { None }
    }

    /// The value for an error message.
    pub fn describe(&self) -> String {
        match self {
            Self::String(s) => format!("the string {}", quoted(s)),
            Self::Array(a) => format!("an array of {} {}", a.len, a.ty.name()),
            Self::Bool(b) => b.to_string(),
            Self::F32(v) => v.to_string(),
            Self::F64(v) => v.to_string(),
            other => other.as_i128().map_or_else(String::new, |v| v.to_string()),
        }
    }

    fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_string())
    }
}

/// Elements of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Their kind.
    pub ty: ElementType,
    /// Their number.
    pub len: usize,
    pub(super) data: Data,
}

/// Where an array's encoded elements lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    InFile(Range<usize>),
    Owned(Vec<u8>),
}

impl Array {
    /// Texts.
    pub fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut len, mut data) = (0, Vec::new());
        for text in texts {
            data.extend_from_slice(&(text.len() as u64).to_le_bytes());
            data.extend_from_slice(text.as_bytes());
            len += 1;
        }
        Self { ty: ElementType::String, len, data: Data::Owned(data) }
    }

    /// Numbers of 32 bits with a sign.
    pub fn i32s(numbers: &[i32]) -> Self {
        let data = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        Self { ty: ElementType::I32, len: numbers.len(), data: Data::Owned(data) }
    }

    /// Numbers in single precision.
    pub fn f32s(numbers: &[f32]) -> Self {
        let data = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        Self { ty: ElementType::F32, len: numbers.len(), data: Data::Owned(data) }
    }

    /// The texts; none where the elements are of another kind. `file` is the file the array was read from.
    pub fn iter_str<'a>(&'a self, file: &'a [u8]) -> Option<Strings<'a>> {
        (self.ty == ElementType::String).then(|| Strings { bytes: self.encoded(file), left: self.len })
    }

    /// The numbers, or truths; none where the elements are texts. `file` is the file the array was read from.
    pub fn iter_scalars<'a>(&'a self, file: &'a [u8]) -> Option<Scalars<'a>> {
        (self.ty != ElementType::String).then(|| Scalars { ty: self.ty, bytes: self.encoded(file) })
    }

    /// The same with bytes of its own, to be written to another file.
    #[must_use]
    pub fn to_owned_in(&self, file: &[u8]) -> Self {
        Self { data: Data::Owned(self.encoded(file).to_vec()), ..*self }
    }

    /// The elements as they lie in a file. Empty where `file` is another file than the array's.
    pub fn encoded<'a>(&'a self, file: &'a [u8]) -> &'a [u8] {
        match &self.data {
            Data::InFile(range) => file.get(range.clone()).unwrap_or_default(),
            Data::Owned(bytes) => bytes,
        }
    }
}

/// An array's texts. It ends early where the file is no longer the one that was checked.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.bytes.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        self.bytes = rest;
        self.left = self.left.saturating_sub(1);
        std::str::from_utf8(text).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// An array's numbers, each as a [`Value`].
#[derive(Debug, Clone)]
pub struct Scalars<'a> {
    ty: ElementType,
    bytes: &'a [u8],
}

impl Iterator for Scalars<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let (value, rest) = scalar(self.ty, self.bytes)?;
        self.bytes = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.bytes.len() / self.ty.bytes();
        (n, Some(n))
    }
}

/// The value at the front and what follows it; none where it is cut short, a text, or no truth value.
pub(super) fn scalar(ty: ElementType, bytes: &[u8]) -> Option<(Value, &[u8])> {
    macro_rules! number {
        ($kind:ident, $t:ty) => {{
            let (b, rest) = bytes.split_first_chunk()?;
            (Value::$kind(<$t>::from_le_bytes(*b)), rest)
        }};
    }
    Some(match ty {
        ElementType::U8 => number!(U8, u8),
        ElementType::I8 => number!(I8, i8),
        ElementType::U16 => number!(U16, u16),
        ElementType::I16 => number!(I16, i16),
        ElementType::U32 => number!(U32, u32),
        ElementType::I32 => number!(I32, i32),
        ElementType::F32 => number!(F32, f32),
        ElementType::U64 => number!(U64, u64),
        ElementType::I64 => number!(I64, i64),
        ElementType::F64 => number!(F64, f64),
        ElementType::Bool => match bytes.split_first()? {
            (0, rest) => (Value::Bool(false), rest),
            (1, rest) => (Value::Bool(true), rest),
            _ => return None,
        },
        ElementType::String => return None,
    })
}
