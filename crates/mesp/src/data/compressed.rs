//! Content as it was before gzip or Zstandard packed it, read as it is needed.
//!
//! What a file is packed with is told by its first bytes: no text begins with them.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::layout;
use crate::{Error, ErrorKind, Result};

/// What follows the extension of packed files.
const EXTENSIONS: [&str; 4] = [".gz", ".gzip", ".zst", ".zstd"];

/// The bytes of a line, of one row, or of one JSON value at most. Packed files of a few kilobytes may hold more than
/// there is memory.
pub(super) const ROW_LIMIT: usize = 64 << 20;
/// The bytes of a packed plain text at most, which is read as a whole.
pub(super) const TEXT_LIMIT: usize = 256 << 20;

/// A file's name without what says that it is packed, in lower case.
pub(super) fn unpacked_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let bare = EXTENSIONS.iter().find_map(|extension| name.strip_suffix(extension));
    bare.map_or(name.clone(), str::to_owned)
}

/// Whether a name says that the file is packed.
pub(super) fn is_packed(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}

/// A file's content.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = layout::open(path)?;
    unpacked(BufReader::new(file)).map_err(|e| unreadable(path, None, e))
}

/// The content of packed bytes, or the bytes themselves.
pub(super) fn unpacked<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let start = reader.fill_buf()?;
    Ok(match packing(start) {
        Some(Packing::Gzip) => Box::new(BufReader::new(MultiGzDecoder::new(reader))),
        Some(Packing::Zstd) => Box::new(BufReader::new(Zstd::new(reader))),
        None => Box::new(reader),
    })
}

/// What packed some content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

/// What packed the content that begins so.
pub(super) fn packing(start: &[u8]) -> Option<Packing> {
    match start {
        [0x1F, 0x8B, ..] => Some(Packing::Gzip),
        // A frame, or one to be passed over, in which other programs keep notes.
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Packing::Zstd),
        _ => None,
    }
}

/// Says why a file cannot be read: the system's reason, or damage that unpacking found.
pub(super) fn unreadable(path: &Path, line: Option<usize>, error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return mesp_formats::Error::io("read", path, error).into();
    }
    Error::data(path, line, ErrorKind::Malformed, format!("the file is damaged or cut short: {error}"))
        .hint("fetch or write the file again; `gzip -t` and `zstd -t` test packed ones")
}

/// Reads up to and with the next line end into `line`, which it empties first; `false` at the end of the input, and
/// `None` for a line of more than `limit` bytes.
pub(super) fn read_line(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<Option<bool>> {
    line.clear();
    // One byte over the limit says that there are more.
    let read = reader.by_ref().take(limit as u64 + 1).read_until(b'\n', line)?;
    Ok((read <= limit).then_some(read > 0))
}

/// Frames of Zstandard, one after another.
pub(super) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame is begun and not ended.
    inside: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), inside: false }
    }

    /// Begins the next frame, if there is one.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(e) => return Err(damaged(e)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && (self.inside || self.begin()?) {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(damaged)?;
            }
            match self.decoder.read(buffer)? {
                0 => {
                    let (stored, found) =
                        (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                    if stored.is_some() && stored != found {
                        return Err(damaged("its check sum differs"));
                    }
                    self.inside = false;
                }
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

fn damaged(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Zstandard: {}", error.to_string()))
}

#[cfg(test)]
mod tests;
