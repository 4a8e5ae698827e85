//! A run's events as the page takes them: numbers in columns, everything else as it was written.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Events that come with every step, kept as columns of numbers.
const TABLES: [&str; 3] = ["train", "eval", "memory"];

/// Columns of a table, kinds of other events, and bytes of each kind: what a strange file may fill at most.
const MOST_COLUMNS: usize = 64;
const MOST_KINDS: usize = 32;
const MOST_BYTES: usize = 8 << 20;

/// One kind of event by columns, a value for each event.
#[derive(Default)]
struct Table {
    names: Vec<String>,
    /// Not a number where the event has none.
    columns: Vec<Vec<f64>>,
    rows: usize,
}

/// Other events of one kind, the oldest gone when they are too many.
#[derive(Default)]
struct Kind {
    gone: usize,
    lines: VecDeque<String>,
    bytes: usize,
}

/// How much of a record someone has.
#[derive(Default, Clone)]
pub(super) struct Seen {
    generation: u64,
    rows: [usize; TABLES.len()],
    kinds: BTreeMap<String, usize>,
    torn: u64,
    summary: u64,
}

/// All events of a run.
#[derive(Default)]
pub(super) struct Record {
    /// Rises when something that was there is no longer.
    generation: u64,
    tables: [Table; TABLES.len()],
    kinds: BTreeMap<String, Kind>,
    /// Lines that could not be read.
    torn: u64,
    /// `run.json`, and how often it has changed.
    summary: (u64, Option<String>),
}

impl Record {
    /// Forgets all events.
    pub(super) fn clear(&mut self) {
        let (generation, summary) = (self.generation + 1, std::mem::take(&mut self.summary));
        *self = Self { generation, summary, ..Self::default() };
    }

    /// Counts a line that could not be read.
    pub(super) fn skip(&mut self, lines: u64) {
        self.torn += lines;
    }

    /// Takes what `run.json` says, or that it is gone.
    pub(super) fn set_summary(&mut self, json: Option<String>) {
        self.summary = (self.summary.0 + 1, json);
    }

    /// Takes whole lines.
    pub(super) fn take(&mut self, lines: &[u8]) {
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            self.line(&String::from_utf8_lossy(line));
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(event) = event(line) {
            return self.event(&event, line);
        }
        self.torn += 1;
        // A line that was cut off by a kill is joined by the first one of the run that goes on.
        if let Some(at) = line.rfind(r#"{"type":"#).filter(|at| *at > 0)
            && let Some(rest) = event(&line[at..])
        {
            self.event(&rest, &line[at..]);
        }
    }

    fn event(&mut self, event: &Map<String, Value>, line: &str) {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        if let Some(table) = TABLES.iter().position(|name| *name == kind) {
            return self.tables[table].push(event);
        }
        if kind == "run" && self.tables[0].rows > 0 {
            let from = event.get("step").and_then(Value::as_f64).unwrap_or(0.0);
            if from > 0.0 { self.rewind(from) } else { self.clear() }
        }
        if self.kinds.contains_key(kind) || self.kinds.len() < MOST_KINDS {
            self.kinds.entry(kind.to_owned()).or_default().push(line.trim());
        }
    }

    /// A run goes on from this step: what an earlier process did after it does not count.
    fn rewind(&mut self, step: f64) {
        let cut = self.tables.iter_mut().map(|t| t.rewind(step)).fold(false, |a, b| a | b);
        self.generation += u64::from(cut);
    }

    /// What someone who has `seen` lacks, as fields of a JSON object; nothing if that is nothing.
    pub(super) fn news(&self, seen: &mut Seen) -> Option<String> {
        let all = seen.generation != self.generation + 1;
        if all {
            *seen = Seen { generation: self.generation + 1, ..Seen::default() };
        }
        let mut json = format!(r#""reset":{all},"torn":{},"tables":{{"#, self.torn);
        let mut any = all || seen.torn != self.torn;
        for ((table, name), from) in self.tables.iter().zip(TABLES).zip(&mut seen.rows) {
            if table.rows > *from {
                comma(&mut json);
                let _ = write!(json, r#""{name}":"#);
                table.write(&mut json, *from);
                *from = table.rows;
                any = true;
            }
        }
        json.push_str(r#"},"items":{"#);
        for (name, kind) in &self.kinds {
            let from = seen.kinds.entry(name.clone()).or_default();
            if kind.end() > *from {
                comma(&mut json);
                let _ = write!(json, "{}:", Value::from(name.as_str()));
                kind.write(&mut json, *from);
                *from = kind.end();
                any = true;
            }
        }
        json.push('}');
        if all || seen.summary != self.summary.0 {
            let _ = write!(json, r#","summary":{}"#, self.summary.1.as_deref().unwrap_or("null"));
            any = true;
        }
        (seen.torn, seen.summary) = (self.torn, self.summary.0);
        any.then_some(json)
    }
}

/// An object with a type, and no step that is no number.
fn event(line: &str) -> Option<Map<String, Value>> {
    let Ok(Value::Object(event)) = serde_json::from_str(line) else { return None };
    event.get("type").is_some_and(Value::is_string).then_some(event)
}

fn comma(json: &mut String) {
    if !json.ends_with('{') && !json.ends_with('[') {
        json.push(',');
    }
}

impl Table {
    fn push(&mut self, event: &Map<String, Value>) {
        for (name, value) in event {
            match value {
                Value::Object(parts) => {
                    for (part, value) in parts {
                        self.set(&format!("{name}.{part}"), value);
                    }
                }
                value => self.set(name, value),
            }
        }
        self.rows += 1;
        for column in &mut self.columns {
            column.resize(self.rows, f64::NAN);
        }
    }

    fn set(&mut self, name: &str, value: &Value) {
        let place = self.names.iter().position(|n| n == name);
        let Some(number) = value.as_f64() else { return };
        let place = match place {
            Some(place) => place,
            None if self.names.len() < MOST_COLUMNS => {
                self.names.push(name.to_owned());
                self.columns.push(Vec::new());
                self.names.len() - 1
            }
            None => return,
        };
        self.columns[place].resize(self.rows, f64::NAN);
        self.columns[place].push(number);
    }

    /// Drops the events after a step; whether there were any.
    fn rewind(&mut self, step: f64) -> bool {
        let Some(steps) = self.names.iter().position(|n| n == "step") else { return false };
        let keep = self.columns[steps].iter().rposition(|s| *s <= step).map_or(0, |last| last + 1);
        let cut = keep < self.rows;
        self.rows = keep;
        self.columns.iter_mut().for_each(|c| c.truncate(keep));
        cut
    }

    fn write(&self, json: &mut String, from: usize) {
        let _ = write!(json, r#"{{"from":{from},"columns":{{"#);
        for (name, column) in self.names.iter().zip(&self.columns) {
            comma(json);
            let _ = write!(json, "{}:[", Value::from(name.as_str()));
            for value in &column[from..] {
                comma(json);
                number(json, *value);
            }
            json.push(']');
        }
        json.push_str("}}");
    }
}

/// Whole numbers whole, others as precise as a pixel will ever need.
fn number(json: &mut String, value: f64) {
    let single = value as f32;
    let _ = if !value.is_finite() {
        write!(json, "null")
    } else if value.fract() == 0.0 && value.abs() < 9e15 {
        write!(json, "{}", value as i64)
    } else if single.is_normal() && (1e-4..1e15).contains(&single.abs()) {
        write!(json, "{single}")
    } else {
        write!(json, "{value:e}")
    };
}

impl Kind {
    fn push(&mut self, line: &str) {
        self.bytes += line.len();
        // Between JSON's values a carriage return is a space; in the stream of events it would end the line.
        self.lines.push_back(line.replace('\r', " "));
        while self.bytes > MOST_BYTES && self.lines.len() > 1 {
            let oldest = self.lines.pop_front();
            self.bytes -= oldest.map_or(0, |l| l.len());
            self.gone += 1;
        }
    }

    fn end(&self) -> usize {
        self.gone + self.lines.len()
    }

    fn write(&self, json: &mut String, from: usize) {
        let _ = write!(json, r#"{{"gone":{},"list":["#, self.gone);
        for line in self.lines.iter().skip(from.saturating_sub(self.gone)) {
            comma(json);
            json.push_str(line);
        }
        json.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(record: &Record, seen: &mut Seen) -> Value {
        let fields = record.news(seen).expect("news");
        serde_json::from_str(&format!("{{{fields}}}")).unwrap_or_else(|e| panic!("{e}: {fields}"))
    }

    fn train(step: usize, loss: f64) -> String {
        format!("{{\"type\":\"train\",\"step\":{step},\"loss\":{loss:?},\"learning_rate\":0.00001}}\n")
    }

    #[test]
    fn news_are_what_was_not_seen() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        record.take(b"{\"type\":\"run\",\"step\":0,\"total_steps\":3}\n");
        record.take((train(1, 2.5) + &train(2, 2.25)).as_bytes());
        let first = news(&record, &mut seen);
        assert_eq!(first["reset"], true);
        assert_eq!(first["items"]["run"]["list"][0]["total_steps"], 3);
        let columns = serde_json::json!({"step": [1, 2], "loss": [2.5, 2.25], "learning_rate": [1e-5, 1e-5]});
        assert_eq!(first["tables"]["train"], serde_json::json!({"from": 0, "columns": columns}));
        assert_eq!(record.news(&mut seen), None);
        record.take(train(3, 0.1).as_bytes());
        let more = news(&record, &mut seen);
        assert_eq!(more["reset"], false);
        assert_eq!(more["tables"]["train"]["from"], 2);
        assert_eq!(more["tables"]["train"]["columns"]["loss"], serde_json::json!([0.1]));
        assert_eq!(more["items"], serde_json::json!({}));
    }

    #[test]
    fn columns_come_and_go() {
        let mut record = Record::default();
        record.take(b"{\"type\":\"memory\",\"step\":0,\"heap\":5,\"rss\":null}\n");
        record.take(b"{\"type\":\"memory\",\"step\":1,\"ledger\":{\"adapter\":7},\"note\":\"x\"}\n");
        let all = news(&record, &mut Seen::default());
        let want = serde_json::json!({"step": [0, 1], "heap": [5, null], "ledger.adapter": [null, 7]});
        assert_eq!(all["tables"]["memory"]["columns"], want);
    }

    #[test]
    fn a_resumed_run_replaces_what_came_after_its_checkpoint() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        let lines: String = (1..=5).map(|s| train(s, 1.0)).collect();
        record.take(lines.as_bytes());
        news(&record, &mut seen);
        // Killed in the middle of a line; the resumed run's first line is joined to it.
        record.take(b"{\"type\":\"train\",\"st{\"type\":\"run\",\"step\":3,\"total_steps\":9}\n");
        record.take(train(4, 0.5).as_bytes());
        let all = news(&record, &mut seen);
        assert_eq!((&all["reset"], &all["torn"]), (&Value::from(true), &Value::from(1)));
        assert_eq!(all["tables"]["train"]["columns"]["step"], serde_json::json!([1, 2, 3, 4]));
        assert_eq!(all["tables"]["train"]["columns"]["loss"], serde_json::json!([1, 1, 1, 0.5]));
        // From the beginning again.
        record.take(b"{\"type\":\"run\",\"step\":0}\n");
        assert_eq!(news(&record, &mut seen)["tables"], serde_json::json!({}));
    }

    #[test]
    fn strange_lines_are_counted_and_do_no_harm() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        record.take(b"\n  \nnonsense\n[1,2]\n{\"step\":1}\n\xff\xfe\n{\"type\":7}\n");
        record.take(b"{\"type\":\"train\",\"loss\":1e999}\n{\"type\":\"train\",\"loss\":\"many\"}\n");
        record.take("{\"type\":\"ti\\\"tle\",\"text\":\"</script>\"}\n".as_bytes());
        let all = news(&record, &mut seen);
        assert_eq!(all["torn"], 6);
        assert_eq!(all["items"]["ti\"tle"]["list"][0]["text"], "</script>");
    }

    #[test]
    fn old_events_make_room() {
        let mut kind = Kind::default();
        let line = Value::from("x".repeat(MOST_BYTES / 4)).to_string();
        (0..9).for_each(|_| kind.push(&line));
        assert_eq!((kind.gone, kind.lines.len(), kind.end()), (6, 3, 9));
        let mut json = String::new();
        kind.write(&mut json, 0);
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["list"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn numbers_are_read_back() {
        for value in [0.0, -3.0, 0.1, 1e-5, 3e-300, 1e300, 123_456_789.0, 1.5e20, 2.125] {
            let mut json = String::new();
            number(&mut json, value);
            let back: f64 = json.parse().expect("a number");
            assert!((back - value).abs() <= 1e-7 * value.abs(), "{value} as {json}");
        }
    }
}
