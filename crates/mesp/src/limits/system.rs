//! How much memory this process can still get: the machine's free memory, the limits of its control groups, and
//! `ulimit`. The smallest bounds a plan before anything is allocated. Read from `/proc` and `/sys` on Linux; unknown on
//! other systems.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::ByteSize;

/// Room for more anonymous memory. Its `Display`: `1.95 GB (free memory)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may still be allocated.
    pub bytes: u64,
    /// Where the limit comes from.
    of: &'static str,
}

impl Room {
    /// What the system has free now; `None` if it is unknown.
    pub fn now() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let groups = read("/proc/self/cgroup");
        let rooms = [
            available(&read("/proc/meminfo")).map(|bytes| Self { bytes, of: "free memory" }),
            group(&groups, Path::new("/sys/fs/cgroup"))
                .map(|bytes| Self { bytes, of: "the limit of its control group" }),
            limit(&read("/proc/self/limits"), "Max address space", kilobytes(&status, "VmSize:"))
                .map(|bytes| Self { bytes, of: "the limit of address space, ulimit -v" }),
            limit(&read("/proc/self/limits"), "Max data size", kilobytes(&status, "VmData:"))
                .map(|bytes| Self { bytes, of: "the limit of data, ulimit -d" }),
        ];
        rooms.into_iter().flatten().min_by_key(|room| room.bytes)
    }

    /// Whether a plan of `needs` bytes does not fit.
    pub fn lacks(self, needs: u64) -> bool {
        needs > self.bytes
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", ByteSize(self.bytes), self.of)
    }
}

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Bytes of anonymous memory now (`RssAnon`): memory that the system cannot drop under pressure.
    pub anonymous: u64,
    /// High-water mark of all resident memory in bytes (`VmHWM`), mapped files included.
    pub high_water: u64,
}

impl Resident {
    /// That of this process; `None` if it is unknown.
    pub fn now() -> Option<Self> {
        Self::read("/proc/self/status")
    }

    /// From the text of `/proc/PID/status`. Allocates nothing.
    pub fn read(status: &str) -> Option<Self> {
        let mut text = [0; 4096];
        let mut file = File::open(status).ok()?;
        let mut len = 0;
        while len < text.len() {
            match file.read(&mut text[len..]).ok()? {
                0 => break,
                read => len += read,
            }
        }
        let text = std::str::from_utf8(&text[..len]).ok()?;
        Some(Self { anonymous: kilobytes(text, "RssAnon:")?, high_water: kilobytes(text, "VmHWM:")? })
    }
}

/// A figure of `/proc`, which counts in kilobytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Memory of the whole machine that can be had without another program's loss, and what can be moved to a disk.
fn available(meminfo: &str) -> Option<u64> {
    Some(kilobytes(meminfo, "MemAvailable:")?.saturating_add(kilobytes(meminfo, "SwapFree:").unwrap_or(0)))
}

/// What is not used of a limit of this process, given in bytes or as `unlimited`.
fn limit(limits: &str, name: &str, used: Option<u64>) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let soft: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(soft.saturating_sub(used?))
}

/// The least that the control groups of this process leave, its own and those above it: of version 2, or of version 1's
/// group for memory.
fn group(groups: &str, root: &Path) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, files) = match kinds {
            "" => (root.to_path_buf(), ["memory.max", "memory.current", ""]),
            kinds if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"])
            }
            _ => continue,
        };
        // In a container the path may be that outside; the root there is its own group.
        let path = Path::new(path.trim_start_matches('/'));
        for above in path.ancestors() {
            least = least.into_iter().chain(left(&base.join(above), files)).min();
        }
    }
    least
}

/// What one group leaves: its limit, less what it uses and could not drop.
fn left(group: &Path, [limit, used, prefix]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = |key: &str| {
        let key = format!("{prefix}{key} ");
        stat.lines().find_map(|line| line.strip_prefix(&key)?.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let files = cached("inactive_file").saturating_add(cached("active_file"));
    Some(limit.saturating_sub(number(used)?.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms are those of proc(5).
    #[test]
    fn files_of_the_system_are_read() {
        let meminfo = "MemTotal:  100 kB\nMemFree: 10 kB\nMemAvailable:   40 kB\nSwapFree: 8 kB\n";
        assert_eq!(available(meminfo), Some(48 * 1024));
        assert_eq!(available("MemTotal: 100 kB\n"), None);
        let limits = "Limit    Soft Limit   Hard Limit  Units\nMax data size  unlimited  unlimited  bytes\n\
                      Max address space   5000   unlimited   bytes\n";
        assert_eq!(limit(limits, "Max address space", Some(1000)), Some(4000));
        assert_eq!(limit(limits, "Max address space", Some(9000)), Some(0));
        assert_eq!(limit(limits, "Max data size", Some(1000)), None);
    }

    /// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        assert_eq!(group("0::/a/b\n", root.path()), None, "no files, no limit");
        for (name, limit, used) in [("a", "1000\n", "300\n"), ("a/b", "max\n", "200\n")] {
            write(&format!("{name}/memory.max"), limit);
            write(&format!("{name}/memory.current"), used);
        }
        assert_eq!(group("0::/a/b\n", root.path()), Some(700), "of the one above");
        write("a/memory.stat", "anon 200\ninactive_file 60\nactive_file 40\n");
        assert_eq!(group("0::/a/b\n", root.path()), Some(800), "files can be dropped");
        // Version 1, its path another outside of the container.
        write("memory/memory.limit_in_bytes", "500");
        write("memory/memory.usage_in_bytes", "450");
        write("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 0\n");
        assert_eq!(group("5:cpu,cpuacct:/x\n4:memory:/docker/1\n", root.path()), Some(80));
    }
}
