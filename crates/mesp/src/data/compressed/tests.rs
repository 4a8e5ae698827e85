use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::super::test_util::write;
use super::*;

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, CompressionLevel::Fastest)
}

fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    unpacked(packed)?.read_to_end(&mut content)?;
    Ok(content)
}

#[test]
fn what_was_packed_is_read() {
    let content: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    for packed in [gzip(&content), zstd(&content), content.clone()] {
        assert!(read(&packed).unwrap() == content);
    }
    // Several one after another are one, as `cat a.gz b.gz` and `pzstd` make them.
    for pack in [gzip, zstd] {
        let (a, b) = content.split_at(100_000);
        assert!(read(&[pack(a), pack(b), pack(b"")].concat()).unwrap() == content);
    }
    // A frame with notes between others (RFC 8878, 3.1.2).
    let notes = [&0x184D_2A53u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
    assert_eq!(read(&[notes.clone(), zstd(b"one "), notes, zstd(b"two")].concat()).unwrap(), b"one two");
    assert!(read(b"").unwrap().is_empty());
    // Of the C library, without a check sum: pyarrow.compress(b"text\n", codec="zstd").
    let made = [0x28, 0xB5, 0x2F, 0xFD, 0x20, 0x05, 0x29, 0, 0, b't', b'e', b'x', b't', b'\n'];
    assert_eq!(read(&made).unwrap(), b"text\n");
}

#[test]
fn damage_is_an_error() {
    let content = b"some text that is long enough to be cut\n".repeat(50);
    for pack in [gzip, zstd] {
        let packed = pack(&content);
        for length in [5, packed.len() / 2, packed.len() - 1] {
            assert!(read(&packed[..length]).is_err(), "{length} bytes");
        }
        let followed = [&packed[..], b"trailing"].concat();
        assert!(read(&followed).is_err());
    }
    let mut packed = gzip(&content);
    let middle = packed.len() / 2;
    packed[middle] ^= 0x10;
    assert!(read(&packed).is_err());
    let file = write("a.jsonl.gz", &packed[..middle]);
    let path = file.path().join("a.jsonl.gz");
    let mut text = Vec::new();
    let error = open(&path).unwrap().read_to_end(&mut text).unwrap_err();
    let error = unreadable(&path, Some(3), error).to_string();
    assert!(error.contains("a.jsonl.gz:3: the file is damaged or cut short"), "{error}");
}

#[test]
fn names_are_those_of_the_content() {
    for (name, bare, packed) in [
        ("a/Train.JSONL.GZ", "train.jsonl", true),
        ("x.csv.zst", "x.csv", true),
        ("x.csv", "x.csv", false),
        ("x.gz.txt", "x.gz.txt", false),
    ] {
        assert_eq!((unpacked_name(Path::new(name)).as_str(), is_packed(Path::new(name))), (bare, packed));
    }
}

#[test]
fn a_line_has_an_end() {
    let mut line = Vec::new();
    let mut text = &b"four\nmore than\nx"[..];
    assert_eq!(read_line(&mut text, &mut line, 5).unwrap(), Some(true));
    assert_eq!(line, b"four\n");
    assert_eq!(read_line(&mut text, &mut line, 5).unwrap(), None);
    let mut text = &b"x"[..];
    assert_eq!(read_line(&mut text, &mut line, 1).unwrap(), Some(true));
    assert_eq!(read_line(&mut text, &mut line, 1).unwrap(), Some(false));
}
