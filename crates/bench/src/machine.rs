//! Where and when something was measured.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use mesp_console::failure::usage;
use serde_json::{Value, json};

/// A results file: where, when and by what it was measured, then what was.
pub(super) fn document(kind: &str, measured: Value) -> Value {
    let mut document = json!({
        "schema": 1,
        "kind": kind,
        "mesp": env!("CARGO_PKG_VERSION"),
        "commit": commit(),
        "date": today(),
        "machine": describe(),
    });
    if let (Value::Object(all), Value::Object(measured)) = (&mut document, measured) {
        all.extend(measured);
    }
    document
}

/// Names of figures with what each is.
pub(super) fn definitions(all: &[(&str, &str)]) -> Value {
    all.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect()
}

/// A file's name without this machine's folders.
pub(super) fn file_name(path: Option<&Path>) -> Option<String> {
    mesp::hub::short_name(path?)
}

/// The machine, as far as the system tells.
fn describe() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease");
    json!({
        "cpu": cpu.map(|(_, name)| name),
        "arch": std::env::consts::ARCH,
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "memory_bytes": memory.map(|kib| kib * 1024),
        "os": format!("{} {}", std::env::consts::OS, kernel.trim()).trim_end(),
    })
}

/// The commit of the sources, when the program runs in them.
fn commit() -> Option<String> {
    if !Path::new("crates/mesp/Cargo.toml").is_file() {
        return None;
    }
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let name = String::from_utf8(git.stdout).ok()?.trim().to_owned();
    (git.status.success() && !name.is_empty()).then_some(name)
}

/// The name of a file of results: the one given, or the date.
pub(super) fn name(given: Option<&str>) -> Result<String> {
    let name = given.map_or_else(today, str::to_owned);
    if name.contains(['/', '\\']) {
        return Err(usage(format!("--name {name:?} is no name of a file"), "folders go to --output"));
    }
    Ok(name)
}

/// Today in UTC, as 2026-01-31.
pub(super) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds / 86_400)
}

/// A date from the days since 1970: years of March to February, so that leap days come last.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let known = [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_453, "2025-12-31")];
        for (days, expected) in known {
            assert_eq!(date(days), expected);
        }
    }
}
