//! `mesp dash`: a page over runs, served on this machine only.
//!
//! The server is a small one of our own: what it must do is one GET and one stream of events, and what it must
//! refuse is the greater part; the light synchronous servers on crates.io have had no release in years.

mod http;
mod page;
mod record;
mod report;
mod serve;
mod store;
mod tail;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::args::DashArgs;
use crate::inputs::usage;
use crate::{run_dir, ui};
use store::{MOST_RUNS, Store};

pub(crate) use report::run as report;

/// The port of a page that names none, and how many after it are tried.
const PORT: u16 = 6377;
const OTHERS: u16 = 20;

/// How often runs are read, and how many times before new ones are looked for.
const EVERY: Duration = Duration::from_millis(250);
const SCAN: usize = 8;

/// What a page gets of a run's folder, all at once.
pub(crate) fn news_of(path: &Path) -> Option<String> {
    let store = Store::new(vec![path.to_owned()]);
    store.scan();
    store.poll();
    store.finish();
    store.news(&mut store::Cursor::default(), Duration::ZERO)
}

pub(crate) fn run(args: &DashArgs) -> Result<()> {
    let store = Arc::new(Store::new(roots(&args.runs)?));
    store.scan();
    let listener = listen(args.port)?;
    let address = format!("http://{}/", listener.local_addr().context("the port has no address")?);
    // Anything after this is of use to nobody who waits for the address.
    ctrlc::set_handler(|| std::process::exit(0)).context("cannot listen for interrupts")?;
    let follower = Arc::clone(&store);
    thread::Builder::new().name("follow".to_owned()).spawn(move || {
        for turn in 1_usize.. {
            follower.poll();
            if turn.is_multiple_of(SCAN) {
                follower.scan();
            }
            thread::sleep(EVERY);
        }
    })?;
    announce(args, &store, &address)?;
    if args.open {
        open(&address);
    }
    Ok(serve::serve(&listener, store)?)
}

fn announce(args: &DashArgs, store: &Store, address: &str) -> Result<()> {
    let runs = store.runs();
    let shown = match &runs[..] {
        [] => "no run yet; one that begins will appear".to_owned(),
        [(name, _)] => name.clone(),
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
fn runs_json(runs: &[(String, PathBuf)]) -> Vec<Value> {
    runs.iter().map(|(name, path)| json!({ "name": name, "path": path.display().to_string() })).collect()
}

/// The folders to look into: those given, or the one of a run that names none, or the current one.
fn roots(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if given.is_empty() {
        let usual = Path::new(run_dir::DEFAULT);
        return Ok(vec![if usual.is_dir() { usual.to_owned() } else { PathBuf::from(".") }]);
    }
    if let Some(path) = given.iter().find(|path| !path.is_dir()) {
        let found = if path.exists() { "a file" } else { "nothing" };
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
