//! Documents as tables.

use serde_json::{Map, Value};

use crate::sizes::{bytes, count};

/// A two-column table of a document's values.
pub(super) fn listed(document: &Value) -> String {
    let row = |(key, value): (&String, &Value)| {
        let shown = match value {
            Value::String(text) => text.clone(),
            Value::Number(n) if key.ends_with("bytes") => n.as_u64().map_or_else(|| n.to_string(), bytes),
            Value::Number(n) if key == "parameters" => n.as_u64().map_or_else(|| n.to_string(), count),
            Value::Object(map) => map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "),
            Value::Array(list) => {
                list.iter().map(|v| v.to_string().replace('"', "")).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        // Values to the left too: they are words.
        format!("  {:<18}{shown}\n", key.replace('_', " "))
    };
    // For programs an absent value is null; people see that it is not there.
    let there = |map: &Map<String, Value>| map.iter().filter(|(_, v)| !v.is_null()).map(row).collect();
    document.as_object().map(there).unwrap_or_default()
}
