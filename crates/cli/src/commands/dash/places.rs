//! Connections that are open: a bounded number, of which the oldest that does nothing makes room for the next.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The stack of a thread that reads a run, or answers.
pub(super) const STACK: usize = 512 << 10;
/// Connections that are open at once, and those of them that hear of news.
const MOST: usize = 256;
const MOST_STREAMS: usize = 64;

/// What a connection is at, in the order in which they make room for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It was answered and is not closed yet.
    Leaving,
    /// Its request has not come.
    Asking,
    /// It hears of news.
    Listening,
    /// It is being answered.
    Answering,
}

/// A connection.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// It has to make room for another.
    evicted: AtomicBool,
}

/// All connections, by the order in which they came.
#[derive(Default)]
pub(super) struct Places {
    open: Mutex<Open>,
    freed: Condvar,
}

#[derive(Default)]
struct Open {
    next: u64,
    all: BTreeMap<u64, (State, Arc<Connection>)>,
}

/// The place of one connection, free again when this goes.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, as soon as there is one.
    pub(super) fn take(self: &Arc<Self>, stream: TcpStream) -> Place {
        let mut open = self.lock();
        while open.all.len() >= MOST {
            open.evict(None);
            let waited = self.freed.wait_timeout(open, Duration::from_millis(100));
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let number = open.next;
        open.next += 1;
        let connection = Arc::new(Connection { stream, evicted: AtomicBool::new(false) });
        open.all.insert(number, (State::Asking, Arc::clone(&connection)));
        Place { places: Arc::clone(self), number, connection }
    }

    /// Makes room, where the system has no more files to open.
    pub(super) fn make_room(&self) {
        self.lock().evict(None);
    }
}

impl Open {
    /// Ends the first connection in the order of states, the oldest of them: its thread notices, and goes.
    fn evict(&mut self, of: Option<State>) {
        let may = |(state, connection): &(State, Arc<Connection>)| {
            of.is_none_or(|of| of == *state) && !connection.evicted.load(Ordering::Relaxed)
        };
        let first =
            self.all.iter().filter(|(_, one)| may(one)).min_by_key(|(number, (state, _))| (*state, **number));
        if let Some((_, (state, connection))) = first {
            connection.evicted.store(true, Ordering::Relaxed);
            // One that has asked nothing yet can still be told why.
            let how = if *state == State::Asking { Shutdown::Read } else { Shutdown::Both };
            let _ = connection.stream.shutdown(how);
        }
    }
}

impl Place {
    /// What it is at from now on.
    pub(super) fn set(&self, state: State) {
        let mut open = self.places.lock();
        if let Some((is, _)) = open.all.get_mut(&self.number) {
            *is = state;
        }
        let listens = |(is, connection): &&(State, Arc<Connection>)| {
            *is == State::Listening && !connection.evicted.load(Ordering::Relaxed)
        };
        let streams = open.all.values().filter(listens).count();
        if state == State::Listening && streams > MOST_STREAMS {
            open.evict(Some(State::Listening));
        }
    }

    /// Whether it has to make room.
    pub(super) fn is_evicted(&self) -> bool {
        self.connection.evicted.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().all.remove(&self.number);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_oldest_that_does_nothing_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connect = || {
            let there = TcpStream::connect(listener.local_addr().expect("an address")).expect("open");
            (there, listener.accept().expect("a connection").0)
        };
        let places = Arc::new(Places::default());
        let mut open: Vec<_> = (0..MOST).map(|_| connect()).map(|(a, b)| (a, places.take(b))).collect();
        open[0].1.set(State::Listening);
        open[1].1.set(State::Answering);
        places.make_room();
        let evicted = |open: &[(TcpStream, Place)]| -> Vec<usize> {
            (0..open.len()).filter(|i| open[*i].1.is_evicted()).collect()
        };
        assert_eq!(evicted(&open), [2]);
        let (mut there, gone) = open.remove(2);
        assert_eq!((&gone.connection.stream).read(&mut [0]).expect("an end"), 0, "its thread is woken");
        drop(gone);
        assert_eq!(there.read(&mut [0]).expect("an end"), 0);
        // There is room again: the next need not wait.
        let next = connect();
        open.push((next.0, places.take(next.1)));
        assert!(evicted(&open).is_empty());
        for (_, place) in &open {
            place.set(State::Listening);
        }
        let left = evicted(&open);
        assert_eq!(left.len(), MOST - MOST_STREAMS);
        assert!(left.contains(&0) && left.is_sorted());
    }
}
