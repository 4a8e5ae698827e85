//! Answers browsers on this machine: the page, and what happens in the runs as server-sent events.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{self, Refusal};
use super::page;
use super::store::{Cursor, Store};

/// Requests that are answered at once; an open page is one.
const MOST: usize = 32;
/// The time for a request to come, and for a part of an answer to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an open page hears nothing: until then, one that was closed is not noticed.
const SILENCE: Duration = Duration::from_secs(2);

/// Everything that an answer needs.
struct Site {
    port: u16,
    store: Arc<Store>,
    answering: AtomicUsize,
}

/// Answers until the program ends.
pub(super) fn serve(listener: &TcpListener, store: Arc<Store>) -> io::Result<()> {
    let site = Arc::new(Site { port: listener.local_addr()?.port(), store, answering: AtomicUsize::new(0) });
    loop {
        // One connection that failed, or a moment without free files; the next may do.
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let Some(taken) = Taken::new(&site) else {
            let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
            let _ = http::refuse(&mut &stream, Refusal::Busy);
            continue;
        };
        let _ = thread::Builder::new().name("dash".to_owned()).stack_size(256 << 10).spawn(move || {
            // A browser that went away is no trouble of ours.
            let _ = taken.answer(stream);
        });
    }
}

/// One of the places for answers, free again when this goes.
struct Taken(Arc<Site>);

impl Taken {
    /// None, if all are taken.
    fn new(site: &Arc<Site>) -> Option<Self> {
        let taken = Self(Arc::clone(site));
        (site.answering.fetch_add(1, Ordering::Relaxed) < MOST).then_some(taken)
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let until = Instant::now() + PATIENCE;
        let head = http::read_head(&mut stream, |s: &TcpStream| {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            s.set_read_timeout(Some(left))
        });
        let refusal = match head.as_ref().map(|head| http::path(head, self.0.port)) {
            Ok(Ok("/")) => return page(&mut stream),
            Ok(Ok("/events")) => return events(&mut stream, &self.0.store),
            Ok(Ok(_)) => Refusal::NotFound,
            Ok(Err(refusal)) => refusal,
            Err(refusal) => *refusal,
        };
        http::refuse(&mut stream, refusal)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

fn page(stream: &mut TcpStream) -> io::Result<()> {
    let nonce = page::nonce();
    let document = page::live(&nonce);
    let policy = page::policy(&nonce, true);
    let more = [("Content-Security-Policy", policy.as_str())];
    let head = http::head("200 OK", "text/html; charset=utf-8", Some(document.len()), &more);
    stream.write_all(head.as_bytes())?;
    stream.write_all(document.as_bytes())
}

fn events(stream: &mut TcpStream, store: &Store) -> io::Result<()> {
    let more = [("Content-Security-Policy", "default-src 'none'")];
    stream.write_all(http::head("200 OK", "text/event-stream", None, &more).as_bytes())?;
    stream.write_all(b"retry: 1000\n\n")?;
    let mut cursor = Cursor::default();
    loop {
        match store.news(&mut cursor, SILENCE) {
            // JSON has no line ends of its own.
            Some(json) => {
                stream.write_all(b"data: ")?;
                stream.write_all(json.as_bytes())?;
                stream.write_all(b"\n\n")?;
            }
            None => stream.write_all(b":\n\n")?,
        }
    }
}
