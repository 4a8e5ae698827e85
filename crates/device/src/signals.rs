//! Signals that would end the process without a word.
//!
//! A page of a mapped file that is gone, because the file was cut shorter or its disk failed, is a `SIGBUS`:
//! nothing can be computed without it and no call returns an error. A file that grows past `ulimit -f` is a
//! `SIGXFSZ`, where an error to report would do.

use std::path::Path;

/// Says which file it was when a page of a mapped one is lost, and ends the process with status 1; makes a file
/// that grows past the limit of its size an error of the write. For programs, once, at their start; elsewhere
/// than on Unix nothing happens.
///
/// Nothing is half-written then: files get their names when they are whole.
pub fn report_signals() {
    #[cfg(unix)]
    unix::install();
}

/// Ignores the end of a terminal again where it was ignored at the program's start, as `nohup` has it: for a program
/// that has set a handler since.
pub fn ignore_hangups_again() {
    #[cfg(unix)]
    unix::ignore_hangups_again();
}

/// A mapped file that the handler knows, as long as this lives.
#[derive(Debug)]
pub(crate) struct Registered(#[cfg(unix)] Option<usize>);

/// Makes a mapping known.
pub(crate) fn register(bytes: &[u8], path: &Path) -> Registered {
    #[cfg(unix)]
    return Registered(unix::register(bytes, path));
    #[cfg(not(unix))]
    {
        let _ = (bytes, path);
        Registered()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(place) = self.0 {
            unix::forget(place);
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};

    /// A mapping: where it lies, and its file's name in bytes that are never freed while it is known.
    struct Place {
        /// 0 when the place is free, 1 while it is being filled.
        start: AtomicUsize,
        end: AtomicUsize,
        name: AtomicPtr<u8>,
        name_len: AtomicUsize,
    }

    /// Files mapped at one time whose names can be told: far more than models have.
    const PLACES: usize = 256;

    static KNOWN: [Place; PLACES] = [const {
        Place {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            name: AtomicPtr::new(ptr::null_mut()),
            name_len: AtomicUsize::new(0),
        }
    }; PLACES];

    /// Whether the end of the terminal was ignored when the program began.
    static HANGUPS_IGNORED: AtomicBool = AtomicBool::new(false);

    pub(super) fn ignore_hangups_again() {
        if HANGUPS_IGNORED.load(SeqCst) {
            // SAFETY: to ignore a signal calls nothing of ours.
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        }
    }

    /// Whether a thread is telling what was lost.
    static SPEAKING: AtomicBool = AtomicBool::new(false);

    pub(super) fn register(bytes: &[u8], path: &Path) -> Option<usize> {
        let at = KNOWN.iter().position(|p| p.start.compare_exchange(0, 1, SeqCst, SeqCst).is_ok())?;
        let name: Box<[u8]> = path.as_os_str().as_bytes().into();
        let place = &KNOWN[at];
        place.name_len.store(name.len(), SeqCst);
        place.name.store(Box::into_raw(name).cast(), SeqCst);
        let start = bytes.as_ptr() as usize;
        place.end.store(start + bytes.len(), SeqCst);
        // Last: from here on the handler reads the rest.
        place.start.store(start, SeqCst);
        Some(at)
    }

    pub(super) fn forget(at: usize) {
        let place = &KNOWN[at];
        place.end.store(0, SeqCst);
        let (name, len) = (place.name.load(SeqCst), place.name_len.load(SeqCst));
        // SAFETY: `register` made this box, with this length. The handler reads it only for a page of this
        // mapping, which nobody reads any more: the mapping goes together with its place.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(name, len)) });
        place.start.store(0, SeqCst);
    }

    /// The name of the file that is mapped at an address.
    fn file_at(address: usize) -> Option<(*const u8, usize)> {
        let holds = |p: &&Place| {
            let start = p.start.load(SeqCst);
            // The last page is mapped whole.
            start > 1 && start <= address && address < p.end.load(SeqCst).next_multiple_of(4096)
        };
        let place = KNOWN.iter().find(holds)?;
        Some((place.name.load(SeqCst).cast_const(), place.name_len.load(SeqCst)))
    }

    pub(super) fn install() {
        // SAFETY: the handlers are functions that may run as such: see `lost_page`. All-zero bytes are valid
        // values of the structures, which the calls fill or read.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGHUP, ptr::null(), &raw mut action);
            HANGUPS_IGNORED.store(action.sa_sigaction == libc::SIG_IGN, SeqCst);
            action = std::mem::zeroed();
            action.sa_sigaction = lost_page as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    }

    /// Makes only calls that a signal handler may make, and allocates nothing. For a page that is in no known file it
    /// takes itself away and returns: the access is made again and ends the process as it always did. Several
    /// threads may meet the lost part at once: the first speaks, the others wait for the end.
    extern "C" fn lost_page(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid `siginfo_t` to a handler with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        let Some((name, len)) = file_at(address) else {
            // SAFETY: a handler may set another one.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
            return;
        };
        if SPEAKING.swap(true, SeqCst) {
            loop {
                // SAFETY: waits, and takes nothing.
                unsafe { libc::pause() };
            }
        }
        say(b"\nerror: ");
        // SAFETY: the name lives as long as the mapping, which is being read.
        say(unsafe { std::slice::from_raw_parts(name, len) });
        say(b": expected the file to stay as it was while it is in use, found a part of it gone\n  it was cut shorter or replaced in place, or its disk failed; what was saved before is intact\n  put the file back whole, and go on with --resume where there is a checkpoint\n");
        // SAFETY: ends the process at once, without anything that could wait for another thread.
        unsafe { libc::_exit(1) };
    }

    fn say(mut text: &[u8]) {
        while !text.is_empty() {
            // SAFETY: `text` is valid for its length.
            let wrote = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            match usize::try_from(wrote) {
                Ok(n @ 1..) => text = &text[n.min(text.len())..],
                _ => return,
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn addresses_find_their_files() {
            let (a, b) = (vec![0u8; 10_000], vec![0u8; 10_000]);
            let (one, two) = (register(&a, Path::new("one")), register(&b, Path::new("two.gguf")));
            let name = |at: usize| {
                // SAFETY: both places are known until the end of the test.
                file_at(at).map(|(name, len)| unsafe { std::slice::from_raw_parts(name, len) })
            };
            assert_eq!(name(b.as_ptr() as usize + 9_999), Some(&b"two.gguf"[..]));
            assert_eq!(name(a.as_ptr() as usize), Some(&b"one"[..]));
            forget(one.expect("a place"));
            assert_eq!(name(b.as_ptr() as usize + 5), Some(&b"two.gguf"[..]));
            forget(two.expect("a place"));
            assert_eq!(name(b.as_ptr() as usize + 5), None);
        }
    }
}
