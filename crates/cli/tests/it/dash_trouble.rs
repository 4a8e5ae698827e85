//! Runs in trouble: each is shown with the reason, and no other is kept from being shown.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dash::{Dash, append, beginning, train};
use crate::support::{make_pipe as pipe, mesp, temporary};

/// Someone who follows the events, and what each run is known to be.
struct Follower {
    lines: BufReader<std::net::TcpStream>,
    runs: BTreeMap<String, Known>,
}

#[derive(Default, Debug)]
struct Known {
    steps: usize,
    trouble: Option<String>,
}

impl Follower {
    fn new(dash: &Dash) -> Self {
        let mut stream = dash.connect();
        stream.write_all(dash.get("/events").as_bytes()).expect("written");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        Self { lines: BufReader::new(stream), runs: BTreeMap::new() }
    }

    /// Follows the news until the runs are so, which they must be within some seconds.
    fn until(&mut self, what: &str, done: impl Fn(&BTreeMap<String, Known>) -> bool) {
        let since = Instant::now();
        while !done(&self.runs) {
            assert!(since.elapsed() < Duration::from_secs(20), "{what}: {:?}", self.runs);
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("news");
            let Some(json) = line.strip_prefix("data: ") else { continue };
            let news: Value = serde_json::from_str(json).expect("JSON");
            for run in news["runs"].as_array().expect("runs") {
                let known = self.runs.entry(run["name"].as_str().expect("a name").to_owned()).or_default();
                if run["reset"] == true {
                    known.steps = 0;
                }
                known.trouble = run["trouble"].as_str().map(str::to_owned);
                let table = &run["tables"]["train"];
                if let Some(column) = table["columns"]["step"].as_array() {
                    known.steps = table["from"].as_u64().expect("a number") as usize + column.len();
                }
            }
        }
    }
}

/// A run's name, what is said of it, and what makes the thing in the place of its events.
type Odd<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));

fn is_root() -> bool {
    File::open("/proc/self/status").is_ok_and(|status| {
        BufReader::new(status).lines().map_while(Result::ok).any(|line| line.starts_with("Uid:\t0\t"))
    })
}

#[test]
fn one_run_in_trouble_is_no_trouble_of_the_others() {
    let dir = temporary();
    let at = |name: &str| dir.path().join("runs").join(name);
    fs::create_dir_all(at("good")).expect("a folder");
    fs::write(dir.path().join("secret"), "{\"type\":\"train\",\"step\":1,\"loss\":1}\n".repeat(9))
        .expect("written");
    append(&at("good"), &(beginning(50) + &train(1)));
    // What stands in the place of the events, and what is said of it.
    let make: [Odd<'_>; 7] = [
        ("pipe", "found a pipe", &|path| pipe(path)),
        ("zero", "a link that leaves it", &|path| symlink("/dev/zero", path).expect("a link")),
        ("link", "a link that leaves it", &|path| symlink(dir.path().join("secret"), path).expect("a link")),
        ("lost", "cannot open", &|path| symlink("none", path).expect("a link")),
        ("loop", "cannot open", &|path| symlink("metrics.jsonl", path).expect("a link")),
        ("folder", "found a folder", &|path| fs::create_dir(path).expect("a folder")),
        ("sparse", "expected at most", &|path| {
            File::create(path).and_then(|f| f.set_len(1 << 40)).expect("a file");
        }),
    ];
    for (name, _, make) in &make {
        fs::create_dir(at(name)).expect("a folder");
        make(&at(name).join("metrics.jsonl"));
    }
    fs::create_dir(at("socket")).expect("a folder");
    let _socket =
        std::os::unix::net::UnixListener::bind(at("socket").join("metrics.jsonl")).expect("a socket");
    let mut troubles: Vec<(&str, &str)> = make.iter().map(|(name, said, _)| (*name, *said)).collect();
    troubles.push(("socket", "found a socket"));
    if !is_root() {
        fs::create_dir(at("closed")).expect("a folder");
        append(&at("closed"), &train(1));
        fs::set_permissions(at("closed").join("metrics.jsonl"), Permissions::from_mode(0o000)).expect("set");
        troubles.push(("closed", "cannot open"));
    }
    // Of a summary too.
    for name in ["summary", "zeros"] {
        fs::create_dir(at(name)).expect("a folder");
        append(&at(name), &train(1));
    }
    pipe(&at("summary").join("run.json"));
    File::create(at("zeros").join("run.json")).and_then(|f| f.set_len(1 << 30)).expect("a file");
    troubles.extend([
        ("summary", "run.json: expected a regular file, found a pipe"),
        ("zeros", "run.json: expected a file of at most"),
    ]);

    let dash = Dash::start(&dir.path().join("runs"), 0);
    let mut follower = Follower::new(&dash);
    follower.until("all are shown, each with its reason", |runs| {
        runs.len() == troubles.len() + 1
            && runs["good"].steps == 1
            && troubles
                .iter()
                .all(|(name, said)| runs[*name].trouble.as_ref().is_some_and(|t| t.contains(said)))
    });
    assert!(follower.runs["good"].trouble.is_none());
    assert_eq!((follower.runs["link"].steps, follower.runs["summary"].steps), (0, 1));
    // The good one goes on, and nothing keeps a core busy.
    append(&at("good"), &train(2));
    follower.until("the others go on", |runs| runs["good"].steps == 2);
    #[cfg(target_os = "linux")]
    {
        let ticks = || -> u64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", dash.child.id())).expect("stat");
            let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
            fields[11..13].iter().map(|n| n.parse::<u64>().expect("a number")).sum()
        };
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        // Hundredths of a second.
        assert!(ticks() - before < 50, "{} of 100", ticks() - before);
    }
    // A report says of each what it leaves out.
    let output = dir.path().join("report.html");
    let report = mesp(&[&"report", &dir.path().join("runs"), &"--output", &output]).ok();
    for (name, said) in &troubles {
        assert!(report.stderr.lines().any(|line| line.contains(said)), "{name}: {}", report.stderr);
    }
    let page = fs::read_to_string(&output).expect("a report");
    assert!(
        page.contains("found a pipe") && !page.contains("\"step\":[1,1,"),
        "what the link leads to is not read"
    );

    // Each recovers when its file is one.
    for (name, _) in &troubles {
        for file in ["metrics.jsonl", "run.json"].map(|file| at(name).join(file)) {
            let gone = if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) };
            let _ = gone;
        }
        append(&at(name), &(train(1) + &train(2) + &train(3)));
    }
    follower.until("all recover", |runs| {
        troubles.iter().all(|(name, _)| runs[*name].trouble.is_none() && runs[*name].steps == 3)
    });
    // And a file that becomes something else while it is watched.
    fs::remove_file(at("good").join("metrics.jsonl")).expect("removed");
    pipe(&at("good").join("metrics.jsonl"));
    follower.until("a file becomes a pipe", |runs| runs["good"].trouble.is_some());
    append(&at("link"), &train(4));
    follower.until("the others go on", |runs| runs["link"].steps == 4);
}

#[test]
fn files_that_are_cut_replaced_or_endless_are_followed() {
    let dir = temporary();
    let run = dir.path().join("run");
    fs::create_dir(&run).expect("a folder");
    let file = run.join("metrics.jsonl");
    append(&run, &(1..=5).map(train).collect::<String>());
    let dash = Dash::start(dir.path(), 0);
    let mut follower = Follower::new(&dash);
    let steps =
        |n: usize| move |runs: &BTreeMap<String, Known>| runs.get("run").is_some_and(|run| run.steps == n);
    follower.until("as it is", steps(5));
    File::options().write(true).open(&file).and_then(|f| f.set_len(train(1).len() as u64)).expect("cut");
    follower.until("cut", steps(1));
    fs::write(dir.path().join("new"), (1..=9).map(train).collect::<String>()).expect("written");
    fs::rename(dir.path().join("new"), &file).expect("renamed");
    follower.until("replaced", steps(9));
    // A line that has no end, of more than is kept, and then its end.
    let mut open = File::options().append(true).open(&file).expect("the file");
    let part = vec![b'x'; 1 << 20];
    for _ in 0..30 {
        open.write_all(&part).expect("written");
    }
    let resident = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", dash.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    std::thread::sleep(Duration::from_millis(600));
    append(&run, &(String::from("\n") + &train(10)));
    follower.until("a line of 30 MB is passed over", steps(10));
    assert!(resident() < 100_000, "{} kB", resident());
    fs::remove_dir_all(&run).expect("removed");
    follower.until("gone", steps(0));
    fs::create_dir(&run).expect("a folder");
    append(&run, &train(1));
    follower.until("there again", steps(1));
}

/// Events of more than the page keeps: its first and last steps are there, and memory is bounded.
#[cfg(target_os = "linux")]
#[test]
fn a_huge_run_is_thinned() {
    let dir = temporary();
    let line = |step: usize| {
        format!("{{\"type\":\"train\",\"step\":{step},\"loss\":1.5,\"a\":1,\"b\":2,\"c\":3}}\n")
    };
    let last = 600_000;
    append(dir.path(), &(1..=last).map(line).collect::<String>());
    let output = dir.path().join("report.html");
    mesp(&[&"report", &dir.path(), &"--output", &output]).ok();
    let page = fs::read_to_string(&output).expect("a report");
    assert!(page.len() < 20_000_000, "{}", page.len());
    let data = page.split("\"columns\":{\"step\":[").nth(1).expect("the steps");
    let steps: Vec<usize> =
        data.split(']').next().expect("a list").split(',').map(|n| n.parse().expect("a step")).collect();
    assert!(
        steps.is_sorted() && steps[0] <= 16 && steps.last() == Some(&last),
        "{} to {:?}",
        steps[0],
        steps.last()
    );
    let thinned: usize = page
        .split("\"thinned\":")
        .nth(1)
        .and_then(|t| t.split(',').next())
        .expect("a number")
        .parse()
        .expect("a number");
    assert_eq!(thinned + steps.len(), last);
    // No gap is wider than the coarsest thinning.
    assert!(steps.windows(2).all(|w| w[1] - w[0] <= 16));
}
