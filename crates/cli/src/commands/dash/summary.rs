//! `run.json` as the page takes it: on one line, without the time of every step, which the events have.

use std::fmt;
use std::fs::File;
use std::path::Path;

use mesp::ErrorKind;
use mesp_formats::{Error, regular};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};

/// Bytes of the file at most, and of what is kept of it: a longer one is no run's.
const LONGEST: u64 = 16 << 20;
const MOST_KEPT: usize = 512 << 10;

/// Its fields. Of `seconds` those that are shown: the list of steps may be long, and is not even taken into memory.
struct Summary(Map<String, Value>);

#[derive(Deserialize)]
struct Seconds {
    #[serde(default)]
    total: Value,
    #[serde(default)]
    prepare: Value,
    #[serde(default)]
    step_median: Value,
}

impl<'de> Deserialize<'de> for Summary {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Summary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Summary, A::Error> {
                let mut map = Map::new();
                while let Some(key) = fields.next_key::<String>()? {
                    let value = if key == "seconds" {
                        let Seconds { total, prepare, step_median } = fields.next_value()?;
                        let known = [("total", total), ("prepare", prepare), ("step_median", step_median)];
                        let told = known.into_iter().filter(|(_, value)| !value.is_null());
                        told.map(|(name, value)| (name.to_owned(), value)).collect()
                    } else {
                        fields.next_value()?
                    };
                    map.insert(key, value);
                }
                Ok(Summary(map))
            }
        }
        from.deserialize_map(Fields)
    }
}

/// Reads it.
///
/// # Errors
/// When it is no JSON object, or too long.
pub(super) fn read(file: &File, path: &Path) -> Result<String, Error> {
    let bytes = regular::read_from(file, path, LONGEST)?;
    let Summary(map) = serde_json::from_slice(&bytes).map_err(|e| {
        Error::invalid(path, ErrorKind::Malformed).what(format!("expected the summary of a run as JSON: {e}"))
    })?;
    let json = Value::from(map).to_string();
    if json.len() > MOST_KEPT {
        return Err(Error::invalid(path, ErrorKind::OutOfRange)
            .expected(format!("at most {MOST_KEPT} bytes beside the steps"))
            .found(json.len()));
    }
    Ok(json)
}
