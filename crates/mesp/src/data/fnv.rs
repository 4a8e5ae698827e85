//! FNV-1a: enough to tell files apart and damage from none; it keeps nobody from forging either.

use std::io::{self, Write};

/// FNV-1a of 64 bits.
#[derive(Debug)]
pub(super) struct Fnv64(pub(super) u64);

impl Default for Fnv64 {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv64 {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    }
}

/// What is written, with a sum of it.
#[derive(Debug)]
pub(super) struct Hashed<W> {
    pub(super) inner: W,
    pub(super) hash: Fnv64,
}

impl<W> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hash: Fnv64::default() }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.add(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// FNV-1a of 128 bits.
#[derive(Debug)]
pub(super) struct Fnv128(pub(super) u128);

impl Default for Fnv128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv128 {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        const PRIME: u128 = (1 << 88) | 0x13b;
        self.0 = bytes.iter().fold(self.0, |h, b| (h ^ u128::from(*b)).wrapping_mul(PRIME));
    }
}
