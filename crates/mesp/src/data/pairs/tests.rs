use super::super::test_util::{encoder, write};
use super::super::{BatchSize, Batches, Examples, RaggedBatch};
use super::*;
use crate::preference::Side;

fn options() -> ReadOptions {
    ReadOptions { append_eos: false, ..ReadOptions::new(262) }
}

fn read_with(lines: &[&str], judging: Judging, options: &ReadOptions) -> Result<(JudgedRows, About)> {
    let dir = write("rows.jsonl", lines.join("\n"));
    let encoder = encoder();
    read_judged(&dir.path().join("rows.jsonl"), Some(&encoder), options, judging, dir.path())
}

fn read(lines: &[&str], judging: Judging) -> Result<JudgedRows> {
    read_with(lines, judging, &options()).map(|(rows, _)| rows)
}

/// Tokens of each sequence of a row, how many of them are trained, and which it is.
fn laid_out(rows: &JudgedRows, row: usize) -> Vec<(Vec<u32>, usize, Side)> {
    let mut batch = RaggedBatch::default();
    rows.append(row, &mut batch).unwrap();
    sequences(&batch)
}

fn sequences(batch: &RaggedBatch) -> Vec<(Vec<u32>, usize, Side)> {
    let trained =
        |range: std::ops::Range<usize>| batch.labels[range].iter().filter(|l| **l != UNTRAINED).count();
    batch
        .offsets
        .windows(2)
        .zip(&batch.judged)
        .map(|(w, judged)| (batch.tokens[w[0]..w[1]].to_vec(), trained(w[0]..w[1]), judged.side))
        .collect()
}

#[test]
fn texts_and_tokens_are_the_same_pairs() {
    let texts = r#"{"prompt": "xy", "chosen": "pq", "rejected": "r"}"#;
    let tokens =
        r#"{"prompt_input_ids": [120, 121], "chosen_input_ids": [112, 113], "rejected_input_ids": [114]}"#;
    let rows = read(&[texts, tokens], Judging::Pairs).unwrap();
    assert_eq!(rows.count(), 2);
    let expected =
        vec![(vec![120, 121, 112, 113], 2, Side::Chosen), (vec![120, 121, 114], 1, Side::Rejected)];
    assert_eq!(laid_out(&rows, 0), expected);
    assert_eq!(laid_out(&rows, 1), expected);
    let size = rows.size(1).unwrap();
    assert_eq!((size.tokens, size.targets), (7, 3));
}

#[test]
fn conversations_with_and_without_a_prompt_are_the_same_pairs() {
    let user = r#"{"role": "user", "content": "q"}"#;
    let [good, bad] = ["yes", "no"].map(|text| format!(r#"{{"role": "assistant", "content": "{text}"}}"#));
    let with = format!(r#"{{"prompt": [{user}], "chosen": [{good}], "rejected": [{bad}]}}"#);
    let without = format!(r#"{{"chosen": [{user}, {good}], "rejected": [{user}, {bad}]}}"#);
    let named = format!(r#"{{"prompt": "q", "chosen": [{user}, {good}], "rejected": [{user}, {bad}]}}"#);
    let rows = read(&[&with, &without, &named], Judging::Pairs).unwrap();
    let first = laid_out(&rows, 0);
    assert!(first.iter().all(|(_, trained, _)| *trained >= 2), "{first:?}");
    assert_eq!(laid_out(&rows, 1), first);
    assert_eq!(laid_out(&rows, 2), first);
}

/// Marked rows, and of each the prompt with the completion of the row before.
#[test]
fn marked_rows_have_mismatched_ones() {
    let row = |prompt: &str, completion: &str, label: &str| {
        format!(r#"{{"prompt": "{prompt}", "completion": "{completion}", "label": {label}}}"#)
    };
    let lines = [row("a", "p", "true"), row("c", "qq", "false"), row("d", "rrr", "1")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rows = read(&lines, Judging::Marks).unwrap();
    assert_eq!(rows.count(), 3);
    let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    for (row, (matched, side, other)) in
        [("ap", Side::Chosen, "arrr"), ("cqq", Side::Rejected, "cp"), ("drrr", Side::Chosen, "dqq")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(laid_out(&rows, row), [(text(matched), matched.len() - 1, side)]);
        let mut batch = RaggedBatch::default();
        assert!(rows.append_mismatched(row, &mut batch).unwrap());
        let found = sequences(&batch);
        assert_eq!((found.len(), &found[0].0, found[0].1), (1, &text(other), other.len() - 1));
    }
}

/// Shuffled and in any batch, a pair's completions stand side by side with their own reference.
#[test]
fn pairs_stay_together() {
    let lines: Vec<String> = (0..7)
        .map(|i| {
            format!(
                r#"{{"prompt_input_ids": [1], "chosen_input_ids": [{}], "rejected_input_ids": [{}]}}"#,
                10 + i,
                30 + i
            )
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rows = read(&lines, Judging::Pairs).unwrap();
    let reference = (0..14).map(|place| -f64::from(place)).collect();
    let rows = rows.with_reference(reference).unwrap();
    let mut batches = Batches::new(rows, BatchSize::rows(3), 5).unwrap();
    let (mut batch, mut seen) = (RaggedBatch::default(), Vec::new());
    for step in 0..3 {
        batches.fill(step, &mut batch).unwrap();
        for (pair, judged) in sequences(&batch).chunks(2).zip(batch.judged.chunks(2)) {
            let row = pair[0].0[1] - 10;
            assert_eq!(pair[1].0[1], 30 + row);
            assert_eq!((pair[0].2, pair[1].2), (Side::Chosen, Side::Rejected));
            let places = [2 * row, 2 * row + 1];
            assert_eq!([judged[0].reference, judged[1].reference], places.map(|place| -f64::from(place)));
            seen.push(row);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
}

fn problem(lines: &[&str], judging: Judging, options: &ReadOptions) -> String {
    read_with(lines, judging, options).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn rows_that_train_nothing_are_refused_with_their_line() {
    let good = r#"{"prompt": "x", "chosen": "y", "rejected": "z"}"#;
    let short = ReadOptions { max_seq_len: Some(4), ..options() };
    for (row, words, options) in [
        (r#"{"prompt": "x", "chosen": "y", "rejected": "y"}"#, "are the same", options()),
        (r#"{"prompt": "x", "chosen": "", "rejected": "y"}"#, "`chosen` is empty", options()),
        (r#"{"prompt": "x", "chosen": "y", "rejected": " "}"#, "`rejected` is empty", options()),
        (
            r#"{"prompt": "xxxx", "chosen": "y", "rejected": "z"}"#,
            "the prompt fills the length of 4 tokens",
            short.clone(),
        ),
        (r#"{"prompt": "x", "chosen": "yyyz", "rejected": "yyyx"}"#, "the same up to ‘max_seq_len’", short),
        (r#"{"prompt": "x", "completion": "y"}"#, "no `chosen`", options()),
        (
            r#"{"prompt_input_ids": [], "chosen_input_ids": [1], "rejected_input_ids": [2]}"#,
            "`prompt_input_ids` is empty",
            options(),
        ),
        (
            r#"{"prompt_input_ids": [1], "chosen_input_ids": [], "rejected_input_ids": [2]}"#,
            "`chosen_input_ids` is empty",
            options(),
        ),
        (
            r#"{"prompt_input_ids": [1], "chosen_input_ids": [999], "rejected_input_ids": [2]}"#,
            "`chosen_input_ids[0]` is 999",
            options(),
        ),
        (r#"{"chosen": "y", "rejected": "z"}"#, "no `prompt`", options()),
    ] {
        let told = problem(&[good, row], Judging::Pairs, &options);
        assert!(told.contains("rows.jsonl:2") && told.contains(words), "{row}: {told}");
    }
    let marked = r#"{"prompt": "x", "completion": "y", "label": true}"#;
    for (row, words, line) in [
        (r#"{"prompt": "x", "completion": "", "label": false}"#, "`completion` is empty", 2),
        (r#"{"prompt": "x", "completion": "y", "label": 0.5}"#, "`label` is 0.5", 2),
        (r#"{"prompt": "x", "completion": "y"}"#, "no `label`", 2),
        // All of one kind: named at the first row.
        (r#"{"prompt": "x", "completion": "z", "label": true}"#, "`label` is true in all 2 rows", 1),
    ] {
        let told = problem(&[marked, row], Judging::Marks, &options());
        assert!(told.contains(&format!("rows.jsonl:{line}")) && told.contains(words), "{row}: {told}");
    }
}

#[test]
fn long_pairs_are_cut_alike_and_counted() {
    let short = ReadOptions { max_seq_len: Some(4), ..options() };
    let row = r#"{"prompt": "x", "chosen": "pqrst", "rejected": "z"}"#;
    let (rows, about) = read_with(&[row], Judging::Pairs, &short).unwrap();
    assert_eq!(laid_out(&rows, 0).iter().map(|(tokens, ..)| tokens.len()).collect::<Vec<_>>(), [4, 2]);
    assert!(about.notes.iter().any(|note| note.contains("cut to 4 tokens")), "{:?}", about.notes);
}
