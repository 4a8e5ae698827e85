//! Answers browsers on this machine: the page, and what happens in the runs as server-sent events.
//!
//! A thread for each connection, all of them within time limits and a number ([`places`](super::places)), so that
//! neither clients that do nothing nor clients that read slowly keep another from its answer.

use std::io::{self, Read as _, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::http::{self, Refusal};
use super::page;
use super::places::{Place, Places, STACK, State};
use super::store::{Cursor, Store};

/// The time for a request to come, and for a byte of an answer to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time for the page, or a piece of news, to go.
const SENDING: Duration = Duration::from_secs(30);
/// How long an open page hears nothing: until then, one that was closed is not noticed.
const SILENCE: Duration = Duration::from_secs(2);
/// How long what a client still sends is read after its answer.
const LEAVING: Duration = Duration::from_secs(5);
/// Bytes of news that are sent at once, about: what a client that reads slowly holds of our memory.
const PIECE: usize = 1 << 20;

/// Everything that an answer needs.
struct Site {
    port: u16,
    store: Arc<Store>,
    places: Arc<Places>,
}

/// Answers until the program ends.
pub(super) fn serve(listener: &TcpListener, store: Arc<Store>) -> io::Result<()> {
    let places = Arc::new(Places::default());
    let site = Arc::new(Site { port: listener.local_addr()?.port(), store, places });
    loop {
        // One connection that failed, or a moment without free files; the next may do.
        let Ok((stream, _)) = listener.accept() else {
            site.places.make_room();
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let place = Arc::new(site.places.take(stream));
        let (here, of) = (Arc::clone(&site), Arc::clone(&place));
        let thread = thread::Builder::new().name("dash".to_owned()).stack_size(STACK);
        let begun = thread.spawn(move || {
            // A browser that went away is no trouble of ours.
            let _ = here.answer(&of);
        });
        if begun.is_err() {
            let stream = &place.connection.stream;
            let _ = stream.set_nonblocking(true);
            let _ = http::refuse(&mut &*stream, Refusal::Busy);
            let _ = (&*stream).read(&mut [0; 4096]);
        }
    }
}

/// Writes that end at a time, however slowly they are read.
struct Until<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl<'a> Until<'a> {
    fn new(stream: &'a TcpStream, time: Duration) -> Self {
        Self { stream, end: Instant::now() + time }
    }

    /// The time that is left, no more than for one call.
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.min(PATIENCE)) }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Site {
    fn answer(&self, place: &Place) -> io::Result<()> {
        let stream = &place.connection.stream;
        stream.set_nodelay(true)?;
        let request = Until::new(stream, PATIENCE);
        let head = http::read_head(&mut &*stream, |s| s.set_read_timeout(Some(request.left()?)));
        let refusal = match head {
            Ok(None) if !place.is_evicted() => return Ok(()),
            Ok(None) => Refusal::Slow,
            Err(_) if place.is_evicted() => Refusal::Slow,
            Err(refusal) => refusal,
            Ok(Some(head)) => match http::path(&head, self.port) {
                Ok("/events") => {
                    place.set(State::Listening);
                    return events(stream, &self.store);
                }
                Ok("/") => {
                    place.set(State::Answering);
                    page(&mut Until::new(stream, SENDING))?;
                    return leave(place);
                }
                Ok(_) => Refusal::NotFound,
                Err(refusal) => refusal,
            },
        };
        place.set(State::Answering);
        http::refuse(&mut Until::new(stream, PATIENCE), refusal)?;
        leave(place)
    }
}

/// Ends a connection so that the answer arrives: the system resets one that is closed before all that came was read,
/// and a reset takes the answer away from a client that has not read it yet.
fn leave(place: &Place) -> io::Result<()> {
    place.set(State::Leaving);
    let stream = &place.connection.stream;
    stream.shutdown(Shutdown::Write)?;
    let time = Until::new(stream, LEAVING);
    let mut rest = [0; 16 << 10];
    loop {
        // Of a client that must make room, what is there already is read, and no more is waited for.
        let wait = if place.is_evicted() { Duration::from_millis(1) } else { time.left()? };
        stream.set_read_timeout(Some(wait))?;
        if (&*stream).read(&mut rest)? == 0 {
            return Ok(());
        }
    }
}

fn page(stream: &mut Until<'_>) -> io::Result<()> {
    let nonce = page::nonce();
    let document = page::live(&nonce);
    let policy = page::policy(&nonce, true);
    let more = [("Content-Security-Policy", policy.as_str())];
    let head = http::head("200 OK", "text/html; charset=utf-8", Some(document.len()), &more);
    stream.write_all(head.as_bytes())?;
    stream.write_all(document.as_bytes())
}

fn events(stream: &TcpStream, store: &Store) -> io::Result<()> {
    let more = [("Content-Security-Policy", "default-src 'none'")];
    let head = http::head("200 OK", "text/event-stream", None, &more);
    Until::new(stream, SENDING).write_all(format!("{head}retry: 1000\n\n").as_bytes())?;
    let mut cursor = Cursor::default();
    loop {
        let news = store.news(&mut cursor, SILENCE, PIECE);
        let mut to = Until::new(stream, SENDING);
        match news {
            // JSON has no line ends of its own.
            Some(json) => {
                to.write_all(b"data: ")?;
                to.write_all(json.as_bytes())?;
                to.write_all(b"\n\n")?;
            }
            None => to.write_all(b":\n\n")?,
        }
    }
}
