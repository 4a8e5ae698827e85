//! Parquet files.

use std::path::Path;
use std::sync::LazyLock;

use mesp::data::{FileRows, ReadOptions, TextEncoder};

use crate::data::encoder;

/// Any bytes are rows of a Parquet file or are refused with the file's name; a panic of the crate `parquet` is such a
/// refusal, and what headers claim fills no memory.
pub fn parquet(content: &[u8]) {
    static ENCODER: LazyLock<TextEncoder> = LazyLock::new(|| encoder(None));
    let options = ReadOptions { max_seq_len: Some(64), ..ReadOptions::new(1 << 16) };
    match FileRows::parse(Path::new("r.parquet"), content, Some(&ENCODER), &options) {
        Ok(data) => assert!(data.targets() > 0),
        Err(error) => assert!(error.to_string().starts_with("r.parquet"), "{error}"),
    }
}

/// Changes `size` bytes of `data` with `change`, which takes a buffer and how much of it is filled and gives how much
/// it filled. The end of the file, which says where everything is, stays true: most changes would otherwise stop there.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    seed: u32,
    change: &mut dyn FnMut(&mut [u8], usize) -> usize,
) -> usize {
    if size < 12 || size + 16 > data.len() {
        return change(data, size);
    }
    let mut length = [0; 4];
    length.copy_from_slice(&data[size - 8..size - 4]);
    let footer = u32::from_le_bytes(length) as usize;
    if seed.is_multiple_of(4) || footer > size - 12 {
        return change(data, size);
    }
    let (tail, start) = (data[size - 8..size].to_vec(), size - 8 - footer);
    // Pages keep their length, so that the footer's places are right; a footer may change its own.
    if seed.is_multiple_of(2) {
        let mut pages = data[..start].to_vec();
        let changed = change(&mut pages, start);
        data[..changed].copy_from_slice(&pages[..changed]);
        return size;
    }
    let mut about = data[start..size - 8].to_vec();
    about.resize(footer + 16, 0);
    let changed = change(&mut about, footer);
    data[start..start + changed].copy_from_slice(&about[..changed]);
    let end = start + changed;
    data[end..end + 4].copy_from_slice(&(changed as u32).to_le_bytes());
    data[end + 4..end + 8].copy_from_slice(&tail[4..]);
    end + 8
}
