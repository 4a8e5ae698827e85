use std::path::Path;

use proptest::prelude::*;

use super::*;

const VOCAB: usize = 1000;

fn dataset(rows: Vec<(Vec<(u32, bool)>, usize)>, notes: Vec<String>) -> Dataset {
    let path = Path::new("folder/täglich.jsonl");
    let origin: Arc<Path> = Arc::from(path);
    let example = |(row, line): (Vec<(u32, bool)>, usize)| Example {
        tokens: row.iter().map(|(t, _)| *t).collect(),
        labels: row.iter().map(|(t, on)| if *on { t.cast_signed() } else { UNTRAINED }).collect(),
        origin: Origin { path: Arc::clone(&origin), line },
    };
    Dataset {
        path: path.to_path_buf(),
        examples: rows.into_iter().map(example).collect(),
        notes,
        document: false,
    }
}

fn written(key: TokenKey, data: &Dataset) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, key, data).unwrap();
    bytes
}

fn read_back(bytes: &[u8], vocab: usize) -> Result<(TokenKey, Dataset)> {
    read(Path::new("rows.tokens"), &mut &bytes[..], vocab)
}

fn any_dataset() -> impl Strategy<Value = Dataset> {
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
        prop_assert_eq!((back.path, back.examples, back.notes), (data.path, data.examples, data.notes));
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
