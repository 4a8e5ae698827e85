//! The hash that a hub names a file by: SHA-256 of a large file, and of a small one the SHA-1 of git's object, which
//! is a header with its size and then the content.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A hash that a content should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    Sha256(String),
    Git(String),
}

impl Expected {
    /// From an etag or a listing; none where it is no hash.
    pub(super) fn new(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            64 if hex => Some(Self::Sha256(text)),
            40 if hex => Some(Self::Git(text)),
            _ => None,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git's SHA-1",
        }
    }

    pub(super) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    /// What takes a content of so many bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
        }
    }
}

/// A hash under way.
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes of `printf hello | sha256sum` and of `printf hello | git hash-object --stdin`.
    #[test]
    fn hashes_are_those_of_other_programs() {
        for digits in [
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
        ] {
            let expected = Expected::new(&digits.to_uppercase()).expect("a hash");
            let mut hasher = expected.hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!((hasher.finish().as_str(), expected.digits()), (digits, digits));
        }
        for wrong in ["", "abc", "W/\"x\"", &"g".repeat(64)] {
            assert_eq!(Expected::new(wrong), None, "{wrong}");
        }
    }
}
