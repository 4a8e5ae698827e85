//! How the columns of a Parquet file make rows: structures, lists and maps of values.

use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::schema::types::Type;

/// A part of a row. Levels are those of Dremel: how many of the optional and repeated parts above a value are there.
#[derive(Debug)]
pub(super) enum Node {
    /// The value of a column, by its number; it is there at the highest level only.
    Leaf(usize),
    /// Fields by name; it is there from `level` on.
    Struct { level: i16, fields: Vec<(String, Node)> },
    /// It is there from `level` on, and has an element from `level + 1` on; an element that is not the first repeats at
    /// `repeats`.
    List { level: i16, repeats: i16, element: Box<Node> },
    /// The same of pairs.
    Map { level: i16, repeats: i16, key: Box<Node>, value: Box<Node> },
}

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Unsigned,
    Float,
    Half,
    Text,
    /// Bytes that nothing says to be text.
    Bytes,
    Date,
    /// Parts of a second, as many as the number says, since 1970 or since midnight.
    Timestamp {
        per_second: i64,
        utc: bool,
    },
    Time {
        per_second: i64,
    },
    /// Nanoseconds of a day, and the day.
    Int96,
    Decimal {
        scale: u32,
    },
    Uuid,
    /// What has no text: the name of it.
    Other(&'static str),
}

impl Kind {
    /// How messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int | Self::Unsigned => "whole numbers",
            Self::Float | Self::Half => "numbers",
            Self::Text => "texts",
            Self::Bytes => "bytes",
            Self::Date => "days",
            Self::Timestamp { .. } | Self::Int96 => "moments",
            Self::Time { .. } => "times of day",
            Self::Decimal { .. } => "decimals",
            Self::Uuid => "UUIDs",
            Self::Other(name) => name,
        }
    }
}

/// The columns of a file by name, each with the part it is, and the kinds of the values below it by number.
pub(super) struct Schema {
    pub(super) parts: Vec<(String, Node)>,
    pub(super) kinds: Vec<Kind>,
}

impl Schema {
    pub(super) fn new(root: &Type) -> Self {
        let mut kinds = Vec::new();
        let parts = root.get_fields().iter();
        let parts = parts.map(|field| (field.name().to_owned(), node(field, 0, 0, &mut kinds))).collect();
        Self { parts, kinds }
    }
}

/// A field as it is repeated; `level` and `repeats` are those of what is above it.
fn node(field: &Type, level: i16, repeats: i16, kinds: &mut Vec<Kind>) -> Node {
    match repetition(field) {
        Repetition::REPEATED => {
            let element = Box::new(once(field, level + 1, repeats + 1, kinds));
            Node::List { level, repeats: repeats + 1, element }
        }
        Repetition::OPTIONAL => once(field, level + 1, repeats, kinds),
        Repetition::REQUIRED => once(field, level, repeats, kinds),
    }
}

fn repetition(field: &Type) -> Repetition {
    let info = field.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

/// A field, its own repetition set aside.
fn once(field: &Type, level: i16, repeats: i16, kinds: &mut Vec<Kind>) -> Node {
    if field.is_primitive() {
        kinds.push(kind(field));
        return Node::Leaf(kinds.len() - 1);
    }
    let info = field.get_basic_info();
    let fields = field.get_fields();
    let (converted, logical) = (info.converted_type(), info.logical_type_ref());
    if let [inner] = fields
        && repetition(inner) == Repetition::REPEATED
    {
        if converted == ConvertedType::LIST || matches!(logical, Some(LogicalType::List)) {
            let element = Box::new(element(field, inner, level + 1, repeats + 1, kinds));
            return Node::List { level, repeats: repeats + 1, element };
        }
        let map = matches!(converted, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
            || matches!(logical, Some(LogicalType::Map));
        if map
            && inner.is_group()
            && let [key, value] = inner.get_fields()
        {
            let key = Box::new(node(key, level + 1, repeats + 1, kinds));
            let value = Box::new(node(value, level + 1, repeats + 1, kinds));
            return Node::Map { level, repeats: repeats + 1, key, value };
        }
    }
    let fields = fields.iter().map(|f| (f.name().to_owned(), node(f, level, repeats, kinds))).collect();
    Node::Struct { level, fields }
}

/// The element of a list: what the repeated part holds, or that part itself as older writers have it (the rules for
/// backward compatibility of parquet-format's `LogicalTypes.md`).
fn element(list: &Type, repeated: &Type, level: i16, repeats: i16, kinds: &mut Vec<Kind>) -> Node {
    if repeated.is_group()
        && let [only] = repeated.get_fields()
        && repetition(only) != Repetition::REPEATED
        && repeated.name() != "array"
        && repeated.name() != format!("{}_tuple", list.name())
    {
        return node(only, level, repeats, kinds);
    }
    once(repeated, level, repeats, kinds)
}

fn kind(field: &Type) -> Kind {
    let info = field.get_basic_info();
    let per_second = |unit: &TimeUnit| match unit {
        TimeUnit::MILLIS => 1_000,
        TimeUnit::MICROS => 1_000_000,
        TimeUnit::NANOS => 1_000_000_000,
    };
    if let Some(logical) = info.logical_type_ref() {
        match logical {
            LogicalType::String | LogicalType::Enum | LogicalType::Json => return Kind::Text,
            LogicalType::Date => return Kind::Date,
            LogicalType::Time(time) => return Kind::Time { per_second: per_second(&time.unit) },
            LogicalType::Timestamp(t) => {
                return Kind::Timestamp { per_second: per_second(&t.unit), utc: t.is_adjusted_to_u_t_c };
            }
            LogicalType::Decimal(_) => return decimal(field),
            LogicalType::Uuid => return Kind::Uuid,
            LogicalType::Float16 => return Kind::Half,
            LogicalType::Integer(int) if !int.is_signed => return Kind::Unsigned,
            LogicalType::Bson => return Kind::Other("BSON documents"),
            LogicalType::Variant(_) => return Kind::Other("variants"),
            LogicalType::Geometry(_) | LogicalType::Geography(_) => return Kind::Other("places"),
            _ => {}
        }
    }
    match info.converted_type() {
        ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => return Kind::Text,
        ConvertedType::DATE => return Kind::Date,
        ConvertedType::DECIMAL => return decimal(field),
        ConvertedType::TIME_MILLIS => return Kind::Time { per_second: 1_000 },
        ConvertedType::TIME_MICROS => return Kind::Time { per_second: 1_000_000 },
        ConvertedType::TIMESTAMP_MILLIS => return Kind::Timestamp { per_second: 1_000, utc: true },
        ConvertedType::TIMESTAMP_MICROS => return Kind::Timestamp { per_second: 1_000_000, utc: true },
        ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64 => {
            return Kind::Unsigned;
        }
        ConvertedType::INTERVAL => return Kind::Other("intervals"),
        ConvertedType::BSON => return Kind::Other("BSON documents"),
        _ => {}
    }
    match field.get_physical_type() {
        Physical::BOOLEAN => Kind::Bool,
        Physical::INT32 | Physical::INT64 => Kind::Int,
        Physical::INT96 => Kind::Int96,
        Physical::FLOAT | Physical::DOUBLE => Kind::Float,
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => Kind::Bytes,
    }
}

fn decimal(field: &Type) -> Kind {
    Kind::Decimal { scale: u32::try_from(field.get_scale()).unwrap_or(0) }
}
