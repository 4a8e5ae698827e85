use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::fnv::Fnv64;
use super::super::{Example, Examples, Origin, RaggedBatch, UNTRAINED};
use super::*;

const VOCAB: usize = 1000;

#[derive(Debug)]
struct Rows {
    about: About,
    examples: Vec<Example>,
}

fn dataset(rows: Vec<(Vec<(u32, bool)>, usize)>, notes: Vec<String>) -> Rows {
    let path = Path::new("folder/täglich.jsonl");
    let origin: Arc<Path> = Arc::from(path);
    let example = |(row, line): (Vec<(u32, bool)>, usize)| Example {
        tokens: row.iter().map(|(t, _)| *t).collect(),
        labels: row.iter().map(|(t, on)| if *on { t.cast_signed() } else { UNTRAINED }).collect(),
        origin: Origin { path: Arc::clone(&origin), line },
    };
    let about = About { path: path.to_path_buf(), notes, ..About::default() };
    Rows { about, examples: rows.into_iter().map(example).collect() }
}

fn written(key: TokenKey, data: &Rows) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = TokenWriter::new(&mut bytes, key, &std::env::temp_dir()).unwrap();
    for row in &data.examples {
        writer.row(row).unwrap();
    }
    writer.finish(&data.about).unwrap();
    bytes
}

fn read_back(bytes: &[u8], vocab: usize) -> Result<(TokenKey, Rows)> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let file = TokenFile::open(Path::new("rows.tokens"), file, vocab)?;
    let examples = (0..file.count()).map(|row| file.read(row)).collect::<Result<Vec<_>>>()?;
    // As they stand in a batch, and by their sizes.
    let (mut batch, mut sizes) = (RaggedBatch::default(), Vec::new());
    (0..file.count()).for_each(|row| file.append(row, &mut batch).unwrap());
    assert_eq!(batch, RaggedBatch::from_examples(&examples.iter().collect::<Vec<_>>()));
    file.each_size(&mut |row, size| sizes.push((row, size))).unwrap();
    for (row, example) in examples.iter().enumerate() {
        assert_eq!((file.size(row).unwrap(), sizes[row]), (example.size(), (row, example.size())));
    }
    Ok((file.key(), Rows { about: file.about().clone(), examples }))
}

fn any_dataset() -> impl Strategy<Value = Rows> {
    let row = prop::collection::vec((0..VOCAB as u32, any::<bool>()), 0..40);
    let masked = (0..30usize, 0..3000usize)
        .prop_map(|(from, len)| (0..len).map(|i| ((i * 7 % VOCAB) as u32, i >= from)).collect::<Vec<_>>());
    let rows = prop::collection::vec((prop_oneof![row, masked], any::<u32>()), 0..6);
    (rows, prop::collection::vec(".{0,20}", 0..3)).prop_map(|(rows, notes)| {
        dataset(rows.into_iter().map(|(row, line)| (row, line as usize)).collect(), notes)
    })
}

#[test]
fn rows_keep_their_files() {
    let mut data =
        dataset(vec![(vec![(1, true), (2, true)], 7), (vec![(3, true), (4, false)], 1)], Vec::new());
    data.examples[1].origin.path = Arc::from(Path::new("folder/other.csv"));
    let (_, back) = read_back(&written(TokenKey(1), &data), VOCAB).unwrap();
    let origins: Vec<String> = back.examples.iter().map(|row| row.origin.to_string()).collect();
    assert_eq!(origins, ["folder/täglich.jsonl:7", "folder/other.csv:1"]);
    assert_eq!(back.examples, data.examples);
}

proptest! {
    #[test]
    fn what_is_written_is_read(data in any_dataset(), key: u128) {
        let (found, back) = read_back(&written(TokenKey(key), &data), VOCAB).unwrap();
        prop_assert_eq!(found, TokenKey(key));
        prop_assert_eq!((back.about, back.examples), (data.about, data.examples));
    }

    #[test]
    fn damage_is_refused(data in any_dataset(), at: prop::sample::Index, flip in 1u8..) {
        let mut bytes = written(TokenKey(1), &data);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // The key is the reader's to compare: it is under the check sum too.
        prop_assert!(read_back(&bytes, VOCAB).is_err());
        bytes[at] ^= flip;
        prop_assert!(read_back(&bytes[..at], VOCAB).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_back(&bytes, VOCAB);
        let mut headed = MAGIC.to_vec();
        headed.extend(VERSION.to_le_bytes());
        headed.extend(bytes);
        let _ = read_back(&headed, VOCAB);
    }
}

/// Also where the sums are right.
#[test]
fn entries_that_lead_elsewhere_are_refused() {
    let data = dataset(vec![(vec![(1, true), (2, true)], 7), (vec![(3, true), (4, false)], 9)], Vec::new());
    let bytes = written(TokenKey(1), &data);
    let tail = bytes.len() - TAIL;
    let entries = u64::from_le_bytes(bytes[tail..][..8].try_into().unwrap()) as usize;
    for (at, word) in [(0, 999), (16, u32::MAX), (20, 2), (24, 2), (24, OWN), (28, 1), (ENTRY, 28)] {
        let mut bytes = bytes.clone();
        bytes[entries + at..][..4].copy_from_slice(&word.to_le_bytes());
        let mut sum = Fnv64::default();
        sum.add(&bytes[entries..tail + 16]);
        bytes[tail + 16..][..8].copy_from_slice(&sum.0.to_le_bytes());
        let error = read_back(&bytes, VOCAB).expect_err("a wrong entry").to_string();
        assert!(error.contains("row ") || error.contains("expected"), "{at}: {error}");
    }
}

#[test]
fn a_token_that_the_model_does_not_have_is_refused() {
    let data = dataset(vec![(vec![(1, true), (900, true)], 3)], Vec::new());
    let error = read_back(&written(TokenKey(1), &data), 900).unwrap_err().to_string();
    assert!(error.contains("row 0: expected tokens below 900"), "{error}");
}

#[test]
fn keys_tell_content_and_options_apart() {
    let key = |files: &[&[u8]], options: &ReadOptions| {
        let mut files = files.to_vec();
        let list = files.iter_mut().map(|f| (Path::new("x"), f as &mut dyn Read));
        TokenKey::new(list, options).unwrap()
    };
    let options = ReadOptions::new(VOCAB);
    let base = key(&[b"ab", b"c"], &options);
    assert_eq!(base, key(&[b"ab", b"c"], &options));
    assert_ne!(base, key(&[b"a", b"bc"], &options));
    assert_ne!(base, key(&[b"ab", b"d"], &options));
    assert_ne!(base, key(&[b"ab", b"c"], &ReadOptions { max_seq_len: Some(9), ..options }));
}
