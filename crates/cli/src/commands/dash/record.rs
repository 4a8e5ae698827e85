//! A run's events as the page takes them: numbers in columns, everything else as it was written.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Events that come with every step, kept as columns of numbers.
const TABLES: [&str; 3] = ["train", "eval", "memory"];

/// Columns of a table, kinds of other events, and bytes of a name: what a strange file may fill at most.
const MOST_COLUMNS: usize = 64;
const MOST_KINDS: usize = 32;
const LONGEST_NAME: usize = 64;

/// Values of tables and bytes of other events, of all runs together and of one.
const VALUES: usize = 8 << 20;
const MOST_VALUES: usize = 2 << 20;
const BYTES: usize = 64 << 20;
const MOST_BYTES: usize = 8 << 20;
/// What a line takes beside its bytes.
const LINE: usize = 64;

/// How much a run may keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    /// The record of one of so many runs.
    pub(super) fn of(runs: usize) -> Self {
        let runs = runs.max(1);
        Self { values: MOST_VALUES.min(VALUES / runs), bytes: MOST_BYTES.min(BYTES / runs) }
    }
}

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
    thinned: u64,
    summary: u64,
    trouble: u64,
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
    /// Events that have made room for others in their tables.
    thinned: u64,
    /// `run.json`, and how often it has changed.
    summary: (u64, Option<String>),
    /// Why the run cannot be read, and how often that has changed.
    trouble: (u64, Option<String>),
}

impl Record {
    /// Forgets all events.
    pub(super) fn clear(&mut self) {
        let (summary, trouble) = (std::mem::take(&mut self.summary), std::mem::take(&mut self.trouble));
        *self = Self { generation: self.generation + 1, summary, trouble, ..Self::default() };
    }

    /// Counts a line that could not be read.
    pub(super) fn skip(&mut self, lines: u64) {
        self.torn += lines;
    }

    /// Takes what `run.json` says, or that it is gone.
    pub(super) fn set_summary(&mut self, json: Option<String>) {
        self.summary = (self.summary.0 + 1, json);
    }

    /// Takes the reason why the run cannot be read, or that it can; whether that is new.
    pub(super) fn set_trouble(&mut self, trouble: Option<String>) -> bool {
        let new = self.trouble.1 != trouble;
        if new {
            self.trouble = (self.trouble.0 + 1, trouble);
        }
        new
    }

    /// Why the run cannot be read.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.1.as_deref()
    }

    /// Takes whole lines.
    pub(super) fn take(&mut self, lines: &[u8], room: Room) {
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            self.line(&String::from_utf8_lossy(line), room);
        }
    }

    fn line(&mut self, line: &str, room: Room) {
        if let Some(event) = event(line) {
            return self.event(&event, line, room);
        }
        self.torn += 1;
        // A line that was cut off by a kill is joined by the first one of the run that goes on.
        if let Some(at) = line.rfind(r#"{"type":"#).filter(|at| *at > 0)
            && let Some(rest) = event(&line[at..])
        {
            self.event(&rest, &line[at..], room);
        }
    }

    fn event(&mut self, event: &Map<String, Value>, line: &str, room: Room) {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        if let Some(table) = TABLES.iter().position(|name| *name == kind) {
            self.tables[table].push(event);
            if self.tables.iter().map(Table::values).sum::<usize>() > room.values {
                // The table that fills the room; someone who has seen it has to see it anew.
                if let Some(largest) = self.tables.iter_mut().max_by_key(|table| table.values()) {
                    self.thinned += largest.thin() as u64;
                }
                self.generation += 1;
            }
            return;
        }
        if kind == "run" && self.tables[0].rows > 0 {
            let from = event.get("step").and_then(Value::as_f64).unwrap_or(0.0);
            if from > 0.0 { self.rewind(from) } else { self.clear() }
        }
        if kind.len() > LONGEST_NAME || line.len() + LINE > room.bytes {
            self.torn += 1;
        } else if self.kinds.contains_key(kind) || self.kinds.len() < MOST_KINDS {
            self.kinds.entry(kind.to_owned()).or_default().push(line.trim());
            while self.kinds.values().map(|kind| kind.bytes).sum::<usize>() > room.bytes {
                // Never the one that has just come: its kind is not the largest, or has others.
                let Some(largest) = self.kinds.values_mut().max_by_key(|kind| kind.bytes) else { break };
                largest.drop_oldest();
            }
        }
    }

    /// A run goes on from this step: what an earlier process did after it does not count.
    fn rewind(&mut self, step: f64) {
        let cut = self.tables.iter_mut().map(|t| t.rewind(step)).fold(false, |a, b| a | b);
        self.generation += u64::from(cut);
    }

    /// About `most` bytes of what someone who has `seen` lacks, as fields of a JSON object, and whether that is all;
    /// nothing if that is nothing.
    pub(super) fn news(&self, seen: &mut Seen, most: usize) -> Option<(String, bool)> {
        let anew = seen.generation != self.generation + 1;
        if anew {
            *seen = Seen { generation: self.generation + 1, ..Seen::default() };
        }
        let trouble = Value::from(self.trouble());
        let mut json = format!(
            r#""reset":{anew},"torn":{},"thinned":{},"trouble":{trouble},"tables":{{"#,
            self.torn, self.thinned
        );
        let told = (self.torn, self.thinned, self.trouble.0);
        let mut any = anew || (seen.torn, seen.thinned, seen.trouble) != told;
        (seen.torn, seen.thinned, seen.trouble) = told;
        let mut whole = true;
        for ((table, name), from) in self.tables.iter().zip(TABLES).zip(&mut seen.rows) {
            if table.rows > *from {
                comma(&mut json);
                let _ = write!(json, r#""{name}":"#);
                let room = most.saturating_sub(json.len());
                *from = table.write(&mut json, *from, room);
                whole &= *from == table.rows;
                any = true;
            }
        }
        json.push_str(r#"},"items":{"#);
        for (name, kind) in &self.kinds {
            let from = seen.kinds.entry(name.clone()).or_default();
            if kind.end() > *from {
                comma(&mut json);
                let _ = write!(json, "{}:", Value::from(name.as_str()));
                *from = kind.write(&mut json, *from, most);
                whole &= *from == kind.end();
                any = true;
            }
        }
        json.push('}');
        if anew || seen.summary != self.summary.0 {
            let _ = write!(json, r#","summary":{}"#, self.summary.1.as_deref().unwrap_or("null"));
            seen.summary = self.summary.0;
            any = true;
        }
        any.then_some((json, whole))
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
            None if self.names.len() < MOST_COLUMNS && name.len() <= LONGEST_NAME => {
                self.names.push(name.to_owned());
                self.columns.push(Vec::new());
                self.names.len() - 1
            }
            None => return,
        };
        self.columns[place].resize(self.rows, f64::NAN);
        self.columns[place].push(number);
    }

    fn values(&self) -> usize {
        self.rows * self.columns.len()
    }

    /// Drops every second event, and never the last; gives how many.
    fn thin(&mut self) -> usize {
        let (rows, odd) = (self.rows, self.rows % 2);
        // Counted from the end, so that the last stays.
        for column in &mut self.columns {
            let mut row = 0;
            column.retain(|_| {
                row += 1;
                row % 2 == odd
            });
        }
        self.rows = rows.div_ceil(2);
        rows - self.rows
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

    /// Writes about `most` bytes of the events from the given one on, one at least; gives where it stopped.
    fn write(&self, json: &mut String, from: usize, most: usize) -> usize {
        /// What a number takes, about.
        const NUMBER: usize = 10;
        let fit = (most / (NUMBER * self.columns.len().max(1))).max(1);
        let to = self.rows.min(from.saturating_add(fit));
        let _ = write!(json, r#"{{"from":{from},"columns":{{"#);
        for (name, column) in self.names.iter().zip(&self.columns) {
            comma(json);
            let _ = write!(json, "{}:[", Value::from(name.as_str()));
            for value in &column[from..to] {
                comma(json);
                number(json, *value);
            }
            json.push(']');
        }
        json.push_str("}}");
        to
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
        self.bytes += line.len() + LINE;
        // Between JSON's values a carriage return is a space; in the stream of events it would end the line.
        self.lines.push_back(line.replace('\r', " "));
    }

    fn drop_oldest(&mut self) {
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len() + LINE;
            self.gone += 1;
        }
    }

    fn end(&self) -> usize {
        self.gone + self.lines.len()
    }

    /// Writes lines from the given one on until the text has `most` bytes, one at least; gives where it stopped.
    fn write(&self, json: &mut String, from: usize, most: usize) -> usize {
        let _ = write!(json, r#"{{"gone":{},"list":["#, self.gone);
        let mut at = from.max(self.gone);
        for line in self.lines.iter().skip(at - self.gone) {
            comma(json);
            json.push_str(line);
            at += 1;
            if json.len() >= most {
                break;
            }
        }
        json.push_str("]}");
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(record: &Record, seen: &mut Seen) -> Value {
        let (fields, all) = record.news(seen, usize::MAX).expect("news");
        assert!(all);
        serde_json::from_str(&format!("{{{fields}}}")).unwrap_or_else(|e| panic!("{e}: {fields}"))
    }

    fn train(step: usize, loss: f64) -> String {
        format!("{{\"type\":\"train\",\"step\":{step},\"loss\":{loss:?},\"learning_rate\":0.00001}}\n")
    }

    #[test]
    fn news_are_what_was_not_seen() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        record.take(b"{\"type\":\"run\",\"step\":0,\"total_steps\":3}\n", Room::of(1));
        record.take((train(1, 2.5) + &train(2, 2.25)).as_bytes(), Room::of(1));
        let first = news(&record, &mut seen);
        assert_eq!(first["reset"], true);
        assert_eq!(first["items"]["run"]["list"][0]["total_steps"], 3);
        let columns = serde_json::json!({"step": [1, 2], "loss": [2.5, 2.25], "learning_rate": [1e-5, 1e-5]});
        assert_eq!(first["tables"]["train"], serde_json::json!({"from": 0, "columns": columns}));
        assert_eq!(record.news(&mut seen, usize::MAX), None);
        record.take(train(3, 0.1).as_bytes(), Room::of(1));
        let more = news(&record, &mut seen);
        assert_eq!(more["reset"], false);
        assert_eq!(more["tables"]["train"]["from"], 2);
        assert_eq!(more["tables"]["train"]["columns"]["loss"], serde_json::json!([0.1]));
        assert_eq!(more["items"], serde_json::json!({}));
    }

    #[test]
    fn columns_come_and_go() {
        let mut record = Record::default();
        record.take(b"{\"type\":\"memory\",\"step\":0,\"heap\":5,\"rss\":null}\n", Room::of(1));
        record.take(
            b"{\"type\":\"memory\",\"step\":1,\"ledger\":{\"adapter\":7},\"note\":\"x\"}\n",
            Room::of(1),
        );
        let all = news(&record, &mut Seen::default());
        let want = serde_json::json!({"step": [0, 1], "heap": [5, null], "ledger.adapter": [null, 7]});
        assert_eq!(all["tables"]["memory"]["columns"], want);
    }

    #[test]
    fn a_resumed_run_replaces_what_came_after_its_checkpoint() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        let lines: String = (1..=5).map(|s| train(s, 1.0)).collect();
        record.take(lines.as_bytes(), Room::of(1));
        news(&record, &mut seen);
        // Killed in the middle of a line; the resumed run's first line is joined to it.
        record
            .take(b"{\"type\":\"train\",\"st{\"type\":\"run\",\"step\":3,\"total_steps\":9}\n", Room::of(1));
        record.take(train(4, 0.5).as_bytes(), Room::of(1));
        let all = news(&record, &mut seen);
        assert_eq!((&all["reset"], &all["torn"]), (&Value::from(true), &Value::from(1)));
        assert_eq!(all["tables"]["train"]["columns"]["step"], serde_json::json!([1, 2, 3, 4]));
        assert_eq!(all["tables"]["train"]["columns"]["loss"], serde_json::json!([1, 1, 1, 0.5]));
        // From the beginning again.
        record.take(b"{\"type\":\"run\",\"step\":0}\n", Room::of(1));
        assert_eq!(news(&record, &mut seen)["tables"], serde_json::json!({}));
    }

    #[test]
    fn strange_lines_are_counted_and_do_no_harm() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        record.take(b"\n  \nnonsense\n[1,2]\n{\"step\":1}\n\xff\xfe\n{\"type\":7}\n", Room::of(1));
        record.take(
            b"{\"type\":\"train\",\"loss\":1e999}\n{\"type\":\"train\",\"loss\":\"many\"}\n",
            Room::of(1),
        );
        record.take("{\"type\":\"ti\\\"tle\",\"text\":\"</script>\"}\n".as_bytes(), Room::of(1));
        let all = news(&record, &mut seen);
        assert_eq!(all["torn"], 6);
        assert_eq!(all["items"]["ti\"tle"]["list"][0]["text"], "</script>");
    }

    #[test]
    fn old_events_make_room() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        let text = "x".repeat(MOST_BYTES / 4);
        record.take(b"{\"type\":\"run\"}\n", Room::of(1));
        for n in 0..9 {
            record.take(
                format!("{{\"type\":\"big\",\"n\":{n},\"text\":\"{text}\"}}\n").as_bytes(),
                Room::of(1),
            );
        }
        let all = news(&record, &mut seen);
        assert_eq!(all["items"]["big"]["gone"], 6);
        assert_eq!(all["items"]["big"]["list"][2]["n"], 8);
        assert_eq!(all["items"]["big"]["list"].as_array().map(Vec::len), Some(3));
        assert_eq!(
            all["items"]["run"]["list"].as_array().map(Vec::len),
            Some(1),
            "the largest kind makes room"
        );
        // One that has no room is counted, and so is a name that nothing is called.
        let (name, text) = ("n".repeat(LONGEST_NAME + 1), "x".repeat(MOST_BYTES));
        record.take(format!("{{\"type\":\"big\",\"text\":\"{text}\"}}\n").as_bytes(), Room::of(1));
        record.take(format!("{{\"type\":\"{name}\"}}\n").as_bytes(), Room::of(1));
        assert_eq!(news(&record, &mut seen)["torn"], 2);
    }

    #[test]
    fn long_tables_are_thinned_to_their_room() {
        let (mut record, mut seen) = (Record::default(), Seen::default());
        let room = Room { values: 3000, bytes: 0 };
        for step in 1..=10_000 {
            record.take(train(step, 1.0).as_bytes(), room);
            assert!(record.tables[0].values() <= room.values);
        }
        let all = news(&record, &mut seen);
        let steps: Vec<u64> = all["tables"]["train"]["columns"]["step"]
            .as_array()
            .expect("steps")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        assert_eq!(steps.last(), Some(&10_000), "the last event is there");
        assert!(steps.is_sorted() && steps[0] < 100 && steps.len() > 400, "from the run's start to its end");
        assert_eq!(all["thinned"], 10_000 - steps.len());
        // Someone who had a part of it is given all of it.
        record.take(train(10_001, 1.0).as_bytes(), Room { values: 600, bytes: 0 });
        let again = news(&record, &mut seen);
        assert_eq!(
            (&again["reset"], &again["tables"]["train"]["from"]),
            (&Value::from(true), &Value::from(0))
        );
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
