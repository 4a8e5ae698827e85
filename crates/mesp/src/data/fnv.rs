//! FNV-1a: enough to tell files apart and damage from none; it keeps nobody from forging either.

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
