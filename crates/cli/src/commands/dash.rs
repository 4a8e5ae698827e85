//! `mesp dash`: a page over runs, served on this machine only.
//!
//! The server is a small one of our own: what it must do is one GET and one stream of events, and what it must
//! refuse is the greater part; the light synchronous servers on crates.io have had no release in years.

mod http;
mod page;
mod places;
mod record;
mod report;
mod serve;
mod store;
mod summary;
mod tail;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesp_formats::regular;
use serde_json::{Value, json};

use crate::args::DashArgs;
use crate::failure::usage;
use crate::{interrupt, run_dir, ui};
use store::{MOST_RUNS, Run, Store, Watch};

pub(crate) use report::run as report;

/// The port of a page that names none, and how many after it are tried.
const PORT: u16 = 6377;
const OTHERS: u16 = 20;

/// How often runs are read, and how many times before new ones are looked for.
const EVERY: Duration = Duration::from_millis(250);
const SCAN: u32 = 8;

/// What a page gets of a run's folder, all at once.
pub(crate) fn news_of(path: &Path) -> Option<String> {
    let store = Store::new(vec![path.to_owned()]);
    for mut watch in store.scan() {
        watch.finish(&store);
    }
    store.news(&mut store::Cursor::default(), Duration::ZERO, usize::MAX)
}

pub(crate) fn run(args: &DashArgs) -> Result<()> {
    let store = Arc::new(Store::new(roots(&args.runs)?));
    for watch in store.scan() {
        follow(&store, watch);
    }
    let listener = listen(args.port)?;
    let address = format!("http://{}/", listener.local_addr().context("the port has no address")?);
    // Anything after this is of use to nobody who waits for the address.
    interrupt::instead(|| std::process::exit(0));
    let scanner = Arc::clone(&store);
    thread::Builder::new().name("scan".to_owned()).spawn(move || {
        loop {
            thread::sleep(EVERY * SCAN);
            for watch in scanner.scan() {
                follow(&scanner, watch);
            }
        }
    })?;
    announce(args, &store, &address)?;
    if args.open {
        open(&address);
    }
    Ok(serve::serve(&listener, store)?)
}

/// Reads a run in a thread of its own: a disk that does not answer, or a fault here, keeps no other from being read.
fn follow(store: &Arc<Store>, mut watch: Watch) {
    let (run, whole) = (watch.run(), Arc::clone(store));
    let read = move || {
        loop {
            while watch.poll(&whole) {}
            thread::sleep(EVERY);
        }
    };
    let (of, told) = (Arc::clone(&run), Arc::clone(store));
    let thread =
        thread::Builder::new().name("follow".to_owned()).stack_size(places::STACK).spawn(move || {
            if catch_unwind(AssertUnwindSafe(read)).is_err() {
                let path = of.path.display();
                told.trouble(
                    &of,
                    Some(format!("{path}: a fault of this program ended its reading; start it again")),
                );
            }
        });
    if let Err(e) = thread {
        store.trouble(&run, Some(format!("{}: cannot be watched: {e}", run.path.display())));
    }
}

fn announce(args: &DashArgs, store: &Store, address: &str) -> Result<()> {
    let runs = store.runs();
    let shown = match &runs[..] {
        [] => "no run yet; one that begins will appear".to_owned(),
        [run] => run.name.clone(),
        many if many.len() == MOST_RUNS => format!("{MOST_RUNS} runs, as many as one page takes"),
        many => format!("{} runs", many.len()),
    };
    if args.shared.json {
        ui::json(&json!({ "url": address, "runs": runs_json(&runs) }))?;
    } else {
        ui::print(&format!("{address}\n"))?;
    }
    ui::note(format!("showing {shown}; Ctrl-C ends it"));
    Ok(())
}

/// Runs by name and directory.
fn runs_json(runs: &[Arc<Run>]) -> Vec<Value> {
    runs.iter().map(|run| json!({ "name": run.name, "path": run.path.display().to_string() })).collect()
}

/// The folders to look into: those given, or the one of a run that names none, or the current one.
fn roots(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if given.is_empty() {
        let usual = Path::new(run_dir::DEFAULT);
        return Ok(vec![if usual.is_dir() { usual.to_owned() } else { PathBuf::from(".") }]);
    }
    if let Some(path) = given.iter().find(|path| !path.is_dir()) {
        let found =
            regular::other_than_file(path).unwrap_or(if path.exists() { "a file" } else { "nothing" });
        let problem =
            format!("{}: expected a run's folder or a folder of runs, found {found}", path.display());
        return Err(usage(problem, "give the folder that `mesp train --output` named"));
    }
    Ok(given.to_vec())
}

/// Listens on this machine's own address, on the port that is asked for or the first of ours that is free.
fn listen(port: Option<u16>) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = port {
        return bind(port).map_err(|e| {
            let found = match e.kind() {
                ErrorKind::AddrInUse => "another program on it".to_owned(),
                _ => e.to_string(),
            };
            let problem = format!("port {port} of 127.0.0.1: expected one that is free, found {found}");
            usage(problem, "name another with --port; 0 takes any that is free")
        });
    }
    for port in PORT..=PORT + OTHERS {
        match bind(port) {
            Err(e) if e.kind() == ErrorKind::AddrInUse => {}
            Err(e) => return Err(e).with_context(|| format!("cannot listen on port {port} of 127.0.0.1")),
            Ok(listener) => {
                if port != PORT {
                    ui::note(format!("port {PORT} is taken, this is {port}"));
                }
                return Ok(listener);
            }
        }
    }
    let problem = format!("ports {PORT} to {} of 127.0.0.1: expected a free one, found none", PORT + OTHERS);
    Err(usage(problem, "name another with --port; 0 takes any that is free"))
}

/// Asks the system's browser to show the page.
fn open(address: &str) {
    let (program, args): (_, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        ("explorer", &[])
    } else {
        ("xdg-open", &[])
    };
    let child = Command::new(program)
        .args(args)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Err(e) => ui::note(format!("cannot open a browser ({program}: {e}); the address is {address}")),
        Ok(mut child) => drop(thread::spawn(move || child.wait())),
    }
}
