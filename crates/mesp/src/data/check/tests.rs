use super::super::test_util::{VOCAB, encoder, write};
use super::super::{LongRows, TrainOn};
use super::*;

fn check(content: &str, options: &ReadOptions) -> Checked {
    let directory = write("r.jsonl", content);
    FileRows::check(&directory.path().join("r.jsonl"), Some(&encoder()), options, &[]).unwrap()
}

fn lines(checked: &Checked) -> Vec<usize> {
    let line = |e: &Error| match e {
        Error::Data { line, .. } => line.unwrap(),
        other => panic!("{other}"),
    };
    checked.bad.iter().map(line).collect()
}

#[test]
fn every_bad_row_is_named() {
    let content = "{\"text\":\"x\"}\n{\"q\":1}\n\n{\"text\":\n{\"text\":5}\n{\"text\":\"y\"}\n[]\n";
    let checked = check(content, &ReadOptions::new(VOCAB));
    assert_eq!(lines(&checked), [2, 4, 5, 7]);
    assert_eq!((checked.rows, checked.tokens, checked.trained), (2, 4, 2));
    assert_eq!(checked.forms, [(Form::Text, 2)]);
    let directory = write("r.json", "[{\"text\":\"x\"},\n{\"q\":1},\n{\"text\":\"y\"}");
    let path = directory.path().join("r.json");
    let checked = FileRows::check(&path, Some(&encoder()), &ReadOptions::new(VOCAB), &[]).unwrap();
    assert_eq!(lines(&checked), [2, 3]);
    assert!(checked.bad[1].to_string().contains("ends inside"), "{}", checked.bad[1]);
    assert_eq!(checked.rows, 1);
}

#[test]
fn what_is_worth_knowing_is_counted() {
    let content = "{\"text\":\"x\"}\n{\"text\":\"xxxxxxxx\"}\n{\"text\":\"x\"}\n{\"input_ids\":[1,2],\"labels\":[-100,-100]}\n\
                   {\"input_ids\":[1,2]}\n{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n";
    let options = ReadOptions { max_seq_len: Some(4), ..ReadOptions::new(VOCAB) };
    let checked = check(content, &options);
    // The same tokens are the same row, whatever is trained of them.
    assert_eq!(checked.duplicates, [(3, 1), (5, 4)]);
    assert_eq!(checked.bare, [4, 6]);
    assert_eq!(checked.long, [2, 6]);
    // Line 2 lost its end, line 5 never had one.
    assert_eq!(checked.unstopped, [2, 5]);
    assert_eq!(checked.lengths[..5], [2, 2, 2, 2, 9]);
    assert_eq!((checked.percentile(0.5), checked.percentile(0.0)), (2, 2));
    assert_eq!(checked.percentile(1.0), *checked.lengths.last().unwrap());

    let split = ReadOptions { long_rows: LongRows::Split, ..options.clone() };
    let checked = check(content, &split);
    assert_eq!(checked.unstopped, [5]);
    assert_eq!(checked.bare, [4]);
    assert_eq!(checked.long, [2, 6]);

    let refused = ReadOptions { long_rows: LongRows::Error, ..options };
    let checked = check(content, &refused);
    assert_eq!(lines(&checked), [2, 6]);
    assert!(checked.bad[0].to_string().contains("has 9 tokens, expected at most 4"), "{}", checked.bad[0]);
}

#[test]
fn white_space_after_a_stop_is_no_other_end() {
    // All is trained: the last token is the line's end after <|im_end|>.
    let options = ReadOptions { train_on: TrainOn::All, ..ReadOptions::new(VOCAB) };
    let row =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}";
    assert_eq!(check(row, &options).unstopped, [0; 0]);
}
