//! The pages of one column of a row group: found, checked against what their headers claim, and decompressed.
//!
//! The crate `parquet` reads values from them. It takes sizes and counts of headers at their word, and decompresses
//! Zstandard with a C library; so that is done here. What one page, one row's list and all pages held at a time may
//! come to is bounded.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

use super::super::compressed::Zstd;
use super::thrift::{Found, varint, walk};

/// The bytes of all pages that are held at a time, one and a dictionary of each column.
const HELD_LIMIT: usize = 512 << 20;
/// The bytes of a page header; it may hold the least and the largest value.
const HEADER_LIMIT: u64 = 16 << 20;
/// The values that a row's lists may have in a column, and the values of a dictionary.
const VALUES_LIMIT: usize = 1 << 22;

/// The repetition levels of a page where there are some, and its values.
type LevelsAndValues<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// The pages of a column.
pub(super) struct Pages<R: ChunkReader> {
    input: Arc<R>,
    /// What is left of the column's bytes.
    at: u64,
    end: u64,
    /// Values of the pages that were read, and of all.
    seen: u64,
    total: u64,
    codec: Compression,
    physical: Type,
    width: usize,
    levels: [i16; 2],
    /// Values since the last row began.
    run: usize,
    /// Bytes of the dictionary and of the page at hand, which are part of `all`.
    held: [usize; 2],
    all: Arc<AtomicUsize>,
}

/// A header's numbers.
#[derive(Default)]
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
    level_encodings: [i64; 2],
    nulls: i64,
    rows: i64,
    level_bytes: [i64; 2],
    is_packed: bool,
}

impl<R: ChunkReader> Pages<R> {
    pub(super) fn new(input: Arc<R>, column: &ColumnChunkMetaData, all: Arc<AtomicUsize>) -> Result<Self> {
        let (at, length) = column.byte_range();
        let end = at.checked_add(length).filter(|end| *end <= input.len());
        let end = end.ok_or_else(|| failed("its bytes lie beyond the end of the file"))?;
        let about = column.column_descr();
        let width = match about.physical_type() {
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(about.type_length()).unwrap_or(0),
            // A text has its length before it.
            _ => 4,
        };
        if width == 0 || width > HEADER_LIMIT as usize {
            return Err(failed(format!("its values are of {width} bytes each")));
        }
        Ok(Self {
            input,
            at,
            end,
            seen: 0,
            total: u64::try_from(column.num_values()).unwrap_or(0),
            codec: column.compression(),
            physical: about.physical_type(),
            width,
            levels: [about.max_rep_level(), about.max_def_level()],
            run: 0,
            held: [0; 2],
            all,
        })
    }

    fn header(&mut self) -> Result<Header> {
        let left = (self.end - self.at).min(HEADER_LIMIT);
        let mut from = self.input.get_read(self.at)?.take(left);
        let mut header = Header { is_packed: true, ..Header::default() };
        walk(&mut from, &mut |path, found| {
            let Found::Number(number) = found else { return };
            // By the numbers of parquet-format's PageHeader, DataPageHeader, DictionaryPageHeader, DataPageHeaderV2.
            let place = match path {
                [1] => &mut header.kind,
                [2] => &mut header.unpacked,
                [3] => &mut header.packed,
                [5 | 7 | 8, 1] => &mut header.values,
                [5 | 7, 2] | [8, 4] => &mut header.encoding,
                [5, 3] => &mut header.level_encodings[1],
                [5, 4] => &mut header.level_encodings[0],
                [8, 2] => &mut header.nulls,
                [8, 3] => &mut header.rows,
                [8, 5] => &mut header.level_bytes[1],
                [8, 6] => &mut header.level_bytes[0],
                [8, 7] => {
                    header.is_packed = number != 0;
                    return;
                }
                _ => return,
            };
            *place = number;
        })
        .map_err(|e| failed(format!("a page header cannot be read: {e}")))?;
        self.at += left - from.limit();
        Ok(header)
    }

    /// The bytes of a page, all of them and those before `plain` as they are, the others decompressed.
    fn content(&self, header: &Header, plain: usize, packed: bool) -> Result<Bytes> {
        let size = |number: i64| usize::try_from(number).ok().filter(|size| *size <= HELD_LIMIT);
        let (Some(length), Some(unpacked)) = (size(header.packed), size(header.unpacked)) else {
            let problem = format!(
                "a page of {} bytes, {} when unpacked; at most {} MB are read at a time",
                header.packed,
                header.unpacked,
                HELD_LIMIT >> 20
            );
            return Err(failed(problem));
        };
        if length as u64 > self.end - self.at {
            return Err(failed("a page goes beyond the end of its column"));
        }
        let (Some(rest), true) = (unpacked.checked_sub(plain), plain <= length) else {
            return Err(failed("the levels of a page are longer than the page"));
        };
        self.claim(unpacked.max(length))?;
        let bytes = self.input.get_bytes(self.at, length)?;
        let from = bytes.slice(plain..);
        if !packed || self.codec == Compression::UNCOMPRESSED || (rest == 0 && from.is_empty()) {
            return if length == unpacked { Ok(bytes) } else { Err(sizes(unpacked, length)) };
        }
        let mut out = bytes[..plain].to_vec();
        match self.codec {
            Compression::SNAPPY => {
                // A copy of 64 bytes takes two bytes at least.
                let claimed = snap::raw::decompress_len(&from).map_err(|e| failed(e.to_string()))?;
                if claimed != rest || rest / 32 > from.len() {
                    return Err(sizes(unpacked, plain + claimed));
                }
                out.resize(unpacked, 0);
                snap::raw::Decoder::new()
                    .decompress(&from, &mut out[plain..])
                    .map_err(|e| failed(e.to_string()))?;
            }
            Compression::GZIP(_) => fill(&mut MultiGzDecoder::new(&from[..]), rest, &mut out)?,
            Compression::ZSTD(_) => fill(&mut Zstd::new(&from[..]), rest, &mut out)?,
            other => {
                let name = format!("{other:?}");
                let name = name.split('(').next().unwrap_or_default();
                return Err(failed(format!("compressed with {name}; snappy, zstd and gzip are read")));
            }
        }
        if out.len() == unpacked { Ok(out.into()) } else { Err(sizes(unpacked, out.len())) }
    }

    /// Refuses a page that would be too much beside those that are held.
    fn claim(&self, bytes: usize) -> Result<()> {
        let held = self.all.load(Ordering::Relaxed).saturating_sub(self.held[1]);
        if held.saturating_add(bytes) <= HELD_LIMIT {
            return Ok(());
        }
        Err(failed(format!(
            "its pages come to more than {} MB together with those of other columns",
            HELD_LIMIT >> 20
        )))
    }

    /// Counts what is held.
    fn hold(&mut self, place: usize, bytes: usize) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.held[place], Ordering::Relaxed);
        self.held[place] = bytes;
    }

    fn dictionary(&mut self, header: &Header) -> Result<Page> {
        let buf = self.content(header, 0, true)?;
        let most = (buf.len() / self.width).min(VALUES_LIMIT);
        let num_values = u32::try_from(header.values).ok().filter(|n| *n as usize <= most);
        let num_values = num_values.ok_or_else(|| {
            failed(format!("a dictionary of {} values in {} bytes", header.values, buf.len()))
        })?;
        if self.physical == Type::BOOLEAN {
            return Err(failed("a dictionary of truth values"));
        }
        // Each value becomes a handle of its own.
        self.hold(0, buf.len() + num_values as usize * 48);
        Ok(Page::DictionaryPage { buf, num_values, encoding: encoding(header.encoding)?, is_sorted: false })
    }

    fn data(&mut self, header: &Header) -> Result<Page> {
        let second = header.kind == 3;
        let bytes = |n: i64| u32::try_from(n).map_err(|_| failed("a page header with a negative length"));
        let [rep, def] = [bytes(header.level_bytes[0])?, bytes(header.level_bytes[1])?];
        let levels = if second { rep as usize + def as usize } else { 0 };
        let buf = self.content(header, levels, !second || header.is_packed)?;
        let num_values = bytes(header.values)?;
        self.seen += u64::from(num_values);
        let (reps, values) = if second {
            (buf.get(..rep as usize), buf.get(levels..))
        } else {
            self.first_levels(header, &buf)?
        };
        if self.levels[0] > 0 {
            self.check_lists(reps.unwrap_or_default(), num_values as usize)?;
        }
        let encoding = encoding(header.encoding)?;
        check_values(encoding, values.unwrap_or_default(), num_values as usize)?;
        self.hold(1, buf.len());
        if second {
            return Ok(Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls: bytes(header.nulls)?,
                num_rows: bytes(header.rows)?,
                def_levels_byte_len: def,
                rep_levels_byte_len: rep,
                is_compressed: false,
                statistics: None,
            });
        }
        Ok(Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })
    }

    /// The repetition levels of a page of the first version, and what follows all levels.
    fn first_levels<'a>(&self, header: &Header, buf: &'a Bytes) -> Result<LevelsAndValues<'a>> {
        let (mut rest, mut reps) = (&buf[..], None);
        for (i, highest) in self.levels.iter().enumerate().filter(|(_, highest)| **highest > 0) {
            if header.level_encodings[i] != 3 {
                return Err(failed("levels in an encoding that is no longer written (BIT_PACKED)"));
            }
            let cut = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
                let length = u32::from_le_bytes(*length) as usize;
                (length <= rest.len()).then(|| rest.split_at(length))
            });
            let (levels, after) =
                cut.ok_or_else(|| failed(format!("levels (up to {highest}) longer than their page")))?;
            if i == 0 {
                reps = Some(levels);
            }
            rest = after;
        }
        Ok((reps, Some(rest)))
    }

    /// Refuses a row with more values than a row may have: a few bytes can say that a list goes on for billions.
    fn check_lists(&mut self, mut levels: &[u8], values: usize) -> Result<()> {
        let bits = (i16::BITS - self.levels[0].leading_zeros()) as usize;
        let mut left = values;
        while left > 0 {
            let head = varint(&mut levels).map_err(|_| failed("levels that end early"))?;
            let count = usize::try_from(head >> 1).unwrap_or(usize::MAX);
            if head & 1 == 0 {
                let bytes = bits.div_ceil(8);
                let (value, after) =
                    levels.split_at_checked(bytes).ok_or_else(|| failed("levels that end early"))?;
                let count = count.min(left);
                // Rows of one value each, or values of one row.
                self.run =
                    if value.iter().all(|byte| *byte == 0) { 1 } else { self.run.saturating_add(count) };
                (levels, left) = (after, left - count);
            } else {
                let bytes = count.saturating_mul(bits).min(levels.len());
                let (packed, after) = levels.split_at(bytes);
                for at in 0..count.saturating_mul(8).min(left) {
                    let place = at * bits;
                    if place + bits > packed.len() * 8 {
                        return Err(failed("levels that end early"));
                    }
                    let begins = (place..place + bits).all(|bit| packed[bit / 8] >> (bit % 8) & 1 == 0);
                    self.run = if begins { 1 } else { self.run + 1 };
                    left -= 1;
                }
                levels = after;
            }
            if count == 0 {
                return Err(failed("a run of no levels"));
            }
            if self.run > VALUES_LIMIT {
                return Err(failed(format!("a row with a list of more than {VALUES_LIMIT} values")));
            }
        }
        Ok(())
    }
}

/// Checks the counts that stand at the beginning of differences.
fn check_values(encoding: Encoding, mut values: &[u8], count: usize) -> Result<()> {
    match encoding {
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => {
            let mut next = || varint(&mut values).map_err(|_| failed("values that end early"));
            let (block, minis, total) = (next()?, next()?, next()?);
            let fits = block <= 1 << 20 && minis <= 1 << 12 && total <= count.min(VALUES_LIMIT) as u64;
            if fits { Ok(()) } else { Err(failed(format!("{total} values in a page of {count}"))) }
        }
        Encoding::PLAIN
        | Encoding::RLE
        | Encoding::PLAIN_DICTIONARY
        | Encoding::RLE_DICTIONARY
        | Encoding::BYTE_STREAM_SPLIT => Ok(()),
        other => Err(failed(format!("values in the encoding {other}, which is not read"))),
    }
}

/// The number of an encoding in parquet-format.
fn encoding(number: i64) -> Result<Encoding> {
    Ok(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        7 => Encoding::DELTA_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        other => return Err(failed(format!("values in the unknown encoding {other}"))),
    })
}

/// Reads as many bytes as there should be, and one more if there is one.
fn fill(from: &mut impl Read, size: usize, out: &mut Vec<u8>) -> Result<()> {
    from.take(size as u64 + 1).read_to_end(out).map_err(|e| failed(e.to_string()))?;
    Ok(())
}

fn sizes(expected: usize, found: usize) -> ParquetError {
    failed(format!("a page of {found} bytes; its header says {expected}"))
}

fn failed(problem: impl Into<String>) -> ParquetError {
    ParquetError::General(problem.into())
}

impl<R: ChunkReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        while self.seen < self.total && self.at < self.end {
            let header = self.header()?;
            let page = match header.kind {
                0 | 3 if header.values > 0 => Some(self.data(&header)?),
                2 => Some(self.dictionary(&header)?),
                // An index, or a page without values.
                _ => None,
            };
            self.at = self.at.saturating_add(u64::try_from(header.packed).unwrap_or(u64::MAX)).min(self.end);
            if page.is_some() {
                return Ok(page);
            }
        }
        Ok(None)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Err(failed("pages are read in order"))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        Err(failed("pages are read in order"))
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        // Of a row at the end of a page it is not known before the next page whether it goes on there.
        Ok(self.seen >= self.total || self.at >= self.end)
    }
}

impl<R: ChunkReader> Iterator for Pages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<R: ChunkReader> Drop for Pages<R> {
    fn drop(&mut self) {
        self.hold(0, 0);
        self.hold(1, 0);
    }
}
