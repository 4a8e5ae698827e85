//! Steps through the bytes. Every step is held against what is left.

use std::path::Path;

use crate::{Error, ErrorKind, Result};

/// A place in the file.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn damaged(&self, kind: ErrorKind) -> Error {
        Error::invalid(self.path, kind).hint("The file is damaged: get it or make it again.")
    }

    /// An error for something that does not fit into what is left.
    pub(super) fn short(&self, what: &str, needed: impl std::fmt::Display) -> Error {
        let left = self.rest().len();
        self.damaged(ErrorKind::Malformed)
            .what(what)
            .expected(format!("{needed} bytes from offset {}", self.at))
            .found(format!("{left}: the file is cut short"))
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, what: &str, n: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(n).ok().and_then(|n| self.rest().get(..n));
        let taken = taken.ok_or_else(|| self.short(what, n))?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let b = self.rest().first_chunk().ok_or_else(|| self.short(what, 4))?;
        self.at += b.len();
        Ok(u32::from_le_bytes(*b))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        let b = self.rest().first_chunk().ok_or_else(|| self.short(what, 8))?;
        self.at += b.len();
        Ok(u64::from_le_bytes(*b))
    }

    /// A number of things of `least` bytes or more, which must fit into what is left.
    pub(super) fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let n = self.u64(what)?;
        let most = self.rest().len() / least;
        usize::try_from(n).ok().filter(|n| *n <= most).ok_or_else(|| {
            self.damaged(ErrorKind::OutOfRange)
                .what(what)
                .expected(format!("at most {most}, for which the file has room"))
                .found(format!("{n}: damaged or cut short"))
        })
    }

    pub(super) fn string(&mut self, what: &str) -> Result<&'a str> {
        let length = self.u64(what)?;
        let start = self.at;
        let text = self.take(what, length)?;
        std::str::from_utf8(text).map_err(|e| {
            let at = start + e.valid_up_to();
            self.damaged(ErrorKind::Malformed)
                .what(what)
                .expected("UTF-8")
                .found(format!("another byte at offset {at}"))
        })
    }
}
